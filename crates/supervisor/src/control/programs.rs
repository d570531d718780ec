//! The endpoints about programs and the traffic to them.

use crate::handle::{ProgramAsked, ProgramWhat};

/// `restart of web`, for a refusal.
pub(super) fn word_for(asked: &ProgramAsked) -> String {
    let what = match asked.what {
        ProgramWhat::Start => "start",
        ProgramWhat::Stop => "stop",
        ProgramWhat::Restart { .. } => "restart",
        ProgramWhat::Reload => "reload",
        ProgramWhat::Deploy { .. } => "deploy",
        ProgramWhat::Rollback | ProgramWhat::GoBack => "rollback",
        ProgramWhat::Confirm => "confirm",
        ProgramWhat::Cancel => "cancel",
        ProgramWhat::Pause { .. } => "pause",
        ProgramWhat::Resume => "resume",
        ProgramWhat::DrainEndpoint { .. } => "drain",
        ProgramWhat::EnableEndpoint => "enable",
    };
    match &asked.target {
        Some(target) => format!("{what} {target}"),
        None => what.to_owned(),
    }
}
