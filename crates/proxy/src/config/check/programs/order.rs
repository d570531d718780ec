//! The order in which programs are started: that each waits for programs that exist, and none for itself.

use super::super::super::decode::OneOrMany;
use super::super::super::sink::{Sink, Span};
use super::super::{Cx, Names};
use super::Subject;

/// The names, as they are written down.
pub(super) fn names(after: &OneOrMany<String>) -> Vec<String> {
    after.as_slice().iter().map(|name| name.value.clone()).collect()
}

/// The programs for which this one waits, and where that is said.
pub(super) fn after(subject: Subject<'_>, programs: &mut Names, cx: &mut Cx<'_>) -> Vec<(usize, Span)> {
    let mut found: Vec<(usize, Span)> = Vec::new();
    for name in subject.raw.after.get().map(|after| after.value.as_slice()).unwrap_or_default() {
        if name.value == subject.name.value {
            cx.sink.error(name.span, "a program cannot wait for itself");
            continue;
        }
        let Some(at) = programs.refer(name, cx.sink) else { continue };
        if let Some((_, first)) = found.iter().find(|(known, _)| *known == at) {
            cx.sink
                .error(name.span, format!("{:?} is listed twice", name.value))
                .also(*first, "here as well");
            continue;
        }
        found.push((at, name.span));
    }
    found
}

/// How far the search is with a program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// It is on the way that is being followed.
    Open,
    Done,
}

/// Reports programs that wait for each other, each circle once.
pub(super) fn refuse_circles(after: &[Vec<(usize, Span)>], programs: &Names, sink: &mut Sink) {
    let mut states = vec![State::New; after.len()];
    for start in 0..after.len() {
        // The way: each program with the number of those it waits for that were followed. A stack, since a file may have a
        // thousand programs in one row.
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        if states.get(start) != Some(&State::New) {
            continue;
        }
        set(&mut states, start, State::Open);
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            let Some((to, span)) = after.get(at).and_then(|after| after.get(*next)) else {
                set(&mut states, at, State::Done);
                way.pop();
                continue;
            };
            *next += 1;
            match states.get(*to) {
                Some(State::New) => {
                    set(&mut states, *to, State::Open);
                    way.push((*to, 0));
                }
                Some(State::Open) => report(&way, *to, *span, programs, sink),
                _ => {}
            }
        }
    }
}

fn set(states: &mut [State], at: usize, state: State) {
    if let Some(place) = states.get_mut(at) {
        *place = state;
    }
}

/// The longest circle that is told program by program.
const MAX_TOLD: usize = 8;

fn report(way: &[(usize, usize)], to: usize, span: Span, programs: &Names, sink: &mut Sink) {
    let name = |at: usize| programs.get(at).map_or("?", |name| name.value.as_str());
    let circle = way.iter().skip_while(|(at, _)| *at != to).map(|(at, _)| name(*at));
    let mut told: Vec<&str> = circle.collect();
    let more = told.len().saturating_sub(MAX_TOLD);
    told.truncate(MAX_TOLD);
    let between = if more > 0 { format!(", … ({more} more)") } else { String::new() };
    sink.error(span, format!("programs wait for each other: {}{between}, {}", told.join(", "), name(to)))
        .help("leave out one \"after\" of these");
}
