//! handover's own proxy: configuration, route tables, and the data plane that serves them.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)
)]

mod access_log;
mod buffers;
mod clock;
pub mod config;
mod conn;
mod event_loop;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod generation;
mod metrics;
mod moving;
mod reactor;
pub mod routes;
mod service;
pub mod source;
mod spread;
mod threads;
mod traffic;
mod upstream;

pub use service::ProxyService;
pub use source::ConfigSource;
