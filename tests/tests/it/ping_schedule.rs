//! Pings that the controller repeats: who goes down is told once, and outlives the controller.

use muster_tests::{Fleet, PATIENCE, assert_store_is_whole, kill, signal, until};
use rustix::process::Signal;
use serde_json::Value;

/// Rounds follow each other as fast as they may.
const EVERY: &str = "5s";

fn status(fleet: &Fleet) -> Value {
    fleet.muster(["ping", "status", "--changes", "-o", "json"]).json()
}

/// "schedule host state" of all hosts.
fn states(fleet: &Fleet) -> Vec<String> {
    let status = status(fleet);
    let word = |host: &Value, key: &str| host[key].as_str().unwrap_or("?").to_owned();
    let hosts = status["hosts"].as_array().expect("hosts");
    hosts.iter().map(|host| ["schedule", "host", "state"].map(|key| word(host, key)).join(" ")).collect()
}

fn until_states(fleet: &Fleet, states_wanted: &[&str]) {
    let mut last = Vec::new();
    until(PATIENCE, &format!("{states_wanted:?}"), || {
        last = states(fleet);
        last == states_wanted
    });
}

/// The host whose states are asserted. Another may be slow to answer on a machine with much to do.
const HOST: &str = "dev-2";

fn host(fleet: &Fleet) -> Value {
    let status = status(fleet);
    status["hosts"].as_array().and_then(|hosts| hosts.iter().find(|it| it["host"] == HOST)).cloned().unwrap_or_default()
}

fn until_host_is(fleet: &Fleet, state: &str) {
    until(PATIENCE, &format!("{HOST} is {state}"), || host(fleet)["state"] == state);
}

/// When the host went up or down, and which.
fn changes(fleet: &Fleet) -> Vec<(Value, String)> {
    let status = status(fleet);
    let of_host = status["changes"].as_array().expect("changes").iter().filter(|change| change["host"] == HOST);
    of_host.map(|it| (it["time"].clone(), it["state"].as_str().unwrap_or("?").to_owned())).collect()
}

#[test]
fn a_host_that_goes_down_is_told_once_whatever_becomes_of_the_controller() {
    let fleet = Fleet::start(2);
    let ports = fleet.ports();
    let links = ["ping", "schedule", "links", "-w", "all", "--via", "agent", "--every", EVERY, "--timeout", "2s"];
    let made = fleet.muster(links);
    assert!(made.status == 0 && made.err().contains("links: 2 targets every 5s"), "{made}");
    fleet.muster(links).assert_usage("there is a schedule links already");
    until_host_is(&fleet, "up");
    assert_eq!(changes(&fleet), [], "that a host answers at first is no change");

    signal(fleet.agent_pid(2), Signal::STOP);
    until_host_is(&fleet, "down");
    let down = fleet.muster(["ping", "status", "links"]);
    assert!(down.status == 1 && down.out().contains("agent connected but silent"), "{down}");
    assert!(down.out().lines().all(|line| line.len() <= 80), "{down}");
    let went_down = (host(&fleet)["since"].clone(), "down".to_owned());

    kill(fleet.controller_pid());
    let again = fleet.restart_controller(&ports);
    // What was known is shown at once; then its first round cannot know of an agent that has not come back yet.
    until(PATIENCE, "a round after the restart", || {
        let schedules = fleet.muster(["ping", "schedules", "-o", "json"]);
        schedules.status == 0 && schedules.json()[0]["ran"].is_string()
    });
    assert_eq!(changes(&fleet), std::slice::from_ref(&went_down), "nothing is told twice");
    signal(fleet.agent_pid(2), Signal::CONT);
    until_host_is(&fleet, "up");
    let host = host(&fleet);
    assert_eq!(changes(&fleet), [went_down, (host["since"].clone(), "up".to_owned())]);
    let availability = host["availability"].as_f64().expect("some of it is known");
    assert!(0.0 < availability && availability < 1.0 && host["flaps"] == 2, "{host}");

    let removed = fleet.muster(["ping", "unschedule", "links"]);
    assert_eq!(removed.status, 0, "{removed}");
    fleet.muster(["ping", "status", "links"]).assert_usage("there is no schedule links");
    drop(again);
    assert_store_is_whole(&fleet.dir().join("controller"));
}

#[test]
fn a_schedule_that_cannot_run_says_why_and_goes_on_trying() {
    let fleet = Fleet::start(1);
    let label = |label: &str| assert_eq!(fleet.muster(["agents", "label", "dev-1", label]).status, 0, "{label}");
    let schedule = ["ping", "schedule", "db", "-w", "role=db", "--via", "agent", "--every", EVERY];
    fleet.muster(schedule).assert_usage("role");
    label("role=db");
    assert_eq!(fleet.muster(schedule).status, 0);
    until_states(&fleet, &["db dev-1 up"]);
    label("role-");
    until(PATIENCE, "the schedule says that it does not run", || {
        fleet.muster(["ping", "schedules"]).err().contains("db does not run as it should: ")
    });
    let status = fleet.muster(["status", "-o", "json"]).json();
    let alarm = status["alarms"][0].as_str().unwrap_or_default();
    assert!(alarm.starts_with("the schedule db does not run as it should: "), "{status}");
    label("role=db");
    until(PATIENCE, "it runs again", || {
        let status = fleet.muster(["status", "-o", "json"]).json();
        status["alarms"][0].is_null() && status["metrics"]["muster_schedule_pairs"]["db"]["up"] == 1
    });
    let audit = fleet.muster(["audit", "-o", "jsonl"]).out();
    assert!(audit.contains("schedule.make"), "{audit}");
}

#[test]
fn agents_look_for_a_schedule_as_for_a_ping() {
    let Some(fleet) = Fleet::that_pings(2) else { return };
    let mesh = ["ping", "schedule", "mesh", "--from", "all", "--no-controller", "--every", EVERY, "127.0.0.[8-9]"];
    let made = fleet.muster(mesh);
    assert!(made.status == 0 && made.err().contains("mesh: 4 targets"), "{made}");
    until_states(
        &fleet,
        &["127.0.0.8", "127.0.0.9", "127.0.0.8", "127.0.0.9"]
            .map(|host| format!("mesh {host} up"))
            .each_ref()
            .map(|it| &**it),
    );
    fleet.kill_agent(2);
    until_states(
        &fleet,
        &["mesh 127.0.0.8 up", "mesh 127.0.0.9 up", "mesh 127.0.0.8 unknown", "mesh 127.0.0.9 unknown"],
    );
    let status = fleet.muster(["ping", "status"]);
    assert_eq!(status.status, 4, "nobody is known to be down, and of some nothing is known: {status}");
    assert!(status.out().starts_with("mesh: 2 up, 2 unknown\n"), "{status}");
    assert!(status.out().contains("dev-2>127.0.0.8") && status.out().contains("is not connected"), "{status}");
}
