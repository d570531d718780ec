//! The words that library, supervisor and control API share. Placeholders of the same shape until
//! `handover-api` and `handover-supervisor` publish theirs; the paths `handover::…` stay.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;

pub use handover_api::{Change, ChangeKind, Losses, Problem, What};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix { path: PathBuf, mode: Option<u32> },
    Abstract(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    pub name: String,
    pub address: Address,
    pub backlog: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {}
