//! The options of verbs about programs and the traffic to them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::options::{Operate, positive_duration};

/// What `rollback` goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GoBackTo {
    /// A generation, by its number.
    Generation(u64),
    /// What a program ran before its last deploy.
    Program(String),
}

/// A number is a generation, anything else a program.
pub(crate) fn go_back_to(text: &str) -> Result<GoBackTo, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(GoBackTo::Generation).map_err(|_| "there is no such generation".to_owned());
    }
    Ok(GoBackTo::Program(text.to_owned()))
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// The program.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: String,
    /// Copies that are replaced at a time; as the configuration says if it is not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// Copies that may fail before it stops and the old ones serve on; as the configuration says if it is not given.
    #[arg(long, value_name = "N")]
    pub(crate) max_unhealthy: Option<u32>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The program.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: String,
    /// The slot to run; the idle one if it is not given.
    #[arg(long, value_name = "SLOT", conflicts_with = "directory")]
    pub(crate) slot: Option<String>,
    /// A directory to run it in, instead of a slot (needs the role admin).
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,
    /// Go back by itself after this time unless 'handover confirm PROGRAM' comes.
    #[arg(long, value_name = "TIME", value_parser = positive_duration)]
    pub(crate) confirm_within: Option<Duration>,
    /// Watch it at first, for this time or 10 s, and go back if it ends or fails its check.
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = positive_duration)]
    #[allow(clippy::option_option, reason = "not given, given, given with a time")]
    pub(crate) guard: Option<Option<Duration>>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The program.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// What is paused: a program, service, route or listener. Where several have the name, program:NAME, service:NAME,
    /// route:NAME or listener:NAME says which.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// It goes on by itself after this time.
    #[arg(long = "for", value_name = "TIME", value_parser = positive_duration)]
    pub(crate) time: Option<Duration>,
    /// Hold at most so many requests; what comes then is answered with 503 and Retry-After.
    #[arg(long, value_name = "N")]
    pub(crate) max_held: Option<u32>,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Enable {
    /// The endpoint: 127.0.0.1:9001, or web/1 for copy 1 of the program web.
    #[arg(value_name = "ENDPOINT")]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) operate: Operate,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The program.
    #[arg(value_name = "PROGRAM")]
    pub(crate) name: String,
    /// Go on with what it writes from now on.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of its last lines.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
}
