//! The target language agrees with ClusterShell's, whose habits people bring along: the same expressions mean the same
//! hosts, and what we fold its library reads as the same set.
//!
//! Left out by construction, because we differ on purpose: `[1-010]` and other ends of different padding (an error here),
//! `[7/2]` (a step of a single number, an error here), a step with a range that is not rising, upper case, `%`, and
//! groups. Where padding of one name differs from that of another (`n1`, `n01`) both have two hosts.

use muster_core::fleet::{Fleet, Member};
use muster_core::target::{Groups, ResolveError, Selector};
use muster_proto::fleet::Labels;
use muster_proto::id::AgentId;
use muster_proto::names::{expand, fold};
use muster_tests::skipped;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

const EXPRESSIONS: usize = 4_000;
/// Answers each line with the names it stands for.
const ANSWERS: &str = "
import sys
from ClusterShell.NodeSet import NodeSet
for line in sys.stdin:
    print(' '.join(NodeSet(line.strip(), resolver=None)))
";

#[test]
fn expressions_mean_what_they_mean_to_clustershell() {
    let mut dice = Dice(0x5eed);
    let expressions: Vec<String> = (0..EXPRESSIONS).map(|_| dice.expression()).collect();
    let Some(theirs) = clustershell(&expressions) else { return };

    let somebody = theirs.iter().filter(|names| !names.is_empty()).count();
    assert!(somebody > EXPRESSIONS / 2, "{somebody} of {EXPRESSIONS} mean somebody: too few to compare");

    // Every name that can be said is somebody's here: what is meant is compared, not who is there.
    let mut fleet = Fleet::default();
    for (number, name) in (0_u32..).zip(universe()) {
        let id = AgentId::from_bytes(u128::from(number).to_be_bytes());
        let name = name.parse().expect("a name");
        fleet.insert(Member { id, name, labels: Labels::new(), facts: None }).expect("a new name");
    }
    for (expression, theirs) in expressions.iter().zip(&theirs) {
        let selector = Selector::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
        let ours: BTreeSet<String> = match selector.resolve(&fleet, &Groups::default()) {
            Ok(targets) => targets.iter().map(|target| target.name.to_string()).collect(),
            Err(ResolveError::Nobody) => BTreeSet::new(),
            Err(error) => panic!("{expression}: {error}"),
        };
        let theirs: BTreeSet<String> = theirs.split_whitespace().map(str::to_owned).collect();
        assert_eq!(ours, theirs, "{expression}");
    }
}

#[test]
fn what_is_folded_is_the_same_set_to_clustershell() {
    let mut dice = Dice(0xf01d);
    let sets: Vec<BTreeSet<String>> = (0..EXPRESSIONS / 4).map(|_| dice.names()).collect();
    let folded: Vec<String> = sets.iter().map(|names| fold(names.iter().map(String::as_str))).collect();
    let Some(theirs) = clustershell(&folded) else { return };
    for ((names, folded), theirs) in sets.iter().zip(&folded).zip(&theirs) {
        let theirs: BTreeSet<String> = theirs.split_whitespace().map(str::to_owned).collect();
        assert_eq!(&theirs, names, "{folded}");
    }
}

/// What its library says to each line; `None`, said loudly, where it is not installed.
fn clustershell(lines: &[String]) -> Option<Vec<String>> {
    // Debian's package is for Debian's own python, which need not be the first.
    let python = |interpreter: &str, program: &str| {
        let mut command = Command::new(interpreter);
        command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let has_it = |interpreter: &&str| {
        python(interpreter, "import ClusterShell").output().is_ok_and(|output| output.status.success())
    };
    let Some(interpreter) = ["/usr/bin/python3", "python3"].into_iter().find(has_it) else {
        skipped("ClusterShell is not installed: `apt install clustershell`");
        return None;
    };
    let mut child = python(interpreter, ANSWERS).spawn().expect("python starts");
    let mut input = child.stdin.take().expect("a pipe");
    let text = lines.join("\n") + "\n";
    let feeder = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("python ends");
    let _ = feeder.join().expect("the feeder ends");
    let answers = String::from_utf8(output.stdout).expect("ASCII");
    let errors = String::from_utf8_lossy(&output.stderr);
    let answers: Vec<String> = answers.lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), lines.len(), "after {:?}: {errors}", lines.get(answers.len()));
    Some(answers)
}

/// Every name that [`Dice`] can say.
fn universe() -> BTreeSet<String> {
    let mut all = BTreeSet::from(["db".to_owned(), "web-a.example".to_owned()]);
    for pattern in
        ["n[0-40]", "n[00-40]", "n[000-040]", "r[0-9]n[0-9]", "r[0-9]n[00-20]", "r[0-9]n[0-9].x", "n[0-40]-ib"]
    {
        all.extend(expand(pattern, 10_000).expect(pattern));
    }
    all
}

/// Random expressions, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn expression(&mut self) -> String {
        let mut text = self.pattern();
        for _ in 0..self.below(5) {
            let operator = [",", "!", "&", "^"][usize::try_from(self.below(4)).expect("a small number")];
            text = format!("{text}{operator}{}", self.pattern());
        }
        text
    }

    fn pattern(&mut self) -> String {
        match self.below(9) {
            0 => "db".to_owned(),
            1 => "web-a.example".to_owned(),
            2 => format!("n{}", self.below(41)),
            3 => format!("n[{}]", self.ranges(40, 0)),
            4 => format!("n[{}]", self.ranges(40, 2)),
            5 => format!("n[{}]-ib", self.ranges(40, 0)),
            6 => format!("r[{}]n[{}]", self.ranges(9, 0), self.ranges(20, 2)),
            7 => format!("r[{}]n[{}].x", self.ranges(9, 0), self.ranges(9, 0)),
            _ => format!("n[{}]", self.ranges(40, 3)),
        }
    }

    /// `1-9/2,12` up to a number, each filled up to a width.
    fn ranges(&mut self, max: u64, width: usize) -> String {
        let one = |dice: &mut Self| {
            let first = dice.below(max + 1);
            let last = first + dice.below(max + 1 - first);
            match dice.below(3) {
                0 => format!("{first:0width$}"),
                _ if first == last => format!("{first:0width$}"),
                1 => format!("{first:0width$}-{last:0width$}"),
                _ => format!("{first:0width$}-{last:0width$}/{}", dice.below(4) + 1),
            }
        };
        let count = self.below(3) + 1;
        (0..count).map(|_| one(self)).collect::<Vec<_>>().join(",")
    }

    fn names(&mut self) -> BTreeSet<String> {
        let all: Vec<String> = universe().into_iter().collect();
        let count = self.below(60) + 1;
        let start = self.below(all.len() as u64);
        // Neighbours mostly, so that there is something to fold.
        let mut pick = || (start + self.below(90)) % all.len() as u64;
        (0..count).map(|_| all[usize::try_from(pick()).expect("a place")].clone()).collect()
    }
}
