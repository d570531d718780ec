//! Copies of an earlier life that still run: the whole server was killed, and they were not.
//!
//! ```text
//!   state.json ─▶ copies, by process, time of its start and mark ─┬─▶ asked to end ── limit ─▶ killed
//!   NAME-KEY.mark ─▶ copies, by mark: what state.json missed ─────┘
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use super::Setup;
use super::copy::{Copy, SavedCopy};
use super::groups;
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
    let place = Place::new(&setup.runtime, &setup.name);
    let mut copies = match StateFile::new(&setup.state).read() {
        Ok(durable) => durable.copies,
        Err(error) => {
            tracing::warn!("{error}; of copies of an earlier life only the marks are known");
            Vec::new()
        }
    };
    let known = copies.iter().map(|copy| copy.mark.clone()).collect();
    copies.extend(marked(&place, &known));
    let said = end_all(copies).await;
    place.clean();
    said
}

/// The copies of which nothing is known but the mark that was written down before they were started.
pub(super) fn marked(place: &Place, known: &BTreeSet<String>) -> Vec<SavedCopy> {
    let unknown = place.marks().into_iter().filter(|mark| !known.contains(mark));
    unknown.map(|mark| SavedCopy { mark, boot: groups::boot(), ..SavedCopy::default() }).collect()
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
    let shown = match saved.pid {
        0 => saved.mark.clone(),
        pid => format!("{} (process {pid})", saved.mark),
    };
    let copy = match Copy::restore(saved, None) {
        Ok(copy) => std::sync::Arc::new(copy),
        Err(error) => return Some(format!("{shown} may still run: {error}")),
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
        return Some(format!("{shown} had outlived the server, and was ended"));
    }
    let killed = copy.kill_all(KILL_LIMIT).await;
    Some(format!(
        "{shown} had outlived the server, and was killed: {} processes, and {} could not be",
        killed.killed, killed.left
    ))
}
