//! What a program is started from: command, directory, variables, slots, user and limits.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use handover::program::{CommandSpec, ResourceLimits, Slot, User};

use super::super::super::decode::{Field, OneOrMany};
use super::super::super::raw_programs::{RawHook, RawProgramLimits, RawSlot, Variables};
use super::super::super::sink::{Located, Span};
use super::super::super::values::Principal;
use super::super::super::{Standing, Whom};
use super::super::Cx;
use super::super::settings::group_number;
use super::Subject;

/// Variables that say which sockets a process has, and where it is heard: every copy gets its own (sd_listen_fds(3),
/// sd_notify(3)).
const OWN_VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"];
/// What the names of the server's own variables begin with.
const OWN_PREFIX: &str = "HANDOVER_";
/// The longest name of a slot.
const MAX_SLOT_NAME_BYTES: usize = 64;

/// What a program is started from.
pub(super) struct Start {
    pub(super) command: Vec<String>,
    pub(super) directory: PathBuf,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) slots: Vec<Slot>,
    pub(super) user: Option<User>,
    pub(super) limits: ResourceLimits,
}

pub(super) fn check(subject: Subject<'_>, cx: &mut Cx<'_>) -> Start {
    let raw = subject.raw;
    let environment = variables(&raw.environment, cx);
    let command = raw.command.get().map(|command| words(&command.value, cx)).unwrap_or_default();
    let directory = raw.directory.get().and_then(|text| directory(text, true, cx));
    let directory = directory.unwrap_or_else(|| cx.base.to_owned());
    let slots = slots(subject, cx);
    // A slot's directory comes before the program's, and its command before the program's.
    let first = slots.first();
    let places: Vec<&Path> = match first {
        Some(slot) => vec![slot.directory.as_deref().unwrap_or(&directory)],
        None => vec![&directory],
    };
    let own_command = slots.iter().all(|slot| slot.command.is_some()) && !slots.is_empty();
    if let Some(written) = raw.command.get().filter(|_| !own_command) {
        look_for_command(&written.value, &places, &environment, cx);
    }
    if let Some(RawSlot { command: Field::Set(command), .. }) =
        raw.slots.get().and_then(|slots| slots.value.0.first()).map(|slot| &slot.value)
    {
        look_for_command(&command.value, &places, &environment, cx);
    }
    let user = user(subject, cx);
    let limits = raw.limits.get().map(|limits| self::limits(&limits.value)).unwrap_or_default();
    Start { command, directory, environment, slots, user, limits }
}

/// A command and its arguments.
fn words(command: &OneOrMany<String>, cx: &mut Cx<'_>) -> Vec<String> {
    let words = command.as_slice();
    for word in words {
        if word.value.contains('\0') {
            cx.sink.error(word.span, "a command cannot have a NUL character");
        }
    }
    if let Some(first) = words.first() {
        if first.value.is_empty() {
            cx.sink.error(first.span, "the name of the command is empty");
        } else if words.len() == 1 && first.value.contains(char::is_whitespace) {
            let split: Vec<String> = first.value.split_whitespace().map(|word| format!("{word:?}")).collect();
            cx.sink
                .error(first.span, "no shell reads the command: this would be the name of one file")
                .help(format!("write a list: [{}]", split.join(", ")));
        }
    }
    words.iter().map(|word| word.value.clone()).collect()
}

/// A command that ends by itself.
pub(super) fn command_spec(raw: &RawHook, cx: &mut Cx<'_>) -> Option<CommandSpec> {
    let command = raw.command.get()?;
    Some(CommandSpec { command: words(&command.value, cx), limit: raw.timeout().0 })
}

/// The same, of a table with other keys.
pub(super) fn command_within(
    command: &OneOrMany<String>,
    limit: std::time::Duration,
    cx: &mut Cx<'_>,
) -> CommandSpec {
    CommandSpec { command: words(command, cx), limit }
}

/// An absolute directory; if it must exist and does not, that is reported.
fn directory(text: &Located<String>, must_exist: bool, cx: &mut Cx<'_>) -> Option<PathBuf> {
    let path = cx.path(text)?;
    match cx.files.stands(&path) {
        None | Some(Standing::Directory) => {}
        Some(standing) => {
            let what = match standing {
                Standing::Nothing => "does not exist",
                _ => "is not a directory",
            };
            let detail = format!("{} {what}", path.display());
            if must_exist {
                cx.sink.error(text.span, detail);
            } else {
                cx.sink.warning(text.span, format!("{detail}: it must before it is deployed"));
            }
        }
    }
    Some(path)
}

/// Whether a program of this name could be told of it.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn variables(raw: &Field<Variables>, cx: &mut Cx<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in raw.get().map(|raw| raw.value.0.as_slice()).unwrap_or_default() {
        if !is_variable(&name.value) {
            cx.sink.error(name.span, format!("{:?} cannot be the name of a variable", name.value));
        } else if value.value.contains('\0') {
            cx.sink.error(value.span, "the value of a variable cannot have a NUL character");
        } else if OWN_VARIABLES.contains(&name.value.as_str()) || name.value.starts_with(OWN_PREFIX) {
            cx.sink
                .error(name.span, format!("{} is set by the server, for each copy anew", name.value))
                .help("leave it out");
        }
        variables.insert(name.value.clone(), value.value.clone());
    }
    variables
}

fn slots(subject: Subject<'_>, cx: &mut Cx<'_>) -> Vec<Slot> {
    let Some(raw) = subject.raw.slots.get() else { return Vec::new() };
    if raw.value.0.len() < 2 {
        cx.sink
            .error(raw.span, "a deploy alternates between at least two slots")
            .help("write two directories, or leave slots out");
    }
    let mut slots: Vec<Slot> = Vec::with_capacity(raw.value.0.len());
    let (mut names, mut places) = (HashMap::new(), HashMap::new());
    for (at, Located { value: slot, span }) in raw.value.0.iter().enumerate() {
        let found = slot.directory.get().and_then(|text| directory(text, at == 0, cx));
        let (name, place) = slot_name(slot, found.as_deref(), *span, cx);
        let path = found.clone().filter(|_| !slot.command.is_present());
        let is_twice = path.as_ref().is_some_and(|path| places.contains_key(path));
        if let Some(first) = names.insert(name.clone(), place).filter(|_| !name.is_empty() && !is_twice) {
            let report = cx.sink.error(place, format!("there are two slots with the name {name:?}"));
            report.also(first, "the other one");
            if slot.name.get().is_none() {
                report.help(format!("give it a name: {{ name = \"{name}2\", directory = \"…\" }}"));
            }
        }
        if let Some(path) = path
            && let Some(first) = places.insert(path, *span)
        {
            cx.sink.error(*span, "two slots have the same directory").also(first, "the other one");
        }
        let command = slot.command.get().map(|command| words(&command.value, cx));
        slots.push(Slot { name, directory: found, command, environment: variables(&slot.environment, cx) });
    }
    slots
}

/// The name of a slot, and where it comes from.
fn slot_name(slot: &RawSlot, directory: Option<&Path>, span: Span, cx: &mut Cx<'_>) -> (String, Span) {
    if let Some(name) = slot.name.get() {
        let text = &name.value;
        let ok = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
        if text.is_empty() || text.len() > MAX_SLOT_NAME_BYTES || !text.chars().all(ok) {
            cx.sink.error(name.span, format!("{text:?} cannot be the name of a slot"));
        }
        return (text.clone(), name.span);
    }
    let last = directory.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    if last.is_none() && !slot.directory.is_present() {
        cx.sink
            .error(span, "a slot needs a name, or a directory that gives it one")
            .lacks(&["name", "directory"]);
    }
    (last.unwrap_or_default(), span)
}

/// Looks whether the command can be found, where anybody is to look.
fn look_for_command(
    command: &OneOrMany<String>,
    places: &[&Path],
    environment: &BTreeMap<String, String>,
    cx: &mut Cx<'_>,
) {
    let Some(first) = command.as_slice().first() else { return };
    let name = &first.value;
    // What stands in braces is known only when it is started; what is no file name was reported.
    if name.is_empty() || name.contains(['{', '\0']) || name.contains(char::is_whitespace) {
        return;
    }
    let found: Vec<(PathBuf, Standing)> = if name.contains('/') {
        // One that is missing was reported; and "./" need not be said.
        let mut there = places.to_vec();
        there.retain(|place| name.starts_with('/') || cx.files.stands(place) != Some(Standing::Nothing));
        let paths = there.iter().map(|place| place.join(name).components().collect::<PathBuf>());
        paths.filter_map(|path| cx.files.stands(&path).map(|standing| (path, standing))).collect()
    } else {
        let given = environment.get("PATH").map(Into::into);
        let Some(search) = given.or_else(|| cx.resolve.search_path()) else { return };
        let search: &std::ffi::OsStr = &search;
        let directories = search.as_bytes().split(|byte| *byte == b':');
        let paths = directories.map(|directory| Path::new(std::ffi::OsStr::from_bytes(directory)).join(name));
        paths.filter_map(|path| cx.files.stands(&path).map(|standing| (path, standing))).collect()
    };
    if found.is_empty() || found.iter().any(|(_, standing)| *standing == Standing::Executable) {
        return;
    }
    let no_luck = found.iter().find(|(_, standing)| *standing != Standing::Nothing);
    let detail = match no_luck {
        Some((path, Standing::Directory)) => format!("{} is a directory, not a command", path.display()),
        Some((path, _)) => format!("{} cannot be executed by anybody", path.display()),
        None if name.contains('/') => {
            let path = found.first().map(|(path, _)| path.display().to_string()).unwrap_or_default();
            format!("there is no command {path}")
        }
        None => format!("there is no command {name:?} in PATH"),
    };
    cx.sink.error(first.span, detail);
}

/// As whom it runs.
fn user(subject: Subject<'_>, cx: &mut Cx<'_>) -> Option<User> {
    let raw = subject.raw;
    let group = raw.group.get().and_then(|group| Some((group_number(group, cx)?, group.span)));
    let Some(user) = raw.user.get() else {
        if let Some((_, span)) = group.filter(|_| !raw.user.is_present()) {
            cx.sink.error(span, "a group alone is not enough").help("add user");
        }
        return None;
    };
    let whom = match &user.value {
        Principal::Name(name) => Whom::Name(name),
        Principal::Number(uid) => Whom::Number(*uid),
    };
    let account = match cx.resolve.account(whom) {
        Ok(Some(account)) => account,
        Ok(None) => {
            let name = if let Principal::Name(name) = &user.value { name.as_str() } else { "?" };
            cx.sink
                .error(user.span, format!("there is no user {name:?} in /etc/passwd"))
                .help("give a user that is known elsewhere by its number");
            return None;
        }
        Err(error) => {
            cx.sink.error(user.span, format!("users cannot be looked up: {error}"));
            return None;
        }
    };
    if !cx.resolve.may_become(account.uid) {
        cx.sink
            .error(user.span, "only root can start a program as another user")
            .help("start the server as root, or leave user out");
    }
    let gid = group.map(|(gid, _)| gid).or(account.gid);
    let Some(gid) = gid else {
        if !raw.group.is_present() {
            let detail = format!("user {} is not in /etc/passwd, so its group is not known", account.uid);
            cx.sink.error(user.span, detail).help("add group");
        }
        return None;
    };
    let mut groups = account.groups;
    if !groups.contains(&gid) {
        groups.push(gid);
    }
    Some(User { name: account.name, uid: account.uid, gid, groups, home: account.home })
}

fn limits(raw: &RawProgramLimits) -> ResourceLimits {
    ResourceLimits {
        nofile: raw.nofile.get().map(|limit| limit.value.0.into()),
        memory: raw.memory.get().map(|limit| limit.value.0),
        cpu: raw.cpu.get().map(|limit| limit.value.0),
        processes: raw.processes.get().map(|limit| limit.value.0.into()),
    }
}
