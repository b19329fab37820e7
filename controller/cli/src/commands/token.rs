//! `muster token`: what a machine needs to enrol.

use crate::args;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::{self, moment};
use clap::Subcommand;
use muster_proto::fleet::Labels;
use muster_proto::token::Token;
use std::time::Duration;

/// Options of `muster token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a token with which machines may enrol
    Create {
        /// Labels that the machines get, as role=web,env=prod
        #[arg(long, value_name = "K=V,...", value_parser = args::labels)]
        labels: Option<Labels>,
        /// How long the token may be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = args::duration)]
        ttl: Duration,
        /// How many machines may use it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = args::number::<u32>(1..))]
        uses: u32,
    },
}

/// Performs `muster token`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let Verb::Create { labels, ttl, uses } = args.verb;
    let context = settings.context()?;
    let token = settings.connect().await?.create_token(&labels.unwrap_or_default(), ttl, uses).await?;
    show::data(&format!("{}\n", token.word))?;
    show::note(&format!(
        "good for {} until {}; on each, as root, with the token on stdin:\n  muster-agent enroll --controller {} \
         --token-file -\n  muster-agent run",
        if uses == 1 { "1 machine".to_owned() } else { format!("{uses} machines") },
        moment::rfc3339(token.expires_at),
        enrolment_address(&token.word, &context.controller),
    ));
    Ok(Exit::Success)
}

/// Where machines enrol, as far as we can know: the token may say, else it is the default port beside the operators'.
fn enrolment_address(word: &str, controller: &str) -> String {
    let told = word.parse::<Token>().map(|token| token.address).unwrap_or_default();
    if !told.is_empty() {
        return told;
    }
    match controller.rsplit_once(':') {
        Some((host, _)) if !matches!(host, "127.0.0.1" | "[::1]" | "localhost") => format!("{host}:7445"),
        _ => "CONTROLLER:7445".to_owned(),
    }
}
