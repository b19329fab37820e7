//! How the hosts of schedules were, as one JSON object. The shape is public.

use super::{availability, word, worst_loss};
use crate::show::moment;
use crate::show::ping::json::millis;
use muster_proto::ping::{Change, Standing};
use muster_proto::time::Timestamp;
use serde::Serialize;

#[derive(Serialize)]
struct StatusJson<'a> {
    since: String,
    hosts: Vec<HostJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<ChangeJson<'a>>>,
}

#[derive(Serialize)]
struct HostJson<'a> {
    schedule: &'a str,
    host: &'a str,
    from: Option<&'a str>,
    state: &'static str,
    since: String,
    reason: Option<&'a str>,
    availability: Option<f64>,
    up_s: f64,
    known_s: f64,
    sent: u64,
    received: u64,
    worst_loss_percent: Option<f64>,
    flaps: u32,
    rtt_avg_ms: Option<f64>,
    rtt_max_ms: Option<f64>,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    time: String,
    schedule: &'a str,
    host: &'a str,
    from: Option<&'a str>,
    state: &'static str,
    reason: Option<&'a str>,
}

/// All of it, with the changes if they are asked for.
pub fn object(since: Timestamp, standings: &[Standing], changes: Option<&Vec<Change>>) -> serde_json::Result<String> {
    let host = |standing| HostJson::of(standing);
    let object = StatusJson {
        since: moment::rfc3339(since),
        hosts: standings.iter().map(host).collect(),
        changes: changes.map(|changes| changes.iter().map(ChangeJson::of).collect()),
    };
    Ok(format!("{}\n", serde_json::to_string(&object)?))
}

impl<'a> HostJson<'a> {
    fn of(standing: &'a Standing) -> Self {
        Self {
            schedule: standing.schedule.as_str(),
            host: standing.host.as_str(),
            from: standing.from.as_ref().map(|from| from.as_str()),
            state: word(standing.up),
            since: moment::rfc3339(standing.since),
            reason: standing.reason.as_deref(),
            availability: availability(standing),
            up_s: standing.up_time.as_secs_f64(),
            known_s: standing.known_time.as_secs_f64(),
            sent: standing.sent,
            received: standing.received,
            worst_loss_percent: worst_loss(standing).map(|part| part * 100.0),
            flaps: standing.flaps,
            rtt_avg_ms: standing.rtt.map(|(mean, _)| millis(mean)),
            rtt_max_ms: standing.rtt.map(|(_, max)| millis(max)),
        }
    }
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a Change) -> Self {
        Self {
            time: moment::rfc3339(change.at),
            schedule: change.schedule.as_str(),
            host: change.host.as_str(),
            from: change.from.as_ref().map(|from| from.as_str()),
            state: word(Some(change.up)),
            reason: change.reason.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{change, standing};
    use super::*;

    #[test]
    fn the_object_has_its_public_shape() {
        let mut one = standing("n1>web01", Some(false), 40, 1_000);
        one.since = Timestamp::from_millis(0);
        let json = object(Timestamp::from_millis(0), &[one], Some(&vec![change("web01", 0, true)])).expect("JSON");
        assert_eq!(
            json,
            concat!(
                r#"{"since":"1970-01-01T00:00:00.000Z","hosts":[{"schedule":"core","host":"web01","from":"n1","#,
                r#""state":"down","since":"1970-01-01T00:00:00.000Z","reason":"no reply","availability":0.4,"#,
                r#""up_s":40.0,"known_s":100.0,"sent":100,"received":40,"worst_loss_percent":100.0,"flaps":1,"#,
                r#""rtt_avg_ms":0.31,"rtt_max_ms":12.5}],"changes":[{"time":"2026-11-22T10:00:00.000Z","#,
                r#""schedule":"core","host":"web01","from":null,"state":"up","reason":null}]}"#,
                "\n"
            )
        );
    }
}
