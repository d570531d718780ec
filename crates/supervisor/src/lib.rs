//! handover-supervisor
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod journal;
// Binding of listeners, stale socket files, and who holds a port: used by the driver's listeners.
#[allow(dead_code, reason = "the driver's listeners are about to use it")]
mod sockets;
