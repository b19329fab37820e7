//! Cases of selecting: what is understood, what is refused, and with which words.

use super::*;
use muster_proto::fleet::Labels;
use muster_proto::id::AgentId;
use proptest::prelude::*;

/// `web01` to `web20`, `db1` and `db2`, labelled with their role and environment.
fn fleet() -> Fleet {
    let web = (1..=20).map(|number| (format!("web{number:02}"), "web", if number > 18 { "test" } else { "prod" }));
    let db = (1..=2).map(|number| (format!("db{number}"), "db", "prod"));
    let mut fleet = Fleet::default();
    for (place, (name, role, env)) in (0_u8..).zip(web.chain(db)) {
        let label = |key: &str, value: &str| (key.parse().expect("a key"), value.parse().expect("a value"));
        let labels = Labels::from([label("role", role), label("env", env)]);
        let member = Member { id: AgentId::from_bytes([place; 16]), name: name.parse().expect("a name"), labels };
        fleet.insert(member).expect("a free name");
    }
    fleet
}

fn folded(targets: &[Target]) -> String {
    fold(targets.iter().map(|target| target.name.as_str()))
}

fn resolve(targets: &str) -> Result<String, String> {
    select(targets, "", &[])
}

fn select(targets: &str, exclude: &str, names: &[&str]) -> Result<String, String> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let selection = Selection { targets: targets.to_owned(), exclude: exclude.to_owned(), names };
    selection.resolve(&fleet()).map(|targets| folded(&targets)).map_err(|error| error.to_string())
}

#[test]
fn understands_names_ranges_globs_labels_and_all() {
    for (targets, hosts) in [
        ("web01", "web01"),
        ("web[01-03,20]", "web[01-03,20]"),
        ("web02,db1, web01 ,web[01-02]", "db1,web[01-02]"),
        ("db*", "db[1-2]"),
        ("web?1", "web[01,11]"),
        ("*", "db[1-2],web[01-20]"),
        ("all", "db[1-2],web[01-20]"),
        ("all,db1", "db[1-2],web[01-20]"),
        ("role=db", "db[1-2]"),
        ("env=t*", "web[19-20]"),
        ("env=test,db1", "db1,web[19-20]"),
    ] {
        assert_eq!(resolve(targets).as_deref(), Ok(hosts), "{targets}");
    }
}

#[test]
fn the_order_is_the_order_of_names_and_each_comes_once() {
    let selector = Selector::parse("web[01-20],db*,all").expect("an expression");
    let targets = selector.resolve(&fleet()).expect("known hosts");
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let fleet = fleet();
    assert_eq!(names, fleet.iter().map(|member| member.name.as_str()).collect::<Vec<_>>());
    assert!(targets.iter().all(|target| fleet.by_id(target.agent).is_some_and(|member| member.name == target.name)));
}

#[test]
fn what_is_no_expression_is_refused_with_its_column() {
    let long = format!("{},a", "a".repeat(70_000));
    let globs = vec!["db*"; 257].join(",");
    for (targets, column, word) in [
        (" ", 1, "empty"),
        ("\t\n", 1, "empty"),
        (",", 1, "missing"),
        ("web01,", 7, "missing"),
        ("web01,,db1", 7, "missing"),
        ("web01, ,db1", 7, "missing"),
        ("web01 db1", 6, "white space"),
        ("db1,  web[01", 13, "no end"),
        ("db1,web[3-1]", 11, "smaller"),
        ("Web01", 1, "lower case"),
        ("ALL", 1, "lower case"),
        ("é,@web", 1, "not understood"),
        ("db1,@web", 5, "not understood"),
        ("all!db1", 4, "not understood"),
        ("role=", 6, "value is missing"),
        ("=web", 1, "no label"),
        ("role=a=b", 7, "stands in no"),
        ("role=Web", 6, "lower case"),
        ("web[1-3]*", 4, "no range"),
        ("-x", 1, "no host name"),
        ("x[1-1000000],y", 14, "at most 0"),
        (&long, 1, "65536 bytes"),
        (&globs, 1025, "256 globs"),
    ] {
        let error = Selector::parse(targets).expect_err(&targets[..targets.len().min(20)]);
        assert!(error.column == column && error.message.contains(word), "{targets:.20}: {error}");
    }
}

#[test]
fn what_nobody_bears_is_an_error_and_never_nobody() {
    for (targets, message) in [
        ("wbe01", "no agent is called wbe01: did you mean web01?"),
        ("web1", "no agent is called web1: did you mean web01?"),
        ("web[19-22]", "no agents are called web[21-22]: did you mean web01?"),
        ("all,mailserver", "no agent is called mailserver: `muster agents` lists those there are"),
        ("zz[1-30]", "no agents are called zz[1-5] and 25 more names: `muster agents` lists those there are"),
        ("mail*,web01", "no agent matches mail*: `muster agents` lists names and labels"),
        ("role=mail", "no agent matches role=mail: `muster agents` lists names and labels"),
        ("rack=*", "no agent matches rack=*: `muster agents` lists names and labels"),
        ("", "no targets: say which hosts with -w, or `-w all` for every agent"),
    ] {
        assert_eq!(resolve(targets).as_ref().map_err(String::as_str), Err(message), "{targets}");
    }
    let all = Selector::parse("all").expect("an expression");
    assert_eq!(all.resolve(&Fleet::default()), Err(ResolveError::NoAgents));
}

#[test]
fn exclusions_must_be_known_but_not_chosen() {
    let web = Ok("web[04-20]".to_owned());
    assert_eq!(select("web*", "web[01-03]", &[]), web);
    assert_eq!(select("web*", "web[01-03],db1", &[]), web);
    for (exclude, message) in [
        ("wbe01", "exclude: no agent is called wbe01: did you mean web01?"),
        ("mail*", "exclude: no agent matches mail*: `muster agents` lists names and labels"),
        (" ", "exclude, column 1: the expression is empty; "),
        ("web01,", "exclude, column 7: a target is missing here"),
        ("all", "no host is left: "),
    ] {
        let error = select("web*", exclude, &[]).expect_err(exclude);
        assert!(error.starts_with(message), "{exclude}: {error}");
    }
}

#[test]
fn names_from_a_list_join_the_expression() {
    assert_eq!(select("db1", "web02", &["web[01-03]", "web20"]), Ok("db1,web[01,03,20]".to_owned()));
    assert_eq!(select("", "", &["db2"]), Ok("db2".to_owned()));
    for (name, message) in [
        ("", "entry 2 of the list of names, column 1: a name is missing"),
        ("db*", "entry 2 of the list of names, column 3: '*'"),
        ("-a", "entry 2 of the list of names, column 1: \"-a\" is no host name"),
        ("all", "no agent is called all"),
        ("db3", "no agent is called db3: did you mean db1?"),
    ] {
        let error = select("all", "", &["db1", name]).expect_err(name);
        assert!(error.starts_with(message), "{name}: {error}");
    }
    assert!(select(" ", "", &["db1"]).is_err());
}

#[test]
fn the_guard_asks_above_both_bounds_only() {
    for (count, fleet, asked) in
        [(1, 1, false), (50, 50, false), (51, 51, true), (51, 204, false), (51, 203, true), (100, 10_000, false)]
    {
        assert_eq!(guard(count, fleet).is_some(), asked, "{count} of {fleet}");
    }
    assert_eq!(guard(60, 100).as_deref(), Some("60 hosts are more than 50 and more than 25 % of 100"));
}

proptest! {
    #[test]
    fn any_text_is_an_error_or_chooses_somebody(targets in "[a-c,=*?\\[\\]0-9 webdé-]{0,24}", exclude in "(web[01][0-9])?") {
        let selection = Selection { targets, exclude, names: Vec::new() };
        if let Ok(targets) = selection.resolve(&fleet()) {
            prop_assert!(!targets.is_empty());
        }
    }

    #[test]
    fn a_folded_choice_chooses_the_same(chosen in prop::collection::btree_set(0..22_usize, 1..22)) {
        let fleet = fleet();
        let names: Vec<&str> = fleet.iter().map(|member| member.name.as_str()).collect();
        let wanted: Vec<&str> = chosen.iter().map(|&place| names[place]).collect();
        let selector = Selector::parse(&fold(wanted.iter().copied())).expect("a folded set");
        let targets = selector.resolve(&fleet).expect("known names");
        prop_assert_eq!(targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), wanted);
    }
}
