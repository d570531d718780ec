//! Totals that go to another worker with the connections, so that no counter goes back when one process follows another.
//!
//! ```text
//!   giver:  all counters, by name ──▶ bytes ──▶ taker: what it has not counted itself is *carried* by a block of its own
//!           what it counts afterwards ──▶ bytes, at its end ──▶ added to that block
//! ```
//!
//! Gauges do not travel: they come from what is open.
//!
//! ```text
//!   names: count(varint) then each name    rows: count(varint) then each:
//!     what(1: worker 0, listener 1, service 2, forgotten 3)  name  count(varint) then each: number of the name(varint) value(varint)
//! ```
//!
//! Counters have names, so that another version may have more or fewer of them. Only those that have counted anything are written.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use handover::Figures;

use super::tls::{add_listener, add_service};
use super::{Cell, Cells, ListenerCells, Metrics, ServiceCells, ThreadCells};
use crate::moving::bytes::{Damaged, Input, put_bytes, put_varint};

const WORKER: u8 = 0;
const LISTENER: u8 = 1;
const SERVICE: u8 = 2;
const FORGOTTEN: u8 = 3;

/// Counters that have names.
trait Counted {
    /// The names, in the order of [`Counted::cells`].
    const NAMES: &'static [&'static str];

    /// All that only ever grow.
    fn cells(&self) -> impl Iterator<Item = &Cell>;
}

impl Counted for ListenerCells {
    const NAMES: &'static [&'static str] = &[
        "accepted",
        "bytes_in",
        "bytes_out",
        "full",
        "duration_us",
        "requests_none",
        "requests_1xx",
        "requests_2xx",
        "requests_3xx",
        "requests_4xx",
        "requests_5xx",
        "handshakes_tls12",
        "handshakes_tls12_resumed",
        "handshakes_tls13",
        "handshakes_tls13_resumed",
        "handshakes_failed_plain_http",
        "handshakes_failed_not_tls",
        "handshakes_failed_version",
        "handshakes_failed_no_certificate",
        "handshakes_failed_client_certificate",
        "handshakes_failed_nothing_in_common",
        "handshakes_failed_alert",
        "handshakes_failed_gone",
        "handshakes_failed_timeout",
        "handshakes_failed_protocol",
        "handshakes_failed_internal",
        "took_500us",
        "took_1ms",
        "took_2500us",
        "took_5ms",
        "took_10ms",
        "took_25ms",
        "took_50ms",
        "took_100ms",
        "took_250ms",
        "took_500ms",
        "took_1s",
        "took_2500ms",
        "took_10s",
        "took_60s",
        "took_longer",
    ];

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        [&self.accepted, &self.bytes_in, &self.bytes_out, &self.full, &self.duration_us]
            .into_iter()
            .chain(&self.requests)
            .chain(&self.handshakes)
            .chain(&self.handshake_failures)
            .chain(&self.durations)
    }
}

impl Counted for ServiceCells {
    const NAMES: &'static [&'static str] = &[
        "connects",
        "connect_failures",
        "retries",
        "reused",
        "timeouts",
        "handshakes",
        "handshake_failures",
        "responses_none",
        "responses_1xx",
        "responses_2xx",
        "responses_3xx",
        "responses_4xx",
        "responses_5xx",
    ];

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        [
            &self.connects,
            &self.connect_failures,
            &self.retries,
            &self.reused,
            &self.timeouts,
            &self.handshakes,
            &self.handshake_failures,
        ]
        .into_iter()
        .chain(&self.responses)
    }
}

impl Counted for ThreadCells {
    const NAMES: &'static [&'static str] = &[
        "accept_errors",
        "log_dropped",
        "moves_failed",
        "ended_done",
        "ended_client_closed",
        "ended_client_gone",
        "ended_refused",
        "ended_idle_limit",
        "ended_header_limit",
        "ended_body_limit",
        "ended_upstream_cut",
        "ended_upstream_unreachable",
        "ended_tunnel_idle",
        "ended_retired",
        "ended_cut",
        "ended_unwatched",
        "ended_handshake_failed",
        "ended_handshake_limit",
        "holds",
        "held_refused",
    ];

    fn cells(&self) -> impl Iterator<Item = &Cell> {
        let held = [&self.held_total, &self.held_refused];
        [&self.accept_errors, &self.log_dropped, &self.moves_failed].into_iter().chain(&self.ends).chain(held)
    }
}

/// The names of [`Figures`], in the order of [`figures_of`].
const FIGURES: &[&str] =
    &["requests", "errors_5xx", "connects", "connect_failures", "handshakes", "handshake_failures"];

fn figures_of(figures: &mut Figures) -> [&mut u64; 6] {
    [
        &mut figures.requests,
        &mut figures.errors_5xx,
        &mut figures.connects,
        &mut figures.connect_failures,
        &mut figures.handshakes,
        &mut figures.handshake_failures,
    ]
}

/// The names of the counters of one kind of thing.
fn names_of(what: u8) -> &'static [&'static str] {
    match what {
        WORKER => ThreadCells::NAMES,
        LISTENER => ListenerCells::NAMES,
        SERVICE => ServiceCells::NAMES,
        FORGOTTEN => FIGURES,
        _ => &[],
    }
}

/// What has been counted up to a moment: by what it is and its name, in the order of the names of its counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals(BTreeMap<(u8, String), Vec<u64>>);

impl Totals {
    /// What was counted between `before` and now. A listener that is forgotten meanwhile counts among those.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (key, values) in &mut self.0 {
            let Some(before) = before.0.get(key) else { continue };
            for (value, before) in values.iter_mut().zip(before) {
                *value = value.saturating_sub(*before);
            }
        }
        self
    }

    /// Appends them.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let mut names: BTreeMap<&str, u64> = BTreeMap::new();
        let mut texts = Vec::new();
        let mut rows = Vec::new();
        for ((what, name), values) in &self.0 {
            let counted = names_of(*what).iter().zip(values).filter(|(_, value)| **value > 0);
            rows.push(*what);
            put_bytes(&mut rows, name.as_bytes());
            put_varint(&mut rows, counted.clone().count() as u64);
            for (counter, value) in counted {
                let next = names.len() as u64;
                let number = *names.entry(counter).or_insert_with(|| {
                    put_bytes(&mut texts, counter.as_bytes());
                    next
                });
                put_varint(&mut rows, number);
                put_varint(&mut rows, *value);
            }
        }
        put_varint(out, names.len() as u64);
        out.extend_from_slice(&texts);
        put_varint(out, self.0.len() as u64);
        out.extend_from_slice(&rows);
    }

    /// What [`Totals::write`] wrote, of this version or another; counters that are not known here are left out.
    ///
    /// # Errors
    /// Bytes that are not that.
    pub(crate) fn read(input: &mut Input<'_>) -> Result<Self, Damaged> {
        let mut names = Vec::new();
        for _ in 0..input.count()? {
            names.push(input.text()?);
        }
        let mut totals = Self::default();
        for _ in 0..input.count()? {
            let (what, name) = (input.byte()?, input.text()?.to_owned());
            let known = names_of(what);
            let mut values = vec![0; known.len()];
            for _ in 0..input.count()? {
                let counter = names.get(input.count()?).ok_or(Damaged)?;
                let value = input.varint()?;
                let place = known.iter().position(|known| known == counter);
                if let Some(place) = place.and_then(|place| values.get_mut(place)) {
                    *place = value;
                }
            }
            if !known.is_empty() {
                totals.0.insert((what, name), values);
            }
        }
        Ok(totals)
    }

    fn add<T: Counted>(&mut self, what: u8, name: &str, cells: &Cells<T>) {
        let mut values = vec![0_u64; T::NAMES.len()];
        for block in &cells.0 {
            for (value, cell) in values.iter_mut().zip(block.0.cells()) {
                *value = value.wrapping_add(cell.get());
            }
        }
        self.0.insert((what, name.to_owned()), values);
    }
}

impl Metrics {
    /// What has been counted up to now, here and by those before.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        totals.add(WORKER, "", &self.by_thread);
        for (name, cells) in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            totals.add(LISTENER, name, cells);
        }
        for (name, cells) in self.services.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            totals.add(SERVICE, name, cells);
        }
        let mut past = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let values = figures_of(&mut past).map(|value| *value);
        totals.0.insert((FORGOTTEN, String::new()), values.to_vec());
        totals
    }

    /// Goes on counting from these totals: what this worker has not counted itself of them is carried. A worker that gets back what
    /// it gave away does not count it twice.
    pub(crate) fn go_on_from(&self, totals: &Totals) {
        let mut past = Figures::default();
        self.carry(totals, &mut past, true);
        *self.past.lock().unwrap_or_else(PoisonError::into_inner) = past;
    }

    /// Adds what another worker has counted.
    pub(crate) fn add_totals(&self, totals: &Totals) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        self.carry(totals, &mut past, false);
    }

    /// Puts totals into the blocks that carry. Of things that are not known here only the figures remain, in `past`.
    fn carry(&self, totals: &Totals, past: &mut Figures, anew: bool) {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        for ((what, name), values) in &totals.0 {
            match *what {
                WORKER => carry(&self.by_thread, values, anew),
                LISTENER => match listeners.get(name.as_str()) {
                    Some(cells) => carry(cells, values, anew),
                    None => add_listener(past, &only(values)),
                },
                SERVICE => match services.get(name.as_str()) {
                    Some(cells) => carry(cells, values, anew),
                    None => add_service(past, &only(values)),
                },
                _ => figures_of(past).into_iter().zip(values).for_each(|(sum, value)| *sum += value),
            }
        }
    }
}

/// Puts values into the block that carries: `anew`, so that all blocks together have them; otherwise on top. Whoever calls
/// this is the only one who writes to that block.
fn carry<T: Counted>(cells: &Cells<T>, values: &[u64], anew: bool) {
    let Some((carried, own)) = cells.0.split_last() else { return };
    for (place, (cell, value)) in carried.0.cells().zip(values).enumerate() {
        if anew {
            let counted = own.iter().filter_map(|block| block.0.cells().nth(place).map(Cell::get));
            cell.set(value.saturating_sub(counted.fold(0, u64::wrapping_add)));
        } else {
            cell.add(*value);
        }
    }
}

/// A block that has counted just this.
fn only<T: Counted + Default>(values: &[u64]) -> Cells<T> {
    let cells = Cells::new(0);
    carry(&cells, values, false);
    cells
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn written(totals: &Totals) -> Vec<u8> {
        let mut out = Vec::new();
        totals.write(&mut out);
        out
    }

    fn moved(from: &Metrics, to: &Metrics) {
        to.go_on_from(&Totals::read(&mut Input::new(&written(&from.totals()))).unwrap());
    }

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        fn check<T: Counted + Default>() {
            assert_eq!(T::default().cells().count(), T::NAMES.len());
            let unique: std::collections::BTreeSet<_> = T::NAMES.iter().collect();
            assert_eq!(unique.len(), T::NAMES.len());
        }
        check::<ListenerCells>();
        check::<ServiceCells>();
        check::<ThreadCells>();
        assert_eq!(figures_of(&mut Figures::default()).len(), FIGURES.len());
        for (label, name) in crate::conn::END_LABELS.iter().zip(&ThreadCells::NAMES[3..]) {
            assert_eq!(*name, format!("ended_{label}"));
        }
        for (reason, name) in super::super::HANDSHAKE_FAILURES.iter().zip(&ListenerCells::NAMES[15..]) {
            assert_eq!(*name, format!("handshakes_failed_{reason}"));
        }
    }

    #[test]
    fn totals_go_on_there_and_back_and_gauges_do_not_travel() {
        let (old, new) = (Metrics::new(2), Metrics::new(3));
        let (web, app): (Arc<str>, Arc<str>) = ("web".into(), "app".into());
        old.listener(&web).of(0).request(200, 700);
        old.listener(&web).of(1).request(503, 70_000_000);
        old.listener(&web).of(1).open.add(5);
        old.service(&app).of(0).connects.add(9);
        old.by_thread.of(1).ends[3].add(4);
        let kept = [new.listener(&web), new.listener(&"other".into())];
        let _app = new.service(&app);
        moved(&old, &new);
        assert_eq!(new.figures(), old.figures());
        let text = new.encode();
        assert!(text.contains("handover_requests_total{listener=\"web\",status=\"2xx\"} 1\n"), "{text}");
        assert!(text.contains("handover_listener_open_connections{listener=\"web\"} 0\n"), "{text}");
        assert!(text.contains("handover_closed_connections_total{why=\"refused\"} 4\n"), "{text}");

        kept[0].of(2).request(200, 1);
        let before = old.totals();
        old.listener(&web).of(0).request(200, 1);
        let late = old.totals().since(&before);
        new.add_totals(&Totals::read(&mut Input::new(&written(&late))).unwrap());
        assert_eq!(new.figures().requests, 4);
        moved(&new, &old);
        assert_eq!(old.figures(), new.figures(), "nothing is counted twice");
        assert_eq!(
            old.totals().0.get(&(LISTENER, "web".to_owned())),
            new.totals().0.get(&(LISTENER, "web".to_owned()))
        );
    }

    #[test]
    fn what_is_not_known_there_stays_in_the_figures() {
        let (old, new) = (Metrics::new(1), Metrics::new(1));
        old.listener(&"gone".into()).of(0).request(500, 1);
        let service = old.service(&"gone".into());
        service.of(0).connect_failures.add(2);
        drop(service);
        old.prune();
        moved(&old, &new);
        assert_eq!(new.figures(), old.figures());
        assert_eq!((new.figures().requests, new.figures().connect_failures), (1, 2));
    }

    #[test]
    fn counters_of_another_version_are_passed_over_and_damage_is_told() {
        let mut out = Vec::new();
        put_varint(&mut out, 2);
        put_bytes(&mut out, b"accepted");
        put_bytes(&mut out, b"of_tomorrow");
        put_varint(&mut out, 2);
        for what in [LISTENER, 77] {
            out.push(what);
            put_bytes(&mut out, b"web");
            put_varint(&mut out, 2);
            for (name, value) in [(1, 5), (0, 6)] {
                put_varint(&mut out, name);
                put_varint(&mut out, value);
            }
        }
        let totals = Totals::read(&mut Input::new(&out)).unwrap();
        assert_eq!(totals.0.len(), 1);
        assert_eq!(totals.0[&(LISTENER, "web".to_owned())][0], 6);
        for length in 0..out.len() {
            assert_eq!(Totals::read(&mut Input::new(&out[..length])), Err(Damaged), "{length}");
        }
    }
}
