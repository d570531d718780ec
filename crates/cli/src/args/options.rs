//! The options of verbs about the server as a whole.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use handover_api::parse_duration;
use handover_supervisor::StartFrom;

use super::programs::{GoBackTo, go_back_to};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration: a file, or the URL of one in a store (etcd://, etcds://, https://). A built-in one if none is given.
    #[arg(value_name = "FILE|URL")]
    pub(crate) file: Option<PathBuf>,
    /// The same, for those who like to name it.
    #[arg(long, value_name = "FILE|URL", conflicts_with = "file")]
    pub(crate) config: Option<PathBuf>,
    /// Directory to which relative paths in a configuration from a store are relative; the working directory if it is
    /// not given.
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<PathBuf>,
    /// Start from the journal and not from what the files say now: the generation that served last, or this one.
    #[arg(long, value_name = "last|N", value_parser = start_from)]
    pub(crate) generation: Option<StartFrom>,
    /// Directory of the journal. If it is not given: [control] in the file, or the user's state directory.
    #[arg(long, env = "HANDOVER_STATE", value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Threads that serve; one for each processor if it is not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Do not print the four lines at the start.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How an operation is asked for.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Operate {
    /// How long to wait for the outcome; the operation goes on after that.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Do not wait for the outcome.
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) detach: bool,
    /// Only if this generation serves.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) if_match: Option<u64>,
    /// Why, in a few words: for the history.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// The operation's ID. Asking again with the same one gets the same answer and does nothing twice.
    #[arg(long, value_name = "ID")]
    pub(crate) idempotency_key: Option<String>,
}

/// Under which terms a change is made.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Terms {
    /// Go back by itself after this time unless 'handover confirm' comes. The same reload, rollback to a generation or restore, asked for again with another time while its confirmation is awaited, moves the deadline.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) confirm_within: Option<Duration>,
    /// Watch it at first, for this time or the configured one, and go back if it fares worse than what was before.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = positive_duration)]
    #[allow(clippy::option_option, reason = "not given, given, given with a time")]
    pub(crate) guard: Option<Option<Duration>>,
    /// Do not watch it, whatever the configuration says.
    #[arg(long, conflicts_with = "guard")]
    pub(crate) no_guard: bool,
}

impl Terms {
    /// Whether nothing is said about them.
    pub(crate) fn is_none(&self) -> bool {
        self.confirm_within.is_none() && self.guard.is_none() && !self.no_guard
    }
}

/// A duration that is no slip: nothing can be confirmed within no time.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it must be longer than nothing: write 30s, 10m or 1h".to_owned()),
        time => Ok(time),
    }
}

/// `last`, or a generation's number.
fn start_from(text: &str) -> Result<StartFrom, String> {
    match text {
        "last" => Ok(StartFrom::Last),
        number => number
            .parse()
            .map(StartFrom::Generation)
            .map_err(|_| "write last, or the number of a generation".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// A program that is to read its configuration anew; the server if it is not given.
    #[arg(value_name = "PROGRAM", conflicts_with_all = ["dry_run", "certs", "confirm_within", "guard", "no_guard"])]
    pub(crate) name: Option<String>,
    /// Only say what it would do.
    #[arg(long, conflicts_with_all = ["certs", "confirm_within", "guard", "no_guard"])]
    pub(crate) dry_run: bool,
    /// Read only certificates and their keys anew; everything else stays as it serves.
    #[arg(long)]
    pub(crate) certs: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Confirm {
    /// The program whose deploy stays; the server's own change if it is not given.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The program whose deploy is taken back; the server's own change if it is not given.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Number of the generation, or a program that goes back to what it ran before its last deploy; the generation that
    /// served before this one if it is not given.
    #[arg(value_name = "GENERATION|PROGRAM", value_parser = go_back_to)]
    pub(crate) to: Option<GoBackTo>,
    /// Go back to the binary that served before the last upgrade, of which a copy is kept.
    #[arg(long, conflicts_with = "to")]
    pub(crate) binary: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Upgrade {
    /// The binary; if it is not given, what is installed now where the server was started from.
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::ExecutablePath)]
    pub(crate) binary: Option<PathBuf>,
    /// Only if this is its SHA-256 digest, as sha256sum prints it.
    #[arg(long, value_name = "HEX", value_parser = handover_api::parse_sha256)]
    pub(crate) sha256: Option<String>,
    /// Only say whether it could take over; what serves is not touched.
    #[arg(long, conflicts_with_all = ["confirm_within", "guard", "no_guard"])]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Compare with this generation instead of the files on disk.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) against: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write.
    pub(crate) file: PathBuf,
    /// Leave private keys and ticket keys out: a restore then takes the private keys from the disk.
    #[arg(long)]
    pub(crate) without_keys: bool,
    /// Encrypt it to a passphrase (age).
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// File whose first line is the passphrase; without it, it is asked for on the terminal.
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The backup.
    pub(crate) file: PathBuf,
    /// Only say what is in it and what it would change.
    #[arg(long, conflicts_with_all = ["write", "confirm_within", "guard", "no_guard"])]
    pub(crate) dry_run: bool,
    /// When it serves, write its files to their places on disk, too: else the next reload brings the old ones back.
    #[arg(long, conflicts_with_all = ["confirm_within", "detach"])]
    pub(crate) write: bool,
    /// Unpack its files below this directory, and ask no server.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["write", "dry_run", "confirm_within", "guard", "no_guard"])]
    pub(crate) into: Option<PathBuf>,
    /// Replace files that are there (with --into).
    #[arg(long, requires = "into")]
    pub(crate) force: bool,
    /// File whose first line is the passphrase of an encrypted one; without it, it is asked for on the terminal.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) terms: Terms,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// File to check; without one, the server checks its own.
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// An endpoint that is to get nothing new: 127.0.0.1:9001, or web/1; the whole server if it is not given.
    #[arg(value_name = "ENDPOINT")]
    pub(crate) name: Option<String>,
    /// How long connections may take to end; those left are cut and counted, but of an endpoint nothing is cut.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) limit: Option<Duration>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    /// What was paused; the server after a drain, or everything that is paused, if it is not given.
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// A program that is to end; the whole server if it is not given.
    #[arg(value_name = "PROGRAM", conflicts_with_all = ["now", "limit"])]
    pub(crate) name: Option<String>,
    /// Cut what is in flight.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) now: bool,
    /// How long connections may take to end; those left are cut and counted.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) limit: Option<Duration>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Action {
    /// Its name.
    pub(crate) name: String,
    /// Text that is given to it.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) body: String,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// How many, the newest first.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The operation's ID.
    pub(crate) id: String,
    /// Wait so long for its outcome.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Generations {
    /// Number of the one to show.
    pub(crate) number: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory; it is made if it is missing.
    pub(crate) directory: PathBuf,
}
