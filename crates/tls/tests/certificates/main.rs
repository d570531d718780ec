//! Certificates as those see them who use the crate: what is refused and why, what is shared, who gets which, tickets that
//! are resumed and those that are not.
//!
//! `fixtures/` holds keys and files of kinds that only OpenSSL makes; they protect nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_sets;
mod choice;
mod odd_sets;
mod pki;
mod resumption;
mod sharing;
mod store;
mod tickets;
mod trust;
