//! Selections and groups.

use super::{WireError, parsed};
use crate::selection::{Group, GroupSource, GroupSourceKind, Missing, Selection};
use crate::text;
use crate::time::Timestamp;
use crate::wire;

impl From<&Selection> for wire::Selection {
    fn from(selection: &Selection) -> Self {
        Self {
            targets: selection.targets.clone(),
            exclude: selection.exclude.clone(),
            names: selection.names.clone(),
            allow_missing: selection.missing == Missing::LeftOut,
        }
    }
}

impl From<wire::Selection> for Selection {
    fn from(selection: wire::Selection) -> Self {
        let wire::Selection { targets, exclude, names, allow_missing } = selection;
        Self { targets, exclude, names, missing: if allow_missing { Missing::LeftOut } else { Missing::Refused } }
    }
}

impl From<Group> for wire::Group {
    fn from(group: Group) -> Self {
        Self {
            name: group.name.to_string(),
            expression: group.expression,
            operator: group.operator.to_string(),
            changed_at_ms: group.changed_at.as_millis(),
        }
    }
}

impl TryFrom<wire::Group> for Group {
    type Error = WireError;

    fn try_from(group: wire::Group) -> Result<Self, WireError> {
        Ok(Self {
            name: parsed(&group.name, "name")?,
            expression: text::whole_line(&group.expression),
            operator: parsed(&group.operator, "operator")?,
            changed_at: Timestamp::from_millis(group.changed_at_ms),
        })
    }
}

impl From<GroupSource> for wire::GroupSource {
    fn from(source: GroupSource) -> Self {
        let (groups, error) = match source.groups {
            Ok(groups) => (groups, String::new()),
            Err(error) => (Vec::new(), error),
        };
        Self {
            name: source.name.to_string(),
            command: source.kind == GroupSourceKind::Command,
            groups: groups.iter().map(ToString::to_string).collect(),
            error,
        }
    }
}

impl TryFrom<wire::GroupSource> for GroupSource {
    type Error = WireError;

    fn try_from(source: wire::GroupSource) -> Result<Self, WireError> {
        let groups = source.groups.iter().map(|group| parsed(group, "groups")).collect::<Result<_, _>>()?;
        Ok(Self {
            name: parsed(&source.name, "name")?,
            kind: if source.command { GroupSourceKind::Command } else { GroupSourceKind::File },
            groups: if source.error.is_empty() { Ok(groups) } else { Err(text::line(&source.error)) },
        })
    }
}
