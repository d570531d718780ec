//! The four lines that are printed when the first generation serves: what, where, how to talk to it, what next. Before
//! the third there may be notes: why what serves is not what is on the disk.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use handover_api::{ListenerStatus, ProgramState, ProgramStatus};

use crate::options::Options;

/// Addresses that are named; of more, only their number.
const MAX_ADDRESSES: usize = 4;

/// What serves, for the banner.
#[derive(Debug)]
pub(crate) struct Serves<'a> {
    /// What the worker says about it.
    pub(crate) summary: &'a [String],
    /// Its number.
    pub(crate) generation: u64,
    /// Where it listens.
    pub(crate) listeners: &'a [ListenerStatus],
    /// Why it is not what is on the disk, or not for long: a line for each.
    pub(crate) notes: &'a [String],
}

/// Prints the banner on stdout. That nobody reads it is no reason to stop.
pub(crate) fn print(options: &Options, serves: &Serves<'_>, control: &Path) {
    let text = text(options, serves, control);
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn text(options: &Options, serves: &Serves<'_>, control: &Path) -> String {
    let Serves { summary, generation, listeners, notes } = serves;
    let what = if summary.is_empty() { "ready".to_owned() } else { summary.join("; ") };
    let mut text = format!("{} {} serves: {what}\n", options.name, options.version);
    let _ = write!(text, "generation {generation} listens on ");
    match *listeners {
        [] => text.push_str("nothing"),
        listeners => {
            let named: Vec<&str> = listeners.iter().take(MAX_ADDRESSES).map(|l| l.address.as_str()).collect();
            text.push_str(&named.join(", "));
            if listeners.len() > MAX_ADDRESSES {
                let _ = write!(text, " and {} more", listeners.len() - MAX_ADDRESSES);
            }
        }
    }
    for note in *notes {
        let _ = write!(text, "\n{note}");
    }
    let _ = write!(text, "\ncontrol socket: {}\nnext: {}\n", control.display(), options.next_command);
    text
}

/// Copies of a program that are named; of more, only their number.
const MAX_COPIES: usize = 4;

/// How programs fare, for a server that is there for them: a line for each copy.
pub(crate) fn programs(all: &[ProgramStatus]) -> Vec<String> {
    let mut lines = Vec::new();
    for program in all {
        // One that is being killed because it was not ready runs still: why is what there is to say then.
        let is_up = program.detail.is_none() || program.copies.iter().any(|copy| copy.proof.is_some());
        let copies = program.copies.iter().filter(|_| is_up);
        let running = copies.filter_map(|copy| copy.pid.map(|pid| (copy, pid)));
        let mut named: Vec<String> = running
            .map(|(copy, pid)| {
                let proof = match &copy.proof {
                    Some(proof) => format!(": {proof}"),
                    None => ", not ready yet".to_owned(),
                };
                format!("{} is process {pid}{proof}", copy.name(&program.name))
            })
            .collect();
        if named.is_empty() {
            named.push(match (&program.detail, program.state) {
                (Some(detail), ProgramState::BackOff | ProgramState::Starting) => {
                    format!("{} is not ready: {detail}", program.name)
                }
                (Some(detail), ProgramState::Ended) => format!("{} has ended: {detail}", program.name),
                (Some(detail), state) => format!("{} is {}: {detail}", program.name, state.as_str()),
                (None, state) => format!("{} is {}", program.name, state.as_str()),
            });
        }
        let more = named.len().saturating_sub(MAX_COPIES);
        named.truncate(MAX_COPIES);
        if more > 0 {
            named.push(format!("and {more} more"));
        }
        lines.extend(named);
    }
    lines
}

#[cfg(test)]
mod tests {
    use handover_api::CopyStatus;

    use super::*;

    #[test]
    fn a_program_is_told_with_its_processes_or_why_there_are_none() {
        let copy = |number| CopyStatus {
            number,
            pid: Some(100 + number),
            proof: (number == 1).then(|| "it said READY=1".to_owned()),
            ..CopyStatus::default()
        };
        let web = ProgramStatus {
            name: "web".to_owned(),
            copies: (1..=6).map(copy).collect(),
            ..ProgramStatus::default()
        };
        let late = ProgramStatus {
            name: "late".to_owned(),
            state: ProgramState::Starting,
            detail: Some("late/1 was not ready within 1s".to_owned()),
            copies: vec![copy(2)],
            ..ProgramStatus::default()
        };
        let cron = |state| ProgramStatus {
            name: "cron".to_owned(),
            state,
            detail: Some("exited with code 1".to_owned()),
            ..ProgramStatus::default()
        };
        let idle = ProgramStatus {
            name: "finger".to_owned(),
            state: ProgramState::OnDemand,
            ..ProgramStatus::default()
        };
        assert_eq!(
            programs(&[web, late, cron(ProgramState::BackOff), cron(ProgramState::Ended), idle]),
            [
                "web/1 is process 101: it said READY=1".to_owned(),
                "web/2 is process 102, not ready yet".to_owned(),
                "web/3 is process 103, not ready yet".to_owned(),
                "web/4 is process 104, not ready yet".to_owned(),
                "and 2 more".to_owned(),
                "late is not ready: late/1 was not ready within 1s".to_owned(),
                "cron is not ready: exited with code 1".to_owned(),
                "cron has ended: exited with code 1".to_owned(),
                "finger is on demand".to_owned(),
            ]
        );
    }

    #[test]
    fn it_has_four_lines_whatever_is_served() {
        let mut options = Options::new("app", "1.0.0");
        options.next_command = "app status".to_owned();
        let listener =
            ListenerStatus { name: "web".into(), address: "127.0.0.1:80".into(), inherited: false };
        for count in [0, 1, 9] {
            let listeners = vec![listener.clone(); count];
            let mut serves =
                Serves { summary: &["one route".into()], generation: 3, listeners: &listeners, notes: &[] };
            let plain = text(&options, &serves, Path::new("/run/app.sock"));
            assert_eq!(plain.lines().count(), 4, "{plain}");
            assert!(plain.starts_with("app 1.0.0 serves: one route\ngeneration 3 listens on "));
            assert!(plain.ends_with("control socket: /run/app.sock\nnext: app status\n"));
            let notes = ["generation 4 was not confirmed".to_owned()];
            serves.notes = &notes;
            let noted = text(&options, &serves, Path::new("/run/app.sock"));
            assert_eq!(noted.lines().nth(2), Some(notes[0].as_str()), "{noted}");
        }
    }
}
