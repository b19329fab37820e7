//! What groups may say, and that none which means nobody is taken for nobody.

use super::*;

/// What a group says and whom an expression with it means then.
fn with(name: &str, text: &str, targets: &str, exclude: &str) -> Result<String, String> {
    let mut groups = groups();
    groups.insert(group(name), text.to_owned());
    let (targets, exclude) = (targets.to_owned(), exclude.to_owned());
    let selection = Selection { targets, exclude, ..Selection::default() };
    super::super::resolve(&selection, &fleet(), &groups)
        .map(|it| folded(&it.targets))
        .map_err(|error| error.to_string())
}

#[test]
fn a_group_that_means_nobody_excludes_nobody_only_if_that_is_said() {
    let text = "role=db and env=test";
    let message = "in @off: it means nobody now: `muster group show` tells what it says";
    for (targets, exclude) in [("all ! @off", ""), ("not @off", ""), ("@off", ""), ("all", "@off"), ("@off or all", "")]
    {
        let error = with("@off", text, targets, exclude).expect_err(targets);
        assert!(error.ends_with(message), "{targets} -x {exclude}: {error}");
    }
    assert_eq!(
        with("@off", "@low,db1", "@off", ""),
        Err("in @off: there is no group @low: did you mean @loop?".into())
    );

    let mut groups = groups();
    groups.insert(group("@off"), "cpus>999".to_owned());
    groups.insert(group("@both"), "@off".to_owned());
    let selection =
        |targets: &str| Selection { targets: targets.to_owned(), missing: Missing::LeftOut, ..Selection::default() };
    let left = super::super::resolve(&selection("db* ! @off,@both"), &fleet(), &groups).expect("databases");
    let note = |name: &str| format!("left out: in {name}: it means nobody now: `muster group show` tells what it says");
    assert_eq!((folded(&left.targets), left.notes), ("db[1-2]".to_owned(), vec![note("@off"), note("@both")]));
}

#[test]
fn groups_are_checked_before_anybody_is_enrolled() {
    for (targets, message) in [
        ("@self", "@self > @loop > @self: a group cannot be a part of itself"),
        ("all ! @torn", "in @torn, column 7"),
        ("@canary", "no agent is enrolled"),
        ("@gone", "no agent is enrolled"),
        ("not web01", "no agent is enrolled"),
    ] {
        for missing in [Missing::Refused, Missing::LeftOut] {
            let selection = Selection { targets: targets.to_owned(), missing, ..Selection::default() };
            let error = super::super::resolve(&selection, &Fleet::default(), &groups()).expect_err(targets);
            assert!(error.to_string().contains(message), "{targets}: {error}");
        }
    }
}

#[test]
fn a_list_is_joined_by_white_space() {
    let list = |text: &str| with("@inventory:it", text, "@inventory:it", "");
    for (text, hosts) in
        [("db1\nweb01 web02\n", "db1,web[01-02]"), ("db1, web01\t!db1\n", "web01"), ("@canary", "web[01-02]")]
    {
        assert_eq!(list(text).as_deref(), Ok(hosts), "{text}");
    }
    for text in ["", "\n", "web01 db1 and web02", "web01,,db1"] {
        assert!(list(text).is_err(), "{text:?}");
    }
}

#[test]
fn what_a_source_says_is_never_the_whole_fleet() {
    for (text, message) in [
        ("all", "in @inventory:it, column 1: `all` must be spelled by whoever runs"),
        ("all of them are down\n", "in @inventory:it, column 1: `all` must be spelled by whoever runs"),
        ("web01 all", "in @inventory:it, column 7: `all` must be spelled by whoever runs"),
        ("role=web & (all)", "in @inventory:it, column 13: `all` must be spelled by whoever runs"),
        ("not found", "in @inventory:it, column 1: `not` must be spelled by whoever runs"),
    ] {
        for missing in [Missing::Refused, Missing::LeftOut] {
            let mut groups = groups();
            groups.insert(group("@inventory:it"), text.to_owned());
            let selection = Selection { targets: "@inventory:it".to_owned(), missing, ..Selection::default() };
            let error = super::super::resolve(&selection, &fleet(), &groups).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
    assert_eq!(with("@own", "all ! db1", "@own & db*", ""), Ok("db2".to_owned()), "what operators set is spelled");
}
