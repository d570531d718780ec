//! The command line. What is written here is its help, its man pages and its completions.

mod options;
mod programs;
mod run;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use options::{
    Action, Backup, Cancel, Completions, Confirm, Diff, Drain, Generations, History, Man, Operate, Reload,
    Restore, Resume, Rollback, Serve, Show, Stop, Terms, Upgrade, Validate,
};
pub(crate) use programs::{Deploy, Enable, GoBackTo, Logs, Pause, Restart, Start};
pub(crate) use run::Run;

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
   15  sent, and nothing says what the program made of it
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
    /// Run a program, with sockets that are held while it is restarted, replaced, or has crashed.
    #[command(after_help = "\
Examples:
  handover run --listen 8080 -- gunicorn app:app
  handover run --listen 8080 -- node server.js {port}        it binds a port by itself
  handover run --listen 8080 -- uvicorn --fd {fd} app:app    by the number of the descriptor
  handover run --listen 8080 --ready /health --copies 2 -- ./server
  handover restart gunicorn          in another terminal: the next copy takes over when it is ready
  handover config                    what was made of the command line, to go on with in a file

What the program writes goes to the log. Exits as the program did when it has ended and is not to be
started again, with 11 if it was never ready; else as 'handover serve' does. Signals: as for that one.
If a program of before still runs because its supervisor was killed, it is adopted as it runs;
'handover reload' applies other words than those of before.")]
    Run(Box<Run>),

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
  handover reload web                have the program web read its own configuration anew
  curl --fail --unix-socket \"$HANDOVER_CONTROL\" -X POST http://localhost/v1/reload")]
    Reload(Reload),
    /// Keep the change that goes back by itself otherwise; ends a guard's watch, too.
    #[command(after_help = "\
Examples:
  handover reload --confirm-within 10m
  handover confirm --comment 'looks good'
  handover confirm web               the deploy of the program web stays")]
    Confirm(Confirm),
    /// Go back at once from the change that awaits confirmation, or that a guard watches.
    #[command(after_help = "\
Examples:
  handover cancel
  handover cancel web                the deploy of the program web is taken back")]
    Cancel(Cancel),
    /// Serve a generation that served before, byte for byte; the files on disk stay as they are.
    #[command(after_help = "\
Examples:
  handover rollback                  the one before
  handover rollback 7                'handover generations' lists those that are kept
  handover rollback --binary         an upgrade to the binary that served before
  handover rollback web              the program web: what it ran before its last deploy
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
    /// Let what is in flight end; new connections wait until 'handover resume'. Or take out one endpoint.
    #[command(after_help = "\
Examples:
  handover drain --limit 30s         the whole server
  handover drain 127.0.0.1:9001      this endpoint gets nothing new; 'handover enable' gives it requests again
  handover drain web/1               copy 1 of the program web")]
    Drain(Drain),
    /// Serve again after a drain, or call one off; or let go what a pause holds.
    #[command(after_help = "\
Examples:
  handover resume                    after a drain; else everything that is paused
  handover resume web                what waits for the program web")]
    Resume(Resume),
    /// Drain, then end the server; or end one program.
    #[command(after_help = "\
Examples:
  handover stop --limit 30s
  handover stop --now
  handover stop web                  only the program web; 'handover start web' starts it again")]
    Stop(Stop),

    /// Replace a program's copies: new ones take over when they are ready, or the old ones serve on.
    #[command(after_help = "\
Examples:
  handover restart web
  handover restart web --batch 2     two copies at a time
If a new copy is not ready in time it is killed, the old ones serve on, and its last lines are shown.")]
    Restart(Restart),
    /// Run a program from another slot or directory: it takes over when it is ready.
    #[command(after_help = "\
Examples:
  handover deploy web                        the idle one of its two slots
  handover deploy web --slot b
  handover deploy web --directory /srv/releases/42
  handover deploy web --confirm-within 10m   goes back unless 'handover confirm web' comes in time
  handover deploy web --guard                watch it for 10 s, and go back if it ends or fails its check
  handover rollback web                      back to what ran before")]
    Deploy(Deploy),
    /// Start a program that was stopped.
    #[command(after_help = "Example:\n  handover start web")]
    Start(Start),
    /// Hold new requests until 'handover resume', and say when those in flight have ended.
    #[command(after_help = "\
Examples:
  handover pause web                 requests for the program web
  handover pause route:api --for 2m --max-held 500
  handover pause public              a listener
Clients wait; they see a delay, not an error. It goes on by itself after 30 s, or after --for.")]
    Pause(Pause),
    /// Give an endpoint requests again that was drained.
    #[command(after_help = "Example:\n  handover enable web/1")]
    Enable(Enable),
    /// Run one of the server's own actions; 'handover status' lists them.
    #[command(after_help = "Example:\n  handover action reload_certs")]
    Action(Action),

    /// Say what serves.
    Status,
    /// List programs with their copies: process, state, age, restarts, memory, connections.
    Ps,
    /// Print what a program wrote last.
    #[command(after_help = "\
Examples:
  handover logs web
  handover logs web -f               and go on with what it writes from now on
  handover logs web -n 1000 -o json | jq -r .line")]
    Logs(Logs),
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
