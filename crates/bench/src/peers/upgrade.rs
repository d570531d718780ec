//! A new binary for each of the proxies, the way its own documentation says.
//!
//! | proxy | how |
//! |---|---|
//! | handover | `POST /v1/upgrade`, answered with the outcome |
//! | nginx | USR2: a second master and its workers; WINCH, then QUIT to the first one, which leaves when its connections have |
//! | HAProxy | USR2 to the master, which executes itself again and starts a worker; the one before leaves when its connections have |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use handover_testkit::{Deadline, Signal, proc, signal};

use super::{Kind, Peer, Running, signal_haproxy};
use crate::Result;

/// How long nginx's second master may take to write its process ID.
const MASTER_LIMIT: Duration = Duration::from_secs(5);
/// How often that is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Peer {
    /// Has it replace its binary (with the same one). handover gives the operation, when it has ended; the others say
    /// nothing.
    ///
    /// # Errors
    /// It refuses, or there is no sign of a new process. nginx does not take a second upgrade while the first one's old
    /// master waits for its connections.
    pub(crate) fn upgrade(&mut self) -> Result<Option<serde_json::Value>> {
        let pid_file = self.pid_file();
        match (&mut self.process, self.kind) {
            (Running::Handover(handover), _) => {
                let (status, operation) = handover.control.post("/v1/upgrade", &[]);
                if status != 200 {
                    return Err(format!("handover refused the upgrade: {status} {operation}").into());
                }
                Ok(Some(operation))
            }
            (Running::Other(process), Kind::Haproxy) => signal_haproxy(process).map(|()| None),
            (Running::Other(_), _) => upgrade_nginx(&pid_file).map(|_| None),
        }
    }

    /// The processes that take connections now.
    pub(crate) fn serving_pids(&self) -> BTreeSet<u32> {
        let root = self.pid();
        proc::tree(root).into_iter().map(|stat| stat.pid).filter(|pid| *pid != root).collect()
    }

    /// nginx's present master.
    pub(super) fn nginx_master(&self) -> Option<u32> {
        read_pid(&self.pid_file()).filter(|_| self.kind == Kind::Nginx)
    }

    fn pid_file(&self) -> PathBuf {
        self.workspace.root().join("nginx.pid")
    }
}

impl Drop for Peer {
    /// nginx's masters are not this program's children.
    fn drop(&mut self) {
        if let Some(master) = self.nginx_master().filter(|master| proc::alive(*master)) {
            signal(master, Signal::TERM);
        }
    }
}

/// nginx takes no USR2 while its first parent lives, as if that were a master of which it is the replacement; and it
/// executes itself by the name that it was started by, without looking through PATH.
pub(super) fn nginx_in_background(file: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(IN_BACKGROUND).arg(file);
    command
}

/// What is left in the foreground has nothing to do.
const IN_BACKGROUND: &str = r#"("$(command -v nginx)" -c "$0" & sleep 0.5); exec sleep 86400"#;

/// Gives the new master.
fn upgrade_nginx(pid_file: &Path) -> Result<u32> {
    let old = read_pid(pid_file).ok_or("nginx has no process ID")?;
    signal(old, Signal::USR2);
    let deadline = Deadline::after(MASTER_LIMIT);
    let new = loop {
        let new = read_pid(pid_file).filter(|new| *new != old);
        if let Some(new) = new.filter(|new| proc::tree(*new).len() > 1) {
            break new;
        }
        if deadline.passed() {
            return Err(
                "nginx starts no second master: the one before it still waits for its connections".into()
            );
        }
        std::thread::sleep(LOOK_EVERY);
    };
    signal(old, Signal::WINCH);
    signal(old, Signal::QUIT);
    Ok(new)
}

fn read_pid(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
