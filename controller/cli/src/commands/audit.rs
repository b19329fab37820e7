//! `muster audit`: who did what, and whether the log still is what was written.
//!
//! The controller is not trusted with the answer: the records are fetched, and their chain is computed here. A checkpoint,
//! signed by an operator and kept elsewhere, also shows a log whose end was cut off, or that was set back.

use crate::args::{self, duration};
use crate::client::{AuditSelection, Client};
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::table::Table;
use crate::show::{self, json, moment};
use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use muster_proto::audit::{AuditHead, AuditRecord, Checkpoint};
use muster_proto::context::Context;
use muster_proto::seal::{OperatorTrust, Signer};
use muster_proto::time::Timestamp;
use muster_proto::{text, tls};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Options of `muster audit`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only what this operator or agent did
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    actor: String,
    /// Only actions that begin so, as job or token.create
    #[arg(long, value_name = "ACTION", default_value = "", hide_default_value = true)]
    action: String,
    /// Only what was done within this time, as 24h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// At most this many, the newest; they are listed with the newest last
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = args::number::<u32>(1..=10_000))]
    limit: u32,
    /// Form of the list
    #[arg(short = 'o', value_name = "text|json|jsonl", value_enum, default_value_t, hide_possible_values = true)]
    form: Form,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Verify, on this machine, that no record was altered, added or removed
    Verify {
        /// Verify too that the log still goes on from this checkpoint
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
    },
    /// Verify, and print a signed checkpoint; keep it where whoever owns the controller cannot change it
    Checkpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Form {
    #[default]
    Text,
    Json,
    Jsonl,
}

/// Performs `muster audit`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let context = settings.context()?;
    match args.verb {
        None => list(&Client::connect(&context).await?, args).await?,
        Some(Verb::Verify { checkpoint }) => {
            // A file that cannot be used is found before anything is fetched.
            let checkpoint = checkpoint.map(|path| read_checkpoint(&path, &context)).transpose()?;
            let head = verified(&Client::connect(&context).await?, checkpoint.as_ref()).await?;
            let since = checkpoint.map_or_else(String::new, |checkpoint| {
                let (seq, at) = (checkpoint.head.seq, moment::rfc3339(checkpoint.at));
                format!(", with all {seq} of the checkpoint of {at}")
            });
            show::data(&format!("{} records, head {}{since}\n", head.seq, json::hex(&head.hash)))?;
        }
        Some(Verb::Checkpoint) => {
            let head = verified(&Client::connect(&context).await?, None).await?;
            show::wanted_data(&signed_checkpoint(head, &context)?)?;
        }
    }
    Ok(Exit::Success)
}

async fn list(client: &Client, args: Args) -> anyhow::Result<()> {
    let now = Timestamp::from(SystemTime::now());
    let since = args.since.map(|span| {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(now.as_millis().saturating_sub(span))
    });
    let which = AuditSelection { actor: args.actor, action: args.action, since, newest: Some(args.limit) };
    let (mut stream, mut records) = (client.audit(which).await?, Vec::new());
    while let Some(block) = stream.next().await? {
        records.extend(block);
    }
    match args.form {
        Form::Text if records.is_empty() => show::note("nothing of the kind is in the log"),
        Form::Text => show::data(&table(&records).to_string())?,
        Form::Json => {
            let list: Vec<_> = records.iter().map(RecordJson::from).collect();
            show::data(&format!("{}\n", serde_json::to_string(&list)?))?;
        }
        Form::Jsonl => {
            let lines = records.iter().map(|record| serde_json::to_string(&RecordJson::from(record)));
            show::data(&lines.map(|line| line.map(|line| line + "\n")).collect::<Result<String, _>>()?)?;
        }
    }
    Ok(())
}

fn table(records: &[AuditRecord]) -> Table {
    let mut table = Table::new(&["SEQ", "TIME", "ACTOR", "ACTION", "DETAIL"]);
    for AuditRecord { seq, entry, .. } in records {
        let clean = |words: &str| text::line(words);
        let time = moment::to_second(entry.at);
        table.row(vec![seq.to_string(), time, clean(&entry.actor), clean(&entry.action), clean(&entry.detail)]);
    }
    table
}

/// A record as `-o json` and `-o jsonl` show it; the shape is public. With the hash, anybody can verify the chain.
#[derive(Serialize)]
struct RecordJson<'a> {
    seq: u64,
    time: String,
    actor: &'a str,
    action: &'a str,
    detail: &'a str,
    hash: String,
}

impl<'a> From<&'a AuditRecord> for RecordJson<'a> {
    fn from(AuditRecord { seq, entry, hash }: &'a AuditRecord) -> Self {
        Self {
            seq: *seq,
            time: moment::rfc3339(entry.at),
            actor: &entry.actor,
            action: &entry.action,
            detail: &entry.detail,
            hash: json::hex(hash),
        }
    }
}

/// Follows the whole chain, and holds it against the checkpoint on the way.
async fn verified(client: &Client, checkpoint: Option<&Checkpoint>) -> anyhow::Result<AuditHead> {
    let mut stream = client.audit(AuditSelection::default()).await?;
    let mut chain = Chain { head: AuditHead::default(), checkpoint };
    while let Some(block) = stream.next().await? {
        for record in &block {
            chain.follow(record)?;
        }
    }
    Ok(chain.end()?)
}

/// The log is not what was written, or not all of it. Ends with [`Exit::Failed`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error("the audit log was altered at record {0}: compare the store with a backup, and see who could write to it")]
    Altered(u64),
    #[error(
        "record {seq} is not the one of the checkpoint of {at}: the log was set back, or written anew, before it; compare the \
         store with a backup"
    )]
    Rewritten { seq: u64, at: String },
    #[error(
        "the log ends at record {seq}, and had {then} at the checkpoint of {at}: its end was cut off, or it was set back; \
         compare the store with a backup"
    )]
    Cut { seq: u64, then: u64, at: String },
}

struct Chain<'a> {
    head: AuditHead,
    checkpoint: Option<&'a Checkpoint>,
}

impl Chain<'_> {
    fn follow(&mut self, record: &AuditRecord) -> Result<(), Broken> {
        self.head = self.head.admits(record).ok_or(Broken::Altered(self.head.seq + 1))?;
        match self.checkpoint {
            Some(checkpoint) if checkpoint.head.seq == self.head.seq && checkpoint.head != self.head => {
                Err(Broken::Rewritten { seq: self.head.seq, at: moment::rfc3339(checkpoint.at) })
            }
            _ => Ok(()),
        }
    }

    fn end(&self) -> Result<AuditHead, Broken> {
        match self.checkpoint {
            Some(checkpoint) if checkpoint.head.seq > self.head.seq => {
                Err(Broken::Cut { seq: self.head.seq, then: checkpoint.head.seq, at: moment::rfc3339(checkpoint.at) })
            }
            _ => Ok(self.head),
        }
    }
}

/// A checkpoint in its file; all but the signature and its certificate is signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointFile {
    cluster: String,
    seq: u64,
    hash: String,
    time: String,
    operator: String,
    signature: String,
    certificate: String,
}

fn signed_checkpoint(head: AuditHead, context: &Context) -> anyhow::Result<String> {
    let checkpoint = Checkpoint {
        cluster: context.cluster.parse().context("the configuration's cluster cannot be read: log in again")?,
        head,
        at: SystemTime::now().into(),
        operator: context.operator.parse().context("the configuration's operator cannot be read: log in again")?,
    };
    let signer = Signer::from_pem(&context.key, &context.certificate)?;
    let (signature, certificate) = signer.sign_checkpoint(&checkpoint);
    let file = CheckpointFile {
        cluster: checkpoint.cluster.to_string(),
        seq: head.seq,
        hash: json::hex(&head.hash),
        time: moment::rfc3339(checkpoint.at),
        operator: checkpoint.operator.to_string(),
        signature: STANDARD.encode(signature),
        certificate: STANDARD.encode(certificate),
    };
    Ok(serde_json::to_string(&file)? + "\n")
}

/// A checkpoint that an operator of this cluster has signed.
fn read_checkpoint(path: &Path, context: &Context) -> anyhow::Result<Checkpoint> {
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Usage(format!("the checkpoint {shown} cannot be read ({error}): name another file")))?;
    let Some((checkpoint, signature, certificate)) = parse_checkpoint(&text) else {
        return Err(Usage(format!("{shown} is no checkpoint: `muster audit checkpoint > FILE` makes one")).into());
    };
    let issuer =
        tls::certificate_from_pem(&context.operator_ca).context("the operator CA cannot be read: log in again")?;
    let cluster = context.cluster.parse().context("the configuration's cluster cannot be read: log in again")?;
    if let Err(error) = OperatorTrust::new(cluster, issuer)?.verify_checkpoint(&checkpoint, &signature, &certificate) {
        bail!(
            "the checkpoint {shown} was not signed by an operator of this cluster, or was altered ({error}): use another"
        );
    }
    Ok(checkpoint)
}

fn parse_checkpoint(text: &str) -> Option<(Checkpoint, Vec<u8>, Vec<u8>)> {
    let file: CheckpointFile = serde_json::from_str(text).ok()?;
    let time: jiff::Timestamp = file.time.parse().ok()?;
    let checkpoint = Checkpoint {
        cluster: file.cluster.parse().ok()?,
        head: AuditHead { seq: file.seq, hash: json::unhex(&file.hash)? },
        at: Timestamp::from_millis(time.as_millisecond()),
        operator: file.operator.parse().ok()?,
    };
    Some((checkpoint, STANDARD.decode(file.signature).ok()?, STANDARD.decode(file.certificate).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::audit::AuditEntry;
    use muster_proto::id::ClusterId;

    fn log(count: i64, what: &str) -> Vec<AuditRecord> {
        let mut head = AuditHead::default();
        let record = |at| {
            let (actor, action) = ("operator/ada".to_owned(), "job.accept".to_owned());
            let at = Timestamp::from_millis(at);
            let record = head.next(AuditEntry { at, actor, action, detail: what.to_owned() });
            head = AuditHead { seq: record.seq, hash: record.hash };
            record
        };
        (1..=count).map(record).collect()
    }

    fn verify(log: &[AuditRecord], checkpoint: Option<&Checkpoint>) -> Result<AuditHead, Broken> {
        let mut chain = Chain { head: AuditHead::default(), checkpoint };
        log.iter().try_for_each(|record| chain.follow(record))?;
        chain.end()
    }

    fn checkpoint(log: &[AuditRecord]) -> Checkpoint {
        let last = log.last().expect("a record");
        Checkpoint {
            cluster: ClusterId::from_bytes([1; 16]),
            head: AuditHead { seq: last.seq, hash: last.hash },
            at: Timestamp::from_millis(0),
            operator: "ada".parse().expect("a name"),
        }
    }

    #[test]
    fn a_checkpoint_shows_what_the_chain_alone_cannot() {
        let whole = log(5, "a");
        let then = checkpoint(&whole[..3]);
        assert_eq!(verify(&whole, Some(&then)).map(|head| head.seq), Ok(5));
        assert_eq!(verify(&whole[..3], Some(&then)).map(|head| head.seq), Ok(3));
        // The chain of each of these is whole.
        assert!(verify(&whole[..2], None).is_ok() && verify(&log(5, "b"), None).is_ok());
        assert!(matches!(verify(&whole[..2], Some(&then)), Err(Broken::Cut { seq: 2, then: 3, .. })));
        assert!(matches!(verify(&[], Some(&then)), Err(Broken::Cut { seq: 0, then: 3, .. })));
        assert!(matches!(verify(&log(5, "b"), Some(&then)), Err(Broken::Rewritten { seq: 3, .. })));
    }

    #[test]
    fn an_altered_record_is_named() {
        let mut log = log(5, "a");
        log[3].entry.detail.push('!');
        assert_eq!(verify(&log, None), Err(Broken::Altered(4)));
    }
}
