//! Signals, for everything that knows only signals.
//!
//! | signal | does |
//! |---|---|
//! | HUP | reload |
//! | TERM, INT, QUIT | drain and exit; a second one: at once |
//! | USR1 | open log files again |
//! | USR2 | nothing yet: it is kept for upgrades |
//! | CHLD | a child has ended: reap it |
//! | XFSZ | nothing: a write beyond a limit on files (setrlimit(2)) then fails like one to a full disk, and ends nobody |
//!
//! Handlers are installed before anything else is done, so that a stray signal is harmless in every state. What
//! arrives before the driver runs is kept and delivered then.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    Hangup,
    /// TERM, INT or QUIT, by its name.
    End(&'static str),
    User1,
    User2,
    Child,
}

/// The installed handlers.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    child: Signal,
    /// Held for its handler.
    _file_size: Signal,
}

impl Signals {
    /// Installs the handlers. Must be called inside of the runtime.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            child: signal(SignalKind::child())?,
            _file_size: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// The next signal. May be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.terminate.recv() => Arrived::End("TERM"),
            _ = self.interrupt.recv() => Arrived::End("INT"),
            _ = self.quit.recv() => Arrived::End("QUIT"),
            _ = self.hangup.recv() => Arrived::Hangup,
            _ = self.user1.recv() => Arrived::User1,
            _ = self.user2.recv() => Arrived::User2,
            _ = self.child.recv() => Arrived::Child,
        }
    }
}
