//! What this agent knows of a job when another task of it is offered: from the journal, from what it holds, and from the
//! offers that came together with this one.

use super::Agent;
use super::work::{Fresh, Stage};
use crate::admit::{Past, Stand};
use crate::journal::{Known, State};
use muster_proto::id::TaskId;
use muster_proto::link::RejectKind;
use muster_proto::outcome;

impl Agent {
    /// What is known of a task's job, with what passed the door a moment ago.
    pub(super) fn past(&self, id: TaskId, fresh: &[Fresh]) -> Past {
        let mut past = Past::default();
        for (task, held) in self.tasks.range(TaskId::all_of(id.job)).filter(|(task, _)| task.target == id.target) {
            past.tasks.insert(task.attempt, stand_of_held(&held.stage));
        }
        for (task, known) in self.journal.of_job(id.job) {
            past.payload = past.payload.or(known.payload);
            if task.target == id.target {
                past.tasks.entry(task.attempt).or_insert_with(|| stand_of_remembered(known));
            }
        }
        for fresh in fresh.iter().filter(|fresh| fresh.id.job == id.job) {
            past.payload = past.payload.or(Some(fresh.payload));
            if fresh.id.target == id.target {
                past.tasks.insert(fresh.id.attempt, Stand::Open);
            }
        }
        past
    }
}

fn stand_of_held(stage: &Stage) -> Stand {
    match stage {
        Stage::Waiting(..) | Stage::Working { .. } => Stand::Open,
        Stage::Over { exit, .. } => Stand::ended(&exit.end),
    }
}

fn stand_of_remembered(known: &Known) -> Stand {
    match &known.state {
        State::Refused { kind, .. } => Stand::refused(*kind),
        // The controller gave up what was only received.
        State::Received => Stand::refused(RejectKind::Expired),
        State::Intent => Stand::Over(known.end.unwrap_or(outcome::State::Indeterminate)),
    }
}
