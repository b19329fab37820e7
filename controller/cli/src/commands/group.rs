//! `muster group`: names for expressions, kept on the controller.

use crate::args::Form;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, moment};
use clap::Subcommand;
use muster_proto::name::LabelText;
use muster_proto::names;
use muster_proto::selection::{Group, GroupName, GroupSource, GroupSourceKind, Missing, Selection};
use serde::Serialize;
use std::io;

/// Options of `muster group`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a group, or change what it means: @NAME then stands for EXPR wherever hosts are said
    Set {
        /// The group's name
        #[arg(value_parser = own)]
        name: LabelText,
        /// Hosts, as `muster targets` takes them; other groups too
        #[arg(value_name = "EXPR")]
        expression: String,
    },
    /// List groups: the controller's own, and those of the sources that its owner has given it
    List {
        /// Form of the list
        #[arg(short, long, value_name = "FORM", default_value = "text")]
        output: Form,
    },
    /// Show what a group means, and which hosts that are now
    Show {
        /// The group: NAME, or SOURCE:NAME
        name: GroupName,
    },
    /// Remove a group; not one that other groups name
    Remove {
        /// The group's name
        #[arg(value_parser = own)]
        name: LabelText,
    },
}

/// A group of the controller itself, with its `@` or without.
fn own(text: &str) -> Result<LabelText, String> {
    match text.parse() {
        Ok(GroupName { source: None, name }) => Ok(name),
        Ok(GroupName { source: Some(source), .. }) => {
            Err(format!("the groups of {source} are changed where they come from"))
        }
        Err(error) => Err(format!("{error}")),
    }
}

/// Performs `muster group`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    match args.verb {
        Verb::Set { name, expression } => {
            let hosts = client.set_group(&name, &expression).await?;
            let nobody = if hosts == 0 { ": nobody fits it now" } else { "" };
            show::note(&format!("@{name} means {}{nobody}", counted(hosts as usize)));
        }
        Verb::List { output } => {
            let (groups, sources) = client.groups().await?;
            match output {
                Form::Text => show::data(&table(&groups, &sources).to_string())?,
                Form::Json => show::data(&format!("{}\n", serde_json::to_string(&ListJson::of(&groups, &sources))?))?,
            }
            for source in &sources {
                if let Err(error) = &source.groups {
                    show::note(&format!("the groups of {} cannot be listed: {error}", source.name));
                }
            }
        }
        Verb::Show { name } => {
            let known = if name.source.is_none() { client.group(&name.name).await? } else { None };
            if let Some(Group { expression, operator, changed_at, .. }) = &known {
                let changed = moment::rfc3339(*changed_at);
                show::data(&format!("targets  {expression}\nset by   {operator}, {changed}\n"))?;
            }
            // Of a group that is there, who is missing is told and no error: nothing is done with it.
            let missing = if known.is_some() { Missing::LeftOut } else { Missing::Refused };
            let selection = Selection { targets: name.to_string(), missing, ..Selection::default() };
            let plan = client.plan(&selection).await?;
            plan.notes.iter().for_each(|note| show::note(note));
            let hosts = names::fold(plan.targets.iter().map(|(target, _)| target.name.as_str()));
            show::data(&format!("hosts    {} {hosts}\n", plan.targets.len()))?;
        }
        Verb::Remove { name } => {
            client.remove_group(&name).await?;
            show::note(&format!("@{name} is removed"));
        }
    }
    Ok(Exit::Success)
}

fn counted(hosts: usize) -> String {
    if hosts == 1 { "1 host".to_owned() } else { format!("{hosts} hosts") }
}

fn table(groups: &[Group], sources: &[GroupSource]) -> Table {
    let table = Table::new(&["GROUP", "SET BY", "CHANGED", "TARGETS"]);
    let mut table = match show::columns(io::stdout()) {
        Some(columns) => table.within(columns),
        None => table,
    };
    for Group { name, expression, operator, changed_at } in groups {
        table.row(vec![format!("@{name}"), operator.to_string(), moment::rfc3339(*changed_at), expression.clone()]);
    }
    for source in sources {
        for name in source.groups.iter().flatten() {
            let kind = format!("({})", kind(source.kind));
            table.row(vec![format!("@{}:{name}", source.name), kind, String::new(), String::new()]);
        }
    }
    table
}

fn kind(kind: GroupSourceKind) -> &'static str {
    match kind {
        GroupSourceKind::File => "file",
        GroupSourceKind::Command => "program",
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    groups: Vec<GroupJson<'a>>,
    sources: Vec<SourceJson<'a>>,
}

#[derive(Serialize)]
struct GroupJson<'a> {
    name: &'a str,
    targets: &'a str,
    operator: &'a str,
    changed: String,
}

#[derive(Serialize)]
struct SourceJson<'a> {
    name: &'a str,
    kind: &'static str,
    groups: Vec<&'a str>,
    error: Option<&'a str>,
}

impl<'a> ListJson<'a> {
    fn of(groups: &'a [Group], sources: &'a [GroupSource]) -> Self {
        let group = |group: &'a Group| GroupJson {
            name: group.name.as_str(),
            targets: &group.expression,
            operator: group.operator.as_str(),
            changed: moment::rfc3339(group.changed_at),
        };
        let source = |source: &'a GroupSource| SourceJson {
            name: source.name.as_str(),
            kind: kind(source.kind),
            groups: source.groups.iter().flatten().map(LabelText::as_str).collect(),
            error: source.groups.as_ref().err().map(String::as_str),
        };
        Self { groups: groups.iter().map(group).collect(), sources: sources.iter().map(source).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_others_are_not_set_here() {
        for text in ["web", "@web"] {
            assert_eq!(own(text).map(|name| name.to_string()), Ok("web".to_owned()));
        }
        for (text, hint) in
            [("@inventory:web", "changed where they come from"), ("Web", "use 1 to 63 of a-z"), ("", "use 1 to")]
        {
            assert!(own(text).is_err_and(|error| error.contains(hint)), "{text}");
        }
    }
}
