//! Cases of selecting: what is understood, what is refused, and with which words.

mod groups;
mod hostile;
mod laws;

use super::*;
use crate::fleet::Member;
use muster_proto::fleet::{Facts, Labels};
use muster_proto::id::AgentId;
use muster_proto::names::fold;
use muster_proto::selection::{GroupName, Missing};
use proptest::prelude::*;
use std::sync::Arc;

/// `web01` to `web20`, `db1` and `db2`, labelled with their role, environment and rack. All but `web20` have said what
/// they are: web servers Debian 12 with addresses `10.1.0.N`, databases Ubuntu with `10.2.0.N` and `fd00::N`.
fn fleet() -> Fleet {
    let web = (1..=20).map(|number| (format!("web{number:02}"), "web", if number > 18 { "test" } else { "prod" }));
    let db = (1..=2).map(|number| (format!("db{number}"), "db", "prod"));
    let mut fleet = Fleet::default();
    for (place, (name, role, env)) in (0_u8..).zip(web.chain(db)) {
        let label = |key: &str, value: &str| (key.parse().expect("a key"), value.parse().expect("a value"));
        let rack = (place / 4 + 8).to_string();
        let labels = Labels::from([label("role", role), label("env", env), label("rack", &rack)]);
        let facts = facts(role, place + 1);
        let id = AgentId::from_bytes([place; 16]);
        let facts = (name != "web20").then(|| Arc::new(facts));
        fleet.insert(Member { id, name: name.parse().expect("a name"), labels, facts }).expect("a free name");
    }
    fleet
}

fn facts(role: &str, number: u8) -> Facts {
    let is_web = role == "web";
    let addresses = match is_web {
        true => vec![format!("10.1.0.{number}")],
        false => vec![format!("10.2.0.{}", number - 20), format!("fd00::{}", number - 20)],
    };
    Facts {
        hostname: if is_web { "W" } else { "D" }.to_owned(),
        os: if is_web { "debian" } else { "ubuntu" }.to_owned(),
        os_version: if is_web { "12" } else { "22.04" }.to_owned(),
        os_name: if is_web { "Debian GNU/Linux 12 (bookworm)" } else { "Ubuntu 22.04.4 LTS" }.to_owned(),
        kernel: format!("6.{}.0-amd64", if is_web { 1 } else { 10 }),
        arch: "x86_64".to_owned(),
        cpus: if is_web { 4 } else { 16 },
        memory_bytes: if is_web { 8 << 30 } else { 64 << 30 },
        addresses,
        agent_version: if is_web { "1.10.0" } else { "1.4.0-rc1" }.to_owned(),
        containment: "process group".to_owned(),
        root: is_web,
    }
}

fn group(name: &str) -> GroupName {
    name.parse().expect("a group's name")
}

/// `@canary` and what is built on it, `@inventory:db` as a program prints it, and groups that are wrong.
fn groups() -> Groups {
    let mut groups = Groups::default();
    for (name, text) in [
        ("@canary", "web[01-02]"),
        ("@both", "@canary,@inventory:db"),
        ("@inventory:db", "db1\n  db2 web03\n"),
        ("@inventory:empty", " \n"),
        ("@self", "web01,@loop"),
        ("@loop", "@self"),
        ("@torn", "web01,"),
        ("@stale", "web01,web99"),
        ("@hole", "@gone"),
    ] {
        groups.insert(group(name), text.to_owned());
    }
    groups
}

fn folded(targets: &[Target]) -> String {
    fold(targets.iter().map(|target| target.name.as_str()))
}

fn resolve(targets: &str) -> Result<String, String> {
    select(targets, "", &[])
}

fn select(targets: &str, exclude: &str, names: &[&str]) -> Result<String, String> {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let selection =
        Selection { targets: targets.to_owned(), exclude: exclude.to_owned(), names, ..Selection::default() };
    super::resolve(&selection, &fleet(), &groups()).map(|it| folded(&it.targets)).map_err(|error| error.to_string())
}

#[test]
fn understands_names_ranges_globs_labels_and_all() {
    for (targets, hosts) in [
        ("web01", "web01"),
        ("web[01-03,20]", "web[01-03,20]"),
        ("web02,db1, web01 ,web[01-02]", "db1,web[01-02]"),
        ("db*", "db[1-2]"),
        ("web?1", "web[01,11]"),
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
fn understands_the_whole_language() {
    for (targets, hosts) in [
        ("web[01-09/4]", "web[01,05,09]"),
        ("web0[1-3]", "web[01-03]"),
        ("web[0-1][1-2]", "web[01-02,11-12]"),
        ("web?[1-2]", "web[01-02,11-12]"),
        ("web[01-04]!web02", "web[01,03-04]"),
        ("web[01-04] & web[03-06] , db1", "db1,web[03-04]"),
        ("web[01-04] ^ web[03-06]", "web[01-02,05-06]"),
        ("web01,web02!web01,web01", "web[01-02]"),
        ("web01,(web02!web02),web03", "web[01,03]"),
        ("role=db and env=prod", "db[1-2]"),
        ("db1 or web01 and env=test", "db1"),
        ("(db1 or web19) and env=test", "web19"),
        ("not role=web", "db[1-2]"),
        ("not not role=db", "db[1-2]"),
        ("not(role=web)and(all)", "db[1-2]"),
        ("role!=web", "db[1-2]"),
        ("role=web and not web[01-18]", "web[19-20]"),
        ("rack=[8-9] and role=web", "web[01-08]"),
        ("rack=[8,8] and role=web", "web[01-04]"),
        ("rack>9 and rack<12", "web[09-16]"),
        ("rack<=8", "web[01-04]"),
        ("role~^d", "db[1-2]"),
        ("role!~'w|x'", "db[1-2]"),
        ("name=web[01-02]", "web[01-02]"),
        ("name~1$ and role=web", "web[01,11]"),
        ("os=ubuntu", "db[1-2]"),
        ("os!=debian", "db[1-2],web20"),
        ("os = ubuntu", "db[1-2]"),
        ("os.version<12", ""),
        ("os.version >= 12.1", "db[1-2]"),
        ("os.name=\"Ubuntu*\"", "db[1-2]"),
        ("os.name~'LTS$'", "db[1-2]"),
        ("hostname=D", "db[1-2]"),
        ("kernel>6.2", "db[1-2]"),
        ("agent.version<1.4.0", "db[1-2]"),
        ("agent.version>=1.4-rc1 and agent.version<1.5", "db[1-2]"),
        ("cpus>=8", "db[1-2]"),
        ("cpus=16", "db[1-2]"),
        ("cpus!=4", "db[1-2],web20"),
        ("memory>=16G", "db[1-2]"),
        ("root=no", "db[1-2]"),
        ("containment='process group' and not role=web", "db[1-2]"),
        ("10.2.0.0/16", "db[1-2]"),
        ("fd00::/127", "db1"),
        ("10.1.0.2/31,db1", "db1,web[02-03]"),
        ("address=10.1.0.1?", "web[10-19]"),
        ("label.role=db", "db[1-2]"),
        ("fact.os=ubuntu", "db[1-2]"),
        ("@canary", "web[01-02]"),
        ("@both ! web03", "db[1-2],web[01-02]"),
        ("((web01))", "web01"),
        ("\tweb01\n,\r\n db1 ", "db1,web01"),
    ] {
        match resolve(targets) {
            Ok(found) => assert_eq!(found, hosts, "{targets}"),
            Err(error) => assert!(hosts.is_empty() && error.contains("no host is chosen"), "{targets}: {error}"),
        }
    }
}

#[test]
fn the_order_is_the_order_of_names_and_each_comes_once() {
    let selector = Selector::parse("web[01-20],db*,all").expect("an expression");
    let targets = selector.resolve(&fleet(), &Groups::default()).expect("known hosts");
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    let fleet = fleet();
    assert_eq!(names, fleet.iter().map(|member| member.name.as_str()).collect::<Vec<_>>());
    assert!(targets.iter().all(|target| fleet.by_id(target.agent).is_some_and(|member| member.name == target.name)));
}

#[test]
fn what_is_no_expression_is_refused_with_its_column() {
    let long = format!("{},a", "a".repeat(70_000));
    let globs = vec!["db*"; 257].join(",");
    assert_refused(&[
        (" ", 1, "empty"),
        ("\t\n", 1, "empty"),
        (",", 1, "missing"),
        ("web01,", 7, "missing"),
        ("web01,,db1", 7, "missing"),
        ("web01, ,db1", 8, "missing"),
        ("web01 db1", 7, "between two targets"),
        ("db1,  web[01", 13, "no end"),
        ("db1,web[3-1]", 11, "smaller"),
        ("Web01", 1, "lower case"),
        ("ALL", 1, "lower case"),
        ("é,@web", 1, "not understood"),
        ("role=", 6, "value is missing"),
        ("=web", 1, "label or fact is missing"),
        ("role=a=b", 7, "stands in no"),
        ("role=Web", 6, "lower case"),
        ("web[1-x]*", 7, "a number"),
        ("web01,*", 7, "would be every host: write `all`"),
        ("?*", 1, "would be every host"),
        ("!web01", 1, "write `all ! x`"),
        ("all,!web01", 5, "write `all ! x`"),
        ("web01 & & db1", 9, "missing"),
        ("web01 and", 10, "missing"),
        ("and web01", 1, "missing before `and`"),
        ("web01 or or db1", 10, "missing before `or`"),
        ("not", 4, "missing"),
        ("web01 not db1", 7, "`and not`"),
        ("web01 AND db1", 7, "write `and`"),
        ("web01,db1 and all", 11, "`(a,b) and c` or `a,(b and c)`"),
        ("web01 or db1!web02", 13, "`(a!b) or c`"),
        ("not web01,db1", 10, "`(not a),b` or `not (a,b)`"),
        ("web01,not db1", 7, "`not a,b`"),
        ("(web01", 1, "no end: write `)`"),
        ("web01)", 6, "`)` without"),
        ("()", 2, "missing"),
        ("(web01)db1", 8, "not understood"),
        ("(web01) db1", 9, "between two targets"),
        ("@", 1, "group's name is missing"),
        ("@We", 1, "no group"),
        ("web01,@a:b:c", 7, "no group"),
        ("wеb01", 2, "not understood"),
        ("-x", 1, "no host name"),
        ("x[1-1000000],y", 14, "at most 0"),
        (&long, 1, "65536 bytes"),
        (&globs, 1025, "256 globs"),
    ]);
}

#[test]
fn what_is_no_network_and_no_comparison_is_refused_with_its_column() {
    assert_refused(&[
        ("10.0.0.0/33", 1, "no network: use"),
        ("10.0.0.1/8", 1, "bits behind the prefix"),
        ("all!fd00::1", 5, "write fd00::1/128"),
        ("web01:22", 6, "not understood"),
        ("cpus>=many", 7, "cpus is a number"),
        ("cpus=x", 6, "cpus is a number"),
        ("memory<16Q", 8, "memory is a number"),
        ("address<10.0.0.1", 9, "no order"),
        ("fact.cpu>1", 1, "did you mean cpus?"),
        ("env==prod", 5, "single `=`"),
        ("env=\"prod", 5, "no end"),
        ("env=a\"b\"", 6, "quote all of it"),
        ("env=(prod)", 5, "quotation marks"),
        ("os.name=Debian GNU", 16, "between two targets"),
        ("os.name=Debian/12", 15, "quotation marks"),
        ("os=[1-2]", 4, "quotation marks"),
        ("env=", 5, "value is missing"),
        ("env~", 5, "value is missing"),
        ("env~(a|b)", 5, "quotation marks"),
        ("env~'a('", 5, "malformed: unclosed group"),
        ("env~'\\q'", 5, "malformed"),
        ("\"web01\"", 1, "quotation marks are for values"),
    ]);
}

#[track_caller]
fn assert_refused(cases: &[(&str, usize, &str)]) {
    for &(targets, column, word) in cases {
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
        ("zz[1-30]", "no agents are called zz[1-5] and 25 more: `muster agents` lists those there are"),
        ("mail*,web01", "no agent matches mail*: `muster agents` lists names and labels"),
        ("role=mail", "no agent matches role=mail: `muster agents` lists names and labels"),
        ("datacentre=*", "no agent matches datacentre=*: none has the label datacentre; `muster agents` lists labels"),
        ("", "no targets: say which hosts with -w, or `-w all` for every agent"),
    ] {
        assert_eq!(resolve(targets).as_ref().map_err(String::as_str), Err(message), "{targets}");
    }
    let all = Selector::parse("all").expect("an expression");
    assert_eq!(all.resolve(&Fleet::default(), &Groups::default()), Err(ResolveError::NoAgents));
}

#[test]
fn the_nearest_that_there_is_is_named() {
    for (targets, message) in [
        ("10.1.0.1", "no agent is called 10.1.0.1: write 10.1.0.1/32 for the agents that have this address"),
        ("canary", "no agent is called canary: did you mean the group @canary?"),
        ("rol=web", "no agent matches rol=web: none has the label rol; did you mean role?"),
        ("cpu>=8", "no agent matches cpu>=8: none has the label cpu; did you mean cpus?"),
        ("env=prud", "no agent matches env=prud: did you mean env=prod?"),
        ("env=[1-2]", "no agent matches env=[1-2]: `muster agents` lists names and labels"),
        ("env=[1-30]", "no agent matches env=[1-5] and 25 more: `muster agents` lists names and labels"),
        ("rack=[8-13,14,14]", "no agent matches rack=14: did you mean rack=10?"),
        ("env!=prud", "no agent matches env=prud: did you mean env=prod?"),
        ("not web99", "no agent is called web99: did you mean web09?"),
        ("all and not db*x", "no agent matches db*x: `muster agents` lists names and labels"),
        ("os=debain", "no agent matches os=debain: did you mean os=debian?"),
        ("os~suse", "no agent matches os~suse: `muster agents` lists names and labels"),
        ("web2?,web[0-3]5", "no agents are called web[25,35]: did you mean web05?"),
        ("web[1-3]9*", "no agent matches web[29,39]*: `muster agents` lists names and labels"),
        ("10.9.0.0/16", "no agent reports an address in 10.9.0.0/16: `muster agents NAME` shows them"),
        ("@canari", "there is no group @canari: did you mean @canary?"),
        ("@inventory:web", "there is no group @inventory:web: did you mean @inventory:db?"),
        ("@mailservers", "there is no group @mailservers: `muster group list` shows those there are"),
        ("@hole", "in @hole: there is no group @gone: did you mean @hole?"),
        ("@stale", "in @stale: no agent is called web99: did you mean web09?"),
        ("@torn", "in @torn, column 7: a target is missing here: name one, or take away what stands before"),
        ("@self", "@self > @loop > @self: a group cannot be a part of itself"),
        ("web01 & db1", "no host is chosen: no agent fits the whole expression"),
        ("rack>99", "no host is chosen: no agent fits the whole expression"),
    ] {
        assert_eq!(resolve(targets), Err(message.to_owned()), "{targets}");
    }
    let empty = resolve("@inventory:empty").expect_err("nobody");
    assert!(empty.starts_with("in @inventory:empty, column 1: the expression is empty"), "{empty}");
}

#[test]
fn what_may_be_missing_is_left_out_and_told() {
    let missing = Missing::LeftOut;
    let selection = |targets: &str, exclude: &str| Selection {
        targets: targets.to_owned(),
        exclude: exclude.to_owned(),
        missing,
        ..Selection::default()
    };
    let resolve = |targets, exclude| super::resolve(&selection(targets, exclude), &fleet(), &groups());
    let found = resolve("web[01,31],mail*,role=mail,@gone", "web30").expect("web01");
    assert_eq!(folded(&found.targets), "web01");
    assert_eq!(
        found.notes,
        [
            "left out: no agent is called web31: did you mean web01?",
            "left out: no agent matches mail*: `muster agents` lists names and labels",
            "left out: no agent matches role=mail: `muster agents` lists names and labels",
            "left out: there is no group @gone: did you mean @hole?",
            "left out: no agent is called web30: did you mean web03?",
        ]
    );
    let nobody = resolve("web31", "").expect_err("nobody").to_string();
    assert!(nobody.contains("no host is chosen") && nobody.contains("web31"), "{nobody}");
    for targets in ["@self", "@torn", "web01,", ""] {
        assert!(resolve(targets, "").is_err(), "{targets}: only what is missing may be left out");
    }
}

#[test]
fn groups_are_needed_by_what_names_them_once_and_so_many() {
    let mut needed = Needed::default();
    let mut by = |text: &str, within: Option<&str>| {
        let named = needed.by(text, within.map(group).as_ref()).map_err(|error| error.to_string())?;
        Ok::<_, String>(named.iter().map(GroupName::to_string).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(by("web01,@both,@canary", None).as_deref(), Ok("@both @canary"));
    assert_eq!(by("not (@canary,db1)", None).as_deref(), Ok(""), "each once");
    assert_eq!(by("@inventory:db @both", Some("@inventory:all")).as_deref(), Ok("@inventory:db"));
    assert_eq!(by("web01,,@a", None).as_deref(), Ok(""), "a fault is told by whoever resolves it");
    let many: Vec<String> = (0..998).map(|number| format!("@g{number}")).collect();
    assert!(by(&many[1..].join(","), None).is_ok());
    assert!(by(&many.join(","), None).is_err_and(|error| error.contains("more than 1000 groups")));
}

#[test]
fn over_a_part_of_the_fleet_groups_may_be_for_others_and_nothing_else_may() {
    let mut part = Groups::default();
    part.insert(group("@far"), "web99,role=mail,db1".to_owned());
    let resolve = |text: &str| {
        let found = Selector::parse(text).expect(text).resolve(&fleet(), &part);
        found.map(|targets| folded(&targets)).map_err(|error| error.to_string())
    };
    assert_eq!(resolve("@far").as_deref(), Ok("db1"));
    assert!(resolve("@far,web99").is_err_and(|error| error.contains("no agent is called web99")));
    assert!(resolve("@far,@gone").is_err_and(|error| error.contains("there is no group @gone")));
    assert!(resolve("@far & web01").is_err_and(|error| error.contains("no host is chosen")));
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
    #[test]
    fn a_folded_choice_chooses_the_same(chosen in prop::collection::btree_set(0..22_usize, 1..22)) {
        let fleet = fleet();
        let names: Vec<&str> = fleet.iter().map(|member| member.name.as_str()).collect();
        let wanted: Vec<&str> = chosen.iter().map(|&place| names[place]).collect();
        let selector = Selector::parse(&fold(wanted.iter().copied())).expect("a folded set");
        let targets = selector.resolve(&fleet, &Groups::default()).expect("known names");
        prop_assert_eq!(targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(), wanted);
    }
}
