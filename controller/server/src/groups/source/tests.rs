//! Outside sources: what they say, and what is not believed or waited for.

use super::*;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use tempfile::TempDir;

struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        Self { dir }
    }

    fn put(&self, name: &str, mode: u32, text: &str) {
        let path = self.dir.path().join(name);
        // By another process: while ours starts programs, what it has open to write cannot be run.
        let mut put = Command::new("/bin/sh")
            .args(["-c", "rm -f \"$1\"; cat > \"$1\"; chmod \"$2\" \"$1\"", "put"])
            .arg(&path)
            .arg(format!("{mode:o}"))
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        put.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
        assert!(put.wait().expect("it ends").success());
    }

    fn open(&self) -> Sources {
        Sources::open(self.dir.path()).expect("sources")
    }
}

fn label(text: &str) -> LabelText {
    text.parse().expect("a name")
}

async fn read(sources: &Sources, source: &str, group: &str) -> Result<Option<String>, String> {
    sources.reading().read(&label(source), &label(group)).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_file_has_groups_a_line_each() {
    let world = World::new();
    world.put("racks", 0o644, "# by rack\n\nr1: web[1-3]\n r2 :role=db, web4\nempty:\n");
    world.put("README.TXT", 0o644, "no source\n");
    let sources = world.open();
    assert_eq!(read(&sources, "racks", "r1").await, Ok(Some("web[1-3]".into())));
    assert_eq!(read(&sources, "racks", "r2").await, Ok(Some("role=db, web4".into())));
    assert_eq!(read(&sources, "racks", "r3").await, Ok(None));
    assert!(read(&sources, "nope", "r1").await.is_err_and(|error| error.contains("there is no source nope")));
    let listed = sources.list().await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].groups, Ok(["r1", "r2", "empty"].map(label).into()));

    // What one selection reads is all of one moment.
    let reading = sources.reading();
    let same = async |group: &str| reading.read(&label("racks"), &label(group)).await.expect("a file");
    assert_eq!(same("r1").await, Some("web[1-3]".into()));
    world.put("racks", 0o644, "r1: web1\nr4: web4\n\n r1: all\n");
    assert_eq!((same("r2").await, same("r4").await), (Some("role=db, web4".into()), None));
    let twice = read(&sources, "racks", "r4").await.expect_err("which one is meant?");
    assert!(twice.contains("racks, line 4: the group r1 is in line 1 already"), "{twice}");
    world.put("racks", 0o644, "r1: web1\nR2 = web2\n");
    assert!(
        read(&sources, "racks", "r1").await.is_err_and(|error| error.contains("racks, line 2: write GROUP: TARGETS"))
    );
    assert!(read(&Sources::default(), "racks", "r1").await.is_err_and(|error| error.contains("serve --groups")));
}

#[tokio::test]
async fn a_program_prints_the_targets_of_the_group_it_is_given() {
    let world = World::new();
    let script = "#!/bin/sh\ncase $1 in --list) printf 'web\\nNot One\\ndb\\n';; web) echo web1; env; cat;; slow) exit 3;; esac\n";
    world.put("inv", 0o755, script);
    let sources = world.open();
    let web = read(&sources, "inv", "web").await.expect("targets").expect("a group");
    let mut lines: Vec<&str> =
        web.lines().filter(|line| !["PWD=/", "_=/usr/bin/env", "SHLVL=0"].contains(line)).collect();
    lines.sort_unstable();
    assert!(matches!(lines[..], [lang, path, "web1"] if lang == "LANG=C.UTF-8" && path.starts_with("PATH=")), "{web}");
    assert_eq!(read(&sources, "inv", "other").await, Ok(None), "who says nothing does not know the group");
    let listed = sources.list().await;
    assert_eq!((listed[0].kind, &listed[0].groups), (GroupSourceKind::Command, &Ok(["web", "db"].map(label).into())));

    // What was said counts for a while; what is not said is asked for again.
    world.put("inv", 0o755, "#!/bin/sh\necho web2\n");
    assert_eq!(read(&sources, "inv", "web").await, Ok(Some(web)));
    assert_eq!(read(&sources, "inv", "other").await, Ok(Some("web2\n".into())));
}

#[tokio::test]
async fn one_selection_reads_no_more_than_it_may() {
    let world = World::new();
    let long = format!("all: {}\n", "x".repeat(SOURCE_BYTES_MAX - 10));
    let count = READING_BYTES_MAX / SOURCE_BYTES_MAX + 1;
    (1..=count).for_each(|number| world.put(&format!("s{number}"), 0o644, &long));
    let sources = world.open();
    let (reading, all) = (sources.reading(), label("all"));
    for number in 1..count {
        assert!(reading.read(&label(&format!("s{number}")), &all).await.is_ok(), "{number}");
        assert!(reading.read(&label("s1"), &all).await.is_ok(), "what is there is not counted again");
    }
    let last = reading.read(&label(&format!("s{count}")), &all).await.expect_err("too much").to_string();
    assert!(last.contains("more than 16 MiB"), "{last}");
}

#[tokio::test]
async fn a_directory_is_the_one_of_the_start_however_it_was_named() {
    let world = World::new();
    world.put("inv", 0o755, "#!/bin/sh\necho web1\n");
    let here = std::env::current_dir().expect("a directory");
    let mut relative: PathBuf = here.components().skip(1).map(|_| "..").collect();
    relative.extend(world.dir.path().components().skip(1));
    assert!(relative.is_relative());
    let sources = Sources::open(&relative).expect("sources");
    assert_eq!(read(&sources, "inv", "web").await, Ok(Some("web1\n".into())), "it is started elsewhere");
}

#[tokio::test]
async fn who_lists_keeps_nobody_from_running_and_asks_once_in_a_while() {
    let world = World::new();
    // No source is called so.
    let pids = world.dir.path().join("PIDS");
    let quick = "#!/bin/sh\n[ $1 = --list ] && echo one || echo web1\n";
    world.put("quick", 0o755, quick);
    let hangs = format!("#!/bin/sh\n[ $1 = --list ] || exit\necho $$ >> {}; exec sleep 600\n", pids.display());
    (1..=PROGRAMS_MAX).for_each(|number| world.put(&format!("hangs{number}"), 0o755, &hangs));
    let sources = world.open();
    let mut listing = Box::pin(sources.list());
    let pids = async {
        loop {
            match fs::read_to_string(&pids) {
                Ok(text) if text.lines().count() == PROGRAMS_MAX && text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let pids = tokio::select! {
        _ = &mut listing => panic!("some hang"),
        pids = pids => pids,
    };
    assert_eq!(read(&sources, "quick", "web").await, Ok(Some("web1\n".into())));
    assert!(pids.lines().all(|pid| Path::new("/proc").join(pid).exists()), "it has waited for them");
    let errors = |list: &[GroupSource]| list.iter().filter(|source| source.groups.is_err()).count();
    assert_eq!(errors(&listing.await), PROGRAMS_MAX);

    // Failures count for a while as well.
    (1..=PROGRAMS_MAX).for_each(|number| world.put(&format!("hangs{number}"), 0o755, quick));
    let again = sources.list().await;
    assert_eq!((errors(&again), again.len()), (PROGRAMS_MAX, PROGRAMS_MAX + 1));
}

#[tokio::test]
async fn a_program_that_fails_or_floods_is_told_and_ended() {
    let world = World::new();
    world.put("fails", 0o755, "#!/bin/sh\necho some; echo first >&2; echo 'no database' >&2; exit 3\n");
    world.put("floods", 0o755, "#!/bin/sh\nyes & yes\n");
    world.put("binary", 0o755, "#!/bin/sh\nprintf '\\377'\n");
    world.put("noisy", 0o755, "#!/bin/sh\nyes no | head -c 300000 >&2; echo >&2; echo last >&2; exit 1\n");
    world.put("broken", 0o755, "#!/nonexistent/program\n");
    let sources = world.open();
    for (source, hint) in [
        ("fails", "fails web: ended with exit status: 3: no database"),
        ("floods", "printed more than 1 MiB and was killed"),
        ("binary", "printed what is no text"),
        ("noisy", "exit status: 1: last"),
        ("broken", "cannot be started"),
    ] {
        let error = read(&sources, source, "web").await.expect_err(hint);
        assert!(error.contains(hint), "{error}");
    }
    let errors = sources.list().await.into_iter().filter(|source| source.groups.is_err()).count();
    assert_eq!(errors, 5);
}

#[tokio::test]
async fn a_program_that_hangs_ends_with_all_it_has_begun() {
    let world = World::new();
    let pids = world.dir.path().join("pids");
    world.put("hangs", 0o755, &format!("#!/bin/sh\nsleep 600 & echo $! $$ > {}; wait\n", pids.display()));
    let sources = world.open();
    // Nobody waits for it any more: it ends as it does when its time is over.
    let (hangs, web) = (label("hangs"), label("web"));
    let reading = sources.reading();
    let mut asked = Box::pin(reading.read(&hangs, &web));
    let begun = async {
        loop {
            match fs::read_to_string(&pids) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let text = tokio::select! {
        _ = &mut asked => panic!("it hangs"),
        text = begun => text,
    };
    drop(asked);
    let alive = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    let gone = async {
        while text.split_whitespace().any(alive) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("the program and its child are gone");
}

#[tokio::test]
async fn what_others_could_change_is_not_believed() {
    let world = World::new();
    let refused = |what: &str| {
        let error = Sources::open(world.dir.path()).map(drop).expect_err(what).to_string();
        assert!(error.contains(what) && error.contains("nobody else may write it"), "{error}");
    };
    world.put("racks", 0o644, "r1: web1\n");
    let sources = world.open();
    world.put("racks", 0o664, "r1: all\n");
    refused("racks can be written by others");
    assert!(read(&sources, "racks", "r1").await.is_err_and(|error| error.contains("can be written by others")));
    assert!(sources.list().await[0].groups.as_ref().is_err_and(|error| error.contains("can be written by others")));
    world.put("racks", 0o644, "r1: web1\n");
    world.put("inv", 0o757, "#!/bin/sh\necho all\n");
    refused("inv can be written by others");
    fs::remove_file(world.dir.path().join("inv")).expect("it is there");
    std::os::unix::fs::symlink("racks", world.dir.path().join("inv")).expect("a link");
    refused("inv is a symbolic link");
    fs::remove_file(world.dir.path().join("inv")).expect("it is there");
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    refused("can be written by others");
    assert!(read(&sources, "racks", "r1").await.is_err(), "the directory counts as well");
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    assert!(read(&sources, "racks", "r1").await.is_ok());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(world.dir.path().join("racks"), Some(65_534), None).expect("we are root");
        refused("racks belongs to somebody else");
    }
}
