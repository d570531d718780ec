//! What differs in programs. Values of variables are never told: they may be secret.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use handover::program::{
    Accept, CommandSpec, Pass, Private, ProgramSocket, ProgramSpec, Ready, Reload, ResourceLimits, Restart,
    RestartPolicy, Slot, Stop, Swap, User,
};

use super::super::model::Program;
use super::super::values::{show_mode, show_size, show_time};
use super::super::values_programs::{show_cpu, show_signal};
use super::Differences;

/// What of a program differs. Every field of [`ProgramSpec`] is named here, so that none is forgotten.
pub(super) fn program(old: &Program, new: &Program) -> Vec<String> {
    let mut found = Differences::default();
    let ProgramSpec {
        name: _,
        command,
        directory,
        environment,
        clear_environment,
        user,
        limits,
        sockets,
        pass,
        private,
        copies,
        swap,
        slots,
        hook,
        ready,
        ready_limit,
        settle,
        reload,
        reload_check,
        stop,
        restart,
        after,
        accept,
        on_demand,
        idle,
        warm,
        batch,
        max_unhealthy,
        max_held,
        pause_limit,
    } = &old.spec;
    let is = &new.spec;
    found.value("command", command, &is.command, |words| line(words));
    found.value("directory", directory, &is.directory, |path| shown(path.as_deref().map(Path::display)));
    variables(&mut found, "environment", environment, &is.environment);
    found.value("clear_environment", clear_environment, &is.clear_environment, Clone::clone);
    found.value("user", user, &is.user, |user| shown(user.as_ref().map(account)));
    self::limits(&mut found, limits, &is.limits);
    let shown_sockets = |sockets: &[ProgramSocket]| sockets.iter().map(socket).collect::<Vec<_>>();
    found.list("listen", &shown_sockets(sockets), &shown_sockets(&is.sockets), Clone::clone);
    self::pass(&mut found, pass, &is.pass);
    found.value("backlog", &old.backlog, &new.backlog, Clone::clone);
    found.value("private", private, &is.private, |kind| shown(kind.map(private_word)));
    found.value("copies", copies, &is.copies, Clone::clone);
    found.value("swap", swap, &is.swap, |swap| swap_word(*swap));
    self::slots(&mut found, slots, &is.slots);
    found.value("hook", hook, &is.hook, |hook| shown(hook.as_ref().map(command_spec)));
    found.value("ready", ready, &is.ready, self::ready);
    found.time("ready_timeout", *ready_limit, is.ready_limit);
    found.time("settle", *settle, is.settle);
    found.value("reload", reload, &is.reload, |reload| shown(reload.as_ref().map(self::reload)));
    let check = |check: &Option<CommandSpec>| shown(check.as_ref().map(command_spec));
    found.value("reload_check", reload_check, &is.reload_check, check);
    self::stop(&mut found, stop, &is.stop);
    self::restart(&mut found, restart, &is.restart);
    found.list("after", after, &is.after, Clone::clone);
    found.value("accept", accept, &is.accept, self::accept);
    demand(&mut found, (*on_demand, *idle), (is.on_demand, is.idle));
    found.time("warm", *warm, is.warm);
    found.value("batch", batch, &is.batch, Clone::clone);
    found.value("max_unhealthy", max_unhealthy, &is.max_unhealthy, Clone::clone);
    found.value("max_held", max_held, &is.max_held, Clone::clone);
    found.time("pause_timeout", *pause_limit, is.pause_limit);
    found.0
}

fn demand(found: &mut Differences, old: (bool, Option<Duration>), new: (bool, Option<Duration>)) {
    found.value("on_demand", &old.0, &new.0, Clone::clone);
    found.value("idle", &old.1, &new.1, |idle| shown(idle.map(show_time)));
}

fn shown<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// A command as one would type it, more or less.
fn line(words: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@%+,{}".contains(&byte))
    };
    let shown = words.iter().map(|word| if plain(word) { word.clone() } else { format!("{word:?}") });
    shown.collect::<Vec<_>>().join(" ")
}

/// Which variables came, went and changed, not their values.
fn variables(
    found: &mut Differences,
    key: &str,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) {
    let names = |of: &BTreeMap<String, String>| of.keys().cloned().collect::<Vec<String>>();
    found.list(key, &names(old), &names(new), Clone::clone);
    let changed: Vec<&str> = old
        .iter()
        .filter(|(name, value)| new.get(*name).is_some_and(|new| new != *value))
        .map(|(name, _)| name.as_str())
        .collect();
    if !changed.is_empty() {
        found.0.push(format!("{key} {} changed", changed.join(" ")));
    }
}

fn account(user: &User) -> String {
    let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
    let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
    let home = user.home.as_deref().map(|home| format!(", {}", home.display())).unwrap_or_default();
    format!("{name} ({}:{}, groups {}{home})", user.uid, user.gid, groups.join(" "))
}

fn limits(found: &mut Differences, old: &ResourceLimits, new: &ResourceLimits) {
    let number = |limit: &Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    found.value("limits.nofile", &old.nofile, &new.nofile, number);
    found.value("limits.memory", &old.memory, &new.memory, |limit| shown(limit.map(show_size)));
    found.value("limits.cpu", &old.cpu, &new.cpu, |limit| shown(limit.map(show_cpu)));
    found.value("limits.processes", &old.processes, &new.processes, number);
}

fn socket(socket: &ProgramSocket) -> String {
    match &socket.address {
        handover::Address::Unix { mode, .. } => {
            format!("{} (mode {}, {})", socket.address, show_mode(*mode), socket.name)
        }
        address => format!("{address} ({})", socket.name),
    }
}

fn pass(found: &mut Differences, old: &Pass, new: &Pass) {
    found.value("listen_fds", &old.listen_fds, &new.listen_fds, Clone::clone);
    found.value("fd_env", &old.fd_env, &new.fd_env, |name| shown(name.as_deref()));
    found.value("fd", &old.first_fd, &new.first_fd, Clone::clone);
    found.value("nonblocking", &old.nonblocking, &new.nonblocking, Clone::clone);
}

fn private_word(kind: Private) -> &'static str {
    match kind {
        Private::Socket => "socket",
        Private::Path => "path",
        Private::Port => "port",
    }
}

fn swap_word(swap: Swap) -> &'static str {
    match swap {
        Swap::Overlap => "overlap",
        Swap::StopFirst => "stop-first",
    }
}

fn slots(found: &mut Differences, old: &[Slot], new: &[Slot]) {
    let names = |slots: &[Slot]| slots.iter().map(|slot| slot.name.clone()).collect::<Vec<_>>();
    found.list("slots", &names(old), &names(new), Clone::clone);
    for slot in new {
        let Some(was) = old.iter().find(|was| was.name == slot.name) else { continue };
        let key = |what: &str| format!("slots.{}.{what}", slot.name);
        found.value(&key("directory"), &was.directory, &slot.directory, |path| {
            shown(path.as_deref().map(Path::display))
        });
        let command = |command: &Option<Vec<String>>| shown(command.as_deref().map(line));
        found.value(&key("command"), &was.command, &slot.command, command);
        variables(found, &key("environment"), &was.environment, &slot.environment);
    }
}

fn command_spec(spec: &CommandSpec) -> String {
    format!("{} (within {})", line(&spec.command), show_time(spec.limit))
}

fn ready(ready: &Ready) -> String {
    let at = |address: &Option<handover::Address>| match address {
        Some(address) => format!(" at {address}"),
        None => String::new(),
    };
    match ready {
        Ready::Notify => "notify".to_owned(),
        Ready::Http { path, host, status, address } => {
            let status = status.map_or_else(|| "2xx".to_owned(), |status| status.to_string());
            format!("http {path} of {host} with {status}{}", at(address))
        }
        Ready::Tcp { address } => format!("tcp{}", at(address)),
        Ready::Command(spec) => format!("command {}", command_spec(spec)),
        Ready::After(time) => format!("after {}", show_time(*time)),
    }
}

fn reload(reload: &Reload) -> String {
    match reload {
        Reload::Notify { signal } => format!("notify by {}", show_signal(*signal)),
        Reload::Command(spec) => format!("command {}", command_spec(spec)),
        Reload::Http { path, host, limit } => format!("http {path} of {host} (within {})", show_time(*limit)),
        Reload::Signal { signal } => format!("signal {}", show_signal(*signal)),
    }
}

fn stop(found: &mut Differences, old: &Stop, new: &Stop) {
    found.value("stop.signal", &old.signal, &new.signal, |signal| show_signal(*signal));
    found.time("stop.timeout", old.limit, new.limit);
}

fn restart(found: &mut Differences, old: &Restart, new: &Restart) {
    found.value("restart.policy", &old.policy, &new.policy, |policy| match policy {
        RestartPolicy::Always => "always",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Never => "never",
    });
    found.time("restart.first", old.first, new.first);
    found.time("restart.longest", old.longest, new.longest);
    found.time("restart.reset", old.reset, new.reset);
}

fn accept(accept: &Accept) -> String {
    match accept {
        Accept::Program => "program".to_owned(),
        Accept::Wait => "wait".to_owned(),
        Accept::Each { processes, per_second } => {
            format!("each ({processes} processes, {per_second} per second)")
        }
    }
}
