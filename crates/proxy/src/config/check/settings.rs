//! What is set once for the whole server: control, log, metrics, drain.

use super::super::address;
use super::super::decode::Field;
use super::super::model::{Control, Drain, Grant, Guard, Log, LogTarget, Metrics, Roles, Tickets, Watch};
use super::super::raw::{Access, RawControl, RawDrain, RawGrant, RawLog, RawMetrics};
use super::super::raw_tls::{RawGuard, RawTickets, RawWatch};
use super::super::sink::{Located, Span};
use super::super::values::Principal;
use super::listeners::{self, Taken};
use super::{Cx, routes};

/// Whether a name is that of a user or of a group.
#[derive(Clone, Copy)]
enum Whose {
    User,
    Group,
}

pub(super) fn metrics(raw: Located<RawMetrics>, taken: &mut Taken, cx: &mut Cx<'_>) -> Option<Metrics> {
    let raw = raw.value;
    let mode = raw.mode().0;
    let path = raw.path();
    if let Some(given) = raw.path.get() {
        routes::check_path(given, cx.sink);
    }
    let addresses = listeners::addresses(raw.address, &raw.mode, mode, taken, cx);
    Some(Metrics { addresses, path: path.into() })
}

pub(super) fn control(raw: RawControl, taken: &mut Taken, cx: &mut Cx<'_>) -> Control {
    let mode = raw.mode().0;
    let history = raw.history().0;
    let generations = raw.generations().0;
    let socket = raw.socket.take().and_then(|text| control_socket(text, mode, taken, cx));
    let group = raw.group.take().and_then(|group| number(&group, Whose::Group, cx));
    let state = raw.state.take().and_then(|text| cx.path(&text));
    let roles = raw.roles.or_default();
    let roles = Roles {
        admin: grant(roles.admin, cx),
        operate: grant(roles.operate, cx),
        read: grant(roles.read, cx),
    };
    Control { socket, mode, group, roles, state, history, generations }
}

fn control_socket(
    text: Located<String>,
    mode: u32,
    taken: &mut Taken,
    cx: &mut Cx<'_>,
) -> Option<std::path::PathBuf> {
    let path = text.value.strip_prefix("unix:").unwrap_or(&text.value);
    if path.starts_with('@') {
        cx.sink
            .error(text.span, "the control socket must be a file: permissions protect it")
            .help("write a path, as in \"/run/handover/control.sock\"");
        return None;
    }
    match address::socket_path(path, cx.base) {
        Ok(path) => {
            let address = super::super::model::ListenAddress::Unix { path: path.clone(), mode };
            if let Some(other) = taken.add(&address, text.span) {
                cx.sink
                    .error(text.span, format!("{address} is the address of a listener"))
                    .also(other, "this one");
            }
            Some(path)
        }
        Err(wrong) => {
            cx.wrong(text.span, wrong);
            None
        }
    }
}

fn grant(raw: Field<RawGrant>, cx: &mut Cx<'_>) -> Grant {
    let raw = raw.or_default();
    let mut numbers = |list: Field<super::super::decode::OneOrMany<Principal>>, whose| {
        let mut numbers: Vec<u32> = list
            .take()
            .iter()
            .flat_map(|list| list.value.as_slice())
            .filter_map(|principal| number(principal, whose, cx))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    Grant { users: numbers(raw.users, Whose::User), groups: numbers(raw.groups, Whose::Group) }
}

/// The number of a user, or a report.
pub(super) fn user_number(principal: &Located<Principal>, cx: &mut Cx<'_>) -> Option<u32> {
    number(principal, Whose::User, cx)
}

/// The number of a group, or a report.
pub(super) fn group_number(principal: &Located<Principal>, cx: &mut Cx<'_>) -> Option<u32> {
    number(principal, Whose::Group, cx)
}

/// The number of a user or a group, or a report.
fn number(principal: &Located<Principal>, whose: Whose, cx: &mut Cx<'_>) -> Option<u32> {
    let name = match &principal.value {
        Principal::Number(number) => return Some(*number),
        Principal::Name(name) => name,
    };
    let (found, what, list) = match whose {
        Whose::User => (cx.resolve.user(name), "user", "/etc/passwd"),
        Whose::Group => (cx.resolve.group(name), "group", "/etc/group"),
    };
    match found {
        Ok(Some(number)) => return Some(number),
        Ok(None) => cx.sink.error(principal.span, format!("there is no {what} {name:?} in {list}")).help(
            if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() {
                format!("write a number without quotes: {name}")
            } else {
                format!("give a {what} that is known elsewhere by its number")
            },
        ),
        Err(error) => cx.sink.error(principal.span, format!("cannot look up {what} {name:?}: {error}")),
    };
    None
}

pub(super) fn log(raw: &RawLog, cx: &mut Cx<'_>) -> Log {
    let to = target(&raw.to(), raw.to.get().map(|field| field.span).unwrap_or_default(), cx);
    let access = match raw.access() {
        Access::Off => None,
        Access::SameAsLog => Some(to.clone()),
        Access::To(text) => {
            Some(target(&text, raw.access.get().map(|field| field.span).unwrap_or_default(), cx))
        }
    };
    Log { format: raw.format().0, to, level: raw.level().0, access }
}

fn target(text: &str, span: Span, cx: &mut Cx<'_>) -> LogTarget {
    match text {
        "stderr" => LogTarget::Stderr,
        "stdout" => LogTarget::Stdout,
        path => cx.path(&Located { value: path.to_owned(), span }).map_or(LogTarget::Stderr, LogTarget::File),
    }
}

pub(super) fn drain(raw: &RawDrain) -> Drain {
    Drain { timeout: raw.timeout().0 }
}

pub(super) fn tickets(raw: &RawTickets) -> Tickets {
    Tickets { rotate: raw.rotate().0, keep: raw.keep().0 }
}

pub(super) fn watch(raw: &RawWatch) -> Watch {
    Watch { settle: raw.settle().0, retry: raw.retry().0, poll: raw.poll().0 }
}

pub(super) fn guard(raw: &RawGuard) -> Guard {
    Guard {
        watch: raw.watch().0,
        requests: raw.requests().0,
        errors_5xx: raw.errors_5xx().0,
        connect_failures: raw.connect_failures().0,
        handshake_failures: raw.handshake_failures().0,
    }
}
