//! What is typed behind `muster ping` means what readers of fping's manual expect, or is refused with a remedy.

use super::*;
use crate::commands::ping::hosts::Hosts;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    fping: Fping,
    #[command(flatten)]
    looks: Looks,
    #[command(flatten)]
    output: Output,
}

fn parse(line: &str) -> Result<Line, String> {
    Line::try_parse_from(std::iter::once("ping").chain(line.split_whitespace())).map_err(|error| error.to_string())
}

fn spec(line: &str) -> Result<PingSpec, String> {
    let Line { looks, output, .. } = parse(line)?;
    looks.spec(&output).map_err(|error| error.0)
}

#[test]
fn options_mean_what_they_mean_in_fping() {
    let usual = spec("web01").expect("a ping");
    assert_eq!((usual.probes, usual.way, usual.detail), (Probes::default(), Way::Both, Detail::Ends));
    let line = "a -c 5 -p 20ms --timeout 1s -r 3 -i 1ms -b 1000 -H 9 -O 0xb8 -6 --via icmp";
    let spec = spec(line).expect("a ping");
    let probes = Probes {
        count: NonZeroU32::new(5),
        period: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        retries: 3,
        size: 1000,
        ttl: NonZeroU8::new(9),
        tos: 0xb8,
        rate: NonZeroU32::new(1_000),
    };
    assert_eq!((spec.probes, spec.way, spec.family), (probes, Way::Icmp, Family::V6));
}

#[test]
fn samples_are_asked_for_only_where_they_are_shown() {
    for (line, detail) in [
        ("a", Detail::Ends),
        ("a -c 3", Detail::Each),
        ("a -l", Detail::Each),
        ("a -l --interval-stats 10s", Detail::Each),
        ("a -c 3 -o jsonl", Detail::Each),
        ("a -o jsonl", Detail::Ends),
        ("a -c 3 -o json", Detail::Ends),
        ("a -c 3 -q", Detail::Ends),
        ("a -l -q", Detail::Changes),
        ("a -c 3 -q -o jsonl", Detail::Each),
        ("a -l -q --interval-stats 10s", Detail::Each),
        ("a -c 3 -a", Detail::Ends),
        ("a --watch", Detail::Changes),
    ] {
        assert_eq!(spec(line).map(|spec| spec.detail), Ok(detail), "{line}");
    }
    assert_eq!(spec("a --watch").map(|spec| spec.probes.count), Ok(None));
}

#[test]
fn what_is_lost_of_several_probes_shows_and_a_single_one_is_repeated() {
    for (line, retries) in [
        ("a", 1),
        ("a -c 1", 1),
        ("a -c 2", 0),
        ("a -l", 0),
        ("a --watch", 0),
        ("a -c 5 --interval-stats 2s", 0),
        ("a -r 0", 0),
        ("a -c 5 -r 2", 2),
    ] {
        assert_eq!(spec(line).map(|spec| spec.probes.retries), Ok(retries), "{line}");
    }
}

#[test]
fn quiet_leaves_out_single_probes_and_nothing_that_was_asked_for() {
    let style = |line: &str| {
        let Line { looks, output, .. } = parse(line).expect("options");
        let spec = looks.spec(&output).expect("a ping");
        format!("{:?}", output.style(&spec, ping::matrix::Groups::default()).0)
    };
    for (line, shown) in [
        ("a -q", "Text { show: None, order: Completion, probes: Nothing"),
        ("a -q -c 3 --show all", "Text { show: Some(All), order: Completion, probes: Nothing"),
        ("a -q -l --interval-stats 1s", "Text { show: None, order: Completion, probes: Intervals"),
        ("a -aq", "Hosts(Alive)"),
        ("a -q -o json", "Json"),
    ] {
        assert!(style(line).starts_with(shown), "{line}: {}", style(line));
    }
}

#[test]
fn who_types_fpings_letters_is_told_what_they_are_here() {
    for (line, told) in [
        ("-u a", "fping's -u is --dead here"),
        ("-f hosts", "fping's -f is --hosts-file here"),
        ("-g 10.0.0.0/30", "fping's -g is --cidr here"),
        ("-C5 a", "fping's -C is -c here; -o jsonl has each round trip"),
        ("-s", "fping's -s is not needed here: the last lines always add up"),
    ] {
        let refused = parse(line).expect(told).fping.check().expect_err(told);
        assert_eq!(refused.0, told);
    }
    assert_eq!(parse("a").expect("options").fping.check(), Ok(()));
}

#[test]
fn what_cannot_be_meant_is_refused_with_a_remedy() {
    for (line, hint) in [
        ("a -p 100", "100ms, 100s or 100h"),
        ("a -i 2s", "1ms, or 0"),
        ("a -i 1ms --rate 5", "cannot be used with"),
        ("a --rate 0", "or max"),
        ("a -O 256", "0xff"),
        ("a -c 3 -l", "cannot be used with"),
        ("a -a -l", "cannot be used with"),
        ("a --watch -o json", "cannot be used with"),
        ("a --matrix", "--from"),
        ("a --interval-stats 1s", "--loop"),
        ("a -p 1ms", "period is from"),
        ("a -b 65500", "use a number from 0 to 65467"),
        ("a -c 0", "use a number from 1 to 1000000"),
        ("a -r 21", "use a number from 0 to 20"),
        ("a -H 256", "use a number from 1 to 255"),
        ("a --expect x", "use a number from 0"),
    ] {
        let refused = spec(line).expect_err(hint);
        assert!(refused.contains(hint), "{line}: {refused}");
    }
    assert_eq!(spec("a -i 0").map(|spec| spec.probes.rate), Ok(None));
    assert_eq!(spec("a --rate max").map(|spec| spec.probes.rate), Ok(None));
    assert_eq!(spec("a -i 25us").map(|spec| spec.probes.rate), Ok(NonZeroU32::new(40_000)));
}
