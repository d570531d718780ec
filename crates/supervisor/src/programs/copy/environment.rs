//! The variables of a copy: this process's, without those that mean this process; then what the program is configured with;
//! then what only this copy can be told.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use handover_handoff::inherit::PRIVATE_VARIABLES;

use super::super::groups::{MARK_SEPARATOR, MARK_VARIABLE};
use super::Order;

/// What a program with an environment of its own gets of this process's all the same.
const ALWAYS: [&str; 4] = ["PATH", "HOME", "USER", "LANG"];
/// What a service manager has told this process of itself.
const OF_THE_MANAGER: [&str; 5] =
    ["INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID", "SYSTEMD_EXEC_PID"];
/// What the variables begin with that mean a part of handover.
const OWN_PREFIX: &[u8] = b"HANDOVER_";

/// All variables, each once.
pub(super) fn environment(order: &Order<'_>) -> Vec<(OsString, OsString)> {
    let inherited = std::env::vars_os().filter(|(name, _)| passes(name, order.clear_environment));
    let mut all: BTreeMap<OsString, OsString> = inherited.collect();
    let mut set = |name: &str, value: OsString| drop(all.insert(name.into(), value));
    if let Some(user) = order.user {
        if let Some(name) = &user.name {
            set("USER", name.into());
            set("LOGNAME", name.into());
        }
        if let Some(home) = &user.home {
            set("HOME", home.into());
        }
    }
    set("HANDOVER_PROGRAM", order.program.into());
    set("HANDOVER_COPY", order.number.to_string().into());
    order.environment.iter().for_each(|(name, value)| set(name, value.into()));
    set(MARK_VARIABLE, marks(order.mark));
    if let Some(path) = order.notify {
        set("NOTIFY_SOCKET", path.into());
    }
    let sockets = order.sockets.len();
    if sockets > 0 && order.pass.listen_fds {
        set("LISTEN_FDS", sockets.to_string().into());
        let names = order.sockets.iter().map(|(name, _)| name.replace(':', "-"));
        set("LISTEN_FDNAMES", names.collect::<Vec<_>>().join(":").into());
    }
    if let Some(name) = order.pass.fd_env.as_deref().filter(|_| sockets > 0) {
        let numbers = (order.pass.first_fd..).take(sockets).map(|number| number.to_string());
        set(name, numbers.collect::<Vec<_>>().join(",").into());
    }
    // It has the ID of a process that is not there yet.
    all.remove(OsStr::new("LISTEN_PID"));
    all.into_iter().collect()
}

/// Whether the copy is told its own process ID, for its sockets.
pub(super) fn pid_variable(order: &Order<'_>) -> Option<&'static OsStr> {
    (order.pass.listen_fds && !order.sockets.is_empty()).then(|| OsStr::new("LISTEN_PID"))
}

fn passes(name: &OsStr, clear: bool) -> bool {
    let is = |other: &&str| name == *other;
    if clear {
        return ALWAYS.iter().any(is);
    }
    !(PRIVATE_VARIABLES.iter().any(is)
        || OF_THE_MANAGER.iter().any(is)
        || name.as_encoded_bytes().starts_with(OWN_PREFIX))
}

/// The mark, after those of whatever this process itself is a copy of.
fn marks(mark: &str) -> OsString {
    match std::env::var_os(MARK_VARIABLE) {
        Some(mut outer) => {
            outer.push(MARK_SEPARATOR.to_string());
            outer.push(mark);
            outer
        }
        None => mark.into(),
    }
}
