//! Measures the target language: `cargo run --release -p muster-core --example targets`.
//!
//! One line a turn: the figure, a tab, seconds. The fleet has 10,000 agents.

use muster_core::fleet::{Fleet, Member};
use muster_core::target::{Groups, resolve};
use muster_proto::fleet::{Facts, Labels};
use muster_proto::id::AgentId;
use muster_proto::names::{expand, fold};
use muster_proto::selection::Selection;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

const AGENTS: u32 = 10_000;
const TURNS: usize = 21;

fn main() -> Result<(), Box<dyn Error>> {
    let fleet = fleet()?;
    let regexes: Vec<String> = (0..16).map(|n| format!("name~'^web[0-9]*({n}|[0-9]{n:02})$'")).collect();
    for (figure, targets) in [
        ("resolve", "web[00001-10000] and env=prod and not rack=7"),
        ("facts", "os.version>=12 and cpus>=4 and kernel~amd64$ and 10.0.0.0/9"),
        ("regexes", &regexes.join(" or ")),
    ] {
        let selection = Selection { targets: targets.to_owned(), ..Selection::default() };
        measure(figure, || resolve(&selection, &fleet, &Groups::default()))?;
    }
    let pattern = "rack[0-499]node[000-199]";
    let names = expand(pattern, 100_000)?;
    measure("expand", || expand(pattern, 100_000))?;
    measure("fold", || Ok::<_, Infallible>(fold(names.iter().map(String::as_str))))?;
    Ok(())
}

/// A line for each turn.
fn measure<T, E: Error + 'static>(figure: &str, turn: impl Fn() -> Result<T, E>) -> Result<(), Box<dyn Error>> {
    for _ in 0..TURNS {
        let start = Instant::now();
        let result = turn()?;
        let took = start.elapsed();
        drop(result);
        writeln!(std::io::stdout(), "{figure}\t{:.6}", took.as_secs_f64())?;
    }
    Ok(())
}

fn fleet() -> Result<Fleet, Box<dyn Error>> {
    let mut fleet = Fleet::default();
    for number in 1..=AGENTS {
        let labels = [
            ("role", if number.is_multiple_of(10) { "db" } else { "web" }.to_owned()),
            ("env", if number.is_multiple_of(5) { "test" } else { "prod" }.to_owned()),
            ("rack", (number / 40).to_string()),
        ];
        let label = |(key, value): (&str, String)| Ok::<_, Box<dyn Error>>((key.parse()?, value.parse()?));
        let facts = Facts {
            os: "debian".to_owned(),
            os_version: (10 + number % 4).to_string(),
            kernel: format!("6.1.0-{}-amd64", number % 30),
            cpus: 1 << (number % 6),
            addresses: vec![format!("10.{}.{}.{}", number % 200, number / 250, number % 250)],
            ..Facts::default()
        };
        fleet.insert(Member {
            id: AgentId::from_bytes(u128::from(number).to_be_bytes()),
            name: format!("web{number:05}").parse()?,
            labels: labels.into_iter().map(label).collect::<Result<Labels, _>>()?,
            facts: Some(Arc::new(facts)),
        })?;
    }
    Ok(fleet)
}
