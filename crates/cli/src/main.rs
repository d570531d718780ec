//! `handover`: the server, and the operator's verbs.
//!
//! | module | what for |
//! |---|---|
//! | [`args`] | the command line: one block for each verb is its help, its man page and its completions |
//! | [`serve`] | the server itself; [`run`]: the same, with a configuration made of the command line |
//! | [`change`] | verbs that become an operation: reload, confirm, cancel, rollback, upgrade, validate, drain, resume, stop, action |
//! | [`programs`] | verbs about programs: restart, deploy, start, pause, enable, and what reload, rollback, confirm, cancel, resume, drain and stop do with a name; ps and logs |
//! | [`look`] | verbs that change nothing: status, history, show, generations, diff, config, certificates, connections, metrics; [`listening`]: events |
//! | [`archive`] | backup and restore; [`passphrase`] encrypts, [`place`] writes files whole or not at all |
//! | [`completing`] | completion scripts, with the names of programs |
//! | [`local`] | verbs that need no server: validate FILE, schema, example, completions, man |
//! | [`session`] | asking the server that runs, and saying why that is not possible; [`asking`]: again, if an answer is lost |
//! | [`output`], [`progress`] | results on stdout, everything else on stderr |
//!
//! Exit codes are `handover_api::ExitCode`; sentences are made in `handover_api` too.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod archive;
mod args;
mod asking;
mod change;
mod completing;
mod listening;
mod local;
mod look;
mod output;
mod passphrase;
mod place;
mod programs;
mod progress;
mod run;
mod serve;
mod session;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Verb};
use session::Session;

fn main() -> ExitCode {
    let Arguments { common, verb } = Arguments::parse();
    let session = Session::new(&common);
    match verb {
        Verb::Serve(serve) => serve::run(&common, serve),
        Verb::Run(program) => run::run(&common, &program),

        Verb::Reload(reload) => change::reload(&session, &reload),
        Verb::Confirm(confirm) => change::confirm(&session, &confirm),
        Verb::Cancel(cancel) => change::cancel(&session, &cancel),
        Verb::Rollback(rollback) => change::rollback(&session, &rollback),
        Verb::Upgrade(upgrade) => change::upgrade(&session, &upgrade),
        Verb::Validate(validate) => change::validate(&session, &validate),
        Verb::Drain(drain) => change::drain(&session, &drain),
        Verb::Resume(resume) => change::resume(&session, &resume),
        Verb::Stop(stop) => change::stop(&session, &stop),
        Verb::Action(action) => change::action(&session, &action),

        Verb::Restart(restart) => programs::restart(&session, &restart),
        Verb::Deploy(deploy) => programs::deploy(&session, &deploy),
        Verb::Start(start) => programs::start(&session, &start),
        Verb::Pause(pause) => programs::pause(&session, &pause),
        Verb::Enable(enable) => programs::enable(&session, &enable),

        Verb::Status => look::status(&session),
        Verb::Ps => programs::ps(&session),
        Verb::Logs(logs) => programs::logs(&session, &logs),
        Verb::History(history) => look::history(&session, &history),
        Verb::Show(show) => look::show(&session, &show),
        Verb::Generations(generations) => look::generations(&session, &generations),
        Verb::Diff(diff) => look::diff(&session, &diff),
        Verb::Certificates => look::certificates(&session),
        Verb::Config => look::config(&session),
        Verb::Connections => look::connections(&session),
        Verb::Metrics => look::metrics(&session),
        Verb::Events => listening::events(&session),

        Verb::Backup(backup) => archive::backup(&session, &backup),
        Verb::Restore(restore) => archive::restore(&session, &restore),

        Verb::Schema => local::schema(session.output()),
        Verb::Example => local::example(session.output()),
        Verb::Completions(completions) => local::completions(&completions, session.output()),
        Verb::Man(man) => local::man(&man, session.output()),
    }
}
