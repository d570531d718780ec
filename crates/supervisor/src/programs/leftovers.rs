//! Copies of an earlier life that still run: the whole server was killed, and they were not.
//!
//! ```text
//!   state.json ─▶ copies, by process, time of its start and mark ─┬─▶ asked to end ── limit ─▶ killed
//!   NAME-KEY.mark ─▶ copies, by mark: what state.json missed ─────┤
//!   serves~ID.mark ─▶ processes that have a listening socket ─────┘
//!                  └▶ processes that have one connection ─▶ left alone: their program has them again
//! ```
//!
//! What has a listening socket is in the way of who binds that next, and would serve beside it. Who serves one connection is in
//! nobody's way, and that connection would be cut.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Setup;
use super::copy::{Copy, SavedCopy};
use super::groups::Survey;
use super::inetd::SavedProcess;
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
    let (serving, listening): (Vec<_>, Vec<_>) =
        noted(&place).into_iter().map(|(_, process)| process).partition(|process| process.peer.is_some());
    copies.extend(listening.into_iter().map(|process| process.copy));
    let known = copies.iter().chain(serving.iter().map(|process| &process.copy));
    let known = known.map(|copy| copy.mark.clone()).collect();
    copies.extend(marked(&place, &known));
    let said = end_all(copies).await;
    place.clean(&living(serving));
    said
}

/// Processes that serve connections, as they were written down, each with the name of its program; the oldest first.
pub(super) fn noted(place: &Place) -> Vec<(String, SavedProcess)> {
    let read = |text: &String| {
        let mark = text.lines().next()?;
        // The last line may not have been written to its end.
        let known = text.lines().skip(1).filter_map(|line| serde_json::from_str(line).ok()).last();
        let copy = SavedCopy::only(mark);
        let process: SavedProcess = known.unwrap_or(SavedProcess { copy, ..SavedProcess::default() });
        let (program, _) = mark.rsplit_once('/')?;
        Some((program.to_owned(), process))
    };
    let mut noted: Vec<_> = place.noted_processes().iter().filter_map(read).collect();
    noted.sort_by_key(|(_, process)| (process.copy.began, process.copy.pid));
    noted
}

/// The marks of those of which something runs.
fn living(processes: Vec<SavedProcess>) -> BTreeSet<String> {
    if processes.is_empty() {
        return BTreeSet::new();
    }
    let survey = Survey::take();
    let copies = processes.into_iter().filter_map(|process| Copy::restore(process.copy, None).ok());
    copies.filter(|copy| !copy.processes_of(&survey).is_empty()).map(|copy| copy.mark().to_owned()).collect()
}

/// The copies of which nothing is known but the mark that was written down before they were started.
pub(super) fn marked(place: &Place, known: &BTreeSet<String>) -> Vec<SavedCopy> {
    let unknown = place.marks().into_iter().filter(|mark| !known.contains(mark));
    unknown.map(|mark| SavedCopy::only(&mark)).collect()
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
