//! Planning of pings, over a fleet of three.

use super::*;
use crate::fleet::Member;
use muster_proto::fleet::Labels;

fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    for n in 1..=3_u8 {
        let name = format!("n{n}").parse().expect("a name");
        let member = Member { id: AgentId::from_bytes([n; 16]), name, labels: Labels::default(), facts: None };
        fleet.insert(member).expect("a new name");
    }
    fleet
}

fn plan(selection: &PingSelection) -> Result<PlannedPings, PingPlanError> {
    pings(selection, &fleet(), &Groups::default())
}

fn names(list: &PingList) -> Vec<String> {
    list.pairs().iter().map(|pair| list.name(*pair).to_string()).collect()
}

fn whole(targets: &str) -> PingSelection {
    PingSelection { targets: targets.to_owned(), ..PingSelection::default() }
}

#[test]
fn agents_strangers_and_addresses_are_all_hosts() {
    let (list, notes) = plan(&whole("n[1-2],web9,10.0.0.7")).expect("a plan");
    assert_eq!(names(&list), ["n1", "n2", "web9", "10.0.0.7"]);
    assert_eq!(list.hosts().iter().filter(|host| host.agent.is_some()).count(), 2);
    assert!(list.is_plain());
    assert_eq!(notes, ["web9: no agent has this name, taken as a host without one"]);
    let (_, notes) = plan(&whole("n1,n33,n44")).expect("a plan");
    assert_eq!(notes, ["n[33,44]: no agent has these names, taken as hosts without one; did you mean n3?"]);

    let hosts = ["N3", "10.0.0.[1-2]", "fe80::1%eth0", "10.0.0.2"].map(str::to_owned).to_vec();
    let (list, notes) = plan(&PingSelection { hosts, ..PingSelection::default() }).expect("a plan");
    assert_eq!(names(&list), ["n3", "10.0.0.1", "10.0.0.2", "fe80::1%eth0"]);
    assert_eq!(list.hosts()[0].agent, Some(AgentId::from_bytes([3; 16])));
    assert_eq!(notes, ["10.0.0.2: named more than once, looked at once"]);
}

#[test]
fn a_mistyped_address_is_an_error_unless_an_agent_is_called_so() {
    let hosts = PingSelection { hosts: vec!["10.0.0".to_owned()], ..PingSelection::default() };
    for selection in [whole("10.0.0"), hosts] {
        let refused = plan(&selection).expect_err("a mistake").to_string();
        assert!(refused.contains("10.0.0 is no address"), "{refused}");
    }
    let mut fleet = fleet();
    let name = "10.0.0".parse().expect("a name");
    let odd = Member { id: AgentId::from_bytes([9; 16]), name, labels: Labels::default(), facts: None };
    fleet.insert(odd).expect("a new name");
    assert_eq!(names(&pings(&whole("all"), &fleet, &Groups::default()).expect("a plan").0)[0], "10.0.0");
}

#[test]
fn networks_give_their_hosts_and_say_what_they_keep() {
    let networks = |text: &str| PingSelection { networks: vec![text.to_owned()], ..PingSelection::default() };
    let (list, notes) = plan(&networks("10.0.0.6/30")).expect("a plan");
    assert_eq!(names(&list), ["10.0.0.5", "10.0.0.6"]);
    assert_eq!(notes, ["10.0.0.4 and 10.0.0.7 are the network's own in 10.0.0.6/30: left out"]);
    for (text, count) in [("10.0.0.0/31", 2), ("10.0.0.9/32", 1), ("fd00::/126", 4), ("10.1.0.0/16", 65_534)] {
        assert_eq!(plan(&networks(text)).expect(text).0.pairs().len(), count, "{text}");
    }
    for text in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129", "10.0.0.0/-1"] {
        assert_eq!(plan(&networks(text)), Err(PingPlanError::Network(text.to_owned())));
    }
    for text in ["10.0.0.0/8", "fd00::/64", "::/0"] {
        assert!(matches!(plan(&networks(text)), Err(PingPlanError::List(ListError::TooMany { .. }))), "{text}");
    }
}

#[test]
fn what_is_no_single_host_is_left_out_with_a_word() {
    let (list, notes) = plan(&whole("10.0.0.1,224.0.0.1,255.255.255.255,0.0.0.0")).expect("a plan");
    assert_eq!(names(&list), ["10.0.0.1"]);
    assert_eq!(notes, ["224.0.0.1, 255.255.255.255, 0.0.0.0: not the address of one host, left out"]);
    let nobody = plan(&whole("224.0.0.1")).expect_err("nobody");
    assert_eq!(nobody.to_string(), "no host is left to ping: 224.0.0.1: not the address of one host");
}

#[test]
fn exclusion_takes_agents_and_strangers() {
    let selection = PingSelection { exclude: "n2,10.0.0.7".to_owned(), ..whole("all,10.0.0.[6-8]") };
    assert_eq!(names(&plan(&selection).expect("a plan").0), ["n1", "n3", "10.0.0.6", "10.0.0.8"]);
    let all = PingSelection { exclude: "all".to_owned(), ..whole("n1") };
    assert!(matches!(plan(&all), Err(PingPlanError::NobodyLeft(_))));
}

#[test]
fn agents_look_at_everybody_but_themselves() {
    let mesh = PingSelection { from: Some("all".to_owned()), ..whole("n1,10.0.0.1") };
    let (list, notes) = plan(&mesh).expect("a plan");
    let seen = ["n1", "10.0.0.1", "n1>10.0.0.1", "n2>n1", "n2>10.0.0.1", "n3>n1", "n3>10.0.0.1"];
    assert_eq!(names(&list), seen);
    assert_eq!(notes, ["agents do not look at themselves: 1 left out"]);
    let (list, _) = plan(&PingSelection { controller: ControllerLooks::No, ..mesh }).expect("a plan");
    assert_eq!(names(&list), seen[2..]);
    let stranger = PingSelection { from: Some("web9".to_owned()), ..whole("n1") };
    assert!(matches!(plan(&stranger), Err(PingPlanError::ResolveFrom(_))));
    let nobody = PingSelection { controller: ControllerLooks::No, ..whole("n1") };
    assert_eq!(plan(&nobody), Err(PingPlanError::NobodyLooks));
}

#[test]
fn a_fault_is_told_before_what_is_missing_elsewhere() {
    let selection = |targets: &str, exclude: &str, from: &str| PingSelection {
        exclude: exclude.to_owned(),
        from: Some(from.to_owned()),
        ..whole(targets)
    };
    assert!(matches!(plan(&selection("n1,,", "", "@gone")), Err(PingPlanError::Targets(_))));
    assert!(matches!(plan(&selection("@gone", "n1,,", "@gone")), Err(PingPlanError::Exclude(_))));
    assert!(matches!(plan(&selection("@gone", "@gone", "n1,,")), Err(PingPlanError::From(_))));
    assert!(matches!(plan(&selection("@gone", "@gone", "")), Err(PingPlanError::From(_))));
    // A group of those who look has to be whole, too.
    let mut groups = Groups::default();
    groups.insert("@lookers".parse().expect("a group"), "n1,n9".to_owned());
    let missing = pings(&selection("n1", "", "@lookers"), &fleet(), &groups);
    assert!(matches!(missing, Err(PingPlanError::ResolveFrom(ResolveError::Missing(_)))), "{missing:?}");
}

#[test]
fn a_sample_gives_each_host_and_each_vantage_its_share() {
    for count in 1..12 {
        for each in 1..=count {
            let by_host: Vec<usize> =
                (0..count).map(|to| (0..count).filter(|from| looks(*from, to, each, count)).count()).collect();
            let by_vantage: Vec<usize> =
                (0..count).map(|from| (0..count).filter(|to| looks(from, *to, each, count)).count()).collect();
            assert!(by_host.iter().chain(&by_vantage).all(|share| *share == each), "{count} {each}");
        }
    }
}

#[test]
fn nobody_is_never_everybody() {
    assert_eq!(plan(&PingSelection::default()), Err(PingPlanError::Missing));
    for text in [" ", ",", "n1,,n2"] {
        assert!(matches!(plan(&whole(text)), Err(PingPlanError::Targets(_))), "{text:?}");
    }
    assert!(matches!(plan(&whole("role=web")), Err(PingPlanError::Resolve(_))));
    let nobody =
        pings(&whole("all,10.0.0.1"), &Fleet::default(), &Groups::default()).map_err(|error| error.to_string());
    assert_eq!(nobody, Err(ResolveError::NoAgents.to_string()));
    assert!(pings(&whole("10.0.0.1"), &Fleet::default(), &Groups::default()).is_ok(), "a host needs no agent");
}
