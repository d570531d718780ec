//! How a program is told to read its configuration anew, and what came of it.
//!
//! ```text
//!   notify:  signal ─▶ RELOADING=1, not from before ─▶ READY=1 ─▶ applied
//!   command: exit 0 ─▶ applied        http: 2xx ─▶ applied        else rejected, with its own words
//!   signal:  sent ─▶ (a check command) ─▶ applied │ rejected, or, without one, sent: nobody knows
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::checks::Subject;
use crate::protocol::{CommandSpec, Reload};

/// Sends a signal to the first process of a copy, by its number.
pub(crate) type SendSignal = Arc<dyn Fn(i32) -> io::Result<()> + Send + Sync>;

/// A copy that is to reload.
#[derive(Clone)]
pub(crate) struct Reloading {
    /// The copy.
    pub(crate) subject: Subject,
    /// How it is signalled.
    pub(crate) signal: SendSignal,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// It has reloaded, and said so itself.
    Applied {
        /// In its own words.
        answer: Option<String>,
    },
    /// The signal was sent; whether it took effect, nobody has said.
    Sent,
}

/// It has not reloaded; what it did before, it does still, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotReloaded {
    /// One sentence.
    pub(crate) why: String,
    /// What it said: a command's output, the body of an answer.
    pub(crate) said: Option<String>,
}

/// Tells all copies, one after the other, and waits for what each says, at most for `limit` altogether.
///
/// # Errors
/// The first that did not reload; those after it were not told.
pub(crate) async fn reload(
    how: &Reload,
    check: Option<&CommandSpec>,
    copies: &[Reloading],
    limit: Duration,
) -> Result<Reloaded, NotReloaded> {
    let _ = (how, check, copies, limit);
    Err(NotReloaded { why: "not yet".to_owned(), said: None })
}
