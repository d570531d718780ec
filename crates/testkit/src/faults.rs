//! What goes wrong, on purpose and from outside: the program under test has no switches for it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::deadline::until;
use crate::proc;
use crate::process::{Process, signal};

/// A process that does not run on: stopped by SIGSTOP, let go when this is dropped.
#[derive(Debug)]
pub struct Frozen(u32);

/// Stops a process and waits until it stands still.
#[must_use]
pub fn freeze(pid: u32) -> Frozen {
    signal(pid, Signal::STOP);
    until("a stopped process stands still", || {
        proc::stat(pid).is_some_and(|stat| stat.state == 'T').then(|| Frozen(pid))
    })
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if proc::alive(self.0) {
            signal(self.0, Signal::CONT);
        }
    }
}

/// Ends a process at once.
pub fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// A listener of this test process's, which the program under test must not disturb.
#[derive(Debug)]
pub struct Squatter {
    listener: TcpListener,
}

impl Squatter {
    /// Takes the port for itself.
    #[must_use]
    pub fn alone(address: SocketAddr) -> Self {
        Self { listener: TcpListener::bind(address).expect("port for a foreign listener") }
    }

    /// Takes the port with SO_REUSEPORT, so that a careless server of the same user joins it without a word.
    #[must_use]
    pub fn inviting(address: SocketAddr) -> Self {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.bind(&address.into()).expect("port for a foreign listener");
        socket.listen(64).expect("foreign listener");
        Self { listener: socket.into() }
    }

    /// The next connection that came to the foreign listener.
    #[must_use]
    pub fn accept(&self) -> TcpStream {
        self.listener.accept().expect("connection to a foreign listener").0
    }
}

/// `command`, started with at most `descriptors` open descriptors allowed (soft and hard).
#[must_use]
pub fn with_few_descriptors(command: &Command, descriptors: u32) -> Command {
    through_shell(command, &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\""))
}

/// `command`, started by a shell script that ends with `exec "$0" "$@"`.
#[must_use]
pub fn through_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell
}

/// Whether a server can be given a disk of its own here (see [`crate::HandoverBuilder::disk`]); if not, notes that this test
/// was skipped.
#[must_use]
pub fn can_mount(test: &str) -> bool {
    if !crate::skip::root(test) || !crate::skip::have("nsenter", test) {
        return false;
    }
    let attempt = ["--mount", "mount", "-t", "tmpfs", "none", "/mnt"];
    let able = Command::new("unshare").args(attempt).output().is_ok_and(|done| done.status.success());
    if !able {
        crate::skip::skip(&format!("{test}: no file system can be mounted here"));
    }
    able
}

/// Makes a FIFO: whoever opens it to read waits for a writer that never comes.
pub fn fifo(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(status.success(), "mkfifo {}", path.display());
}

/// A command that holds the port in a process of another name, if `socat` is installed.
#[must_use]
pub fn foreign_process(port: u16) -> Option<Process> {
    let mut command = Command::new("socat");
    command.arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork")).arg("PIPE");
    let process = Process::try_start(command).ok()?;
    until("socat listens", || (!proc::listeners(port).is_empty()).then_some(()));
    Some(process)
}
