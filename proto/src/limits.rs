//! Every number that both ends must respect, with its unit and its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Link protocols this build speaks. There is a floor, no negotiation below it.
pub const PROTOCOL: RangeInclusive<u32> = 1..=1;
/// Layout of the signed payload.
pub const PAYLOAD_FORMAT: u32 = 1;

/// An argument of execve(2), its NUL included, is at most 32 pages on Linux (MAX_ARG_STRLEN).
pub const ARGUMENT_BYTES_MAX: usize = 131_071;
/// All words of a command together.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// All environment names and values together.
pub const ENVIRONMENT_BYTES_MAX: usize = 64 << 10;
/// stdin or a script: it is held whole while its digest is made.
pub const BLOB_BYTES_MAX: u64 = 64 << 20;
/// A signed payload: command and environment with room for the rest.
pub const PAYLOAD_BYTES_MAX: usize = 3 << 19;
/// A certificate of ours has about 500 bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 4 << 10;
/// A certificate request of ours has about 300 bytes.
pub const CSR_BYTES_MAX: usize = 4 << 10;
/// Targets of one job.
pub const TARGETS_MAX: u32 = 1_000_000;

/// One piece of output. Pipes are read with buffers of this size.
pub const OUTPUT_FRAME_BYTES_MAX: usize = 64 << 10;
/// One piece of a blob.
pub const BLOB_CHUNK_BYTES: usize = 64 << 10;
/// Output kept from the beginning unless the job says otherwise.
pub const OUTPUT_HEAD_BYTES: u64 = 16 << 20;
/// Output kept from the end when there is more.
pub const OUTPUT_TAIL_BYTES: u64 = 4 << 20;
/// Head and tail together: what a task may take on the disks of its host and of the controller.
pub const OUTPUT_KEPT_BYTES_MAX: u64 = 64 << 20;
/// What a host holds of the output of a task without a limit before the program's writes block: half a second of a fast
/// link, so that short breaks are not felt.
pub const OUTPUT_HELD_BYTES_MAX: u64 = 64 << 20;

/// A message from an agent on the wire.
pub const AGENT_MESSAGE_BYTES_MAX: usize = 256 << 10;
/// A message from the controller to an agent: an offer carries a whole payload.
pub const CONTROLLER_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A message from an operator: the ids of 100,000 targets and a payload fit.
pub const OPERATOR_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// A message to an operator: a plan of 100,000 named targets fits.
pub const REPLY_MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Link messages that travel in one stream message.
pub const MESSAGES_PER_BATCH_MAX: usize = 256;
/// Bytes after which a batch is sent as it is; with one more frame it stays below [`AGENT_MESSAGE_BYTES_MAX`].
pub const BATCH_BYTES_FULL: usize = 128 << 10;
/// Tasks an agent may name as unfinished: those at work and those that wait, with room.
pub const UNFINISHED_MAX: usize = 4_096;

/// Tasks at work on a host at a time; the others wait on the host until their window closes.
pub const RUNNING_TASKS_MAX: usize = 64;
/// Tasks that wait on a host.
pub const WAITING_TASKS_MAX: usize = 1_024;
/// What the spool of a host may hold before new tasks are refused: some fifty tasks with full output whose results the
/// controller lacks. Tasks that work by then may still fill what each was signed for.
pub const SPOOL_BYTES_MAX: u64 = 1 << 30;
/// Free space below which a host takes no new tasks: enough to end those that work, and not to be the one who fills the
/// disk.
pub const DISK_FREE_BYTES_MIN: u64 = 64 << 20;

/// Time from signature to deadline.
pub const START_BEFORE_MAX: Duration = Duration::from_hours(24);
/// Deadline unless `--job-timeout` says otherwise.
pub const START_BEFORE_DEFAULT: Duration = Duration::from_hours(1);
/// A target's window unless `-t` says otherwise.
pub const DELIVER_DEFAULT: Duration = Duration::from_secs(30);
/// Run timeout unless `-u` says otherwise.
pub const RUN_TIMEOUT_DEFAULT: Duration = Duration::from_mins(5);
/// The longest run timeout.
pub const RUN_TIMEOUT_MAX: Duration = Duration::from_hours(30 * 24);
/// Time from TERM to KILL unless the job says otherwise.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// The longest grace: a cancel must not wait for ever.
pub const GRACE_MAX: Duration = Duration::from_mins(10);
/// How far an agent's clock may be from the signer's.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(120);
/// How long output is drained after the leader's end while something still holds the pipe.
pub const LINGER: Duration = Duration::from_secs(2);

/// HTTP/2 keepalive on both ends of the link.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// The same at the agent's end of its link. Longer, so that the controller's question answers the agent's as well: a
/// healthy link carries one ping in 20 s, not two.
pub const AGENT_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(25);
/// A peer that does not answer a keepalive for this long is gone.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Waves of one job.
pub const WAVES_MAX: usize = 1_000;
/// Repetitions of an attempt, for each of the two reasons.
pub const RETRIES_MAX: u32 = 10;
/// Output kept of a gate, from its beginning and from its end each: enough to see why.
pub const GATE_OUTPUT_BYTES: u64 = 16 << 10;
/// Run timeout of a gate unless `--gate-timeout` says otherwise.
pub const GATE_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// The beginning of a script in which danger is looked for.
pub const SCRIPT_LOOKED_AT_BYTES: usize = 256 << 10;

/// Groups that operators have set.
pub const GROUPS_MAX: usize = 1_000;
/// Bytes of what all of them mean: they fit into one answer.
pub const GROUPS_BYTES_MAX: usize = 16 << 20;
/// Jobs of one lineage that are told together.
pub const LINEAGE_MAX: u32 = 100;

/// Jobs in one list.
pub const JOBS_LISTED_MAX: u32 = 1_000;
/// A command as one line in a list of jobs: characters.
pub const TITLE_CHARS_MAX: usize = 200;
/// A command as words in a list of jobs: a thousand of them fit into [`REPLY_MESSAGE_BYTES_MAX`] five times.
pub const ARGV_LISTED_BYTES_MAX: usize = 4 << 10;

/// Labels of an agent.
pub const LABELS_MAX: usize = 64;
/// A line of text for people that came from another machine: characters.
pub const REASON_CHARS_MAX: usize = 500;

/// Targets of one ping: their list fits into a message.
pub const PING_TARGETS_MAX: usize = 131_072;
/// Single probes in the record of one ping: some 100 MiB on disk, and seconds to read. The ping ends when there are so many.
pub const PING_SAMPLES_MAX: u64 = 5_000_000;
/// Packets a second from the controller unless the operator says otherwise: 10,000 hosts in a quarter of a second, and
/// 30 Mbit/s.
pub const PROBE_RATE_DEFAULT: u32 = 40_000;
/// Packets a second from an agent, whatever is asked of it, unless its policy says otherwise.
pub const AGENT_PROBE_RATE: u32 = 500;
/// Addresses that one message asks an agent to probe.
pub const PROBES_PER_MESSAGE_MAX: usize = 1_024;
/// Addresses under way at one agent.
pub const AGENT_PROBES_MAX: usize = 16_384;
/// An agent that looks says something of each sweep so often, were it nothing.
pub const PROBING_INTERVAL: Duration = Duration::from_secs(5);
/// An agent that was to look and says nothing for so long is silent: several of its intervals.
pub const PROBING_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Probes to one target, where they are counted.
pub const PROBE_COUNT_MAX: u32 = 1_000_000;
/// Between two probes to one target, as `ping` has it for everybody but root.
pub const PROBE_PERIOD_MIN: Duration = Duration::from_millis(2);
/// Between two probes to one target.
pub const PROBE_PERIOD_MAX: Duration = Duration::from_hours(1);
/// Wait for an answer.
pub const PROBE_TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Wait for an answer.
pub const PROBE_TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// Repetitions of a probe without an answer.
pub const PROBE_RETRIES_MAX: u32 = 20;
/// Payload of a probe, in bytes: what an IPv4 packet holds behind a header with options and that of ICMP.
pub const PROBE_SIZE_MAX: u16 = 65_467;

/// Schedules of pings: each is a task that wakes up for its rounds.
pub const SCHEDULES_MAX: usize = 64;
/// Pairs of one schedule: a fleet of 10,000 fits, or a mesh of 128 by 128. What is kept of one has a few bytes a pair and
/// 10 minutes.
pub const SCHEDULE_PAIRS_MAX: usize = 16_384;
/// From one round of a schedule to the next: what is kept for 30 days must not be worn out in a day.
pub const SCHEDULE_EVERY_MIN: Duration = Duration::from_secs(5);
/// From one round of a schedule to the next: each speaks for the time until the next, and longer nobody believes it.
pub const SCHEDULE_EVERY_MAX: Duration = Duration::from_hours(1);
/// Packets a second of one schedule from the controller: it works beside everything else, for ever.
pub const SCHEDULE_RATE_MAX: u32 = 2_000;
/// Rounds of schedules at a time; the others wait, and are late.
pub const SCHEDULE_ROUNDS_MAX: usize = 8;
/// Changes that one question about schedules is told, the newest.
pub const PING_CHANGES_TOLD_MAX: u32 = 10_000;
