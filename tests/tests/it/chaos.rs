//! Thousands of tasks while controller, agents and supervisors are killed at random. Whatever happens, every task has one
//! end, none starts twice, no byte is wrong, no job whose id was printed is lost, and what cannot be known is said only
//! where it cannot be known.

use muster_tests::{
    Dice, Fleet, Length, Ports, Restarted, Supervisor, assert_no_process_with, assert_store_is_whole, finish, kill,
    until,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

const AGENTS: u16 = 20;
/// Commands that submit at a time: when their controller dies, they learn nothing of their jobs.
const SUBMITTING: usize = 4;
/// Everything that was begun is over by then.
const LAST_END: Duration = Duration::from_secs(240);
const LINES: usize = 60;

/// What each task does: it says that it starts, where nobody of Muster looks, and then writes what [`Expected`] knows of
/// its number, in pieces.
const PROGRAM: &str = r#"
echo "$MUSTER_TASK" >> "$MARKS/starts"
place=${MUSTER_TASK#*.}; place=${place%.*}; piece=0
while [ "$piece" -lt "$((place % 5))" ]; do
    seq -f "$MUSTER_TASK $piece %.0f" 1 60
    piece=$((piece + 1)); sleep "0.$PAUSE"
done
echo "$MUSTER_TASK ends" >&2
exit "$((place % 3))"
"#;

/// What the program writes and how it ends.
struct Expected {
    stdout: String,
    stderr: String,
    code: u64,
}

impl Expected {
    fn of(task: &str, place: usize) -> Self {
        let lines = (0..place % 5).flat_map(|piece| (1..=LINES).map(move |line| (piece, line)));
        Self {
            stdout: lines.map(|(piece, line)| format!("{task} {piece} {line}\n")).collect(),
            stderr: format!("{task} ends\n"),
            code: (place % 3) as u64,
        }
    }
}

/// A fleet to which things happen, and what they were.
struct Havoc<'a> {
    fleet: &'a Fleet,
    dice: Dice,
    marks: PathBuf,
    ports: Ports,
    controller: Option<Restarted>,
    agents: Vec<Option<Restarted>>,
    /// Commands that submit a job.
    submitting: Vec<Child>,
    /// Ids that were printed.
    jobs: Vec<String>,
    /// Tasks whose supervisor was killed.
    supervisors: BTreeSet<String>,
    /// Hosts whose agent was killed.
    agents_killed: BTreeSet<String>,
    /// Of controllers, agents, supervisors.
    kills: [u32; 3],
}

impl<'a> Havoc<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        let marks = fleet.dir().join("marks");
        fs::create_dir(&marks).expect("a new directory");
        Self {
            fleet,
            dice: Dice::new(),
            marks,
            ports: fleet.ports(),
            controller: None,
            agents: (0..AGENTS).map(|_| None).collect(),
            submitting: Vec::new(),
            jobs: Vec::new(),
            supervisors: BTreeSet::new(),
            agents_killed: BTreeSet::new(),
            kills: [0; 3],
        }
    }

    /// So many jobs and kills, in any order.
    fn wreak(&mut self, jobs: usize, kills: usize) {
        let mut steps: Vec<_> = (0..jobs).map(|_| Self::submit as fn(&mut Self)).collect();
        steps.extend((0..kills).map(|_| Self::kill_somebody as fn(&mut Self)));
        self.dice.shuffle(&mut steps);
        steps.into_iter().for_each(|step| step(self));
        // A command whose controller died may have printed nothing: somebody types it again.
        while self.jobs.len() < jobs {
            if self.submitting.is_empty() {
                self.submit();
            }
            self.reap();
        }
    }

    fn submit(&mut self) {
        while self.submitting.len() >= SUBMITTING {
            self.reap();
        }
        let (marks, pause) = (format!("MARKS={}", self.marks.display()), format!("PAUSE={}", self.dice.roll(4)));
        let words = ["run", "-d", "-w", "all", "-t", "10m", "-e", &marks, "-e", &pause, "--sh", "--", PROGRAM];
        self.submitting.push(self.fleet.program(words).spawn());
    }

    fn reap(&mut self) {
        if self.submitting.is_empty() {
            return;
        }
        let run = finish(self.submitting.remove(0));
        match run.status {
            0 => self.jobs.push(run.out().trim().to_owned()),
            6 => assert!(run.stdout.is_empty(), "an id that does not count: {run}"),
            _ => panic!("{run}"),
        }
    }

    fn kill_somebody(&mut self) {
        match self.dice.roll(10) {
            0..4 => self.kill_controller(),
            4..8 => self.kill_agent(),
            _ => self.kill_supervisor(),
        }
        let pause = self.dice.pause(Duration::from_millis(400));
        std::thread::sleep(pause);
    }

    fn kill_controller(&mut self) {
        kill(self.controller.as_ref().map_or_else(|| self.fleet.controller_pid(), Restarted::pid));
        self.kills[0] += 1;
        let away = self.dice.pause(Duration::from_millis(300));
        std::thread::sleep(away);
        self.controller = Some(self.fleet.restart_controller(&self.ports));
    }

    fn kill_agent(&mut self) {
        let place = self.dice.pick(self.agents.len());
        let number = u16::try_from(place).expect("small") + 1;
        kill(self.agents[place].as_ref().map_or_else(|| self.fleet.agent_pid(number), Restarted::pid));
        self.kills[1] += 1;
        self.agents_killed.insert(format!("dev-{number}"));
        let away = self.dice.pause(Duration::from_millis(100));
        std::thread::sleep(away);
        self.agents[place] = Some(self.fleet.restart_agent(number));
    }

    /// One of those that work now, on whatever host.
    fn kill_supervisor(&mut self) {
        let mut victims: Vec<Supervisor> = Vec::new();
        until(LAST_END, "somebody has a supervisor", || {
            let host = u16::try_from(self.dice.pick(self.agents.len())).expect("small") + 1;
            victims = self.fleet.supervisors(host);
            // Where nothing is left to do, nobody can be killed.
            !victims.is_empty() || self.fleet.is_idle(AGENTS)
        });
        if victims.is_empty() {
            return self.kill_agent();
        }
        let victim = &victims[self.dice.pick(victims.len())];
        victim.kill();
        self.kills[2] += 1;
        self.supervisors.insert(victim.task.clone());
    }

    /// All jobs, printed or not, once they are done; by id.
    fn all_done(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        until(LAST_END, "all jobs are done", || {
            let jobs = self.fleet.muster(["jobs", "-n", "1000", "-o", "json"]).json();
            let jobs = jobs.as_array().expect("a list").iter();
            all = jobs.map(|job| (job["job"].as_str().expect("an id").to_owned(), job.clone())).collect();
            std::thread::sleep(Duration::from_millis(100));
            all.values().all(|job| job["state"] == "done")
        });
        for id in &self.jobs {
            assert!(all.contains_key(id), "job {id} was printed, and is lost");
        }
        all
    }

    /// How often each task started, as the tasks themselves say.
    fn starts(&self) -> BTreeMap<String, u32> {
        let mut starts = BTreeMap::new();
        for task in fs::read_to_string(self.marks.join("starts")).unwrap_or_default().lines() {
            *starts.entry(task.to_owned()).or_insert(0) += 1;
        }
        starts
    }

    /// Checks one task against what was done to it; returns its state.
    fn judge(&self, task: &str, place: usize, heard: &Heard, starts: u32) -> String {
        let expected = Expected::of(task, place);
        let end = heard.end.as_ref().unwrap_or_else(|| panic!("{task} has no end"));
        let state = end["state"].as_str().expect("a state");
        match state {
            "succeeded" | "failed" => {
                assert_eq!(starts, 1, "{task} started so often: {end}");
                assert_eq!(end["exit_code"].as_u64(), Some(expected.code), "{task}: {end}");
                assert!(heard.stdout == expected.stdout, "{task}: wrong bytes in stdout: {:?}", heard.stdout);
                assert!(heard.stderr == expected.stderr, "{task}: wrong bytes in stderr: {:?}", heard.stderr);
            }
            "indeterminate" => {
                assert!(starts <= 1, "{task} started {starts} times");
                // An agent that died between its intent and the start of the supervisor cannot know either.
                let host = end["host"].as_str().expect("a host");
                let unknown = self.supervisors.contains(task) || (self.agents_killed.contains(host) && starts == 0);
                assert!(unknown, "{task}: nobody touched it: {end}");
                assert!(expected.stdout.starts_with(&heard.stdout), "{task}: wrong bytes: {:?}", heard.stdout);
                assert!(expected.stderr.starts_with(&heard.stderr), "{task}: wrong bytes: {:?}", heard.stderr);
            }
            _ => panic!("{task} has an end that nobody gave it: {end}"),
        }
        state.to_owned()
    }

    /// Checks one job by its events; returns how many tasks ended in which state.
    fn judge_job(&self, id: &str, starts: &BTreeMap<String, u32>) -> BTreeMap<String, u64> {
        let (heard, counts) = hear(&self.fleet.muster(["logs", id, "-o", "jsonl"]).jsonl());
        assert_eq!(heard.len(), usize::from(AGENTS), "{id}: not every target was heard of");
        let job = self.fleet.job(id);
        let mut states = BTreeMap::new();
        for (place, host) in job["hosts"].as_array().expect("hosts").iter().enumerate() {
            let task = format!("{id}.{place}.1");
            let heard = &heard[host["host"].as_str().expect("a name")];
            let state = self.judge(&task, place, heard, starts.get(&task).copied().unwrap_or(0));
            assert_eq!(host["state"].as_str(), Some(&*state), "{task}: events and job differ");
            *states.entry(state).or_insert(0) += 1;
        }
        assert_eq!(counts, states, "{id}: the counts of its last event");
        assert_eq!(job["counts"], serde_json::json!(states), "{id}: its counts");
        states
    }
}

/// What the events of a job say of a host.
#[derive(Default)]
struct Heard {
    stdout: String,
    stderr: String,
    end: Option<Value>,
}

/// Goes through the events of a job, whose numbers have no hole: by host, and the counts of the last one.
fn hear(events: &[Value]) -> (BTreeMap<String, Heard>, BTreeMap<String, u64>) {
    let mut hosts: BTreeMap<String, Heard> = BTreeMap::new();
    let mut counts = None;
    for (event, seq) in events.iter().zip(1_u64..) {
        assert_eq!(event["seq"], seq, "seq has a hole: {event}");
        assert!(counts.is_none(), "something follows the end of the job: {event}");
        if event["kind"] == "done" {
            counts = Some(serde_json::from_value(event["counts"].clone()).expect("counts"));
        }
        let Some(host) = event["host"].as_str() else { continue };
        let heard = hosts.entry(host.to_owned()).or_default();
        assert!(heard.end.is_none(), "after its end {host} says {event}");
        match event["kind"].as_str() {
            Some("output") if event["stream"] == "stdout" => heard.stdout += event["text"].as_str().expect("text"),
            Some("output") => heard.stderr += event["text"].as_str().expect("text"),
            Some("truncated") => panic!("so little is never cut: {event}"),
            Some("finished") => heard.end = Some(event.clone()),
            _ => {}
        }
    }
    (hosts, counts.expect("a done event"))
}

/// What a test shows of its course, with its failure or when asked.
#[expect(clippy::print_stdout, reason = "the harness keeps what a test prints, and shows it when the test fails")]
fn say(text: &str) {
    println!("{text}");
}

#[test]
fn p1_p2_p4_p5_p9_whatever_is_killed_each_task_has_one_end_one_start_and_its_own_bytes() {
    let fleet = Fleet::start(AGENTS);
    let mut havoc = Havoc::new(&fleet);
    let length = Length::wanted();
    havoc.wreak(length.of(100, 500), length.of(50, 500));
    let all = havoc.all_done();

    let (starts, mut states) = (havoc.starts(), BTreeMap::new());
    for id in all.keys() {
        for (state, count) in havoc.judge_job(id, &starts) {
            *states.entry(state).or_insert(0) += count;
        }
    }
    let [controllers, agents, supervisors] = havoc.kills;
    say(&format!("killed {controllers} controllers, {agents} agents, {supervisors} supervisors: {states:?}"));
    for task in starts.keys() {
        assert!(all.contains_key(task.split('.').next().expect("an id")), "{task} ran for a job that nobody knows");
    }

    // What was seen stays so, and nothing is left over.
    havoc.kill_controller();
    assert_eq!(havoc.all_done(), all, "an end changed");
    until(LAST_END, "spools are empty and supervisors gone", || fleet.is_idle(AGENTS));
    assert_no_process_with(&format!("MARKS={}", havoc.marks.display()));
    drop(havoc.controller.take());
    assert_store_is_whole(&fleet.dir().join("controller"));
}
