//! Links that break in the middle of much output, at any byte: everything arrives once, in order and unchanged, from the
//! agents to the store and from the store to a follower.

use muster_tests::{Controller, Cuts, Dice, Length, PATIENCE, Proxy, Restarted, enrol, finish, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// Of one host; it writes about [`BYTES`].
const LINES: u32 = 150_000;
const BYTES: u64 = 2 << 20;
/// Each makes its agent wait longer before it comes back, as it should: so there are many agents and few cuts of each.
const CUTS_PER_AGENT: u32 = 4;
const FOLLOWER_CUTS: u32 = 10;

fn expected(host: &str) -> String {
    (1..=LINES).map(|line| format!("{host} {line}\n")).collect()
}

/// Agents `cut-1` to `cut-N`, whose way to the controller leads through the proxy.
fn agents_behind(controller: &Controller, proxy: &Proxy, count: u32) -> Vec<Restarted> {
    let uses = count.to_string();
    let token = controller.token(["--uses", &uses]);
    let start = |number| {
        let name = format!("cut-{number}");
        let state = controller.path(&name);
        let run = enrol(&controller.address("enrolment"), &state, &name, &token);
        assert_eq!(run.status, 0, "{run}");
        let conf = state.join("identity/agent.conf");
        let text = fs::read_to_string(&conf).expect("an identity");
        assert!(text.contains(&controller.address("agents")), "{text}");
        fs::write(&conf, text.replace(&controller.address("agents"), proxy.address())).expect("written");
        controller.run_agent(&name)
    };
    let agents = (1..=count).map(start).collect();
    until(PATIENCE, "all agents are connected", || {
        let list = controller.muster(["agents", "-o", "json"]).json();
        let connected = list.as_array().expect("a list").iter().filter(|agent| agent["connected"] == true).count();
        connected == count as usize
    });
    agents
}

/// stdout of each host, from events whose numbers have no hole.
fn outputs(events: &[Value]) -> BTreeMap<String, String> {
    let mut outputs: BTreeMap<String, String> = BTreeMap::new();
    for (event, seq) in events.iter().zip(1_u64..) {
        assert_eq!(event["seq"], seq, "seq has a hole or a repetition");
        assert_ne!(event["kind"], "truncated", "nothing was over a limit");
        if event["kind"] == "output" {
            let host = event["host"].as_str().expect("a host").to_owned();
            *outputs.entry(host).or_default() += event["text"].as_str().expect("text");
        }
    }
    outputs
}

fn assert_whole(what: &str, outputs: &BTreeMap<String, String>, agents: u32) {
    assert_eq!(outputs.len(), agents as usize, "{what}: {:?}", outputs.keys());
    for (host, output) in outputs {
        let expected = expected(host);
        let differs = output.bytes().zip(expected.bytes()).position(|(one, other)| one != other);
        let (got, all) = (output.len(), expected.len());
        assert!(*output == expected, "{what}: {host} has {got} bytes of {all}, and differs at {differs:?}");
    }
}

#[test]
fn p5_output_arrives_once_and_unchanged_however_often_the_links_are_cut() {
    let agents = Length::wanted().of(5, 50);
    let controller = Controller::start([]);
    let cuts = Cuts { count: agents * CUTS_PER_AGENT, mean_bytes: BYTES / u64::from(2 * CUTS_PER_AGENT) };
    let to_agents = Proxy::start(&controller.address("agents"), cuts, Dice::new());
    let _agents = agents_behind(&controller, &to_agents, agents);

    let bytes = u64::from(agents) * BYTES;
    let cuts = Cuts { count: FOLLOWER_CUTS, mean_bytes: bytes / u64::from(2 * FOLLOWER_CUTS) };
    let to_operators = Proxy::start(&controller.address("operators"), cuts, Dice::new());
    let (config, through) = (controller.path("config.toml"), controller.path("through.toml"));
    let text = fs::read_to_string(config).expect("a configuration");
    fs::write(&through, text.replace(&controller.address("operators"), to_operators.address())).expect("written");

    // It starts where nothing is cut, so that every run has one.
    let program = format!("seq -f \"$MUSTER_HOST %.0f\" 1 {LINES}");
    let run = controller.muster(["run", "-d", "-w", "all", "--sh", "--", &program]);
    assert_eq!(run.status, 0, "{run}");
    let id = run.out().trim().to_owned();
    let follower = controller.program(["attach", &id, "-o", "jsonl"]).env("MUSTER_CONFIG", &through).spawn();
    let run = finish(follower);
    assert!(run.status == 0, "{}: {}", run.status, run.err());
    assert!(run.closing().starts_with(&format!("attach: {agents} succeeded: {agents} targeted in ")), "{}", run.err());

    assert_whole("the follower", &outputs(&run.jsonl()), agents);
    let stored = controller.muster(["logs", &id, "-o", "jsonl"]).jsonl();
    assert_whole("the store", &outputs(&stored), agents);
    let [left, left_of_follower] = [&to_agents, &to_operators].map(Proxy::left);
    assert!(left == 0 && left_of_follower == 0, "{left} and {left_of_follower} cuts were never made");
}
