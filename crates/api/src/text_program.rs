//! Programs as plain text: the block in a status, and all of one.
//!
//! ```text
//!   program     web: running, slot b, 2 copies, restarted once
//!                 web/1  pid 4711  ready     slot b  3m12s   41 MiB   12 connections
//!                 web/1  pid 4600  kept warm slot a  2h10m   39 MiB    0 connections
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use crate::pending::clock;
use crate::sentence_program::place;
use crate::sentence_upgrade::grouped;
use crate::{CopyRole, CopyState, CopyStatus, LogLine, PauseStatus, ProgramState, ProgramStatus, human_time};

/// Copies that a status shows of one program; `ps` shows all.
const COPIES_SHOWN: usize = 16;

impl ProgramStatus {
    /// `web: running, slot b, 2 copies, restarted once`.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{}: {}", self.name, self.state.as_str());
        if let Some(detail) = &self.detail {
            let _ = write!(line, ", {detail}");
        }
        if let Some(slot) = &self.slot {
            let _ = write!(line, ", {}", place(slot));
        }
        let serving = self.copies.iter().filter(|copy| copy.role == CopyRole::Serving).count();
        let wanted = usize::try_from(self.wanted).unwrap_or(usize::MAX);
        if matches!(self.state, ProgramState::Running | ProgramState::Swapping) || serving > 0 {
            let copies = if wanted == 1 { "copy" } else { "copies" };
            if serving == wanted {
                let _ = write!(line, ", {serving} {copies}");
            } else {
                let _ = write!(line, ", {serving} of {wanted} {copies}");
            }
        }
        match self.restarts {
            0 => {}
            1 => line.push_str(", restarted once"),
            n => {
                let _ = write!(line, ", restarted {} times", grouped(n));
            }
        }
        if let Some(connections) = self.connections {
            let _ = write!(line, ", {}", connections_in_words(connections));
        }
        line
    }

    /// The line, then one for each copy, then what waits and what deserves a look.
    #[must_use]
    pub fn report(&self, now: jiff::Timestamp) -> String {
        let mut text = self.line();
        for line in self.details(now) {
            let _ = write!(text, "\n  {line}");
        }
        text
    }

    /// What stands under the line.
    pub(crate) fn details(&self, now: jiff::Timestamp) -> Vec<String> {
        let rows: Vec<Row> = self.copies.iter().take(COPIES_SHOWN).map(|copy| self.row(copy, now)).collect();
        let mut lines = aligned(&rows);
        if let Some(more) = self.copies.len().checked_sub(COPIES_SHOWN).filter(|more| *more > 0) {
            lines.push(format!("and {more} more: see 'handover ps'"));
        }
        if !self.sockets.is_empty() {
            lines.push(format!("listens on {}", self.sockets.join(", ")));
        }
        if let Some(pending) = &self.pending {
            lines.push(format!(
                "{} awaits confirmation: it goes back to {} at {} (in {}) unless 'handover confirm {}' comes; asked for by {} in {}",
                place(&pending.slot),
                place(&pending.back_to),
                clock(&pending.until),
                human_time(Duration::from_millis(pending.left_ms)),
                self.name,
                pending.actor,
                pending.operation_id,
            ));
        } else if let Some(until) = &self.warm_until {
            let until = clock(until);
            lines.push(format!(
                "what served before is kept warm until {until}: 'handover rollback {}' goes back to it at once",
                self.name
            ));
        }
        if let Some(paused) = &self.paused {
            lines.push(paused.sentence());
        }
        lines.extend(self.warnings.iter().map(|warning| format!("warning: {warning}")));
        lines
    }

    fn row(&self, copy: &CopyStatus, now: jiff::Timestamp) -> Row {
        let slot = copy.slot.as_deref().filter(|slot| self.slot.as_deref() != Some(*slot));
        let connections = copy.connections.map(connections_in_words);
        [
            copy.name(&self.name),
            copy.pid.map(|pid| format!("pid {pid}")).unwrap_or_default(),
            copy.state_in_words(),
            slot.map(place).unwrap_or_default(),
            copy.age(now).map(human_age).unwrap_or_default(),
            copy.memory_bytes.map(human_bytes).unwrap_or_default(),
            connections.unwrap_or_default(),
        ]
    }
}

impl CopyStatus {
    /// `ready`, `starting`, `kept warm`, `draining`, `ready, off`.
    #[must_use]
    pub fn state_in_words(&self) -> String {
        let word = match (self.role, self.state) {
            (CopyRole::Warm, CopyState::Ready) => "kept warm",
            (CopyRole::Draining, CopyState::Ready) => "draining",
            (_, state) => state.as_str(),
        };
        if self.off { format!("{word}, off") } else { word.to_owned() }
    }

    /// How long ago it was started; nothing if that cannot be read.
    #[must_use]
    pub fn age(&self, now: jiff::Timestamp) -> Option<Duration> {
        let started: jiff::Timestamp = self.started_at.parse().ok()?;
        Some(Duration::try_from(now.duration_since(started)).unwrap_or_default())
    }
}

impl PauseStatus {
    /// `program web is paused: 12 requests are held, it goes on at 12:10:03 UTC (in 20 s), or with 'handover resume program:web'`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let held = match self.held {
            None => String::new(),
            Some(0) => "nothing is held yet, ".to_owned(),
            Some(1) => "1 request is held, ".to_owned(),
            Some(n) => format!("{} requests are held, ", grouped(n)),
        };
        format!(
            "{} is paused: {held}it goes on at {} (in {}), or with 'handover resume {}'",
            self.target,
            clock(&self.until),
            human_time(Duration::from_millis(self.left_ms)),
            self.target.replacen(' ', ":", 1),
        )
    }
}

impl LogLine {
    /// `web/1  what it wrote`, harmless for a terminal; lines that were left out are told before it.
    #[must_use]
    pub fn text(&self) -> String {
        let shown: String =
            self.line.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect();
        let whose = match self.copy {
            0 => self.program.clone(),
            number => format!("{}/{number}", self.program),
        };
        match self.left_out {
            0 => format!("{whose}  {shown}"),
            1 => format!("{whose}  (1 line is left out)\n{whose}  {shown}"),
            n => format!("{whose}  ({} lines are left out)\n{whose}  {shown}", grouped(n)),
        }
    }
}

/// Columns of one copy.
type Row = [String; 7];

/// The columns beside each other, without those that are empty everywhere.
fn aligned(rows: &[Row]) -> Vec<String> {
    let mut lines = vec![String::new(); rows.len()];
    for column in 0..7 {
        let cell = |row: &Row| row.get(column).map_or(0, |cell| cell.chars().count());
        let width = rows.iter().map(cell).max().unwrap_or(0);
        if width == 0 {
            continue;
        }
        for (line, row) in lines.iter_mut().zip(rows) {
            let text = row.get(column).map_or("", String::as_str);
            let _ = write!(line, "{text:<width$}  ");
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

fn connections_in_words(count: u64) -> String {
    match count {
        1 => "1 connection".to_owned(),
        n => format!("{} connections", grouped(n)),
    }
}

/// How long something runs: `12s`, `3m12s`, `2h10m`, `4d3h`.
#[must_use]
pub fn human_age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, ..) => format!("{d}d{h}h"),
    }
}

/// An amount of memory: `512 B`, `4.2 KiB`, `41 MiB`, `1.3 GiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let (mut unit, mut size) = (0, 1_024_u128);
    // Tenths of the unit, rounded.
    let tenths_of = |size: u128| (u128::from(bytes) * 10 + size / 2) / size;
    while tenths_of(size) >= 10_235 && unit + 1 < UNITS.len() {
        size *= 1_024;
        unit += 1;
    }
    let tenths = tenths_of(size);
    let name = UNITS.get(unit).copied().unwrap_or("TiB");
    if tenths < 100 && tenths % 10 != 0 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", (tenths + 5) / 10)
    }
}
