//! TLS: certificates that are read, checked and published as one set, and sessions that can be written down.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]
