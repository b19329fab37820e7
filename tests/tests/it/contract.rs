//! What programs may rely on: events and objects as DESIGN 6 has them, exit statuses, and what goes where.

use muster_tests::{Fleet, PATIENCE, Run, bin, finish, signal, state_in, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Command;

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The id at the end of the closing line.
fn job_of(run: &Run) -> String {
    run.closing().rsplit_once(", job ").expect("a closing line with an id").1.to_owned()
}

fn assert_closing(run: &Run, status: i32, beginning: &str) {
    assert_eq!(run.status, status, "{run}");
    assert!(run.closing().starts_with(&format!("{beginning} targeted in ")), "{run}");
}

const LINE: &str = r"printf 'a\n'; printf '\377\376' >&2; test $MUSTER_HOST != dev-2 || exit 3";

#[test]
fn events_are_numbered_complete_and_the_same_for_everybody() {
    let fleet = Fleet::start(3);
    let run = fleet.muster(["run", "-w", "all", "-o", "jsonl", LINE]);
    assert_closing(&run, 1, "run: 2 succeeded, 1 failed dev-2: 3");
    let (events, id) = (run.jsonl(), job_of(&run));
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!((&event["seq"], &event["job"]), (&json!(seq), &json!(id)), "{event}");
        let time = event["time"].as_str().expect("a time");
        assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{event}");
    }
    let (first, last) = (&events[0], &events[events.len() - 1]);
    assert_eq!((&first["kind"], &first["targets"]), (&json!("planned"), &json!(3)));
    assert_eq!(first["digest"].as_str().map(str::len), Some(64));
    assert_eq!((&last["kind"], &last["counts"]), (&json!("done"), &json!({"succeeded": 2, "failed": 1})));
    for host in ["dev-1", "dev-2", "dev-3"] {
        let of_host: Vec<_> = events.iter().filter(|event| event["host"] == host).collect();
        let kinds: Vec<_> = of_host.iter().map(|event| event["kind"].as_str().expect("a kind")).collect();
        assert_eq!(kinds, ["offered", "accepted", "started", "output", "output", "finished"], "{host}");
        assert_eq!(keys(of_host[2]), ["host", "job", "kind", "seq", "time"]);
        // Which stream comes first is nobody's promise.
        let written = |stream: &str, key: &str, value: &str| {
            let stream = of_host[3..5].iter().find(|event| event["stream"] == stream).expect("output");
            assert_eq!((keys(stream).len(), &stream[key]), (7, &json!(value)), "{stream}");
        };
        written("stdout", "text", "a\n");
        written("stderr", "b64", "//4=");
        let finished = of_host[5];
        let (state, code) = if host == "dev-2" { ("failed", 3) } else { ("succeeded", 0) };
        assert_eq!((&finished["state"], &finished["exit_code"]), (&json!(state), &json!(code)));
        assert_eq!((&finished["signal"], &finished["reason"]), (&Value::Null, &Value::Null));
        assert!(finished["duration_ms"].is_u64(), "{finished}");
    }

    // Whoever reads later reads the same bytes, from any point on.
    let logs = fleet.muster(["logs", &id, "-o", "jsonl"]);
    assert_eq!((logs.status, logs.out()), (0, run.out()), "{logs}");
    let attach = fleet.muster(["attach", &id, "-o", "jsonl"]);
    assert_eq!((attach.status, attach.out()), (1, run.out()), "{attach}");
    let rest = fleet.muster(["attach", &id, "-o", "jsonl", "--after", "7"]);
    assert_eq!(rest.jsonl(), events[7..], "{rest}");
    assert_closing(&rest, 1, "attach: 2 succeeded, 1 failed dev-2: 3");
}

#[test]
fn events_of_waves_gates_attempts_and_pauses_have_their_public_shape() {
    let fleet = Fleet::start(2);
    let options = ["-w", "all", "--waves", "1", "--retry-failed", "1", "--gate", "echo no >&2; exit 4", "-o", "jsonl"];
    let run = fleet.program(["run"]).args(options).args(["test $MUSTER_ATTEMPT = 2"]).run();
    assert_eq!(run.status, 5, "{run}");
    let events = run.jsonl();
    let of = |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind).collect::<Vec<_>>();
    let fields = |event: &Value, wanted: &[&str]| {
        let mut wanted = [&["job", "kind", "seq", "time"], wanted].concat();
        wanted.sort_unstable();
        assert_eq!(keys(event), wanted);
    };
    let end = ["duration_ms", "exit_code", "host", "reason", "signal", "state"];
    fields(of("wave")[0], &["targets", "wave"]);
    assert_eq!((of("wave").len(), &of("wave")[0]["wave"], &of("wave")[0]["targets"]), (1, &json!(1), &json!(1)));
    let retrying = of("retrying")[0];
    fields(retrying, &[&end[..], &["at", "attempt"]].concat());
    assert_eq!(
        (&retrying["attempt"], &retrying["state"], &retrying["exit_code"]),
        (&json!(2), &json!("failed"), &json!(1))
    );
    assert_eq!((of("finished").len(), &of("finished")[0]["state"]), (1, &json!("succeeded")));
    let gates = of("gate");
    let steps: Vec<_> = gates.iter().map(|event| event["step"].as_str().expect("a step")).collect();
    assert_eq!(steps, ["offered", "accepted", "started", "output", "finished"]);
    fields(gates[0], &["host", "step"]);
    fields(gates[3], &["host", "step", "stream", "text"]);
    assert_eq!((&gates[3]["stream"], &gates[3]["text"]), (&json!("stderr"), &json!("no\n")));
    fields(gates[4], &[&end[..], &["step"]].concat());
    let paused = of("paused")[0];
    fields(paused, &["operator", "reason"]);
    assert!(paused["operator"].is_null() && paused["reason"].as_str().is_some_and(|why| why.contains("dev-1")));

    // A pause is told in every form, and the job is as it was left.
    let id = job_of(&run);
    let attach = fleet.muster(["attach", &id]);
    assert_closing(&attach, 5, "attach: 1 succeeded, 1 pending dev-2: 2");
    assert!(attach.err().contains(&format!("`muster resume {id}` goes on, `muster cancel {id}` ends it")), "{attach}");
    assert!(attach.err().contains("dev-1: gate: no\ndev-1: gate failed: exit code 4\n"), "{attach}");
    let job = fleet.muster(["attach", &id, "-o", "json"]);
    assert_eq!(
        (job.status, &job.json()["state"], &job.json()["paused"]["operator"]),
        (5, &json!("paused"), &Value::Null)
    );
    assert_eq!((fleet.muster(["resume", &id]).status, fleet.muster(["cancel", &id]).status), (0, 0));
    let events = fleet.muster(["logs", &id, "-o", "jsonl"]).jsonl();
    let resumed = events.iter().find(|event| event["kind"] == "resumed").expect("it was resumed");
    fields(resumed, &["operator"]);
    assert_eq!(resumed["operator"], "dev");
}

#[test]
fn p5_what_is_missing_is_an_event_with_the_count() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-o", "jsonl", "yes 123456789 | head -c 25000000"]);
    assert_closing(&run, 0, "run: 1 succeeded: 1");
    let events = run.jsonl();
    let of_kind = |kind: &'static str| events.iter().filter(move |event| event["kind"] == kind);
    let written: usize = of_kind("output").map(|event| event["text"].as_str().expect("text").len()).sum();
    let missing: Vec<_> = of_kind("truncated").collect();
    assert_eq!(missing.len(), 1, "one gap");
    assert_eq!(keys(missing[0]), ["bytes", "host", "job", "kind", "seq", "stream", "time"]);
    assert_eq!((&missing[0]["host"], &missing[0]["stream"]), (&json!("dev-1"), &json!("stdout")));
    let bytes = missing[0]["bytes"].as_u64().expect("a count");
    assert_eq!(written as u64 + bytes, 25_000_000, "every byte is there or counted");
    assert!(bytes > 0);

    let object = fleet.muster(["attach", &job_of(&run), "-o", "json"]).json();
    assert_eq!(object["hosts"][0]["dropped"], json!(bytes));
}

#[test]
fn objects_have_their_public_shape() {
    let fleet = Fleet::start(2);
    let run = fleet.muster(["run", "-w", "all", "-o", "json", LINE]);
    assert_closing(&run, 1, "run: 1 succeeded, 1 failed dev-2: 2");
    let id = job_of(&run);
    let (object, job) = (run.json(), fleet.muster(["job", &id, "-o", "json"]).json());
    assert_eq!(keys(&job), ["argv", "counts", "digest", "hosts", "job", "operator", "rollout", "state", "targets"]);
    assert_eq!((&job["job"], &job["state"], &job["targets"]), (&json!(id), &json!("done"), &json!(2)));
    assert_eq!(job["argv"], json!(["/bin/sh", "-c", LINE]));
    assert_eq!(job["counts"], json!({"succeeded": 1, "failed": 1}));
    assert_eq!(keys(&job["hosts"][0]), ["attempt", "duration_ms", "exit_code", "host", "reason", "signal", "state"]);
    assert_eq!((&job["hosts"][1]["host"], &job["hosts"][1]["exit_code"]), (&json!("dev-2"), &json!(3)));
    // `run` has the same, and what the hosts wrote.
    for host in object["hosts"].as_array().expect("a list") {
        assert_eq!((&host["stdout"], &host["stderr"]), (&json!("a\n"), &json!({"b64": "//4="})));
        assert_eq!(host["dropped"], json!(0));
    }
    let mut bare = object;
    for host in bare["hosts"].as_array_mut().expect("a list") {
        let host = host.as_object_mut().expect("an object");
        host.retain(|key, _| !["stdout", "stderr", "dropped"].contains(&key.as_str()));
    }
    assert_eq!(bare, job);

    let jobs = fleet.muster(["jobs", "-o", "json"]).json();
    let mut without_hosts = job;
    without_hosts.as_object_mut().expect("an object").retain(|key, _| !["hosts", "rollout"].contains(&key.as_str()));
    assert_eq!(jobs, json!([without_hosts]));

    let agents = fleet.muster(["agents", "-o", "json"]).json();
    let agents = agents.as_array().expect("a list");
    assert_eq!(agents.iter().map(|agent| &agent["host"]).collect::<Vec<_>>(), ["dev-1", "dev-2"]);
    let wanted =
        ["clock_offset_ms", "connected", "facts", "heard_at", "host", "id", "labels", "quarantine", "since", "version"];
    assert_eq!(keys(&agents[0]), wanted);
    assert_eq!((&agents[1]["connected"], &agents[1]["labels"]), (&json!(true), &json!({"env": "dev", "slot": "2"})));
    assert_eq!(agents[0]["id"].as_str().map(str::len), Some(26));
    assert!(agents[0]["facts"]["cpus"].is_u64(), "{}", agents[0]);
}

#[test]
fn answers_come_as_they_end_or_in_the_order_of_the_list() {
    let fleet = Fleet::start(3);
    let gate = fleet.gate("dev-1");
    let line = format!("test $MUSTER_HOST != dev-1 || {{ {}; }}; echo $MUSTER_HOST", gate.wait());
    let order = |order: &str| fleet.program(["run", "-w", "all", "--order", order, &line]).spawn();
    let (completion, target) = (order("completion"), order("target"));
    until(PATIENCE, "all but the first host ended in both jobs", || {
        let jobs = fleet.muster(["jobs", "-o", "json"]).json();
        let jobs = jobs.as_array().expect("a list");
        jobs.len() == 2 && jobs.iter().all(|job| job["counts"] == json!({"succeeded": 2}))
    });
    gate.open();
    let (completion, target) = (finish(completion), finish(target));
    assert_eq!(target.out(), "dev-1: dev-1\ndev-2: dev-2\ndev-3: dev-3\n");
    assert_eq!(completion.out().lines().last(), Some("dev-1: dev-1"), "{completion}");
    for run in [completion, target] {
        assert_closing(&run, 0, "run: 3 succeeded: 3");
        assert_eq!(run.out().lines().count(), 3, "{run}");
    }
}

#[test]
fn who_waits_for_the_first_names_the_others() {
    let fleet = Fleet::start(3);
    let gate = fleet.gate("others");
    let line = format!("test $MUSTER_HOST = dev-1 && exit $CODE; {}", gate.wait());
    let wait = |wait: &str, code: &str| {
        let code = format!("CODE={code}");
        fleet.muster(["run", "-w", "all", "--wait", wait, "-e", &code, &line])
    };
    let first = wait("first", "0");
    assert_closing(&first, 0, "run: 1 succeeded, 2 not done dev-[2-3]: 3");
    let failure = wait("first-failure", "7");
    assert_closing(&failure, 1, "run: 1 failed dev-1, 2 not done dev-[2-3]: 3");
    let none = wait("none", "0");
    assert_eq!((none.status, none.err().as_str()), (0, ""), "{none}");
    let detached = fleet.submit(["-w", "all", "-e", "CODE=0", &line]);
    gate.open();
    for (id, status, sum) in [
        (job_of(&first), 0, "3 succeeded"),
        (job_of(&failure), 1, "2 succeeded, 1 failed dev-1"),
        (none.out().trim().to_owned(), 0, "3 succeeded"),
        (detached, 0, "3 succeeded"),
    ] {
        assert_closing(&fleet.muster(["attach", &id]), status, &format!("attach: {sum}: 3"));
    }
    // Where nobody fails, the first failure is the end.
    assert_closing(&wait("first-failure", "0"), 0, "run: 3 succeeded: 3");
}

#[test]
fn what_is_shown_is_what_was_asked_for() {
    let fleet = Fleet::start(3);
    let line = "echo out; echo err >&2; test $MUSTER_HOST = dev-1";
    let show = |options: &[&str]| {
        let run = fleet.program(["run", "-w", "all", "--order", "target"]).args(options).args([line]).run();
        assert_closing(&run, 1, "run: 1 succeeded, 2 failed dev-[2-3]: 3");
        run
    };
    let all = show(&[]);
    assert_eq!(all.out(), "dev-1: out\ndev-2: out\ndev-3: out\n");
    let said: Vec<_> = all.err().lines().map(str::to_owned).collect();
    let failed = |host: &str| [format!("{host}: err"), format!("{host}: failed: exit code 1")];
    assert_eq!(said[..1], ["dev-1: err"]);
    assert_eq!(said[1..5], [failed("dev-2"), failed("dev-3")].concat());
    assert_eq!(said.len(), 6, "{all}");
    assert_eq!(show(&["--show", "failed"]).out(), "dev-2: out\ndev-3: out\n");
    assert_eq!(show(&["--show", "ok"]).out(), "dev-1: out\n");
    assert_eq!(show(&["--names"]).out(), "dev-1\ndev-2\ndev-3\n");
    assert_eq!(show(&["--names", "--show", "failed"]).out(), "dev-2\ndev-3\n");
    assert_eq!(show(&["--names"]).err().lines().count(), 1, "only the closing line");
    assert_eq!(show(&["-N"]).out(), "out\nout\nout\n");
    let failed = show(&["-o", "json", "--show", "failed"]).json();
    assert_eq!(failed["hosts"].as_array().map(Vec::len), Some(2), "{failed}");
    assert_eq!(failed["counts"], json!({"succeeded": 1, "failed": 2}));
}

#[test]
fn the_exit_status_says_the_worst_that_happened() {
    let fleet = Fleet::start(2);
    let run = |options: &[&str]| fleet.program(["run", "-w", "all"]).args(options).run();
    assert_closing(&run(&["true"]), 0, "run: 2 succeeded: 2");
    assert_closing(&run(&["false"]), 1, "run: 2 failed dev-[1-2]: 2");
    assert_closing(&run(&["-u", "1s", "--", "sleep", "60"]), 1, "run: 2 timed_out dev-[1-2]: 2");
    assert_closing(&run(&["/nonexistent/program"]), 1, "run: 2 start_failed dev-[1-2]: 2");
    assert_eq!(run(&["", "true"]).status, 2);

    let only = |line: &str| fleet.muster(["run", "-w", "dev-1", "--pass-exit", line]);
    assert_closing(&only("exit 77"), 77, "run: 1 failed dev-1: 1");
    assert_closing(&only("kill -9 $$"), 128 + 9, "run: 1 failed dev-1: 1");
    assert_closing(&only("exit 0"), 0, "run: 1 succeeded: 1");
    assert_closing(&run(&["--pass-exit", "exit 77"]), 1, "run: 2 failed dev-[1-2]: 2");

    // A host that is away, and one that is taken away while it works.
    fleet.kill_agent(2);
    assert_closing(&run(&["-t", "1s", "true"]), 3, "run: 1 succeeded, 1 unreachable dev-2: 2");
    let line = "test $MUSTER_HOST = dev-1 && exit 5";
    assert_closing(&run(&["-t", "1s", "--sh", line]), 1, "run: 1 failed dev-1, 1 unreachable dev-2: 2");
    let gate = fleet.gate("work");
    let id = fleet.submit(["-w", "dev-1", &gate.wait()]);
    fleet.until_state(&id, "dev-1", "started");
    assert_eq!(fleet.muster(["agents", "revoke", "dev-1"]).status, 0);
    assert_closing(&fleet.muster(["attach", &id]), 4, "attach: 1 indeterminate dev-1: 1");
}

#[test]
fn never_more_hosts_at_a_time_than_allowed() {
    let fleet = Fleet::start(4);
    let spans = fleet.dir().join("spans");
    let line = format!("from=$(date +%s%N); sleep 0.1; echo $from $(date +%s%N) >>'{}'", spans.display());
    for (pace, most) in [("1", 1), ("50%", 2)] {
        let _ = fs::remove_file(&spans);
        assert_closing(&fleet.muster(["run", "-w", "all", "-f", pace, &line]), 0, "run: 4 succeeded: 4");
        let text = fs::read_to_string(&spans).expect("written by the tasks");
        let number = |word: &str| word.parse::<u128>().expect("nanoseconds");
        let spans = text.lines().map(|line| line.split_once(' ').expect("two"));
        let spans: Vec<_> = spans.map(|(from, to)| (number(from), number(to))).collect();
        assert_eq!(spans.len(), 4, "{text}");
        let at_work = |moment: u128| spans.iter().filter(|(from, to)| (*from..*to).contains(&moment)).count();
        let busiest = spans.iter().map(|(from, _)| at_work(*from)).max();
        assert!(busiest <= Some(most), "-f {pace}: {busiest:?} at a time: {text}");
    }
}

#[test]
fn a_job_can_be_looked_at_cancelled_and_run_again() {
    let fleet = Fleet::start(3);
    let gate = fleet.gate("work");
    let line = format!("echo $MUSTER_HOST; test $MUSTER_HOST != dev-1 || exit 4; {}", gate.wait());
    let id = fleet.submit(["-w", "all", &line]);
    fleet.until_state(&id, "dev-1", "failed");
    fleet.until_state(&id, "dev-2", "started");
    fleet.until_state(&id, "dev-3", "started");
    assert_eq!(fleet.job(&id)["state"], "active");
    let attached = fleet.program(["attach", &id]).spawn();
    let cancel = fleet.muster(["cancel", &id]);
    assert_closing(&cancel, 0, "cancel: 1 failed dev-1, 2 cancelled dev-[2-3]: 3");
    assert_eq!(cancel.out(), "");
    assert_closing(&finish(attached), 1, "attach: 1 failed dev-1, 2 cancelled dev-[2-3]: 3");
    let again = fleet.muster(["cancel", &id]);
    assert_closing(&again, 0, "cancel: 1 failed dev-1, 2 cancelled dev-[2-3]: 3");
    assert!(again.err().contains("was over before"), "{again}");

    let logs = fleet.muster(["logs", &id]);
    let lines: BTreeSet<_> = logs.out().lines().map(str::to_owned).collect();
    let all = ["dev-1: dev-1", "dev-2: dev-2", "dev-3: dev-3"].map(str::to_owned);
    assert_eq!((logs.status, lines, logs.err().as_str()), (0, all.into(), ""));
    assert_eq!(fleet.muster(["logs", &id, "-w", "slot=2", "-N"]).out(), "dev-2\n");
    assert_eq!(fleet.muster(["logs", &id, "-w", "dev-9"]).status, 2);

    gate.open();
    let rerun = fleet.muster(["rerun", &id, "--state", "cancelled"]);
    assert_closing(&rerun, 0, "rerun: 2 succeeded: 2");
    let failed = fleet.muster(["rerun", &id, "--failed", "--order", "target", "--names"]);
    assert_closing(&failed, 1, "rerun: 2 succeeded, 1 failed dev-1: 3");
    assert_eq!(failed.out(), "dev-1\ndev-2\ndev-3\n");
    let nobody = fleet.muster(["rerun", &id, "--not-run"]);
    assert_eq!(nobody.status, 2, "{nobody}");
    assert!(nobody.err().contains("no host of job"), "{nobody}");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json().as_array().map(Vec::len), Some(3));
    assert_eq!(state_in(&fleet.job(&id), "dev-2"), "cancelled", "the old job stays as it was");
}

#[test]
fn a_closed_stdout_is_told_while_the_job_goes_on() {
    let fleet = Fleet::start(2);
    let gate = fleet.gate("work");
    // Reads one line and goes; the status and what was said then.
    let head = |arguments: &[&str]| {
        let mut child = fleet.program(arguments).spawn();
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
        assert!(line.starts_with("dev-"), "{line}");
        let mut status = None;
        until(PATIENCE, "muster ends when its reader has gone", || {
            status = child.try_wait().expect("our child");
            status.is_some()
        });
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        (status.and_then(|status| status.code()), said)
    };
    let (status, said) = head(&["run", "-w", "all", &format!("seq 200000; {}", gate.wait())]);
    let jobs = fleet.muster(["jobs", "-o", "json"]).json();
    let id = jobs[0]["job"].as_str().expect("an id");
    let told = format!("stdout was closed: job {id} goes on at 2 hosts; muster attach {id} comes back to it\n");
    assert_eq!((status, said), (Some(5), told));

    // No other error of stdout is silent either.
    let full = fs::File::options().write(true).open("/dev/full").expect("a device");
    let mut muster = Command::new(bin("muster"));
    muster.env("MUSTER_CONFIG", fleet.dir().join("config.toml")).env("MUSTER_CONTEXT", "dev");
    let attach = muster.args(["attach", id]).stdout(full).output().expect("it starts");
    let said = String::from_utf8_lossy(&attach.stderr);
    assert_eq!(attach.status.code(), Some(5), "{said}");
    let told = format!("cannot write to stdout (No space left on device (os error 28)): job {id} goes on at 2 hosts");
    assert!(said.starts_with(&told), "{said}");

    gate.open();
    assert_eq!(fleet.until_done(id)["counts"], json!({"succeeded": 2}), "the hosts do not care");
    // Whoever has seen enough of a job that is over has missed nothing that could go wrong.
    let (status, said) = head(&["attach", id]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.starts_with("attach: 2 succeeded: 2 targeted in "), "{said}");
    assert_eq!(head(&["logs", id]), (Some(0), String::new()));
}

#[test]
fn our_own_options_do_not_reach_the_hosts_by_accident() {
    let fleet = Fleet::start(1);
    let refused = fleet.muster(["run", "-w", "all", "true", "--dry-run"]);
    assert_eq!(refused.status, 2, "{refused}");
    assert!(refused.err().contains("--dry-run stands after the command"), "{refused}");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), json!([]), "nothing was run");
    assert_closing(&fleet.muster(["run", "-w", "all", "--", "true", "--dry-run"]), 0, "run: 1 succeeded: 1");
    let detached = fleet.muster(["run", "-w", "all", "-d", "-o", "json", "true"]).json();
    assert_eq!(keys(&detached), ["job"]);
    fleet.until_done(detached["job"].as_str().expect("an id"));
}

#[test]
fn ctrl_c_leaves_the_job_alone_and_twice_cancels_it() {
    let fleet = Fleet::start(3);
    let gate = fleet.gate("work");
    let line = format!("echo begun; {}", gate.wait());
    for presses in [1, 2] {
        let mut child = fleet.program(["run", "-w", "all", &line]).spawn();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        for _ in 0..3 {
            let mut begun = String::new();
            stdout.read_line(&mut begun).expect("readable");
            assert!(begun.ends_with(": begun\n"), "{begun:?}");
        }
        signal(child.id(), Signal::INT);
        let mut said = String::new();
        stderr.read_line(&mut said).expect("readable");
        assert!(said.starts_with("interrupted: job ") && said.contains("goes on at 3 hosts dev-[1-3]"), "{said}");
        if presses == 2 {
            signal(child.id(), Signal::INT);
        }
        stderr.read_to_string(&mut said).expect("text");
        assert_eq!(child.wait().expect("our child").code(), Some(130), "{said}");
        let closing = said.lines().last().expect("a closing line");
        let (sum, id) = closing.rsplit_once(", job ").expect("an id");
        let expected = if presses == 1 { "run: 3 not done dev-[1-3]: 3" } else { "run: 3 cancelled dev-[1-3]: 3" };
        assert!(sum.starts_with(expected), "{said}");
        if presses == 1 {
            assert_eq!(fleet.job(id)["state"], "active");
            assert_eq!(state_in(&fleet.job(id), "dev-2"), "started");
        } else {
            assert_eq!(fleet.until_done(id)["counts"], json!({"cancelled": 3}));
        }
    }
    gate.open();
    let jobs = fleet.muster(["jobs", "-o", "json"]).json();
    let first = fleet.until_done(jobs[1]["job"].as_str().expect("an id"));
    assert_eq!(first["counts"], json!({"succeeded": 3}));
}
