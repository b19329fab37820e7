//! `muster targets`: which hosts an expression means, as the controller resolves it.

use super::run::said;
use crate::args;
use crate::client::ClientError;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show;
use muster_proto::job::Target;
use muster_proto::names;
use muster_proto::selection::{Missing, Selection};
use serde::Serialize;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

/// Options of `muster targets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Hosts: names, ranges as web[01-20], globs as db*, labels as role=web, groups as @web, or all; see the guide
    #[arg(value_name = "EXPR", required_unless_present = "named", conflicts_with = "named")]
    targets: Option<String>,
    /// The same, as other verbs have it
    #[arg(short = 'w', long = "targets", value_name = "EXPR", hide = true)]
    named: Vec<String>,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Vec<String>,
    /// Leave out, and tell, what nobody bears and what fits nobody
    #[arg(long)]
    allow_missing: bool,
    /// Only so many of them, chosen at random
    #[arg(long, value_name = "N", value_parser = args::number(1_usize..))]
    pick: Option<usize>,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct Form {
    /// One folded line, as web[01-20],db1 (the default)
    #[arg(long)]
    fold: bool,
    /// One name a line
    #[arg(long)]
    expand: bool,
    /// Only how many there are
    #[arg(long)]
    count: bool,
    /// A JSON list of {"host","id","connected"}
    #[arg(long)]
    json: bool,
    /// So many folded lines, as equal as possible
    #[arg(long, value_name = "N", value_parser = args::number(1_usize..))]
    split: Option<usize>,
}

#[derive(Serialize)]
struct HostJson {
    host: String,
    id: String,
    connected: bool,
}

/// Performs `muster targets`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let missing = if args.allow_missing { Missing::LeftOut } else { Missing::Refused };
    let exclude = said("-x", args.exclude)?;
    let targets = said("-w", args.targets.into_iter().chain(args.named))?;
    let selection = Selection { targets, exclude, names: Vec::new(), missing };
    let plan = settings.connect().await?.plan(&selection).await?;
    plan.notes.iter().for_each(|note| show::note(note));
    let mut targets = plan.targets;
    for (option, wanted) in [("pick", args.pick), ("split", args.form.split)] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted > targets.len()) {
            let there = targets.len();
            return Err(ClientError::Usage(format!(
                "--{option} {wanted} is more than the {there} hosts that there are"
            ))
            .into());
        }
        if let ("pick", Some(wanted)) = (option, wanted) {
            targets = pick(targets, wanted);
        }
    }
    show::data(&text_of(&targets, &args.form)?)?;
    Ok(Exit::Success)
}

fn text_of(targets: &[(Target, bool)], form: &Form) -> anyhow::Result<String> {
    let names = || targets.iter().map(|(target, _)| target.name.as_str());
    Ok(match form {
        Form { expand: true, .. } => names().map(|name| format!("{name}\n")).collect(),
        Form { count: true, .. } => format!("{}\n", targets.len()),
        Form { json: true, .. } => {
            let host = |(target, connected): &(Target, bool)| HostJson {
                host: target.name.to_string(),
                id: target.agent.to_string(),
                connected: *connected,
            };
            format!("{}\n", serde_json::to_string(&targets.iter().map(host).collect::<Vec<_>>())?)
        }
        Form { split: Some(parts), .. } => {
            let names: Vec<&str> = names().collect();
            let line = |part: &[&str]| format!("{}\n", names::fold(part.iter().copied()));
            split(&names, *parts).map(line).collect()
        }
        Form { .. } => format!("{}\n", names::fold(names())),
    })
}

/// So many of a list at random, in its order.
fn pick<T>(list: Vec<T>, count: usize) -> Vec<T> {
    let random = RandomState::new();
    let mut places: Vec<usize> = (0..list.len()).collect();
    places.sort_by_cached_key(|place| random.hash_one(place));
    let chosen: HashSet<usize> = places.into_iter().take(count).collect();
    list.into_iter().enumerate().filter(|(place, _)| chosen.contains(place)).map(|(_, item)| item).collect()
}

/// A list in so many parts, the first ones longer by one where it does not come out even.
fn split<T>(list: &[T], parts: usize) -> impl Iterator<Item = &[T]> {
    let (least, longer) = (list.len() / parts, list.len() % parts);
    let start = move |part: usize| part * least + part.min(longer);
    (0..parts).map(move |part| &list[start(part)..start(part + 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_equal_as_possible_and_keep_the_order() {
        let list: Vec<usize> = (0..11).collect();
        for parts in 1..=11 {
            let split: Vec<&[usize]> = split(&list, parts).collect();
            assert_eq!((split.len(), split.concat()), (parts, list.clone()));
            let lengths: Vec<usize> = split.iter().map(|part| part.len()).collect();
            assert!(lengths.is_sorted_by(|a, b| a >= b) && lengths[0] - lengths[parts - 1] <= 1, "{lengths:?}");
        }
    }

    #[test]
    fn what_is_picked_keeps_its_order_and_is_not_always_the_same() {
        let list: Vec<usize> = (0..100).collect();
        let picked: HashSet<Vec<usize>> = (0..10).map(|_| pick(list.clone(), 10)).collect();
        assert!(picked.iter().all(|some| some.len() == 10 && some.is_sorted()));
        assert!(picked.len() > 1, "ten times the same");
        assert_eq!(pick(list.clone(), 100), list);
    }
}
