//! Descriptors, and the channel they travel through.
//!
//! What a supervisor and its worker need from the kernel beyond what the standard library gives: a
//! private message channel that carries open descriptors, sealed memory files, the sockets a process
//! manager passes at start, the identity of the process at the other end, and an executable that is
//! kept open so that it can be started again after its file was replaced.
//!
//! | module | what for |
//! |---|---|
//! | [`channel`] | typed messages with descriptors over a `SOCK_SEQPACKET` socket |
//! | [`launch`] | programs that know nothing of this: sockets at exact numbers, another user, a session of their own |
//! | [`memfd`] | bytes in a sealed memory file: what was checked cannot change afterwards |
//! | [`companion`] | another process, held so that it can be ended and its end be seen |
//! | [`datagram`] | messages of a datagram socket, and which process has sent them |
//! | [`bundle`] | the bytes of every file that a generation names, in one memory file |
//! | [`inherit`] | `LISTEN_FDS` and other descriptors that arrive by number |
//! | [`own`] | what a process does to itself: no dumps, a large descriptor table, another program in its place |
//! | [`peer`] | who is at the other end of a Unix socket |
//! | [`process`] | kept executables, child processes, pidfds, subreaper |
//! | `reactor` | channels and processes in tokio's event loop (feature `tokio`) |
//! | [`signals`] | signals that a managed process survives, and reads when it wants |
//! | [`socket`] | what the kernel still holds of what was written to a socket |
//! | [`succession`] | how a worker that outlived its supervisor is found by the next one |
//!
//! This is the one crate of the workspace that may use `unsafe`. Each block says why it is needed and
//! why it is sound.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod bundle;
pub mod channel;
pub mod companion;
pub mod datagram;
pub mod inherit;
pub mod launch;
pub mod memfd;
pub mod memory;
pub mod own;
pub mod peer;
pub mod process;
#[cfg(feature = "tokio")]
pub mod reactor;
pub mod signals;
pub mod socket;
pub mod succession;

pub use bundle::Bundle;
pub use channel::{Channel, ChannelError};
pub use companion::Companion;
