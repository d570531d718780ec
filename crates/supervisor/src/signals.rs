//! Signals, for everything that knows only signals.
//!
//! | signal | does |
//! |---|---|
//! | HUP | reload |
//! | TERM, INT, QUIT | drain and exit; a second one: at once |
//! | USR1 | open log files again |
//! | USR2 | upgrade to what lies where the program was started from |
//! | CHLD | a child has ended: reap it |
//! | XFSZ | nothing: a write beyond a limit on files (setrlimit(2)) then fails like one to a full disk, and ends nobody |
//!
//! Handlers are installed before anything else is done, so that a stray signal is harmless in every state. What
//! arrives before the driver runs is kept and delivered then.

use std::io;

use handover_handoff::signals;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the event loop looks for what a signal's handler has noted.
const LOOKS: usize = 4;

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

impl Arrived {
    /// The one with this name, if it is one that somebody sends.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HUP" => Arrived::Hangup,
            "TERM" => Arrived::End("TERM"),
            "INT" => Arrived::End("INT"),
            "QUIT" => Arrived::End("QUIT"),
            "USR1" => Arrived::User1,
            "USR2" => Arrived::User2,
            _ => return None,
        })
    }

    /// Sends it to this process once more. While it is blocked it waits, also for another program in this one's place. That a
    /// child has ended is not sent: it is found.
    pub(crate) fn raise(self) -> io::Result<()> {
        use rustix::process::Signal;
        let signal = match self {
            Arrived::Hangup => Signal::HUP,
            Arrived::End("INT") => Signal::INT,
            Arrived::End("QUIT") => Signal::QUIT,
            Arrived::End(_) => Signal::TERM,
            Arrived::User1 => Signal::USR1,
            Arrived::User2 => Signal::USR2,
            Arrived::Child => return Ok(()),
        };
        signals::raise(signal.as_raw())
    }
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

    /// Takes no more signals: from now on they wait. Gives those that have arrived and were not looked at.
    pub(crate) async fn hold(&mut self) -> io::Result<Vec<Arrived>> {
        signals::block_managed()?;
        // What a handler has noted reaches the queues when the event loop has looked.
        for _ in 0..LOOKS {
            tokio::task::yield_now().await;
        }
        let mut all = Vec::new();
        loop {
            tokio::select! {
                biased;
                arrived = self.next() => all.push(arrived),
                () = std::future::ready(()) => return Ok(all),
            }
        }
    }

    /// Takes signals again; those that waited arrive.
    pub(crate) fn release(&self) {
        if let Err(error) = signals::unblock_managed() {
            tracing::error!("signals cannot be taken again: {error}");
        }
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
