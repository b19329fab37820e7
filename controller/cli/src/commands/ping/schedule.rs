//! `muster ping schedule`, `schedules` and `unschedule`: the pings that the controller repeats.

use super::hosts::Hosts;
use super::options::Looks;
use crate::args::Form;
use crate::client::schedules::{NewSchedule, Replace};
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, moment};
use muster_proto::name::OperatorName;
use muster_proto::ping::Schedule;
use serde::Serialize;
use std::time::Duration;

/// Options of `muster ping schedule`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "muster ping schedule [OPTIONS] NAME -w EXPR --every TIME\n       muster ping schedule [OPTIONS] NAME HOST... --every TIME"
)]
pub struct Args {
    /// What it is called
    #[arg(value_name = "NAME", value_parser = name)]
    name: OperatorName,
    /// From one round to the next: 5 s to 1 h
    #[arg(long, value_name = "TIME", value_parser = super::options::with_unit)]
    every: Duration,
    /// Take the place of the schedule of this name; what it found of the same hosts is kept
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    looks: Looks,
}

/// Options of `muster ping schedules`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

/// Options of `muster ping unschedule`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// What it is called
    #[arg(value_name = "NAME", value_parser = name)]
    name: OperatorName,
}

/// The name of a schedule; they are made as those of operators.
pub fn name(text: &str) -> Result<OperatorName, String> {
    let rule = "a schedule's name has 1 to 63 of a-z, 0-9, '.', '_', '-', and begins and ends with a letter or digit";
    text.parse().map_err(|_| rule.to_owned())
}

/// Performs `muster ping schedule`.
pub async fn make(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let Args { name, every, replace, hosts, looks } = args;
    let replace = if replace { Replace::Yes } else { Replace::No };
    let (selection, spec) = (hosts.selection()?, looks.round()?);
    let client = settings.connect().await?;
    let made = client.schedule(NewSchedule { name: name.clone(), selection, spec, every, replace }).await?;
    made.notes.iter().for_each(|note| show::note(&format!("note: {note}")));
    let every = humantime::format_duration(every);
    let targets = if made.targets == 1 { "target" } else { "targets" };
    show::note(&format!("{name}: {} {targets} every {every}; see muster ping status {name}", made.targets));
    Ok(Exit::Success)
}

/// The shape is public.
#[derive(Serialize)]
struct ScheduleJson {
    name: String,
    every_s: f64,
    operator: String,
    created: String,
    ran: Option<String>,
    targets: u32,
    problem: Option<String>,
    hosts: String,
    argv: Vec<String>,
}

impl ScheduleJson {
    fn of(schedule: &Schedule) -> Self {
        Self {
            name: schedule.name.to_string(),
            every_s: schedule.every.as_secs_f64(),
            operator: schedule.operator.to_string(),
            created: moment::rfc3339(schedule.created_at),
            ran: schedule.ran_at.map(moment::rfc3339),
            targets: schedule.targets,
            problem: schedule.problem.clone(),
            hosts: whom(schedule),
            argv: schedule.spec.words(),
        }
    }
}

/// Performs `muster ping schedules`.
pub async fn list(args: ListArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let schedules = settings.connect().await?.schedules().await?;
    if args.form == Form::Json {
        let list: Vec<_> = schedules.iter().map(ScheduleJson::of).collect();
        show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
        return Ok(Exit::Success);
    }
    if schedules.is_empty() {
        show::note("no schedule yet: try muster ping schedule NAME -w all --every 30s");
        return Ok(Exit::Success);
    }
    show::data(&text(&schedules, show::columns(std::io::stdout()).unwrap_or(usize::MAX)))?;
    for Schedule { name, problem, .. } in &schedules {
        if let Some(problem) = problem {
            show::note(&format!("{name} does not run as it should: {problem}"));
        }
    }
    Ok(Exit::Success)
}

/// Performs `muster ping unschedule`.
pub async fn remove(args: RemoveArgs, settings: &Settings) -> anyhow::Result<Exit> {
    settings.connect().await?.unschedule(&args.name).await?;
    show::note(&format!("{} is no more, and what it found is forgotten", args.name));
    Ok(Exit::Success)
}

fn text(schedules: &[Schedule], columns: usize) -> String {
    let mut table = Table::new(&["NAME", "EVERY", "TARGETS", "OPERATOR", "LAST ROUND", "HOSTS"]).within(columns);
    for schedule in schedules {
        let ran = schedule.ran_at.map(|ran| format!("{} ago", moment::ago(ran)));
        table.row(vec![
            schedule.name.to_string(),
            humantime::format_duration(schedule.every).to_string(),
            schedule.targets.to_string(),
            schedule.operator.to_string(),
            match (&schedule.problem, ran) {
                (Some(_), _) => "failed".to_owned(),
                (None, ran) => ran.unwrap_or_default(),
            },
            whom(schedule),
        ]);
    }
    table.to_string()
}

/// Who is looked at and from where, as it was typed.
fn whom(schedule: &Schedule) -> String {
    let selection = &schedule.selection;
    let mut words = Vec::new();
    let mut option = |name: &str, value: &str| {
        words.extend((!value.is_empty()).then(|| format!("{name} '{value}'")));
    };
    option("-w", &selection.targets);
    option("-x", &selection.exclude);
    option("--from", selection.from.as_deref().unwrap_or_default());
    selection.networks.iter().for_each(|network| option("--cidr", network));
    words.extend(selection.hosts.iter().cloned());
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Verb;
    use clap::Parser as _;
    use muster_proto::ping::{Detail, Family, PingSelection, PingSpec, Probes, Way};
    use muster_proto::time::Timestamp;

    #[test]
    fn a_list_shows_what_was_asked_and_what_fails() {
        let schedule = |name: &str, problem: Option<&str>| Schedule {
            name: name.parse().expect("a name"),
            selection: PingSelection {
                targets: "role=web".into(),
                hosts: vec!["10.0.0.1".into()],
                from: Some("n1".into()),
                ..PingSelection::default()
            },
            spec: PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes: Probes::default() },
            every: Duration::from_secs(90),
            operator: "ada".parse().expect("a name"),
            created_at: Timestamp::from_millis(0),
            ran_at: None,
            targets: 12,
            problem: problem.map(Into::into),
        };
        let text = text(&[schedule("core", None), schedule("edge", Some("no label role"))], 80);
        assert_eq!(
            text,
            "NAME  EVERY   TARGETS  OPERATOR  LAST ROUND  HOSTS\n\
             core  1m 30s  12       ada       -           -w 'role=web' --from 'n1' 10.0.0.1\n\
             edge  1m 30s  12       ada       failed      -w 'role=web' --from 'n1' 10.0.0.1\n"
        );
    }

    #[test]
    fn a_host_may_be_called_as_a_command() {
        let parsed = |line: &str| {
            let words = ["muster", "ping"].into_iter().chain(line.split(' '));
            match crate::args::Args::try_parse_from(words).map(|args| args.verb) {
                Ok(Verb::Ping(args)) => Ok(args),
                Ok(other) => panic!("{other:?}"),
                Err(refused) => Err(refused.to_string()),
            }
        };
        for line in ["status", "status core --changes", "schedules", "unschedule core", "schedule a --every 5s web01"] {
            assert!(parsed(line).is_ok_and(|args| args.repeated.is_some()), "{line}");
        }
        for line in
            ["-- status", "web01 status", "web01 -l -d", "web01 -c 3 -d -q", "-w status", "help", "-c 3 schedule"]
        {
            assert!(parsed(line).is_ok_and(|args| args.repeated.is_none()), "{line}");
        }
        for (line, hint) in [
            ("schedule a web01", "--every"),
            ("schedule a --every 5 web01", "5s"),
            ("schedule bad/name --every 5s web01", "a schedule's name has"),
            ("unschedule bad/name", "a schedule's name has"),
            ("status bad/name", "a schedule's name has"),
            ("schedule a --every 5s -l web01", "'-l'"),
            ("status --since 5", "5s or 5h"),
            ("status a b", "'b'"),
            ("web01 -d --expect 3", "cannot be used with"),
            ("web01 -d -a", "cannot be used with"),
            ("web01 -d --interval-stats 1s -l", "cannot be used with"),
        ] {
            let refused = parsed(line).expect_err(hint);
            assert!(refused.contains(hint), "{refused}");
        }
    }
}
