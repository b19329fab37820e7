//! What a ping would do, for `--dry-run`: who looks at whom, with how many packets, and how long that takes.

use crate::exit::{Exit, Usage};
use crate::show::summary::thousands;
use crate::show::{self, json, moment};
use muster_proto::job::{JobSpec, Work};
use muster_proto::limits;
use muster_proto::names::fold;
use muster_proto::ping::{PingList, PingSpec, Probes, Way};
use serde::Serialize;
use std::time::Duration;

/// Shows the plan; `json` is for programs.
pub fn show(spec: &JobSpec, list: &PingList, json: bool) -> anyhow::Result<Exit> {
    let Work::Ping(ping) = &spec.work else { return Ok(Exit::Success) };
    let forecast = Forecast::of(list, ping);
    let text =
        if json { object(spec, list, &ping.probes, &forecast)? } else { text(spec, list, &ping.probes, &forecast) };
    show::data(&text)?;
    Ok(Exit::Success)
}

/// From the signature to the moment at which all must have begun: a ping that ends by itself has an hour more than it
/// needs, and one that does not has all that a job may take. What needs more than that is refused.
pub fn job_timeout(list: &PingList, spec: &PingSpec) -> Result<Duration, Usage> {
    let most = limits::START_BEFORE_MAX;
    if spec.probes.count.is_none() {
        return Ok(most);
    }
    let needs = Forecast::of(list, spec).unanswered.time;
    if needs >= most {
        let most = moment::span(most);
        return Err(Usage(format!(
            "this takes {} if nobody answers, and a ping may take {most}: ask with a higher --rate (agents send {} packets \
             a second at most), a shorter -p, or for fewer probes or hosts",
            moment::span(needs),
            limits::AGENT_PROBE_RATE,
        )));
    }
    Ok(needs.saturating_add(limits::START_BEFORE_DEFAULT).min(most))
}

/// What it takes: all of it, or one round of what has no end. Each way is of all who look together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forecast {
    answered: Effort,
    unanswered: Effort,
}

/// ICMP packets, and the time until the last host has ended once its address is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Effort {
    packets: u64,
    time: Duration,
}

impl Forecast {
    fn of(list: &PingList, spec: &PingSpec) -> Self {
        // The controller, then the agents.
        let mut pairs = vec![0_u64; list.vantages().len() + 1];
        for pair in list.pairs() {
            pairs[pair.from.map_or(0, |from| from as usize + 1)] += 1;
        }
        let probes = &spec.probes;
        let effort = |tries: u32, wait: Duration| {
            let mut effort = Effort::default();
            for (place, pairs) in pairs.iter().enumerate().filter(|(_, pairs)| **pairs > 0) {
                let packets = pairs.saturating_mul(tries.into());
                effort.time = effort.time.max(time(probes, packets, place > 0).saturating_add(wait));
                let echoes_only = place == 0 && spec.way == Way::Link;
                effort.packets += if echoes_only { 0 } else { packets.saturating_mul(count(probes).into()) };
            }
            effort
        };
        let tries = probes.retries + 1;
        Self { answered: effort(1, Duration::ZERO), unanswered: effort(tries, probes.timeout * tries) }
    }
}

fn count(probes: &Probes) -> u32 {
    probes.count.map_or(1, |count| count.get())
}

/// How long one that looks sends, if a round takes so many packets: until the last round is out, or as its rate lets it.
fn time(probes: &Probes, packets: u64, is_agent: bool) -> Duration {
    let most = if is_agent { limits::AGENT_PROBE_RATE } else { u32::MAX };
    let rate = probes.rate.map_or(most, |rate| rate.get().min(most));
    let sending = |packets: u64| Duration::from_micros(packets.saturating_mul(1_000_000) / u64::from(rate));
    let rounds = probes.period.saturating_mul(count(probes) - 1).saturating_add(sending(packets));
    rounds.max(sending(packets.saturating_mul(count(probes).into())))
}

fn text(spec: &JobSpec, list: &PingList, probes: &Probes, forecast: &Forecast) -> String {
    let hosts = list.hosts().iter().map(|host| host.name.as_str());
    let controller = list.pairs().iter().any(|pair| pair.from.is_none()).then_some("controller");
    let from = controller.into_iter().chain(list.vantages().iter().map(|from| from.name.as_str()));
    let within = spec.created_at.until(spec.start_before);
    let times = match probes.count {
        None => format!("until interrupted, {} at most", moment::span(within)),
        Some(_) => format!("{}; all begins within {}", times(list, spec.deliver, forecast), moment::span(within)),
    };
    format!(
        "targets  {}\nhosts    {} {}\nfrom     {}\ndigest   {}\ncommand  {}\nprobes   {}\npackets  {}\ntimes    {times}\n",
        spec.targets.count,
        list.hosts().len(),
        fold(hosts),
        fold(from),
        json::hex(&spec.targets.root),
        spec.work.title(),
        asked(probes),
        packets(probes, forecast),
    )
}

/// `5 of each target, 1.0 s apart, 500 ms for an answer, repeated once without one`
fn asked(probes: &Probes) -> String {
    let apart = format!("{} apart", moment::span(probes.period));
    let which = match probes.count.map(|count| count.get()) {
        None => apart,
        Some(1) => "1 of each target".to_owned(),
        Some(count) => format!("{} of each target, {apart}", thousands(count.into())),
    };
    let repeated = match probes.retries {
        0 => "never repeated".to_owned(),
        1 => "repeated once without one".to_owned(),
        more => format!("repeated {more} times without one"),
    };
    format!("{which}, {} for an answer, {repeated}", moment::span(probes.timeout))
}

fn packets(probes: &Probes, forecast: &Forecast) -> String {
    let Forecast { answered, unanswered } = forecast;
    let each = match probes.count {
        None => format!(" every {}", moment::span(probes.period)),
        Some(_) => String::new(),
    };
    let more = match unanswered.packets == answered.packets {
        true => String::new(),
        false => format!(", {} if nobody answers", thousands(unanswered.packets)),
    };
    format!("{}{each}{more}", thousands(answered.packets))
}

fn times(list: &PingList, deliver: Duration, forecast: &Forecast) -> String {
    let about = match forecast.answered.time {
        short if short < Duration::from_secs(1) => "less than 1 s".to_owned(),
        time => format!("about {}", moment::span(time)),
    };
    let away = match list.vantages() {
        [] => String::new(),
        _ => format!(", {} more for agents that are away", moment::span(deliver)),
    };
    format!("{about}, {} if nobody answers{away}", moment::span(forecast.unanswered.time))
}

/// The shape is public.
#[derive(Serialize)]
struct PlanJson<'a> {
    targets: u32,
    digest: String,
    argv: Vec<json::Bytes>,
    deliver_timeout_ms: u64,
    job_timeout_ms: u64,
    probes: ProbesJson,
    packets: u64,
    packets_unanswered: u64,
    time_ms: Option<u64>,
    time_unanswered_ms: Option<u64>,
    hosts: Vec<PairJson<'a>>,
}

#[derive(Serialize)]
struct ProbesJson {
    count: Option<u32>,
    period_ms: u64,
    timeout_ms: u64,
    retries: u32,
}

#[derive(Serialize)]
struct PairJson<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

fn object(spec: &JobSpec, list: &PingList, probes: &Probes, forecast: &Forecast) -> serde_json::Result<String> {
    let Forecast { answered, unanswered } = forecast;
    let ends = |effort: &Effort| probes.count.map(|_| json::millis(effort.time));
    let pair = |pair| PairJson {
        host: list.host(pair).name.as_str(),
        from: list.vantage(pair).map(|from| from.name.as_str()),
    };
    let plan = PlanJson {
        targets: spec.targets.count,
        digest: json::hex(&spec.targets.root),
        argv: json::argv(&spec.work.words(usize::MAX)),
        deliver_timeout_ms: json::millis(spec.deliver),
        job_timeout_ms: json::millis(spec.created_at.until(spec.start_before)),
        probes: ProbesJson {
            count: probes.count.map(|count| count.get()),
            period_ms: json::millis(probes.period),
            timeout_ms: json::millis(probes.timeout),
            retries: probes.retries,
        },
        packets: answered.packets,
        packets_unanswered: unanswered.packets,
        time_ms: ends(answered),
        time_unanswered_ms: ends(unanswered),
        hosts: list.pairs().iter().copied().map(pair).collect(),
    };
    Ok(format!("{}\n", serde_json::to_string(&plan)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::AgentId;
    use muster_proto::job::Target;
    use muster_proto::ping::{Detail, Family, Pair, PingHost};
    use std::num::NonZeroU32;

    /// Hosts that the controller looks at, and so many agents as well.
    fn list(hosts: u32, agents: u32) -> PingList {
        let vantage = |number: u32| Target {
            agent: AgentId::from_bytes([u8::try_from(number).expect("few"); 16]),
            name: format!("n{number}").parse().expect("a name"),
        };
        let host = |number: u32| PingHost { name: format!("web{number}").parse().expect("a name"), agent: None };
        let from = (0..agents).map(Some).chain([None]);
        let pairs = from.flat_map(|from| (0..hosts).map(move |to| Pair { from, to })).collect();
        PingList::new((0..agents).map(vantage).collect(), (0..hosts).map(host).collect(), pairs).expect("a list")
    }

    fn forecast(hosts: u32, agents: u32, way: Way, probes: Probes) -> [(u64, u64); 2] {
        let spec = PingSpec { way, family: Family::Any, detail: Detail::Ends, probes };
        let Forecast { answered, unanswered } = Forecast::of(&list(hosts, agents), &spec);
        [answered, unanswered].map(|effort| (effort.packets, json::millis(effort.time)))
    }

    #[test]
    fn a_plan_counts_packets_and_time_of_whoever_takes_longest() {
        let one = Probes::default();
        let five = Probes { count: NonZeroU32::new(5), retries: 0, ..one };
        let slow = Probes { rate: NonZeroU32::new(100), ..five };
        for (found, expected) in [
            (forecast(1, 0, Way::Both, one), [(1, 0), (2, 1_000)]),
            (forecast(10_000, 0, Way::Icmp, one), [(10_000, 250), (20_000, 1_500)]),
            (forecast(40, 0, Way::Both, five), [(200, 4_001), (200, 4_501)]),
            // Its rate lets it send no sooner.
            (forecast(400, 0, Way::Both, slow), [(2_000, 20_000), (2_000, 20_500)]),
            // An agent sends 500 a second.
            (forecast(1_000, 2, Way::Both, one), [(3_000, 2_000), (6_000, 5_000)]),
            (forecast(10, 0, Way::Link, one), [(0, 0), (0, 1_000)]),
            (forecast(10, 0, Way::Both, Probes { count: None, ..one }), [(10, 0), (20, 1_000)]),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_ping_has_the_time_it_needs_and_no_more_than_a_day() {
        let one = Probes::default();
        let many = |count| Probes { count: NonZeroU32::new(count), retries: 0, ..one };
        let slow = Probes { rate: NonZeroU32::new(1), ..one };
        let timeout = |hosts, agents, probes| {
            let spec = PingSpec { way: Way::Icmp, family: Family::Any, detail: Detail::Ends, probes };
            job_timeout(&list(hosts, agents), &spec).map(|span| span.as_secs())
        };
        for (hosts, agents, probes, expected) in [
            (1, 0, one, 3_601),
            (1, 0, many(601), 4_200),
            // Two packets a host, one a second.
            (2_000, 0, slow, 7_601),
            (2_000, 2, slow, 7_601),
            (2_000, 0, Probes { count: NonZeroU32::new(3), ..slow }, 15_601),
            // An agent sends 500 a second, whatever is asked of it.
            (2_000, 1, Probes { count: NonZeroU32::new(1_000), rate: None, ..one }, 11_601),
            (1, 0, many(84_000), 86_400),
            (9, 9, Probes { count: None, ..slow }, 86_400),
        ] {
            assert_eq!(timeout(hosts, agents, probes), Ok(expected), "{hosts} {agents} {probes:?}");
        }
        for (hosts, agents, probes) in
            [(1, 0, many(86_402)), (43_200, 0, slow), (2_000, 1, Probes { rate: None, ..many(22_000) })]
        {
            let refused = timeout(hosts, agents, probes).expect_err("more than a day");
            assert!(refused.0.contains("--rate"), "{refused:?}");
        }
    }

    #[test]
    fn a_plan_is_said_in_words() {
        let said = |hosts: u32, agents: u32, probes: Probes| {
            let list = list(hosts, agents);
            let spec = PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes };
            let forecast = Forecast::of(&list, &spec);
            [asked(&probes), packets(&probes, &forecast), times(&list, Duration::from_secs(30), &forecast)]
        };
        let one = Probes::default();
        assert_eq!(
            said(1, 0, one),
            [
                "1 of each target, 500 ms for an answer, repeated once without one",
                "1, 2 if nobody answers",
                "less than 1 s, 1.0 s if nobody answers"
            ]
        );
        assert_eq!(
            said(500, 1, Probes { count: NonZeroU32::new(3), retries: 0, ..one }),
            [
                "3 of each target, 1.0 s apart, 500 ms for an answer, never repeated",
                "3,000",
                "about 3.0 s, 3.5 s if nobody answers, 30.0 s more for agents that are away"
            ]
        );
        assert_eq!(said(9, 0, Probes { count: None, retries: 0, ..one })[1], "9 every 1.0 s");
    }
}
