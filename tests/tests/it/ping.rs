//! `muster ping` as it is typed and read: which hosts answer, from where, and in which words.

use muster_tests::{Contact, Fleet, PATIENCE, Run, finish, signal, skipped, until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;

/// Lines of stdout, sorted: hosts end in any order.
fn lines(run: &Run) -> Vec<String> {
    let mut lines: Vec<String> = run.out().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A line as fping's readers take it: host, what was sent, received and lost, and the three round trips.
fn read_as_fping(line: &str) -> (String, [u32; 3], Option<[f64; 3]>) {
    let (host, rest) = line.split_once(" : xmt/rcv/%loss = ").expect(line);
    let (counts, rest) = rest.split_once('%').expect(line);
    let counts: Vec<u32> = counts.split('/').map(|count| count.parse().expect(line)).collect();
    let rtt = rest.strip_prefix(", min/avg/max = ").map(|rtt| {
        let rtt: Vec<f64> = rtt.split('/').map(|rtt| rtt.parse().expect(line)).collect();
        rtt.try_into().expect(line)
    });
    (host.trim_end().to_owned(), counts.try_into().expect(line), rtt)
}

#[test]
fn a_ping_reads_as_fpings_and_adds_up_as_every_job() {
    let Some(fleet) = Fleet::that_pings(2) else { return };
    let other = if UdpSocket::bind("[::1]:0").is_ok() { "::1" } else { "127.0.0.8" };
    if other != "::1" {
        skipped("this machine has no IPv6, and no address of it is pinged");
    }
    let run = fleet.muster(["ping", "-w", "all", "127.0.0.9", other]);
    run.assert_ended(0, "4 succeeded: 4 targeted");
    let read: Vec<_> = lines(&run).iter().map(|line| read_as_fping(line)).collect();
    let hosts: Vec<&str> = read.iter().map(|(host, ..)| host.as_str()).collect();
    let mut expected = ["127.0.0.9", other, "dev-1", "dev-2"];
    expected.sort_unstable();
    assert_eq!(hosts, expected);
    for (_, counts, rtt) in &read {
        let [min, avg, max] = rtt.expect("a round trip");
        assert!(*counts == [1, 1, 0] && min <= avg && avg <= max, "{run}");
    }

    let run = fleet.muster(["ping", "127.0.0.9", "-c", "3", "-p", "20ms"]);
    let out = run.out();
    let mut said = out.lines();
    for number in 0..3 {
        let start = format!("127.0.0.9 : [{number}], 64 bytes, ");
        assert!(said.next().is_some_and(|line| line.starts_with(&start) && line.ends_with(" avg, 0% loss)")), "{run}");
    }
    assert_eq!(said.next().map(|line| read_as_fping(line).1), Some([3, 3, 0]), "{run}");

    fleet.muster(["ping"]).assert_usage("no hosts are named");
    fleet.muster(["ping", "all"]).assert_usage("-w 'all'");
    fleet.muster(["ping", "-w", "role=nobody"]).assert_usage("role=nobody");
    fleet.muster(["ping", "--cidr", "10.0.0.0/8"]).assert_usage("--sample");
}

#[test]
fn a_host_without_an_answer_is_failed_with_its_reason_and_named() {
    let fleet = Fleet::start(3);
    fleet.kill_agent(2);
    let ping = |more: &[&str]| fleet.muster(["ping", "-w", "all", "--via", "agent"].iter().chain(more));
    let run = ping(&[]);
    run.assert_ended(1, "2 succeeded, 1 failed dev-2: 3 targeted");
    let dead = run.out().lines().find(|line| line.starts_with("dev-2")).map(str::to_owned);
    assert!(dead.is_some_and(|line| line.ends_with("/0/100%: agent not connected")), "{run}");

    assert_eq!(lines(&ping(&["-a"])), ["dev-1", "dev-3"]);
    assert_eq!(lines(&ping(&["--dead"])), ["dev-2"]);
    assert_eq!(ping(&["--show", "failed"]).out().lines().count(), 1);
    assert_eq!(ping(&["--expect", "2"]).status, 0);
    let unexpected = ping(&["--expect", "3"]);
    assert_eq!(unexpected.status, 1, "{unexpected}");
    assert!(unexpected.err().contains("expected 3 hosts alive, found 2"), "{unexpected}");
    let quiet = ping(&["-q"]);
    assert_eq!((quiet.out().lines().count(), quiet.err().lines().count()), (3, 2), "{quiet}");
    let several = ping(&["-q", "-c", "3", "-p", "20ms"]);
    assert_eq!(several.out().lines().count(), 3, "no line of a single probe: {several}");
    assert_eq!(lines(&ping(&["-aq"])), ["dev-1", "dev-3"]);
}

#[test]
fn a_plan_says_what_it_takes_and_what_cannot_be_meant_is_said_in_a_line() {
    let fleet = Fleet::start(2);
    let plan = fleet.muster(["ping", "-w", "all", "10.9.8.[1-2]", "-c", "5", "--dry-run"]);
    assert_eq!(plan.status, 0, "{plan}");
    for line in [
        "probes   5 of each target, 1.0 s apart, 500 ms for an answer, never repeated",
        "packets  20",
        "times    about 4.0 s, 4.5 s if nobody answers; all begins within 1 h 00 min",
    ] {
        assert!(plan.out().lines().any(|found| found == line), "{line}: {plan}");
    }
    let json = fleet.muster(["ping", "10.9.8.1", "--dry-run", "-o", "json"]).json();
    assert_eq!((&json["packets"], &json["packets_unanswered"]), (&Value::from(1), &Value::from(2)), "{json}");
    assert_eq!(
        (&json["probes"]["count"], &json["time_unanswered_ms"]),
        (&Value::from(1), &Value::from(1000)),
        "{json}"
    );

    let mut hosts = tempfile::NamedTempFile::new().expect("a file");
    hosts.write_all(b"\xef\xbb\xbfdev-1.\n[::1]\n10.0.0.300\n").expect("written");
    let file = hosts.path().to_str().expect("a path");
    for (words, told) in [
        (
            &["-t", "5s", "dev-1"][..],
            "muster: -t is how long agents of --from are waited for; for answers use --timeout",
        ),
        (&["-u", "dev-1"], "muster: fping's -u is --dead here"),
        (&["-w", "all", "--from", "all", "--matrix", "--by", "nosuch"], "muster: --by nosuch: no agent has this label"),
        (&["--hosts-file", file], "line 3: 10.0.0.300 is no address: its numbers are 0 to 255"),
        (&["dev-1,dev-2"], "muster: dev-1,dev-2: separate hosts by blanks, or use -w 'dev-1,dev-2'"),
        (&["dev-1", "-o", "csv", "--dry-run"], "use text or json with --dry-run and -d"),
    ] {
        fleet.muster(["ping"].iter().chain(words)).assert_usage(told);
    }
}

#[test]
fn a_host_that_answers_while_its_agent_does_not_is_diagnosed() {
    let Some(fleet) = Fleet::that_pings(3) else { return };
    fleet.kill_agent(3);
    let run = fleet.muster(["ping", "-w", "all"]);
    run.assert_ended(0, "3 succeeded: 3 targeted");
    assert!(run.err().lines().any(|line| line == "ping ok, agent not connected: dev-3"), "{run}");
    let json = fleet.muster(["ping", "-w", "dev-3", "-o", "json"]).json();
    assert_eq!(json["hosts"][0]["diagnosis"], "ping ok, agent not connected", "{json}");
    assert_eq!(json["hosts"][0]["ping"]["agent"], "away", "{json}");
}

#[test]
fn programs_get_all_that_was_measured() {
    let Some(fleet) = Fleet::that_pings(2) else { return };
    let words = ["ping", "-w", "dev-1", "127.0.0.9", "-c", "2", "-p", "20ms", "-o"];
    let ping = |form: &'static str| fleet.muster(words.into_iter().chain([form]));

    let json = ping("json").json();
    assert_eq!((&json["state"], &json["counts"]["succeeded"]), (&Value::from("done"), &Value::from(2)), "{json}");
    let [agent, stranger] = [0, 1].map(|place| &json["hosts"][place]["ping"]);
    for tally in [&agent["icmp"], &agent["link"], &stranger["icmp"]] {
        assert_eq!((&tally["sent"], &tally["received"]), (&Value::from(2), &Value::from(2)), "{json}");
        let [min, median, max] = ["min_ms", "median_ms", "max_ms"].map(|name| tally[name].as_f64().expect("a number"));
        assert!(0.0 < min && min <= median && median <= max, "{json}");
    }
    assert_eq!((&stranger["link"], &stranger["address"]), (&Value::Null, &Value::from("127.0.0.9")), "{json}");

    let events = ping("jsonl").jsonl();
    let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    assert_eq!((of("planned").len(), of("probed").len(), of("finished").len(), of("done").len()), (1, 4, 2, 1));
    assert!(of("probed").iter().all(|event| event["rtt_ms"].is_f64() && event["reason"].is_null()), "{events:?}");
    assert!(of("finished").iter().all(|event| event["ping"]["icmp"]["received"] == 2), "{events:?}");
    assert!(events.iter().zip(1..).all(|(event, seq)| event["seq"] == seq), "{events:?}");

    let csv = ping("csv").out();
    assert!(csv.starts_with("host,from,address,") && csv.lines().count() == 3, "{csv}");
    let metrics = ping("prometheus").out();
    assert!(metrics.contains("muster_ping_up{host=\"dev-1\",from=\"controller\"} 1\n"), "{metrics}");
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').expect(line);
        assert!(line.starts_with("muster_ping_") && value.parse::<f64>().is_ok(), "{line}");
    }
}

#[test]
fn agents_look_too_and_the_map_has_every_pair() {
    let Some(fleet) = Fleet::that_pings(3) else { return };
    let words = ["ping", "-w", "all", "--from", "dev-[1-2]"];
    let run = fleet.muster(words.into_iter().chain(["--matrix"]));
    run.assert_ended(0, "7 succeeded: 7 targeted");
    assert!(run.err().contains("agents do not look at themselves: 2 left out"), "{run}");
    let rows: Vec<String> = run.out().lines().map(str::to_owned).collect();
    assert!(
        rows[1].starts_with("controller ") && rows[2].starts_with("dev-1 ") && rows[3].starts_with("dev-2 "),
        "{run}"
    );

    let json = fleet.muster(words.into_iter().chain(["--no-controller", "-o", "json"])).json();
    let pairs = json["hosts"].as_array().expect("a list").iter();
    let pairs: Vec<String> = pairs.map(|pair| format!("{}>{}", pair["from"], pair["host"]).replace('"', "")).collect();
    assert_eq!(pairs, ["dev-1>dev-2", "dev-1>dev-3", "dev-2>dev-1", "dev-2>dev-3"], "{json}");

    let by = fleet.muster(words.into_iter().chain(["--matrix", "--by", "env"]));
    assert!(by.out().lines().any(|line| line.starts_with("dev        ")), "{by}");
}

#[test]
fn a_ping_is_a_job_for_every_verb() {
    let Some(fleet) = Fleet::that_pings(3) else { return };
    fleet.kill_agent(3);
    let run = fleet.muster(["ping", "-w", "all", "--via", "agent", "-r", "2"]);
    let id = run.job();
    let table = fleet.muster(["job", &id]);
    assert!(table.out().contains("command   ping --via agent -r 2") && table.out().contains("LOSS"), "{table}");
    assert_eq!(fleet.job(&id)["hosts"][2]["reason"], "agent not connected");
    assert!(fleet.muster(["jobs", "-n", "1"]).out().contains("ping --via agent"));
    assert_eq!(lines(&fleet.muster(["logs", &id])), lines(&run));
    let attached = fleet.muster(["attach", &id]);
    attached.assert_ended(1, "2 succeeded, 1 failed dev-3: 3 targeted");
    assert_eq!(lines(&attached), lines(&run));
    fleet.muster(["rerun", &id, "--failed"]).assert_ended(1, "1 failed dev-3: 1 targeted");

    let mesh = fleet.muster(["ping", "-w", "dev-3,127.0.0.9", "--from", "dev-[1-2]"]).job();
    let again = fleet.muster(["rerun", &mesh, "--state", "succeeded"]);
    again.assert_ended(0, "6 succeeded: 6 targeted");
    assert!(again.out().contains("dev-1>127.0.0.9 : "), "{again}");

    let endless = fleet.muster(["ping", "127.0.0.9", "-l", "-d"]);
    let endless = endless.out().trim().to_owned();
    let cancelled = fleet.muster(["cancel", &endless]);
    cancelled.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(fleet.until_done(&endless)["counts"]["succeeded"], 1);
}

#[test]
fn ctrl_c_ends_an_endless_ping_and_says_what_was_seen() {
    let Some(fleet) = Fleet::that_pings(1) else { return };
    let mut child = fleet.program(["ping", "127.0.0.9", "-l", "-p", "20ms"]).spawn();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    for _ in 0..3 {
        line.clear();
        out.read_line(&mut line).expect("a line");
    }
    assert!(line.starts_with("127.0.0.9 : [2], 64 bytes, "), "{line}");
    signal(child.id(), Signal::INT);
    let rest: Vec<String> = out.lines().map(|line| line.expect("a line")).collect();
    let (_, [sent, received, _], _) = read_as_fping(rest.last().expect("a last line"));
    assert!(sent >= 3 && sent == received, "{rest:?}");
    child.stdout = Some(devnull());
    let run = finish(child);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(fleet.job(&run.job())["state"], "done");
}

#[test]
fn ctrl_c_shows_who_was_looked_at_and_counts_the_others() {
    let Some(fleet) = Fleet::that_pings(1) else { return };
    let mut child = fleet.program(["ping", "--cidr", "127.0.0.0/20", "--rate", "100"]).spawn();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    signal(child.id(), Signal::INT);
    let mut seen = vec![line.trim_end().to_owned()];
    seen.extend(out.lines().map(|line| line.expect("a line")));
    assert!(seen.iter().all(|line| read_as_fping(line).1 == [1, 1, 0]), "{seen:?}");
    child.stdout = Some(devnull());
    let run = finish(child);
    assert_eq!(run.status, 3, "{run}");
    let count =
        run.err().lines().find_map(|line| line.strip_suffix(" not looked at").map(|count| count.replace(',', "")));
    let others: usize = count.expect("a count").parse().expect("a number");
    assert!(others > 0 && seen.len() + others == 4_094, "{run}");
    assert!(!run.err().contains("cancelled by"), "{run}");
}

#[test]
fn hosts_are_named_once_however_many_look_and_who_did_not_look_is_told() {
    let Some(fleet) = Fleet::that_pings(3) else { return };
    fleet.kill_agent(3);
    let words = ["ping", "-w", "all,nosuch.invalid", "--from", "all", "-t", "100ms"];
    let ping = |more: &'static str| fleet.muster(words.into_iter().chain([more]));
    assert_eq!(lines(&ping("-a")), ["dev-1", "dev-2", "dev-3"]);
    assert_eq!(lines(&ping("--dead")), ["nosuch.invalid"]);
    let away = "did not look: dev-3: the agent that was to look is not connected";
    for run in [ping("-q"), ping("--matrix")] {
        assert!(run.err().lines().any(|line| line == away), "{run}");
    }
    assert!(ping("-q").out().lines().any(|line| line.ends_with("0/0/100%: name does not resolve")));
}

#[test]
fn an_endless_ping_ends_with_its_reader() {
    let Some(fleet) = Fleet::that_pings(1) else { return };
    let mut child = fleet.program(["ping", "127.0.0.9", "-l", "-p", "20ms"]).spawn();
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    child.stdout = Some(devnull());
    let run = finish(child);
    assert_eq!(run.status, 0, "{run}");
    let said = run.err();
    let id = said.split_once("ping ").and_then(|(_, rest)| rest.split_once(" was cancelled")).expect(&said).0;
    fleet.until_done(id);
}

#[test]
fn a_watch_tells_changes_and_nothing_else() {
    let fleet = Fleet::start(1);
    let words = ["ping", "-w", "dev-1", "--via", "agent", "--watch", "-p", "50ms", "--timeout", "200ms"];
    let mut child = fleet.program(words).spawn();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    // It is looked at before it goes: only then is it a change.
    let job = || fleet.muster(["jobs", "-n", "1", "-o", "json"]).json()[0]["job"].as_str().map(str::to_owned);
    until(PATIENCE, "the ping is at work", || job().is_some_and(|id| fleet.state(&id, "dev-1") == "started"));
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        line
    };
    fleet.kill_agent(1);
    let down = next();
    assert!(down.contains("Z dev-1 down: agent "), "{down}");
    let _agent = fleet.restart_agent(1);
    fleet.until_contact(1, Contact::There);
    let up = next();
    assert!(up.contains("Z dev-1 up after "), "{up}");
    signal(child.id(), Signal::INT);
    child.stdout = Some(devnull());
    finish(child).assert_ended(0, "1 succeeded: 1 targeted");
}

/// What was read by the test itself.
fn devnull() -> std::process::ChildStdout {
    std::fs::File::open("/dev/null").map(std::os::fd::OwnedFd::from).expect("a device").into()
}
