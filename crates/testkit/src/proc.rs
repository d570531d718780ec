//! What the kernel says about processes, read from `/proc` (see proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// How often the environment of a process is read that has none yet, and how long it is given each time.
const READS: u32 = 100;
const READ_AGAIN: Duration = Duration::from_millis(1);
/// What is read of it at most.
const MOST_BYTES: usize = 256 * 1024;

/// One line of `/proc/<pid>/stat`, as far as tests need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub pid: u32,
    /// Its command's name (at most 15 bytes).
    pub command: String,
    /// `R`unning, `S`leeping, `D`isk, s`T`opped, `Z`ombie …
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// CPU time in user and kernel mode, of all its threads, ended ones too.
    pub cpu: Duration,
    /// How many threads it has.
    pub threads: u32,
    /// When it began, in ticks after boot: together with the pid this names one process for ever.
    pub began: u64,
}

/// Memory of one process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident pages, shared ones counted in full.
    pub resident: u64,
    /// Resident pages, shared ones divided by the number of those who share them.
    pub proportional: u64,
}

/// What is known of a process; nothing if there is no such process.
#[must_use]
pub fn stat(pid: u32) -> Option<Stat> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, parentheses too: the last one ends it.
    let (head, tail) = line.rsplit_once(')')?;
    let command = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    let ticks = number(11)? + number(12)?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Stat {
        pid,
        command,
        state: fields.first()?.chars().next()?,
        parent: u32::try_from(number(1)?).ok()?,
        cpu: Duration::from_millis(ticks * 1000 / per_second),
        threads: u32::try_from(number(17)?).ok()?,
        began: number(19)?,
    })
}

/// Every process there is.
#[must_use]
pub fn all() -> Vec<Stat> {
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| stat(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// The children of a process, zombies too, in the order in which they began.
#[must_use]
pub fn children(pid: u32) -> Vec<Stat> {
    let mut found: Vec<Stat> = all().into_iter().filter(|stat| stat.parent == pid).collect();
    found.sort_by_key(|stat| (stat.began, stat.pid));
    found
}

/// A process and everything beneath it.
#[must_use]
pub fn tree(pid: u32) -> Vec<Stat> {
    let all = all();
    let mut found: Vec<Stat> = all.iter().filter(|stat| stat.pid == pid).cloned().collect();
    let mut next = 0;
    while next < found.len() {
        let parent = found[next].pid;
        found.extend(all.iter().filter(|stat| stat.parent == parent).cloned());
        next += 1;
    }
    found
}

/// The ended but unreaped processes beneath `pid`.
#[must_use]
pub fn zombies(pid: u32) -> Vec<Stat> {
    tree(pid).into_iter().filter(|stat| stat.state == 'Z').collect()
}

/// Whether the process runs (a zombie does not).
#[must_use]
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// The open descriptors of a process and what they are (`socket:[…]`, a path, `anon_inode:[eventpoll]` …).
#[must_use]
pub fn descriptors(pid: u32) -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?.display().to_string()))
        })
        .collect()
}

/// How many descriptors of each kind a process has open: what differs from one file of a kind to the next, as a socket's
/// inode, is left out.
#[must_use]
pub fn descriptor_kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for what in descriptors(pid).into_values() {
        let kind = match what.split_once(":[") {
            Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
            _ => what,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// The memory of one process; zero if it is gone.
#[must_use]
pub fn memory(pid: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or_default()
            * 1024
    };
    Memory { resident: field("Rss:"), proportional: field("Pss:") }
}

/// The memory of a process and everything beneath it, added up.
#[must_use]
pub fn tree_memory(pid: u32) -> Memory {
    tree(pid).iter().map(|stat| memory(stat.pid)).fold(Memory::default(), |sum, one| Memory {
        resident: sum.resident + one.resident,
        proportional: sum.proportional + one.proportional,
    })
}

/// The CPU time of a process and everything beneath it that is alive, added up. Resolution: 10 ms a process.
#[must_use]
pub fn tree_cpu(pid: u32) -> Duration {
    tree(pid).iter().map(|stat| stat.cpu).sum()
}

/// Whether a process has a handler for this signal (`SigCgt` in `/proc/<pid>/status`).
#[must_use]
pub fn catches(pid: u32, signal: rustix::process::Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// The variables that a process was started with. One that executes a program just now has none, and no arguments either, until
/// those of the new one are in place: that is waited for.
#[must_use]
pub fn environment(pid: u32) -> Vec<String> {
    // In one go: between two reads it may execute another program, and the second finds nothing any more.
    let read = |what: &str| -> Vec<u8> {
        let mut bytes = vec![0; MOST_BYTES];
        let read = fs::File::open(format!("/proc/{pid}/{what}")).and_then(|mut file| file.read(&mut bytes));
        bytes.truncate(read.unwrap_or_default());
        bytes
    };
    let mut bytes = read("environ");
    for _ in 0..READS {
        // Threads of the kernel have none for ever, and no file either.
        if !bytes.is_empty() || !read("cmdline").is_empty() || executable(pid).is_none() {
            break;
        }
        thread::park_timeout(READ_AGAIN);
        bytes = read("environ");
    }
    bytes
        .split(|byte| *byte == 0)
        .filter(|variable| !variable.is_empty())
        .map(|variable| String::from_utf8_lossy(variable).into_owned())
        .collect()
}

/// The words of a process's command line.
#[must_use]
pub fn command_line(pid: u32) -> Vec<String> {
    fs::read(format!("/proc/{pid}/cmdline"))
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The executable that a process runs.
#[must_use]
pub fn executable(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The inodes of the TCP sockets that listen on this port of IPv4, as `socket:[inode]`.
#[must_use]
pub fn listeners(port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let table = BufReader::new(fs::File::open("/proc/net/tcp").expect("the kernel's table of TCP sockets"));
    let suffix = format!(":{port:04X}");
    // The listening sockets come first; after them may follow tens of thousands of connections.
    let lines = table.lines().map_while(Result::ok).skip(1);
    lines
        .take_while(|line| line.split_whitespace().nth(3) == Some(LISTEN))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inode = fields.get(9)?;
            fields.get(1)?.ends_with(&suffix).then(|| format!("socket:[{inode}]"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn this_process_is_found_with_its_descriptors_and_memory() {
        let me = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inodes = listeners(listener.local_addr().unwrap().port());
        assert_eq!(inodes.len(), 1);
        assert!(descriptors(me).values().any(|what| *what == inodes[0]));
        assert!(memory(me).resident > 0);
        assert!(alive(me));
        assert_eq!(tree(me)[0].pid, me);
    }
}
