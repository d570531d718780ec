//! All processes at one moment, and which of them belong to a copy (proc_pid_stat(5)).
//!
//! ```text
//!   in its group ─┐
//!   its session ──┼─▶ belongs ─▶ and whatever descends from that
//!   its mark ─────┤
//!   known before ─┘
//! ```
//!
//! A process can leave its session (setsid(2)) and lose its parent, and is found by the mark in its environment all the same.
//! One that also overwrites its environment is found only in a control group.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Group;

/// The variable with the marks of the copies that a process belongs to, one inside the other.
pub(crate) const MARK_VARIABLE: &str = "HANDOVER_MARK";
/// Between two marks.
pub(crate) const MARK_SEPARATOR: char = ';';
/// How often new processes are looked for in one survey.
const MAX_LOOKS: usize = 10;
/// How old a look may be that is taken for many copies, one after the other.
const RECENT: Duration = Duration::from_millis(50);
/// How long a process is given that has no environment yet, and how often it is looked at meanwhile: it may have to wait for
/// a processor in the middle of it.
const ENVIRONMENT_LIMIT: Duration = Duration::from_secs(5);
const READ_AGAIN: Duration = Duration::from_millis(1);
/// Few environments are larger.
const USUAL_ENVIRONMENT_BYTES: usize = 64 * 1024;
/// Ancestors that are looked at.
const MAX_ANCESTORS: usize = 64;

/// All processes, as they were at one moment. Taking one reads all of `/proc`: some ten microseconds a process.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    processes: BTreeMap<u32, Process>,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    lives: bool,
    parent: u32,
    session: u32,
    /// In ticks after boot: with the ID this names one process for ever.
    began: u64,
}

/// By what a copy's processes are known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Belonging {
    /// The ID of its session, as long as it is certain that no other has it.
    pub(crate) session: Option<u32>,
    /// What stands in their environment.
    pub(crate) mark: String,
    /// When the first of them began, in ticks after boot.
    pub(crate) began: u64,
    /// Their control group.
    pub(crate) group: Option<Group>,
    /// Those that were seen before, and when each began.
    pub(crate) known: BTreeMap<u32, u64>,
}

impl Survey {
    /// Looks, until it has seen everybody: one that has ended meanwhile may have left a child, which has come meanwhile.
    pub(crate) fn take() -> Self {
        let mut listed = BTreeSet::new();
        let mut processes = BTreeMap::new();
        for _ in 0..MAX_LOOKS {
            let new: Vec<u32> = all().filter(|pid| listed.insert(*pid)).collect();
            if new.is_empty() {
                break;
            }
            processes.extend(new.into_iter().filter_map(|pid| Some((pid, Process::of(pid)?))));
        }
        Survey { processes }
    }

    /// A look that was taken a moment ago, or now.
    pub(crate) fn recent() -> Arc<Self> {
        static LAST: Mutex<Option<(Instant, Arc<Survey>)>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, survey)) if at.elapsed() < RECENT => Arc::clone(survey),
            _ => {
                let survey = Arc::new(Self::take());
                *last = Some((Instant::now(), Arc::clone(&survey)));
                survey
            }
        }
    }

    /// The processes that live and belong to a copy, and when each began. Never this process.
    pub(crate) fn members(&self, belonging: &Belonging) -> BTreeMap<u32, u64> {
        let grouped = belonging.group.as_ref().map(Group::processes).unwrap_or_default();
        let belongs = |pid: u32, process: &Process| {
            grouped.contains(&pid)
                || belonging.session == Some(process.session)
                || belonging.known.get(&pid) == Some(&process.began)
                || process.began >= belonging.began && has_mark(pid, &belonging.mark)
        };
        let all = self.living().filter(|(pid, process)| belongs(*pid, process));
        let mut found: BTreeSet<u32> = all.map(|(pid, _)| pid).collect();
        self.add_descendants(&mut found);
        let seen = found.into_iter().filter_map(|pid| Some((pid, self.processes.get(&pid)?.began)));
        // Of its group, also those that have come since.
        let late = grouped.iter().filter(|pid| !self.processes.contains_key(pid));
        seen.chain(late.filter_map(|pid| Some((*pid, began(*pid)?)))).collect()
    }

    /// A process and all that descend from it.
    pub(super) fn descendants(&self, pid: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::from([pid]);
        self.add_descendants(&mut found);
        found.insert(pid);
        found
    }

    /// Those that live, without this process.
    fn living(&self) -> impl Iterator<Item = (u32, &Process)> {
        let own = std::process::id();
        self.processes
            .iter()
            .filter(|(_, process)| process.lives)
            .map(|(pid, process)| (*pid, process))
            .filter(move |(pid, _)| *pid != own)
    }

    fn add_descendants(&self, found: &mut BTreeSet<u32>) {
        // A parent may have a higher ID than its child: until nothing is added any more.
        loop {
            let new = self
                .living()
                .filter(|(pid, process)| found.contains(&process.parent) && !found.contains(pid));
            let new: Vec<u32> = new.map(|(pid, _)| pid).collect();
            if new.is_empty() {
                return;
            }
            found.extend(new);
        }
    }
}

impl Belonging {
    /// Whether this one process belongs, without a look at all others. One that has ended and was not reaped yet still does.
    pub(crate) fn has(&self, pid: u32) -> bool {
        let grouped = self.group.as_ref().map(Group::processes).unwrap_or_default();
        let mut next = pid;
        for _ in 0..MAX_ANCESTORS {
            let Some(process) = Process::of(next).filter(|_| next > 1 && next != std::process::id()) else {
                return false;
            };
            if grouped.contains(&next)
                || self.session == Some(process.session)
                || self.known.get(&next) == Some(&process.began)
                || process.began >= self.began && has_mark(next, &self.mark)
            {
                return true;
            }
            next = process.parent;
        }
        false
    }
}

/// The IDs of all processes.
fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let fields = fields(line)?;
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let id = |at: usize| u32::try_from(number(at)?).ok();
        Some(Process {
            lives: !matches!(*fields.first()?, "Z" | "X" | "x"),
            parent: id(1)?,
            session: id(3)?,
            began: number(19)?,
        })
    }
}

/// What follows the number and the command's name.
fn fields(line: &[u8]) -> Option<Vec<&str>> {
    // The name is in parentheses and may hold anything, parentheses too.
    let end = line.iter().rposition(|byte| *byte == b')')?;
    Some(std::str::from_utf8(line.get(end + 1..)?).ok()?.split_ascii_whitespace().collect())
}

/// Whether a process lives. One that has ended and was not reaped yet does not.
pub(crate) fn lives(pid: u32) -> bool {
    Process::of(pid).is_some_and(|process| process.lives)
}

/// When a process began, in ticks after boot; `None` if there is none, or it has ended.
pub(crate) fn began(pid: u32) -> Option<u64> {
    Process::of(pid).filter(|process| process.lives).map(|process| process.began)
}

/// The bytes of memory that a process has resident; shared ones count whole.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?))
}

/// Which boot this is.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The environment of a process. One that executes a program just now has none until the new one is in place: that is waited for,
/// or a child whose parent ends meanwhile would be nobody's.
fn environment(pid: u32) -> Vec<u8> {
    let give_up = Instant::now() + ENVIRONMENT_LIMIT;
    while Instant::now() < give_up {
        match read_environment(pid) {
            Ok(none) if none.is_empty() => {}
            environment => return environment.unwrap_or_default(),
        }
        match image_of(pid) {
            // It has none. The kernel's own threads, and who has ended, execute no file.
            Some(image) if image.is_whole && image.environment.is_empty() => break,
            Some(image) if !image.is_whole && fs::read_link(format!("/proc/{pid}/exe")).is_err() => break,
            // It is not whole yet, or has come meanwhile.
            Some(_) => thread::sleep(READ_AGAIN),
            None => break,
        }
    }
    Vec::new()
}

/// Reads it in one go if it is of a usual size: between two reads the process may execute another program, and the second finds
/// nothing any more.
fn read_environment(pid: u32) -> io::Result<Vec<u8>> {
    let mut file = File::open(format!("/proc/{pid}/environ"))?;
    let mut bytes = vec![0; USUAL_ENVIRONMENT_BYTES];
    let length = file.read(&mut bytes)?;
    bytes.truncate(length);
    if length == USUAL_ENVIRONMENT_BYTES {
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What a process executes.
struct Image {
    /// Whether all of it is in place: where its code begins is said last.
    is_whole: bool,
    /// Where the environment lies in its memory. Empty at first, also if there is one.
    environment: Range<u64>,
}

fn image_of(pid: u32) -> Option<Image> {
    let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let fields = fields(&line)?;
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Image { is_whole: number(23)? != 0, environment: number(47)?..number(48)? })
}

/// Whether a process has this mark among its own.
fn has_mark(pid: u32, mark: &str) -> bool {
    if mark.is_empty() {
        return false;
    }
    let environment = environment(pid);
    let prefix = [MARK_VARIABLE.as_bytes(), b"="].concat();
    environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| variable.strip_prefix(&*prefix))
        .any(|marks| String::from_utf8_lossy(marks).split(MARK_SEPARATOR).any(|one| one == mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(processes: &[(u32, u32, u32, u64)]) -> Survey {
        let one = |&(pid, parent, session, began): &(u32, u32, u32, u64)| {
            (pid, Process { lives: true, parent, session, began })
        };
        Survey { processes: processes.iter().map(one).collect() }
    }

    fn ids(members: BTreeMap<u32, u64>) -> Vec<u32> {
        members.into_keys().collect()
    }

    #[test]
    fn a_line_is_read_whatever_the_command_is_called() {
        let line = b"7 (a) Z (b) S 3 7 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1000 10 0";
        let process = Process::parse(line).unwrap();
        assert_eq!(process, Process { lives: true, parent: 3, session: 5, began: 98_765 });
        assert!(!Process::parse(b"7 (a) Z 3 7 5 0 -1 0 1 0 0 0 0 0 0 0 20 0 1 0 9 1 1 0").unwrap().lives);
        assert_eq!(Process::parse(b"7 (a"), None);
    }

    #[test]
    fn a_session_belongs_and_what_descends_from_it_and_what_was_known() {
        let all = survey(&[
            (4_000_010, 1, 4_000_010, 5),
            (4_000_011, 4_000_010, 4_000_010, 6),
            // It has a session of its own, and a higher ID than its child.
            (4_000_030, 4_000_011, 4_000_030, 7),
            (4_000_020, 4_000_030, 4_000_020, 8),
            // It was seen before; the next one has the ID of one that was.
            (4_000_040, 1, 4_000_040, 9),
            (4_000_050, 1, 4_000_050, 10),
        ]);
        let known = BTreeMap::from([(4_000_040, 9), (4_000_050, 3)]);
        let belonging = Belonging { session: Some(4_000_010), known, ..Belonging::default() };
        assert_eq!(ids(all.members(&belonging)), [4_000_010, 4_000_011, 4_000_020, 4_000_030, 4_000_040]);
        let nobody = Belonging { session: None, ..Belonging::default() };
        assert_eq!(all.members(&nobody).len(), 0);
    }

    #[test]
    fn one_that_executes_one_program_after_the_other_has_its_mark_all_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("again");
        handover_testkit::program::script(&path, "#!/bin/sh\nexec \"$0\"\n");
        let mut again =
            std::process::Command::new(&path).env(MARK_VARIABLE, "web/1-00;web/2-00").spawn().unwrap();
        let has = (0..20_000).all(|_| has_mark(again.id(), "web/2-00"));
        again.kill().unwrap();
        again.wait().unwrap();
        assert!(has);
    }

    #[test]
    fn this_process_is_found_with_its_memory_and_belongs_to_nothing() {
        let own = std::process::id();
        let all = Survey::take();
        assert!(all.processes.contains_key(&own));
        assert!(began(own).is_some() && resident(own).unwrap() > 0);
        assert!(!boot().is_empty());
        let session = all.processes[&own].session;
        let belonging = Belonging { session: Some(session), ..Belonging::default() };
        assert!(!all.members(&belonging).contains_key(&own));
        assert!(!belonging.has(own));
    }
}
