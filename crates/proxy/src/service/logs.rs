//! The log files of a generation: opened in prepare, so that a commit cannot fail on them.

use std::fs::File;

use handover::{LogSettings, Problem, logging};

use crate::access_log;
use crate::config::{self, Config, LogFormat, LogLevel, LogTarget};

/// Log files that are open already.
pub(super) struct Logs {
    pub(super) own: logging::Sink,
    pub(super) access: Option<(LogTarget, File)>,
}

/// Opens the log files that a configuration names, so that a commit cannot fail on them. A dry run writes nothing: it looks only
/// whether their directories are there.
pub(super) fn open_logs(
    config: &Config,
    dry_run: bool,
    spans: &config::Spans,
    problems: &mut Vec<Problem>,
) -> Option<Logs> {
    let access = match &config.log.access {
        Some(LogTarget::File(path)) => Some(path),
        _ => None,
    };
    let own = match &config.log.to {
        LogTarget::File(path) => Some(path),
        LogTarget::Stderr | LogTarget::Stdout => None,
    };
    if dry_run {
        for (path, pointer) in [(access, "/log/access"), (own, "/log/to")] {
            let Some(directory) = path.and_then(|path| path.parent()) else { continue };
            if !directory.is_dir() {
                let detail = format!("the directory {} does not exist", directory.display());
                problems.push(spans.problem(pointer, &detail));
            }
        }
        return None;
    }
    let access = access.and_then(|path| match access_log::open(path) {
        Ok(file) => Some((LogTarget::File(path.clone()), file)),
        Err(error) => {
            let detail = format!("the access log {} cannot be opened: {error}", path.display());
            problems.push(spans.problem("/log/access", &detail));
            None
        }
    });
    match logging::open(&logging::Options::from(&log_settings(&config.log))) {
        Ok(own) => Some(Logs { own, access }),
        Err(error) => {
            problems.push(spans.problem("/log/to", &error.to_string()));
            None
        }
    }
}

/// How supervisor and worker log.
pub(super) fn log_settings(log: &config::Log) -> LogSettings {
    let level = match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    LogSettings {
        json: log.format == LogFormat::Json,
        to: match &log.to {
            LogTarget::Stderr => handover::LogTarget::Stderr,
            LogTarget::Stdout => handover::LogTarget::Stdout,
            LogTarget::File(path) => handover::LogTarget::File(path.clone()),
        },
        level: Some(level.to_owned()),
    }
}
