//! Whoever asks at night why a host did not do something gets the reason and what to do, in one sentence.

use muster_tests::{Fleet, PATIENCE, Run, kill, until};

#[track_caller]
fn assert_says(run: &Run, words: &[&str]) {
    assert_eq!(run.status, 0, "{run}");
    let json = run.json();
    let conclusion = json["conclusion"].as_str().expect("a conclusion");
    for word in words {
        assert!(conclusion.contains(word), "{word:?} is not in: {conclusion}");
    }
}

#[test]
fn why_tells_each_end_of_a_task_with_its_reason() {
    let fleet = Fleet::start(2);
    let why = |job: &str| fleet.muster(["why", "dev-1", job, "-o", "json"]);
    fleet.muster(["run", "-w", "dev-1", "--sh", "--", "echo out; echo err >&2"]);
    let succeeded = why("last");
    assert_says(&succeeded, &["succeeded: it ended with exit code 0"]);
    let task = &succeeded.json()["task"];
    for moment in ["planned", "accepted", "started", "first_byte", "last_byte", "committed"] {
        assert!(task[moment].is_string(), "{moment} in {succeeded}");
    }
    assert_eq!((task["offered"].as_array().map(Vec::len), &task["state"]), (Some(1), &"succeeded".into()));
    assert_eq!((&task["stdout_bytes"], &task["stderr_bytes"]), (&4.into(), &4.into()));

    for (command, words) in [
        (&["--sh", "--", "exit 3"][..], &["failed: it ended with exit code 3", "muster logs"][..]),
        (&["-u", "200ms", "--", "sleep", "60"], &["timed_out", "run timeout (-u) of 200 ms"]),
        (&["--", "/nonexistent"], &["start_failed", "nothing ran", "--not-run"]),
        (&["--run-as", "nobody-of-this-name", "--", "true"], &["nothing ran"]),
    ] {
        fleet.program(["run", "-w", "dev-1"]).args(command).run();
        assert_says(&why("last"), words);
    }

    let gate = fleet.gate("cancel");
    let id = fleet.submit(["-w", "all", "-f", "1", "--sh", "--", &gate.wait()]);
    fleet.until_state(&id, "dev-1", "started");
    assert_says(&why(&id[..25]), &["it runs since", "the run timeout (-u) ends it"]);
    assert_says(
        &fleet.muster(["why", "dev-2", &id, "-o", "json"]),
        &["dev-2 is connected, and waits for its turn: 1 of at most 1"],
    );
    assert_eq!(fleet.muster(["cancel", &id]).status, 0);
    assert_says(&why(&id), &["cancelled:", "cancelled the job"]);
    assert_says(&fleet.muster(["why", "dev-2", &id, "-o", "json"]), &["skipped:", "before it started here"]);
}

#[test]
fn why_tells_of_hosts_that_are_away_and_of_what_waits_for_them() {
    let fleet = Fleet::start(2);
    let here = fleet.muster(["why", "dev-1", "-o", "json"]);
    assert_says(&here, &["dev-1 is connected since", "takes tasks"]);
    assert!(here.json()["session"].is_u64() && here.json()["certificate_until"].is_string(), "{here}");
    kill(fleet.agent_pid(1));
    // It is over a moment before its end is noted.
    until(PATIENCE, "the end of the session is noted", || {
        fleet.muster(["why", "dev-1"]).out().contains("the connection was lost")
    });
    assert_says(
        &fleet.muster(["why", "dev-1", "-o", "json"]),
        &["dev-1 has no session since", "the connection was lost", "systemctl status muster-agent"],
    );
    let id = fleet.submit(["-w", "dev-1", "-t", "60s", "--", "true"]);
    assert_says(
        &fleet.muster(["why", "dev-1", &id, "-o", "json"]),
        &["the job waits for it until", "then it is unreachable"],
    );
    let list = fleet.muster(["why", "dev-1", "-o", "json"]).json();
    assert_eq!((&list["unfinished"][0]["job"], &list["unfinished"][0]["state"]), (&id.into(), &"planned".into()));

    let run = fleet.muster(["run", "-w", "all", "-t", "500ms", "--", "true"]);
    assert_eq!(run.status, 3, "{run}");
    assert_says(
        &fleet.muster(["why", "dev-1", "last", "-o", "json"]),
        &["unreachable: not connected within 0.5 s, a window (-t) that closed", "its last session ended"],
    );
    fleet.muster(["run", "-w", "dev-1", "-t", "20s", "--job-timeout", "1s", "--", "true"]);
    assert_says(
        &fleet.muster(["why", "dev-1", "last", "-o", "json"]),
        &["unreachable: not connected before the job's deadline"],
    );
}

#[test]
fn why_of_the_wrong_host_or_job_is_one_line_that_helps() {
    let fleet = Fleet::start(2);
    let id = fleet.submit(["-w", "dev-1", "--", "true"]);
    fleet.muster(["why", "dv-1"]).assert_usage("did you mean dev-1?");
    fleet.muster(["why", "dev-2", &id]).assert_usage("dev-2 is no target of job");
    fleet.muster(["why", "dev-1", "7zz"]).assert_usage("no job's id begins with 7zz");
    let refused = fleet.muster(["why", "dev-1", "nope"]);
    assert!(refused.status == 2 && refused.err().contains("nope is no job id"), "{refused}");
}

#[test]
fn a_job_is_named_by_the_beginning_of_its_id_or_as_the_last() {
    let fleet = Fleet::start(1);
    assert!(fleet.muster(["job", "last"]).err().contains("you have not submitted a job yet"));
    let first = fleet.submit(["-w", "all", "--", "echo", "one"]);
    let second = fleet.submit(["-w", "all", "--", "echo", "two"]);
    fleet.until_state(&second, "dev-1", "succeeded");
    for word in [&second[..25], &second.to_uppercase()[..25], "last"] {
        assert_eq!(fleet.muster(["logs", "-N", word]).out(), "two\n", "{word}");
        assert_eq!(fleet.muster(["job", word, "-o", "json"]).json()["job"], second.as_str());
    }
    let both: String = first.chars().zip(second.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
    let ambiguous = fleet.muster(["cancel", &both]);
    ambiguous.assert_usage("the ids of several jobs begin with");
    assert!(ambiguous.err().contains(&first) && ambiguous.err().contains(&second), "{ambiguous}");
}

#[test]
fn status_counts_what_happened_in_every_form() {
    let fleet = Fleet::start(2);
    assert_eq!(fleet.muster(["run", "-w", "all", "--", "echo", "hello"]).status, 0);
    // Its followers hear of a job's end a moment before it is let go.
    until(PATIENCE, "no job is at work", || fleet.counted("muster_jobs_at_work", &[]) == 0);
    let status = fleet.muster(["status", "-o", "json"]).json();
    let metrics = &status["metrics"];
    assert_eq!((&metrics["muster_agents"]["connected"], &metrics["muster_agents"]["enrolled"]), (&2.into(), &2.into()));
    assert_eq!((&metrics["muster_jobs_accepted_total"], &metrics["muster_jobs_at_work"]), (&1.into(), &0.into()));
    assert_eq!(&metrics["muster_output_bytes_total"], 12);
    assert_eq!(&metrics["muster_connections_total"]["agents"]["admitted"], 2);
    assert!(metrics["muster_store_bytes"]["database"].as_u64().is_some_and(|bytes| bytes > 0), "{status}");
    kill(fleet.agent_pid(2));
    until(PATIENCE, "the lost session is counted", || {
        fleet.muster(["status", "-o", "json"]).json()["metrics"]["muster_sessions_closed_total"]["lost"] == 1
    });
    let page = fleet.muster(["status", "-o", "prometheus"]);
    let is_sample = |line: &str| line.rsplit_once(' ').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
    for line in page.out().lines() {
        assert!(line.starts_with("# HELP muster_") || line.starts_with("# TYPE muster_") || is_sample(line), "{line}");
    }
    assert!(page.out().contains("\nmuster_sessions_closed_total{reason=\"lost\"} 1\n"), "{page}");
    let text = fleet.muster(["status"]);
    assert!(text.out().lines().any(|line| line.starts_with("sessions closed") && line.ends_with("1 lost")), "{text}");
}
