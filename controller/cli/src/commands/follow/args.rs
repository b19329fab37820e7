//! The options of all that follow a job: what is shown, in which form, and what is waited for.

use crate::exit::Usage;
use crate::track::{Order, Show, Wait};
use clap::ValueEnum;

/// How answers are shown.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
#[group(skip)]
pub struct Args {
    /// Show hosts as they end, or in the order of the target list
    #[arg(long, value_enum, default_value = "completion", value_name = "ORDER")]
    pub order: Order,
    /// What to wait for; hosts that are not done then are named, and the job goes on
    #[arg(long, value_enum, default_value = "all", value_name = "WHAT")]
    pub wait: Wait,
    /// Lines for people, one JSON object at the end, or one JSON event a line
    #[arg(short = 'o', long, value_enum, default_value = "text", value_name = "FORM")]
    pub output: Form,
    /// Show only hosts that ended so
    #[arg(long, value_enum, default_value = "all", value_name = "WHICH")]
    pub show: Show,
    /// Print only the names of the hosts, each at its end
    #[arg(long)]
    pub names: bool,
    /// No host before the lines
    #[arg(short = 'N', long)]
    pub no_prefix: bool,
    /// With a single host, exit as its program did
    #[arg(long)]
    pub pass_exit: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines, each with its host
    Text,
    /// One object at the end
    Json,
    /// One event a line
    Jsonl,
}

impl Args {
    /// Refuses what contradicts itself, before anything is sent.
    pub fn check(&self) -> Result<(), Usage> {
        let usage = |text: &str| Err(Usage(text.to_owned()));
        if self.names && self.output != Form::Text {
            return usage("--names prints names only: leave out -o");
        }
        if self.output == Form::Jsonl && (self.show != Show::All || self.order != Order::Completion) {
            return usage("-o jsonl prints every event in its order: leave out --show and --order, or take -o json");
        }
        Ok(())
    }
}
