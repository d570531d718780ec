//! The addresses of a program: those that its copies share, and the one that each has for itself.

use std::collections::HashSet;

use handover::Address;
use handover::program::{Pass, Private, ProgramSocket};

use super::super::super::address;
use super::super::super::model::ListenAddress;
use super::super::super::raw_programs::Accepts;
use super::super::super::sink::Located;
use super::super::Cx;
use super::super::listeners::Taken;
use super::Subject;
use super::start::is_variable;
use super::words::Uses;

/// The number that descriptors begin with where `LISTEN_FDS` tells of them (sd_listen_fds(3)).
const FIRST_OF_LISTEN_FDS: u32 = 3;

/// The sockets that all copies share.
pub(super) fn check(subject: Subject<'_>, taken: &mut Taken, cx: &mut Cx<'_>) -> Vec<ProgramSocket> {
    let raw = subject.raw;
    let Some(listen) = raw.listen.get() else {
        for (key, span) in [
            ("mode", raw.mode.get().map(|field| field.span)),
            ("backlog", raw.backlog.get().map(|field| field.span)),
        ] {
            if let Some(span) = span.filter(|_| !raw.listen.is_present()) {
                cx.sink.warning(span, format!("{key} has no effect: the program has no listen"));
            }
        }
        return Vec::new();
    };
    let mut sockets = Vec::with_capacity(listen.value.0.len());
    let mut names = HashSet::new();
    for (name, text) in &listen.value.0 {
        if let Some(name) = name {
            cx.name(name, "socket");
            names.insert(name.value.as_str());
        }
        match address::listen(&text.value, cx.base, raw.mode().0) {
            Ok(address) => {
                if let Some(other) = taken.add(&address, text.span) {
                    cx.sink
                        .error(text.span, format!("{address} cannot be bound beside another address"))
                        .also(other, "this one");
                }
                let name = name.as_ref().unwrap_or(subject.name).value.clone();
                sockets.push((address, name));
            }
            Err(wrong) => cx.wrong(text.span, wrong),
        }
    }
    if listen.value.0.is_empty() {
        cx.sink.error(listen.span, "no address: nothing would ever listen").help("leave listen out");
    }
    let is_path = |(address, _): &(ListenAddress, String)| matches!(address, ListenAddress::Unix { .. });
    if let Some(mode) = raw.mode.get()
        && sockets.len() == listen.value.0.len()
        && !sockets.iter().any(is_path)
    {
        cx.sink.warning(mode.span, "mode has no effect: none of the addresses is a Unix socket with a path");
    }
    sockets
        .into_iter()
        .map(|(address, name)| ProgramSocket { address: Address::from(&address), name })
        .collect()
}

/// The address that each copy has for itself.
pub(super) fn private(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    uses: &Uses,
    cx: &mut Cx<'_>,
) -> Option<Private> {
    let raw = subject.raw;
    let given = raw.private.get().map(|kind| (kind.value.0, kind.span));
    if subject.accepts() != Accepts::Program {
        let place = given.map(|(_, span)| span).or(subject.led);
        if let Some(span) = place {
            let name = &subject.name.value;
            let detail =
                format!("program {name:?} is started for connections, and has no address of its own");
            let report = cx.sink.error(span, detail).help("routes and services need accept = \"program\"");
            if let Some(accept) = raw.accept.get() {
                report.also(accept.span, "because of this");
            }
        }
        return None;
    }
    let Some((kind, span)) = given else {
        let has_port = sockets.iter().any(|socket| matches!(socket.address, Address::Tcp(_)));
        subject.led?;
        return Some(match uses {
            Uses { port: true, .. } if !has_port => Private::Port,
            Uses { socket: true, .. } if sockets.is_empty() => Private::Path,
            _ => Private::Socket,
        });
    };
    let untold = match kind {
        Private::Port => (!uses.port).then_some("{port}"),
        Private::Path => (!uses.socket).then_some("{socket}"),
        Private::Socket => None,
    };
    if let Some(word) = untold {
        cx.sink
            .error(span, "the program is not told where to listen")
            .help(format!("write {word} into its command or its environment"));
    }
    if subject.led.is_none() {
        cx.sink.warning(span, format!("no route and no service leads to program {:?}", subject.name.value));
    }
    Some(kind)
}

/// How sockets are passed.
pub(super) fn pass(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) -> Pass {
    let raw = subject.raw;
    let first = raw.fd().0;
    let listen_fds = match raw.listen_fds.get() {
        Some(given) => given.value,
        None => first == FIRST_OF_LISTEN_FDS,
    };
    if let (Some(given), Some(fd), true) =
        (raw.listen_fds.get(), raw.fd.get(), listen_fds && first != FIRST_OF_LISTEN_FDS)
    {
        cx.sink
            .error(
                fd.span,
                format!("the descriptors that LISTEN_FDS tells of begin with {FIRST_OF_LISTEN_FDS}"),
            )
            .help("leave one of the two out")
            .also(given.span, "because of this");
    }
    if let Some(name) = raw.fd_env.get() {
        variable(name, cx);
    }
    let passed = !sockets.is_empty() || private == Some(Private::Socket);
    let by_program = subject.accepts() == Accepts::Program;
    for (key, span) in [
        ("listen_fds", raw.listen_fds.get().map(|field| field.span)),
        ("fd_env", raw.fd_env.get().map(|field| field.span)),
        ("fd", raw.fd.get().map(|field| field.span)),
        ("nonblocking", raw.nonblocking.get().map(|field| field.span)),
    ] {
        match span {
            Some(span) if !passed && !raw.listen.is_present() => {
                cx.sink.warning(span, format!("{key} has no effect: no socket is passed to the program"));
            }
            Some(span) if !by_program => {
                let detail = format!("{key} has no effect: the socket is the program's standard input");
                cx.sink.warning(span, detail);
            }
            _ => {}
        }
    }
    let fd_env = raw.fd_env.get().map(|name| name.value.clone());
    let first_fd = i32::try_from(first).unwrap_or(i32::MAX);
    Pass { listen_fds, fd_env, first_fd, nonblocking: raw.nonblocking() }
}

/// Checks the name of a variable that is set for the program.
fn variable(name: &Located<String>, cx: &mut Cx<'_>) {
    if !is_variable(&name.value) {
        cx.sink.error(name.span, format!("{:?} cannot be the name of a variable", name.value));
    }
}
