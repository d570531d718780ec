//! A program, for the supervisor's next life.

use serde::{Deserialize, Serialize};

/// One program, as it is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in super::super) struct SavedHosted {}
