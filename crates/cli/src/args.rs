//! The command line. What is written here is its help, its man pages and its completions.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use handover_api::parse_duration;
use handover_supervisor::StartFrom;

const EXIT_CODES: &str = "\
Exit codes:
    0  applied or unchanged
    2  the command line is wrong
    4  not permitted
    7  not running
   10  rejected: what served still serves
   11  the candidate was not ready: what served still serves
   12  rolled back: what served still serves
   13  another operation runs or a change awaits confirmation (or, for confirm and cancel, none does),
       or --if-match names what no longer serves
   14  applied, and connections were cut
  124  the time is over and the outcome unknown: ask with 'handover show ID'
'handover diff' exits 0 if nothing differs, and 1 if something does.";

/// Keeps a server running while everything about it changes.
///
/// Every change is asked for, answered, and undone when it goes wrong; no connection is broken by it.
#[derive(Debug, Parser)]
#[command(name = "handover", version, propagate_version = true, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
#[command(after_long_help = EXIT_CODES)]
#[command(after_help = "\
A tour:
  handover example > hello.toml      a configuration to start from
  handover serve hello.toml          serve it
  handover reload                    after editing it: one sentence says what came of it")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Control socket of the server.
    ///
    /// If it is not given: $XDG_RUNTIME_DIR/handover/control.sock; without that variable /run/handover/control.sock
    /// for root and /tmp/handover-UID/control.sock for others.
    #[arg(long, global = true, env = "HANDOVER_CONTROL", value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Form of the result: for people, or the server's whole answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text, hide_default_value = true)]
    pub(crate) output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Sentences and tables.
    Text,
    /// JSON, as it comes from the server.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Serve a configuration, until told to stop.
    #[command(after_help = "\
Examples:
  handover serve                     a built-in \"Hello, World!\" on 127.0.0.1:8080
  handover serve site.toml
  handover serve site.toml --control /run/site/control.sock --state /var/lib/site
  handover serve etcd://127.0.0.1:2379/site --base /etc/site
  handover serve site.toml --generation last   what served last, whatever the files say by now

Signals: HUP reloads, USR2 upgrades, TERM, INT and QUIT drain and exit (again: at once), USR1 reopens log files.
Exits with 0 after a stop, 10 if the configuration is wrong, 13 if another server has the control socket.")]
    Serve(Serve),

    /// Serve what the files on disk say now.
    #[command(after_help = "\
Examples:
  handover reload
  handover reload --dry-run          only say what it would do
  handover reload --certs            certificates and keys only; the rest stays as it serves
  handover reload --confirm-within 10m   goes back by itself unless 'handover confirm' comes in time
  handover reload --guard            watch it at first, and go back if it fares worse than before
  handover reload --if-match 7 --comment 'ticket 42'
  handover reload --detach           do not wait; ask with 'handover show ID'
  curl --fail --unix-socket \"$HANDOVER_CONTROL\" -X POST http://localhost/v1/reload")]
    Reload(Reload),
    /// Keep the change that goes back by itself otherwise; ends a guard's watch, too.
    #[command(after_help = "\
Examples:
  handover reload --confirm-within 10m
  handover confirm --comment 'looks good'")]
    Confirm(Confirm),
    /// Go back at once from the change that awaits confirmation, or that a guard watches.
    #[command(after_help = "Example:\n  handover cancel")]
    Cancel(Cancel),
    /// Serve a generation that served before, byte for byte; the files on disk stay as they are.
    #[command(after_help = "\
Examples:
  handover rollback                  the one before
  handover rollback 7                'handover generations' lists those that are kept
  handover rollback --binary         an upgrade to the binary that served before
  handover diff --against 7          what that would change
The next reload or start serves the files on disk again; 'serve --generation last' does not. While
an upgrade awaits confirmation, 'handover rollback' takes that back, connections too.")]
    Rollback(Rollback),
    /// Run another binary: it takes over sockets and live connections, or nothing has happened.
    #[command(after_help = "\
Examples:
  install -m 0755 handover-0.2.0 /usr/bin/handover && handover upgrade
  handover upgrade --dry-run              only say whether it could take over
  handover upgrade --binary /opt/handover-0.2.0/handover --sha256 1a2b…
  handover upgrade --confirm-within 10m   goes back unless 'handover confirm' comes in time
  handover upgrade --guard                watch it at first, and go back if it fares worse
  handover rollback --binary              back to the binary that served before
The process ID that systemd, Docker or a script knows stays the same. The signal USR2 does
the same. Which binaries may run is set by [upgrade] in the configuration.")]
    Upgrade(Upgrade),
    /// Say everything that is wrong with a configuration, and change nothing.
    #[command(after_help = "\
Examples:
  handover validate site.toml        needs no server
  handover validate                  asks the server that runs about its own files, ports included")]
    Validate(Validate),
    /// Let what is in flight end; new connections wait until 'handover resume'.
    #[command(after_help = "Example:\n  handover drain --limit 30s")]
    Drain(Drain),
    /// Serve again after a drain, or call one off.
    Resume(Resume),
    /// Drain, then end the server.
    #[command(after_help = "Examples:\n  handover stop --limit 30s\n  handover stop --now")]
    Stop(Stop),
    /// Run one of the server's own actions; 'handover status' lists them.
    #[command(after_help = "Example:\n  handover action reload_certs")]
    Action(Action),

    /// Say what serves.
    Status,
    /// List the last operations: when, who, what, outcome.
    #[command(
        after_help = "Examples:\n  handover history -n 100\n  handover history -o json | jq '.[].outcome'"
    )]
    History(History),
    /// Show one operation, running or ended.
    #[command(after_help = "Example:\n  handover show ID --timeout 1m      wait for its outcome")]
    Show(Show),
    /// List the generations that were served, or show one with its files.
    Generations(Generations),
    /// Show how the files on disk, or another generation, differ from what serves.
    #[command(after_help = "\
Examples:
  handover diff                      what a reload would change
  handover diff --against 7          what a rollback to generation 7 would change
Exits with 0 if nothing differs, and 1 if something does.")]
    Diff(Diff),
    /// List the certificates that serve: for whom, from whom, until when.
    #[command(visible_alias = "certs")]
    Certificates,
    /// Print the configuration that serves, byte for byte.
    Config,
    /// List the connections that are open.
    Connections,
    /// Print metrics (OpenMetrics text).
    Metrics,
    /// Print what happens, as it happens.
    Events,

    /// Write what serves into one file: all its files, its ticket keys, the end of its history.
    #[command(after_help = "\
Examples:
  handover backup site.backup
  handover backup site.backup.age --encrypt              asks for a passphrase
  handover backup site.backup --without-keys             nothing in it is secret
The file is made with mode 0600. 'handover restore FILE --dry-run' says what is in it.")]
    Backup(Backup),
    /// Serve what a backup holds, as a reload of it.
    #[command(after_help = "\
Examples:
  handover restore site.backup --dry-run                 what it would change
  handover restore site.backup --confirm-within 10m
  handover restore site.backup --write                   then put its files in their places, too
  handover restore site.backup --into /tmp/site          unpack it; needs no server
An encrypted one is recognised by itself.")]
    Restore(Restore),

    /// Print the JSON schema of the configuration.
    #[command(after_help = "Example:\n  handover schema > handover.schema.json")]
    Schema,
    /// Print the configuration that 'handover serve' has built in.
    #[command(after_help = "Example:\n  handover example > hello.toml && handover serve hello.toml")]
    Example,
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  handover completions bash > ~/.local/share/bash-completion/completions/handover"
    )]
    Completions(Completions),
    /// Write the man pages into a directory.
    #[command(after_help = "Example:\n  handover man ~/.local/share/man/man1")]
    Man(Man),
}

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

/// A duration that is no slip: nothing can be confirmed within no time.
fn positive_duration(text: &str) -> Result<Duration, String> {
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
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Number of the generation; the one that served before this one if it is not given.
    #[arg(value_name = "GENERATION")]
    pub(crate) to: Option<u64>,
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
    /// How long connections may take to end; those left are cut and counted.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) limit: Option<Duration>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("handover").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_of_all_verbs_may_stand_before_or_after_the_verb() {
        for line in ["--control /x.sock -o json status", "status --control /x.sock --output json"] {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.common.control.as_deref(), Some(std::path::Path::new("/x.sock")), "{line}");
            assert_eq!(arguments.common.output, Format::Json, "{line}");
        }
    }

    #[test]
    fn an_operation_takes_all_that_the_api_takes() {
        let line = "reload --dry-run --timeout 1.5s --if-match 7 --comment why --idempotency-key k-1";
        let Verb::Reload(reload) = parse(line).unwrap().verb else { panic!() };
        assert!(reload.dry_run);
        assert_eq!(reload.operate.timeout, Some(Duration::from_millis(1_500)));
        assert_eq!(reload.operate.if_match, Some(7));
        assert_eq!(reload.operate.comment.as_deref(), Some("why"));
        assert_eq!(reload.operate.idempotency_key.as_deref(), Some("k-1"));
    }

    #[test]
    fn a_guard_has_a_time_or_not_and_a_number_after_it_is_no_time() {
        let guard = |line: &str| match parse(line).unwrap().verb {
            Verb::Reload(reload) => (reload.terms.guard, None),
            Verb::Rollback(rollback) => (rollback.terms.guard, rollback.to),
            _ => panic!("{line}"),
        };
        assert_eq!(guard("reload"), (None, None));
        assert_eq!(guard("reload --guard"), (Some(None), None));
        assert_eq!(guard("reload --guard=30s"), (Some(Some(Duration::from_secs(30))), None));
        assert_eq!(guard("rollback --guard 3"), (Some(None), Some(3)));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for line in [
            "",
            "relaod",
            "reload file.toml",
            "reload --detach --timeout 1s",
            "reload --timeout soon",
            "reload --if-match latest",
            "reload --dry-run --confirm-within 1s",
            "reload --guard 10s",
            "reload --guard --no-guard",
            "reload --confirm-within 0",
            "rollback last",
            "rollback 3 --binary",
            "upgrade /usr/bin/handover",
            "upgrade --sha256 1a2b",
            "upgrade --dry-run --confirm-within 1m",
            "upgrade --binary",
            "upgrade --detach --timeout 1s",
            "restore a --into b --write",
            "restore a --force",
            "restore",
            "backup",
            "backup a --passphrase secret",
            "backup a --passphrase-file f",
            "restore a --write --confirm-within 1m",
            "restore a --write --detach",
            "stop --now --limit 1s",
            "serve --threads 0",
            "serve --generation first",
            "serve a.toml --config b.toml",
            "status -o yaml",
            "show",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_verb_says_what_it_does_and_no_line_of_help_is_too_long() {
        for verb in Arguments::command().get_subcommands_mut() {
            assert!(verb.get_about().is_some(), "{}", verb.get_name());
            for line in verb.render_long_help().to_string().lines() {
                assert!(line.chars().count() <= 110, "{}: {line}", verb.get_name());
            }
        }
    }
}
