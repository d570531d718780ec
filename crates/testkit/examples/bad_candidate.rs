//! A program that is no good as the next version of a server: what is wrong with it stands at its own end.
//!
//! It is what `handover_testkit::bad::Candidate` makes copies of. Until its moment has come it does what every program of
//! the library does, so that it is not refused before.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is bad on purpose"
)]

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use std::io::Write as _;

use handover::moving::{Counts, Frozen, FrozenView, Moving, Outlet, Probe};
use handover::{Candidate, Change, Drain, HostOptions, Losses, Prepare, Problem, Service};
use handover_handoff::{Channel, inherit};
use handover_testkit::bad::{Candidate as Bad, LAST_WORDS};
use serde_json::{Value, json};

/// What it exits with.
const CODE: i32 = 3;
/// A version of the channel that nobody speaks.
const ANOTHER_VERSION: u16 = 999;
/// How long a message may take.
const SOON: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let program = std::fs::read("/proc/self/exe").expect("its own bytes");
    let bad = Bad::at_the_end_of(&program).expect("a word at its end");
    drop(program);
    before(bad);
    if std::env::var_os(inherit::CHANNEL_VARIABLE).is_some() {
        as_worker(bad);
    }
    let options = HostOptions::new("handover", "0.0.1");
    handover::host(options, move || Server { bad })
}

/// What it does whatever it is asked for.
fn before(bad: Bad) {
    match bad {
        Bad::Exits => die(),
        Bad::Crashes => std::process::abort(),
        Bad::Hangs => hang(),
        Bad::SaysRubbish => {
            println!("Hello, World!");
            std::process::exit(0)
        }
        Bad::SaysNothing => std::process::exit(0),
        Bad::NeverEnds => loop {
            // When nobody reads any more, it goes on.
            let _ = writeln!(std::io::stdout(), "and so on");
            let _ = writeln!(std::io::stderr(), "and so on");
        },
        Bad::LeavesAChild => {
            let child = Command::new("tail").args(["-f", "/dev/null"]).spawn().expect("a child");
            // What it is bad for: it waits for nobody.
            std::mem::forget(child);
            die()
        }
        _ => {}
    }
}

/// What it does as a worker, before it has said anything.
fn as_worker(bad: Bad) {
    let channel = || {
        let socket = inherit::channel().expect("a channel").expect("a channel");
        Channel::<Value, Value>::from_socket(socket).expect("a channel")
    };
    match bad {
        Bad::WorkerExits => die(),
        Bad::WorkerHangs => hang(),
        Bad::WorkerSaysRubbish => {
            let channel = channel();
            let _ = channel.send(&json!(["what", "is", "this?"]), &[], SOON);
            hang()
        }
        Bad::WorkerSpeaksAnother => {
            let channel = channel();
            let hello = json!({
                "say": "hello", "protocol": ANOTHER_VERSION, "oldest": ANOTHER_VERSION, "version": "0.0.1",
                "actions": [], "serving": null, "formats": [1, 1], "threads": 1, "movable": true
            });
            let _ = channel.send(&hello, &[], SOON);
            hang()
        }
        _ => {}
    }
}

fn die() -> ! {
    for line in LAST_WORDS {
        eprintln!("{line}");
    }
    std::process::exit(CODE)
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Serves nothing, and fails where it is to fail.
struct Server {
    bad: Bad,
}

impl Service for Server {
    fn prepare(&self, _: &mut Prepare) -> Result<Box<dyn Candidate>, Vec<Problem>> {
        match self.bad {
            Bad::RefusesConfiguration => {
                Err(vec![Problem::new("nobody writes such configurations any more")])
            }
            Bad::PrepareHangs => hang(),
            Bad::PrepareDies => die(),
            bad => Ok(Box::new(Nothing { bad })),
        }
    }

    fn drain(&self, _: &Drain) -> Losses {
        Losses::default()
    }

    fn resume(&self) {}

    fn stop_now(&self) -> Losses {
        Losses::default()
    }

    fn moving(&self) -> Option<&dyn Moving> {
        Some(self)
    }
}

struct Nothing {
    bad: Bad,
}

impl Candidate for Nothing {
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }

    fn commit(self: Box<Self>) {
        if self.bad == Bad::CommitDies {
            die();
        }
    }
}

impl Moving for Server {
    fn formats(&self) -> RangeInclusive<u16> {
        1..=2
    }

    fn threads(&self) -> u32 {
        1
    }

    fn precopy(&self, _: &Arc<Outlet>, _: u16) {}

    fn freeze(&self) -> Result<Frozen, String> {
        Err("it has nothing".to_owned())
    }

    fn thaw(&self) {}

    fn release(&self) {}

    fn stand_by(&self) {}

    fn probe(&self, probe: Arc<Probe>) {
        match self.bad {
            Bad::ProbeHangs => return,
            Bad::ProbeDies => die(),
            _ => {}
        }
        std::thread::spawn(move || {
            use std::os::fd::AsFd as _;
            let listener = UnixListener::from(probe.as_fd().try_clone_to_owned().expect("a socket"));
            listener.set_nonblocking(false).expect("a socket that waits");
            let (mut stream, _) = listener.accept().expect("a probe");
            stream.write_all(&probe.answer(0)).expect("an answer");
            drop(stream);
            probe.answered(0);
        });
    }

    fn sockets(&self, _: u32, _: u64, _: Vec<OwnedFd>) {}

    fn adopt(&self, _: u16, _: FrozenView) -> Result<Counts, String> {
        match self.bad {
            Bad::RefusesStates => Err("these connections are not to its taste".to_owned()),
            Bad::AdoptHangs => hang(),
            _ => die(),
        }
    }

    fn serve(&self) {}

    fn late(&self, _: u16, _: u32, _: &[u8], _: Vec<OwnedFd>) {}
}
