//! Connections that had to be cut, counted by kind.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sentence_upgrade::grouped;

/// Connections that were cut at a deadline, by kind: `websocket`, `tcp`, `http request` …
///
/// An idle keep-alive connection that was closed between two requests is no loss.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Losses(pub BTreeMap<String, u64>);

impl Losses {
    /// Counts `count` more of `kind`.
    pub fn add(&mut self, kind: impl Into<String>, count: u64) {
        if count > 0 {
            let cell = self.0.entry(kind.into()).or_insert(0);
            *cell = cell.saturating_add(count);
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            self.add(kind.clone(), *count);
        }
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// True when nothing was cut.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total() == 0
    }
}

/// `no connection cut`, `1 connection cut (1 tcp)`, `3 connections cut (1 tcp, 2 websocket)`.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if total == 0 {
            return f.write_str("no connection cut");
        }
        write!(f, "{} {} cut (", grouped(total), if total == 1 { "connection" } else { "connections" })?;
        for (i, (kind, count)) in self.0.iter().filter(|(_, count)| **count > 0).enumerate() {
            write!(f, "{}{} {kind}", if i == 0 { "" } else { ", " }, grouped(*count))?;
        }
        f.write_str(")")
    }
}
