//! `muster operator`: the people and programs that may sign jobs.

use crate::args;
use crate::exit::Exit;
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, moment};
use clap::Subcommand;
use muster_proto::name::OperatorName;
use muster_proto::token::Token;
use std::net::{IpAddr, Ipv6Addr};
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
        /// Host by which the new operator reaches this controller, where it is not the one by which you do; a port is
        /// that of logins (7445 by default)
        #[arg(long, value_name = "HOST[:PORT]", value_parser = address)]
        address: Option<Address>,
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
        Verb::Add { name, ttl, address } => {
            let code = client.add_operator(&name, ttl).await?;
            let (word, host) = leading_to(&code.word, address, &settings.context()?.controller);
            show::data(&format!("{word}\n"))?;
            if let Some(host) = host.filter(|host| is_loopback(host)) {
                show::note(&format!(
                    "the code leads to {host}, this machine: for another machine give --address, and let the controller \
                     listen there (muster-controller serve --operators 0.0.0.0:7444)"
                ));
            }
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

/// A host, in brackets if it is an IPv6 address, and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    host: String,
    port: Option<u16>,
}

fn address(text: &str) -> Result<Address, String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(Address { host: format!("[{text}]"), port: None });
    }
    let wanted = || "use HOST or HOST:PORT, an IPv6 address with a port as [::1]:7445".to_owned();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port.parse().map_err(|_| wanted())?)),
        _ => (text, None),
    };
    let bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    if bare { Ok(Address { host: host.to_owned(), port }) } else { Err(wanted()) }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The code with the host that is wanted, and the host that it then leads to.
///
/// The controller knows the port where its operators log in, but not by which name they reach it: unless we are told,
/// that is the one by which we do.
fn leading_to(word: &str, wanted: Option<Address>, controller: &str) -> (String, Option<String>) {
    let Ok(code) = word.parse::<Token>() else { return (word.to_owned(), None) };
    let (host, port) = code.address.rsplit_once(':').unwrap_or((&code.address, ""));
    let (host, port) = match wanted {
        Some(wanted) => (wanted.host, wanted.port.map_or_else(|| port.to_owned(), |port| port.to_string())),
        None if host.is_empty() => {
            (controller.rsplit_once(':').map_or(controller, |(host, _)| host).to_owned(), port.to_owned())
        }
        None => (host.to_owned(), port.to_owned()),
    };
    (Token { address: format!("{host}:{port}"), ..code }.to_string(), Some(host))
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
        for (told, wanted, controller, expected) in [
            (":7445", None, "c.example:7444", "c.example:7445"),
            (":7445", None, "[::1]:1", "[::1]:7445"),
            ("d:1", None, "c:2", "d:1"),
            (":7445", Some("c.example"), "127.0.0.1:7444", "c.example:7445"),
            (":7445", Some("c.example:8445"), "127.0.0.1:7444", "c.example:8445"),
            (":7445", Some("2001:db8::1"), "127.0.0.1:7444", "[2001:db8::1]:7445"),
            (":7445", Some("[2001:db8::1]:1"), "127.0.0.1:7444", "[2001:db8::1]:1"),
            ("d:1", Some("e"), "c:2", "e:1"),
        ] {
            let wanted = wanted.map(|text| address(text).expect("an address"));
            let host = expected.rsplit_once(':').map(|(host, _)| host.to_owned());
            assert_eq!(leading_to(&code(told).to_string(), wanted, controller), (code(expected).to_string(), host));
        }
        assert_eq!(leading_to("something newer", None, "c:1"), ("something newer".to_owned(), None));
    }

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        for text in ["", ":1", "c:", "c:x", "c:70000", "a b", "http://c", "[c]:1", "[::1", "::1]", "a,b"] {
            assert!(address(text).is_err(), "{text}");
        }
        for (host, loopback) in
            [("127.0.0.1", true), ("[::1]", true), ("localhost", true), ("c", false), ("10.0.0.1", false)]
        {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
