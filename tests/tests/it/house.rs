//! The rules of the house, as tests: who may know whom, what may stand where, and how long anything may get.
//!
//! A failure lists every offence as `file:line` with what to do. The tables are the rules: a change of the design
//! changes a table here in the same commit. Sources are searched as text, tests left out of the walls: rustfmt keeps
//! the form that this relies on.

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// Our crates with those of ours that each knows; the drawing is in ARCHITECTURE.md.
const EDGES: [(&str, &[&str]); 8] = [
    ("muster-proto", &[]),
    ("muster-probe", &["muster-proto"]),
    ("muster-agent", &["muster-probe", "muster-proto"]),
    ("muster-core", &["muster-proto"]),
    ("muster-store", &["muster-proto"]),
    ("muster-controller", &["muster-core", "muster-probe", "muster-proto", "muster-store"]),
    ("muster", &["muster-proto"]),
    ("muster-tests", &["muster-agent", "muster-proto"]),
];

/// What a crate never takes itself, and why.
const BANS: [(&str, &[&str], &str); 5] = [
    (
        "muster-core",
        &["tokio", "tonic", "prost", "axum", "sqlx", "rustls", "getrandom", "rand", "serde"],
        "core decides: bring facts in as arguments and carry effects out",
    ),
    (
        "muster-agent",
        &["sqlx", "axum", "clap", "serde_json", "toml", "russh", "regex"],
        "the agent lives on every server: keep it small and without what could grow a controller",
    ),
    ("muster-probe", &["tokio", "tonic", "tracing"], "a sweep is a thread with two sockets: findings go to its sink"),
    ("muster", &["sqlx", "axum"], "the CLI is one client among others: what it lacks is missing from the API"),
    ("muster-proto", &["tokio", "sqlx", "axum", "clap"], "the contract has no runtime and no opinion"),
];

/// Distinct crates that a build of each takes, itself included (`cargo tree -e normal`). Three of core's are regular
/// expressions, which have to be linear in time whatever is written.
const BUDGETS: [(&str, usize); 3] = [("muster-agent", 130), ("muster-probe", 25), ("muster-core", 21)];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Written by tools, not by people.
const GENERATED: [&str; 1] = ["proto/src/wire/generated.rs"];

/// Words that stand only in certain places.
struct Wall {
    /// Says whether a line of code is on the wrong side, wherever it stands.
    trips: fn(&str) -> bool,
    /// Beginnings of paths where the rule holds.
    within: &'static [&'static str],
    /// Beginnings of paths where the line may stand all the same.
    doors: &'static [&'static str],
    remedy: &'static str,
}

const EVERYWHERE: &[&str] = &[""];
/// Addresses are data, sockets are not.
const IO: [&str; 7] = ["std::fs", "std::env", "std::thread", "std::process", "TcpStream", "TcpListener", "UdpSocket"];

const WALLS: [Wall; 9] = [
    Wall {
        // The error of decoding is no message.
        trips: |line| bears(line, "wire::") && !line.contains("wire::WireError"),
        within: EVERYWHERE,
        doors: &[
            "proto/src/",
            "agent/src/session",
            "agent/src/enrol.rs",
            "controller/server/src/agents",
            "controller/server/src/operators",
            "controller/server/src/enrol",
            "controller/cli/src/client",
        ],
        remedy: "generated messages stop at the door: convert to the vocabulary of muster-proto there",
    },
    Wall {
        trips: |line| ["SELECT ", "INSERT INTO ", "DELETE FROM ", "sqlx::"].iter().any(|word| bears(line, word)),
        within: EVERYWHERE,
        doors: &["controller/store/"],
        remedy: "SQL lives in controller/store: add a function to Store",
    },
    Wall {
        // Our own vocabulary has a Command too: what counts is where it comes from.
        trips: |line| line.contains("process::") && bears(line, "Command"),
        within: EVERYWHERE,
        // The controller's owner may keep groups behind programs: that one file starts them, and nothing else.
        doors: &["agent/src/process", "controller/cli/src/commands/dev", "controller/server/src/groups/program.rs"],
        remedy: "one place starts processes: agent/src/process.rs (and `muster dev`, and what knows groups)",
    },
    Wall {
        trips: |line| bears(line, "println!(") || bears(line, "print!("),
        within: EVERYWHERE,
        doors: &[
            "agent/src/main.rs",
            "controller/server/src/main.rs",
            "controller/cli/src/main.rs",
            "controller/cli/src/show",
        ],
        remedy: "output is a product: return text, or write through controller/cli/src/show",
    },
    Wall {
        trips: |line| IO.iter().any(|word| bears(line, word)),
        within: &["controller/core/", "proto/src/"],
        doors: &[],
        remedy: "neither the contract nor the core does IO: take the data as an argument",
    },
    Wall {
        trips: |line| bears(line, "SystemTime::now") || bears(line, "Instant::now"),
        within: &["controller/core/", "proto/src/", "controller/store/src/"],
        // What measures.
        doors: &["controller/core/examples/"],
        remedy: "no clock in here: take `now` as an argument",
    },
    Wall {
        trips: |line| bears(line, "async") || line.contains(".await"),
        within: &["controller/core/"],
        doors: &[],
        remedy: "core is not async: the engine around it is",
    },
    Wall {
        trips: |line| ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"].iter().any(|word| bears(line, word)),
        within: EVERYWHERE,
        doors: &["agent/"],
        remedy: "unsafe is for system calls of the agent only: find a safe function in rustix or nix",
    },
    Wall {
        trips: |line| bears(line, "env::var") || bears(line, "env::var_os"),
        within: EVERYWHERE,
        doors: &["agent/src/settings.rs", "controller/server/src/settings.rs", "controller/cli/src/settings.rs"],
        remedy: "only settings.rs reads the environment: behaviour is explained by a value that can be printed",
    },
];

#[test]
fn crates_know_only_whom_they_may() -> Result<()> {
    let packages = packages()?;
    let mut offences = Vec::new();
    let named: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    if named != EDGES.map(|(name, _)| name).into() {
        offences.push(format!("Cargo.toml: the workspace has {named:?}: list each in EDGES of house.rs"));
    }
    for (name, known) in EDGES {
        for package in packages.iter().filter(|package| package.name == name) {
            let ours = |kind| -> BTreeSet<&str> {
                let dependencies = package.dependencies.iter().filter(|dependency| dependency.kind == kind);
                dependencies.map(|dependency| dependency.name.as_str()).filter(|name| named.contains(name)).collect()
            };
            let (found, allowed) = (ours(DependencyKind::Normal), known.iter().copied().collect());
            if found != allowed {
                offences
                    .push(format!("{}: knows {found:?}, EDGES of house.rs says {allowed:?}", package.manifest_path));
            }
            if name != "muster-tests" && ours(DependencyKind::Development).iter().any(|name| !allowed.contains(name)) {
                offences.push(format!("{}: tests of both ends live in muster-tests", package.manifest_path));
            }
        }
    }
    report(&offences)
}

#[test]
fn crates_do_not_take_what_is_banned() -> Result<()> {
    let mut offences = Vec::new();
    for package in packages()? {
        for (_, banned, remedy) in BANS.iter().filter(|(name, ..)| package.name == *name) {
            let normal = package.dependencies.iter().filter(|taken| taken.kind == DependencyKind::Normal);
            // What is optional is a feature's: the budget counts what a build takes.
            for taken in normal.filter(|taken| !taken.optional && banned.contains(&taken.name.as_str())) {
                offences.push(format!("{}: takes {}: {remedy}", package.manifest_path, taken.name));
            }
        }
    }
    report(&offences)
}

#[test]
fn builds_stay_within_their_budget() -> Result<()> {
    let mut offences = Vec::new();
    for (name, budget) in BUDGETS {
        let count = tree(name, "normal")?.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().len();
        if count > budget {
            offences.push(format!("{name}: {count} crates, at most {budget}: see `cargo tree -p {name} -e normal`"));
        }
    }
    report(&offences)
}

#[test]
fn there_is_one_tls() -> Result<()> {
    let mut offences = Vec::new();
    let mut rustls = BTreeSet::new();
    for (name, _) in EDGES {
        for (taken, version) in tree(name, "normal,build")? {
            if ["ring", "openssl-sys", "native-tls"].contains(&taken.as_str()) {
                offences.push(format!(
                    "{name}: takes {taken} {version}: aws-lc-rs only, see `cargo tree -p {name} -i {taken}`"
                ));
            } else if taken == "rustls" {
                rustls.insert(version);
            }
        }
    }
    if rustls.len() != 1 {
        offences.push(format!("Cargo.lock: versions of rustls: {rustls:?}: exactly one, two panic at run time"));
    }
    report(&offences)
}

#[test]
fn words_stay_behind_their_walls() -> Result<()> {
    let sources = sources()?;
    let mut offences = Vec::new();
    for source in &sources {
        let begins = |path: &str| source.path.starts_with(path);
        for wall in
            WALLS.iter().filter(|wall| wall.within.iter().any(|p| begins(p)) && !wall.doors.iter().any(|p| begins(p)))
        {
            for (number, line) in source.code().filter(|(_, line)| (wall.trips)(line)) {
                offences.push(format!("{}:{number}: {}\n    {}", source.path, line.trim(), wall.remedy));
            }
        }
    }
    report(&offences)
}

#[test]
fn files_and_functions_are_short_and_say_what_they_are_for() -> Result<()> {
    let mut offences = Vec::new();
    for source in sources()?.iter().filter(|source| !GENERATED.contains(&source.path.as_str())) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            offences.push(format!("{}:{lines}: at most {FILE_LINES_MAX} lines: it is more than one noun", source.path));
        }
        if !source.text.starts_with("//! ") {
            offences.push(format!("{}:1: begin with `//!` and a paragraph on what it is for", source.path));
        }
        for (number, lines) in long_functions(&source.text) {
            offences
                .push(format!("{}:{number}: a function of {lines} lines, at most {FUNCTION_LINES_MAX}", source.path));
        }
    }
    report(&offences)
}

#[test]
fn no_test_is_forgotten() -> Result<()> {
    let folder = root().join("tests/tests/it");
    let main = std::fs::read_to_string(folder.join("main.rs")).context("cannot read main.rs")?;
    let mut offences = Vec::new();
    for entry in std::fs::read_dir(&folder).context("cannot list tests/tests/it")? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a file without a name")?;
        if name != "main" && !main.lines().any(|line| line == format!("mod {name};")) {
            offences.push(format!("tests/tests/it/{name}.rs:1: never runs: add `mod {name};` to main.rs"));
        }
    }
    report(&offences)
}

#[test]
fn the_searchers_find_what_they_look_for() {
    assert!(bears("    println!(\"x\")", "println!("));
    assert!(!bears("    eprintln!(\"x\")", "println!("));
    assert!(bears("use std::process::{Child, Command};", "Command"));
    assert!(!bears("mywire::x", "wire::"));

    let body = "    x();\n".repeat(FUNCTION_LINES_MAX);
    let long = format!(
        "struct S;\n\npub(crate) async fn f(\n    a: u8,\n) {{\n{body}}}\n\nfn g() {{\n{}}}\n",
        "    x();\n".repeat(68)
    );
    assert_eq!(long_functions(&long), [(3, FUNCTION_LINES_MAX + 4)]);
    assert_eq!(long_functions("trait T {\n    fn f(&self);\n}\nfn g() {}\n"), []);

    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let text = "// println!\nfn f() {}\n#[cfg(test)]\nmod tests {}\n";
    assert_eq!(source("agent/src/a.rs", text).code().collect::<Vec<_>>(), [(2, "fn f() {}")]);
    assert_eq!(source("agent/tests/a.rs", text).code().count(), 0);
    assert_eq!(source("controller/core/src/job/tests.rs", text).code().count(), 0);
}

/// A file of ours.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers, without comments and without tests, which stand at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let test = self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs");
        let lines = (1..).zip(self.text.lines()).take_while(move |(_, line)| !test && *line != "#[cfg(test)]");
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Whether a line has a word that does not begin within another.
fn bears(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

/// First lines and lengths of functions that are too long. A function ends at the brace below its first letter.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = code.split("fn ").next().unwrap_or_default();
        let function = code.contains("fn ") && head.split_whitespace().all(is_qualifier) && !code.ends_with([';', '}']);
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[start..].iter().position(|line| *line == end).map_or(0, |length| length + 1);
        if function && length > FUNCTION_LINES_MAX {
            long.push((start + 1, length));
        }
    }
    long
}

fn is_qualifier(word: &str) -> bool {
    ["pub", "const", "async", "unsafe", "extern", "\"C\""].contains(&word)
        || word.starts_with("pub(")
        || word.ends_with(')')
}

/// Asked when the test runs, not when it is compiled: a target directory may serve several checkouts.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from).join("..")
}

fn packages() -> Result<Vec<Package>> {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().context("cargo metadata")?;
    Ok(metadata.packages)
}

/// Crates and versions that a build of one of ours takes on this platform.
fn tree(package: &str, edges: &str) -> Result<BTreeSet<(String, String)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["tree", "--locked", "--prefix", "none", "--no-dedupe", "-p", package, "-e", edges];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().context("cargo tree")?;
    let (text, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
    ensure!(output.status.success(), "cargo tree -p {package}: {errors}");
    let pair = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn sources() -> Result<Vec<Source>> {
    let mut folders: Vec<PathBuf> =
        ["proto", "agent", "controller", "deploy", "tests"].map(|name| root().join(name)).into();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !hidden && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let path = path.strip_prefix(root())?.to_string_lossy().replace('\\', "/");
                sources.push(Source { path, text });
            }
        }
    }
    ensure!(sources.len() > 20, "the search found only {} sources: it looks in the wrong place", sources.len());
    Ok(sources)
}

fn report(offences: &[String]) -> Result<()> {
    ensure!(offences.is_empty(), "{} offences\n{}", offences.len(), offences.join("\n"));
    Ok(())
}
