//! How a program is known to be ready, and how it is told to read its configuration anew.

use std::time::Duration;

use handover::Address;
use handover::program::{CommandSpec, Private, ProgramSocket, Ready, Reload};

use super::super::super::address;
use super::super::super::raw_programs::{Accepts, RawProgramReload, RawReady, ReadyWord, ReloadWord};
use super::super::super::sink::{Located, Span};
use super::super::super::values_programs::{Signal, WordOr};
use super::super::Cx;
use super::start::{command_spec, command_within};
use super::{Subject, has_address};

/// How long a copy that can be asked nothing must live to count as ready.
const LIVES: Duration = Duration::from_secs(1);

/// How a copy is known to be ready.
pub(super) fn ready(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) -> Ready {
    if subject.accepts() != Accepts::Program {
        if let Some(ready) = subject.raw.ready.get() {
            cx.sink.warning(ready.span, "ready has no effect: nothing is started before a connection comes");
        }
        return Ready::After(Duration::ZERO);
    }
    let default = || match has_address(sockets, private) {
        true => Ready::Tcp { address: None },
        false => Ready::After(LIVES),
    };
    let Some(Located { value, span }) = subject.raw.ready.get() else { return default() };
    let ready = match value {
        WordOr::Word(word) => match word.0 {
            ReadyWord::Notify => Some(Ready::Notify),
            ReadyWord::Tcp => Some(Ready::Tcp { address: None }),
        },
        WordOr::Table(raw) => table(raw, *span, cx),
    };
    if let Some(Ready::Tcp { address: None } | Ready::Http { address: None, .. }) = &ready {
        must_have_address(*span, subject, sockets, private, cx);
    }
    ready.unwrap_or_else(default)
}

fn must_have_address(
    span: Span,
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) {
    // What could not be understood was reported.
    let is_given = subject.raw.listen.is_present() || subject.raw.private.is_present();
    if !has_address(sockets, private) && !is_given {
        cx.sink
            .error(span, "the program has no address at which it could be asked")
            .help("say address = \"127.0.0.1:…\" here, or add listen or private");
    }
}

fn table(raw: &RawReady, span: Span, cx: &mut Cx<'_>) -> Option<Ready> {
    let tcp = raw.tcp.get().filter(|tcp| tcp.value);
    let given = [
        ("http", raw.http.get().map(|field| field.span)),
        ("tcp", tcp.map(|field| field.span)),
        ("command", raw.command.get().map(|field| field.span)),
        ("after", raw.after.get().map(|field| field.span)),
    ];
    let bad = [raw.http.is_present(), raw.tcp.is_present(), raw.command.is_present(), raw.after.is_present()];
    exactly_one("ready", &given, bad.contains(&true), span, cx);
    let http = raw.http.get();
    for (key, field, needs, there) in [
        ("host", raw.host.get().map(|field| field.span), "http", http.is_some()),
        ("status", raw.status.get().map(|field| field.span), "http", http.is_some()),
        (
            "address",
            raw.address.get().map(|field| field.span),
            "http or tcp",
            http.or(None).is_some() || tcp.is_some(),
        ),
        ("timeout", raw.timeout.get().map(|field| field.span), "command", raw.command.get().is_some()),
    ] {
        no_effect_without(key, field, needs, there, cx);
    }
    let address = raw.address.get().and_then(|text| connect_to(text, cx));
    if let Some(path) = http {
        target(path, cx);
        host(raw.host.get(), cx);
        let status = raw.status.get().and_then(|status| u16::try_from(status.value.0).ok());
        return Some(Ready::Http { path: path.value.clone(), host: raw.host(), status, address });
    }
    if tcp.is_some() {
        return Some(Ready::Tcp { address });
    }
    if let Some(command) = raw.command.get() {
        return Some(Ready::Command(command_within(&command.value, raw.timeout().0, cx)));
    }
    raw.after.get().map(|after| Ready::After(after.value.0))
}

/// Reports none, or more than one.
fn exactly_one(what: &str, given: &[(&str, Option<Span>)], any: bool, span: Span, cx: &mut Cx<'_>) {
    let all: Vec<&str> = given.iter().map(|(key, _)| *key).collect();
    let there: Vec<(&str, Span)> = given.iter().filter_map(|(key, span)| Some((*key, (*span)?))).collect();
    match there.as_slice() {
        [] if !any => {
            let (last, rest) = all.split_last().unwrap_or((&"", &[]));
            cx.sink
                .error(span, format!("{what} does not say how"))
                .help(format!("add one of {} and {last}", rest.join(", ")));
        }
        [(first, place), (second, span), ..] => {
            cx.sink
                .error(*span, format!("{what} has both {first} and {second}"))
                .help("leave all but one out")
                .also(*place, "this one");
        }
        _ => {}
    }
}

fn no_effect_without(key: &str, span: Option<Span>, needs: &str, there: bool, cx: &mut Cx<'_>) {
    if let Some(span) = span.filter(|_| !there) {
        cx.sink.warning(span, format!("{key} has no effect without {needs}"));
    }
}

/// An address to connect to: no name, since it is asked for at any time.
fn connect_to(text: &Located<String>, cx: &mut Cx<'_>) -> Option<Address> {
    match address::endpoint(&text.value, cx.base) {
        Ok(address::Place::Address(found)) => Some(Address::from(&found)),
        Ok(address::Place::Name(..)) => {
            cx.sink
                .error(text.span, format!("{:?} is no address but a name", text.value))
                .help("write the IP address, as in \"127.0.0.1:8080\"");
            None
        }
        Err(wrong) => {
            cx.wrong(text.span, wrong);
            None
        }
    }
}

/// The target of a request.
fn target(path: &Located<String>, cx: &mut Cx<'_>) {
    let text = &path.value;
    if !text.starts_with('/') || text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'#') {
        cx.sink
            .error(path.span, format!("{text:?} is not the path of a request"))
            .help("begin with \"/\", as in \"/health\"");
    }
}

fn host(host: Option<&Located<String>>, cx: &mut Cx<'_>) {
    if let Some(host) = host
        && (host.value.is_empty() || host.value.bytes().any(|byte| !byte.is_ascii_graphic()))
    {
        cx.sink.error(host.span, format!("{:?} is not a host", host.value));
    }
}

/// How it is told to read its configuration anew, and how it is known that it has.
#[derive(Default)]
pub(super) struct Reloading {
    pub(super) how: Option<Reload>,
    pub(super) check: Option<CommandSpec>,
}

pub(super) fn reload(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) -> Reloading {
    let raw = subject.raw;
    let check = raw.reload_check.get().and_then(|check| command_spec(&check.value.0, cx));
    if let Some(given) = raw.reload_check.get().filter(|_| !raw.reload.is_present()) {
        cx.sink.warning(given.span, "reload_check has no effect without reload");
    }
    let Some(Located { value, span }) = raw.reload.get() else { return Reloading { how: None, check } };
    let how = match value {
        WordOr::Word(word) => match word.0 {
            ReloadWord::Notify => Some(Reload::Notify { signal: Signal::HUP.number() }),
        },
        WordOr::Table(raw) => reload_table(raw, *span, cx),
    };
    if matches!(how, Some(Reload::Http { .. })) && !has_address(sockets, private) && !raw.listen.is_present()
    {
        cx.sink
            .error(*span, "the program has no address at which it could be asked")
            .help("add listen or private, or use a command");
    }
    Reloading { how, check }
}

fn reload_table(raw: &RawProgramReload, span: Span, cx: &mut Cx<'_>) -> Option<Reload> {
    let given = [
        ("notify", raw.notify.get().map(|field| field.span)),
        ("command", raw.command.get().map(|field| field.span)),
        ("http", raw.http.get().map(|field| field.span)),
        ("signal", raw.signal.get().map(|field| field.span)),
    ];
    let any =
        [raw.notify.is_present(), raw.command.is_present(), raw.http.is_present(), raw.signal.is_present()];
    exactly_one("reload", &given, any.contains(&true), span, cx);
    let takes_time = raw.http.get().is_some() || raw.command.get().is_some();
    no_effect_without("host", raw.host.get().map(|field| field.span), "http", raw.http.get().is_some(), cx);
    no_effect_without(
        "timeout",
        raw.timeout.get().map(|field| field.span),
        "command or http",
        takes_time,
        cx,
    );
    for signal in [raw.notify.get(), raw.signal.get()].into_iter().flatten() {
        if signal.value.is_kill() {
            cx.sink.error(signal.span, "KILL ends every process: nothing is read anew by it");
        }
    }
    if let Some(signal) = raw.notify.get() {
        return Some(Reload::Notify { signal: signal.value.number() });
    }
    if let Some(command) = raw.command.get() {
        return Some(Reload::Command(command_within(&command.value, raw.timeout().0, cx)));
    }
    if let Some(path) = raw.http.get() {
        target(path, cx);
        host(raw.host.get(), cx);
        return Some(Reload::Http { path: path.value.clone(), host: raw.host(), limit: raw.timeout().0 });
    }
    raw.signal.get().map(|signal| Reload::Signal { signal: signal.value.number() })
}
