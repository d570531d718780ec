//! The words that library, supervisor and control API share. Placeholders of the same shape until
//! `handover-api` and `handover-supervisor` publish theirs; the paths `handover::…` stay.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problem {
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub pointer: Option<String>,
    pub detail: String,
    pub help: Option<String>,
    pub excerpt: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub what: String,
    pub kind: String,
    pub name: String,
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    pub connections: BTreeMap<String, u64>,
}

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
