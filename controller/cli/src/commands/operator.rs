//! `muster operator`: the people and programs that may sign jobs.

use crate::args;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, moment};
use clap::Subcommand;
use muster_proto::name::OperatorName;
use muster_proto::token::Token;
use std::time::Duration;

/// Options of `muster operator`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a one-use code for `muster login`: for a new operator, or for one who has to log in again
    Add {
        /// The operator's name
        name: OperatorName,
        /// How long the code may be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = args::duration)]
        ttl: Duration,
    },
    /// List everybody who was ever added
    List,
    /// Let an operator in no more
    Disable {
        /// The operator's name
        name: OperatorName,
    },
}

/// Performs `muster operator`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let client = settings.connect().await?;
    match args.verb {
        Verb::Add { name, ttl } => {
            let code = client.add_operator(&name, ttl).await?;
            show::data(&format!("{}\n", with_host(&code.word, &settings.context()?.controller)))?;
            let until = moment::rfc3339(code.expires_at);
            show::note(&format!("good once, until {until}; {name} types, where they work:\n  muster login CODE"));
        }
        Verb::List => {
            let mut table = Table::new(&["NAME", "STATE", "ADDED", "LOGIN"]);
            for operator in client.operators().await? {
                let state = match (operator.disabled_at, operator.login_at) {
                    (Some(_), _) => "disabled",
                    (None, Some(_)) => "active",
                    (None, None) => "invited",
                };
                table.row(vec![
                    operator.name.to_string(),
                    state.to_owned(),
                    moment::rfc3339(operator.added_at),
                    operator.login_at.map(moment::rfc3339).unwrap_or_default(),
                ]);
            }
            show::data(&table.to_string())?;
        }
        Verb::Disable { name } => {
            client.disable_operator(&name).await?;
            show::note(&format!("{name} is let in no more; jobs that {name} signed before go on"));
        }
    }
    Ok(Exit::Success)
}

/// The controller knows the port where its operators log in, but not by which name they reach it: that is the one by
/// which we do.
fn with_host(word: &str, controller: &str) -> String {
    match (word.parse::<Token>(), controller.rsplit_once(':')) {
        (Ok(code), Some((host, _))) if code.address.starts_with(':') => {
            Token { address: format!("{host}{}", code.address), ..code }.to_string()
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::ClusterId;
    use muster_proto::token::TokenKind;

    #[test]
    fn a_code_leads_to_where_we_are_connected() {
        let code = |address: &str| Token {
            kind: TokenKind::Login,
            cluster: ClusterId::from_bytes([1; 16]),
            pin: [2; 32],
            secret: [3; 32],
            address: address.to_owned(),
        };
        for (told, controller, address) in
            [(":7445", "c.example:7444", "c.example:7445"), (":7445", "[::1]:1", "[::1]:7445"), ("d:1", "c:2", "d:1")]
        {
            assert_eq!(with_host(&code(told).to_string(), controller), code(address).to_string());
        }
        assert_eq!(with_host("something newer", "c:1"), "something newer");
    }
}
