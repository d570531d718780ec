//! handover's own proxy: configuration, route tables, and the data plane that serves them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation))]
#![allow(dead_code, reason = "being built")]

mod buffers;
pub mod config;
mod reactor;
pub mod routes;
