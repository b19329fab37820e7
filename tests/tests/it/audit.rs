//! Nobody changes the audit log unseen: whoever verifies it does not have to trust the controller that keeps it.

use muster_tests::{Controller, Fleet};
use std::fs;
use std::path::Path;

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// Writes other bytes of the same length over the first place where these are.
fn overwrite(file: &Path, bytes: &[u8], others: &[u8]) -> bool {
    let mut content = fs::read(file).expect("readable");
    let Some(place) = content.windows(bytes.len()).position(|window| window == bytes) else { return false };
    content[place..place + others.len()].copy_from_slice(others);
    fs::write(file, content).expect("written");
    true
}

#[test]
fn the_log_says_who_did_what_and_is_filtered() {
    let fleet = Fleet::start(1);
    let job = fleet.muster(["run", "-w", "all", "--", "true"]).job();
    assert_eq!(fleet.muster(["token", "create"]).status, 0);
    let all = fleet.muster(["audit", "-o", "json"]).json();
    let all = all.as_array().expect("a list");
    for (record, seq) in all.iter().zip(1_u64..) {
        assert_eq!(record["seq"], seq, "the newest is last and none is missing");
    }
    let accepted = fleet.muster(["audit", "--action", "job", "--since", "1h", "-o", "jsonl"]).jsonl();
    assert_eq!(accepted.len(), 1);
    assert!(accepted[0]["detail"].as_str().is_some_and(|detail| detail.contains(&job)), "{accepted:?}");
    let newest = fleet.muster(["audit", "-n", "1"]);
    let lines: Vec<_> = newest.out().lines().map(str::to_owned).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("SEQ") && lines[1].contains("token.create"), "{newest}");
    let nobody = fleet.muster(["audit", "--actor", "nobody"]);
    assert_eq!((nobody.status, nobody.out().as_str(), nobody.err().lines().count()), (0, "", 1), "{nobody}");
}

#[test]
fn an_altered_record_and_a_forged_checkpoint_are_found() {
    let mut controller = Controller::start([]);
    for _ in 0..3 {
        controller.token(["--uses", "7"]);
    }
    let sound = controller.muster(["audit", "verify"]);
    assert!(sound.status == 0 && sound.out().contains(" records, head "), "{sound}");
    let checkpoint = controller.muster(["audit", "checkpoint"]);
    assert_eq!(checkpoint.status, 0, "{checkpoint}");
    let file = controller.path("checkpoint");
    fs::write(&file, &checkpoint.stdout).expect("written");
    let path = file.to_str().expect("a name");
    controller.token([]);
    let verified = controller.muster(["audit", "verify", "--checkpoint", path]);
    assert!(verified.status == 0 && verified.out().contains("of the checkpoint of "), "{verified}");

    let forged = checkpoint.out().replacen("\"seq\":", "\"seq\":1", 1);
    let other = controller.path("forged");
    fs::write(&other, forged).expect("written");
    let forged = controller.muster(["audit", "verify", "--checkpoint", other.to_str().expect("a name")]);
    assert!(forged.status == 1 && forged.err().contains("was altered"), "{forged}");
    controller.muster(["audit", "verify", "--checkpoint", "/nonexistent"]).assert_usage("cannot be read");

    let ports = controller.ports();
    controller.end();
    let state = controller.path("controller");
    let (written, instead) = (b"operator/adatoken.create7 uses", b"operator/evatoken.create7 uses");
    assert!(overwrite(&state.join("muster.db"), written, instead), "the record is in the database");
    controller.serve_again(&ports);
    let found = controller.muster(["audit", "verify"]);
    assert!(found.status == 1 && found.out().is_empty(), "{found}");
    assert!(found.err().contains("the audit log was altered at record "), "{found}");
    assert_eq!(controller.muster(["audit", "checkpoint"]).status, 1, "nobody signs a log that was altered");
}

#[test]
fn a_log_whose_end_was_cut_off_is_found_with_a_checkpoint() {
    let mut controller = Controller::start([]);
    controller.token([]);
    let ports = controller.ports();
    controller.end();
    let (state, backup) = (controller.path("controller"), controller.path("backup"));
    copy_dir(&state, &backup);
    controller.serve_again(&ports);
    controller.token([]);
    controller.token([]);
    let checkpoint = controller.path("checkpoint");
    fs::write(&checkpoint, controller.muster(["audit", "checkpoint"]).stdout).expect("written");
    let path = checkpoint.to_str().expect("a name").to_owned();
    assert_eq!(controller.muster(["audit", "verify", "--checkpoint", &path]).status, 0);

    let ports = controller.ports();
    controller.end();
    fs::remove_dir_all(&state).expect("removed");
    copy_dir(&backup, &state);
    controller.serve_again(&ports);
    let chain = controller.muster(["audit", "verify"]);
    assert_eq!(chain.status, 0, "the chain alone is whole: {chain}");
    let cut = controller.muster(["audit", "verify", "--checkpoint", &path]);
    assert!(cut.status == 1 && cut.err().contains("the log ends at record "), "{cut}");
    // Written on to the same length, it still is another one.
    for _ in 0..3 {
        controller.token([]);
    }
    let rewritten = controller.muster(["audit", "verify", "--checkpoint", &path]);
    assert!(rewritten.status == 1 && rewritten.err().contains("is not the one of the checkpoint of"), "{rewritten}");
}
