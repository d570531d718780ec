//! The candidate's side: one line about itself.

use std::io::Write as _;
use std::process::ExitCode;

use handover_handoff::inherit::{self, PREFLIGHT_VARIABLE};

use super::Stated;
use crate::protocol::{OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION};
use crate::reexec::{NEWEST_FORMAT, OLDEST_FORMAT, rehearse};

/// Whether this process is only asked about itself.
#[must_use]
pub fn is_asked() -> bool {
    std::env::var_os(PREFLIGHT_VARIABLE).is_some()
}

/// Says which server this program is and which versions it speaks, and whether it could go on with what the supervisor would leave for it: one
/// line of JSON on standard output. Call it first thing in `main`, if [`is_asked`]. Gives the process's exit code.
#[must_use]
pub fn answer(name: &str, version: &str) -> ExitCode {
    let rehearsed = match inherit::saved() {
        Ok(None) => Ok(()),
        Ok(Some(saved)) => rehearse(&saved).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let stated = Stated {
        name: Some(name.to_owned()),
        version: version.to_owned(),
        protocol: [OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION],
        saved: [OLDEST_FORMAT, NEWEST_FORMAT],
        cannot: rehearsed.err(),
    };
    let said = serde_json::to_string(&stated).map_err(std::io::Error::from);
    match said.and_then(|line| writeln!(std::io::stdout().lock(), "{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_nobody_listens) => ExitCode::FAILURE,
    }
}
