//! Copies of an earlier life that still run: the whole server was killed, and they were not.
//!
//! ```text
//!   state.json ─▶ copies, by process, time of its start and mark ─▶ asked to end ── limit ─▶ killed
//! ```

use std::time::Duration;

use super::Setup;
use super::copy::{Copy, SavedCopy};
use super::private::Place;
use super::state::StateFile;

/// SIGTERM (signal(7)).
const TERM: i32 = 15;
/// From that signal to the kill.
const LIMIT: Duration = Duration::from_secs(5);
/// How long the kill may take.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// Ends them, all at the same time; says which.
pub(super) async fn end(setup: &Setup) -> Vec<String> {
    let copies = match StateFile::new(&setup.state).read() {
        Ok(durable) => durable.copies,
        Err(error) => {
            tracing::warn!("{error}; copies of an earlier life, if there are any, run on");
            return Vec::new();
        }
    };
    let said = end_all(copies).await;
    Place::new(&setup.runtime, &setup.name).clean();
    said
}

/// The same for these.
pub(super) async fn end_all(copies: Vec<SavedCopy>) -> Vec<String> {
    let tasks: Vec<_> = copies.into_iter().map(|copy| tokio::spawn(end_one(copy))).collect();
    let mut said = Vec::new();
    for task in tasks {
        said.extend(task.await.ok().flatten());
    }
    said
}

async fn end_one(saved: SavedCopy) -> Option<String> {
    let (mark, pid) = (saved.mark.clone(), saved.pid);
    let copy = match Copy::restore(saved, None) {
        Ok(copy) => std::sync::Arc::new(copy),
        Err(error) => return Some(format!("{mark} (process {pid}) may still run: {error}")),
    };
    let told = std::sync::Arc::clone(&copy);
    let signalled = tokio::task::spawn_blocking(move || {
        if told.processes().is_empty() {
            return false;
        }
        // What cannot be told is killed in the end.
        let _ = (told.signal(TERM), told.signal_rest(TERM));
        true
    });
    if !signalled.await.unwrap_or(true) {
        return None;
    }
    if tokio::time::timeout(LIMIT, copy.gone()).await.is_ok() {
        return Some(format!("{mark} (process {pid}) had outlived the server, and was ended"));
    }
    let killed = copy.kill_all(KILL_LIMIT).await;
    Some(format!(
        "{mark} (process {pid}) had outlived the server, and was killed: {} processes, and {} could not be",
        killed.killed, killed.left
    ))
}
