//! Whom `muster ping` looks at, and from where, as it is typed: hosts with and without an agent, and who looks.

use crate::args;
use crate::commands::names;
use crate::commands::run::said;
use crate::exit::Usage;
use muster_proto::limits;
use muster_proto::names::expand;
use muster_proto::ping::{ControllerLooks, PingName, PingSelection};
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Who is looked at, and from where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hosts")]
pub struct Hosts {
    /// Agents: names, ranges as web[01-20], globs as db*, labels as role=web, or all; names that no agent bears, and
    /// addresses, are hosts too
    #[arg(short = 'w', long, value_name = "EXPR")]
    targets: Option<String>,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Option<String>,
    /// File with names, ranges or addresses, # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    hosts_file: Option<PathBuf>,
    /// All addresses of a network, as 10.0.0.0/22; may be repeated
    #[arg(long, value_name = "NET")]
    cidr: Vec<String>,
    /// Hosts, with or without an agent: names, ranges as web[01-20], addresses
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// Agents that look as well, each at every host
    #[arg(long, value_name = "EXPR")]
    from: Option<String>,
    /// Only the agents of --from look
    #[arg(long, requires = "from")]
    no_controller: bool,
    /// Each host is looked at by only so many of the agents of --from
    #[arg(long, value_name = "K", requires = "from", value_parser = args::number(NonZeroU32::MIN..))]
    sample: Option<NonZeroU32>,
}

impl Hosts {
    /// Whether agents are to look.
    pub const fn have_lookers(&self) -> bool {
        self.from.is_some()
    }

    /// As the controller resolves it.
    pub fn selection(self) -> Result<PingSelection, Usage> {
        let file = self.hosts_file.map(|path| names::from_file(&path, host)).transpose()?;
        if self.targets.is_none() && self.hosts.is_empty() && self.cidr.is_empty() && file.is_none() {
            return Err(Usage("no hosts are named: say which, as web[01-20], 10.0.0.7, --cidr NET or -w EXPR".into()));
        }
        let mut hosts = self.hosts.iter().map(|word| host(word)).collect::<Result<Vec<_>, _>>().map_err(Usage)?;
        hosts.extend(file.unwrap_or_default());
        let from = self.from.map(|from| said("--from", Some(from))).transpose()?;
        Ok(PingSelection {
            targets: said("-w", self.targets)?,
            exclude: said("-x", self.exclude)?,
            hosts,
            networks: self.cidr,
            from,
            controller: if self.no_controller { ControllerLooks::No } else { ControllerLooks::Yes },
            sample: self.sample,
        })
    }
}

/// One host, or a range of them, in the form that the controller takes.
fn host(word: &str) -> Result<String, String> {
    names::no_expression(word)?;
    // As URLs have IPv6 addresses.
    if let Some(inner) = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && inner.contains(':')
    {
        return inner.parse::<PingName>().map(|name| name.to_string()).map_err(|error| error.to_string());
    }
    // The dot that ends a name which is whole says nothing more here.
    let name = word.strip_suffix('.').unwrap_or(word);
    if name.split('[').any(|part| part.rsplit(']').next().is_some_and(|plain| plain.contains(','))) {
        return Err(format!("{word}: separate hosts by blanks, or use -w '{word}'"));
    }
    if name.contains("..") {
        return Err(format!("{word} is no name: there is nothing between two of its dots"));
    }
    let four = name.split('.').count() == 4 && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match name.parse::<PingName>() {
        Ok(known) if four && known.address().is_none() => {
            Err(format!("{word} is no address: its numbers are 0 to 255"))
        }
        Err(error) if !name.contains('[') => Err(error.to_string()),
        Ok(_) => Ok(name.to_owned()),
        Err(_) => {
            expand(name, limits::PING_TARGETS_MAX).map_err(|error| format!("{word}: {error}"))?;
            Ok(name.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write as _;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hosts: Hosts,
    }

    fn selection(line: &str) -> Result<PingSelection, String> {
        let words = std::iter::once("ping").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.hosts.selection().map_err(|error| error.0)
    }

    #[test]
    fn nobody_is_never_everybody_and_an_expression_is_no_host() {
        for (line, hint) in [
            ("", "no hosts are named"),
            ("all", "-w 'all'"),
            ("role=web", "-w 'role=web'"),
            ("web*", "-w 'web*'"),
            ("--hosts-file /dev/null", "names no host"),
            ("a --from n1 --sample 0", "use a number from 1"),
        ] {
            let refused = selection(line).expect_err(hint);
            assert!(refused.contains(hint), "{refused}");
        }
        let chosen = selection("-w all -x b --cidr 10.0.0.0/30 --from n[1-2] --no-controller --sample 1 web[1-2] ::1")
            .expect("a selection");
        assert_eq!((&*chosen.targets, &*chosen.exclude, chosen.from.as_deref()), ("all", "b", Some("n[1-2]")));
        assert_eq!(
            (chosen.hosts, chosen.networks),
            (vec!["web[1-2]".into(), "::1".into()], vec!["10.0.0.0/30".into()])
        );
        assert_eq!((chosen.controller, chosen.sample), (ControllerLooks::No, NonZeroU32::new(1)));
    }

    #[test]
    fn hosts_are_taken_as_they_are_usually_written() {
        for (word, taken) in [
            ("web01", "web01"),
            ("WEB01", "WEB01"),
            ("web01.example.org.", "web01.example.org"),
            ("web[01-03,7].a", "web[01-03,7].a"),
            ("10.0.0.[1-9]", "10.0.0.[1-9]"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[fe80::1%eth0]", "fe80::1%eth0"),
            // An agent may be called so; the controller knows.
            ("42", "42"),
        ] {
            assert_eq!(host(word), Ok(taken.to_owned()), "{word}");
        }
        for (word, hint) in [
            ("a,b", "a,b: separate hosts by blanks, or use -w 'a,b'"),
            ("a[1-2],b", "separate hosts by blanks"),
            ("a..b", "nothing between two of its dots"),
            ("a..", "neither a host's name nor an address"),
            ("10.0.0.300", "10.0.0.300 is no address"),
            ("http://a", "neither a host's name nor an address"),
            ("[::g]", "neither a host's name nor an address"),
            ("web[3-1]", "web[3-1]: column"),
        ] {
            let refused = host(word).expect_err(hint);
            assert!(refused.contains(hint), "{refused}");
        }
    }

    #[test]
    fn a_mistake_in_a_file_is_told_with_its_place() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(b"\xef\xbb\xbfweb01.\n10.0.0.300 # mistyped\n").expect("written");
        let path = file.path().display().to_string();
        let refused = selection(&format!("--hosts-file {path}")).expect_err("no address");
        assert_eq!(refused, format!("{path} line 2: 10.0.0.300 is no address: its numbers are 0 to 255"));
    }
}
