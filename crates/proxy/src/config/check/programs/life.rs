//! How copies follow each other: when they are started, replaced, ended and started again.

use handover::program::{Accept, Private, ProgramSocket, Restart, Stop, Swap};

use super::super::super::raw_programs::{Accepts, RawProgram};
use super::super::super::sink::Span;
use super::super::Cx;
use super::Subject;

/// What is known of it.
pub(super) struct Life {
    pub(super) stop: Stop,
    pub(super) restart: Restart,
    pub(super) accept: Accept,
}

pub(super) fn check(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) -> Life {
    let raw = subject.raw;
    if subject.accepts() == Accepts::Program {
        copies(raw, cx);
    }
    demand(subject, sockets, private, cx);
    accepting(subject, sockets, cx);
    if let Some(warm) = raw.warm.get()
        && private.is_none()
        && !warm.value.0.is_zero()
    {
        cx.sink
            .warning(
                warm.span,
                "warm has no effect: on shared sockets what served before would go on accepting",
            )
            .help("a copy can be kept only if it has an address of its own: private = \"socket\"");
    }
    let stop = raw.stop.get().map(|stop| stop.value.clone()).unwrap_or_default();
    let restart = raw.restart.get().map(|restart| restart.value.clone()).unwrap_or_default();
    let (first, longest) = (restart.first().0, restart.longest().0);
    if first > longest
        && let Some(given) =
            restart.first.get().map(|field| field.span).or(restart.longest.get().map(|field| field.span))
    {
        cx.sink.error(given, "the first pause is longer than the longest");
    }
    Life {
        stop: Stop { signal: stop.signal().number(), limit: stop.timeout().0 },
        restart: Restart { policy: restart.policy().0, first, longest, reset: restart.reset().0 },
        accept: match subject.accepts() {
            Accepts::Program => Accept::Program,
            Accepts::Wait => Accept::Wait,
            Accepts::Each => {
                Accept::Each { processes: raw.max_processes().0, per_second: raw.max_per_second().0 }
            }
        },
    }
}

/// Several copies, and replacing them.
fn copies(raw: &RawProgram, cx: &mut Cx<'_>) {
    let copies = raw.copies().0;
    if let (Swap::StopFirst, Some(swap), Some(given)) = (raw.swap().0, raw.swap.get(), raw.copies.get())
        && copies > 1
    {
        cx.sink
            .error(given.span, format!("{copies} copies run side by side, and two of them must not"))
            .help("leave copies out, or swap")
            .also(swap.span, "because of this");
    }
    if let Some(batch) = raw.batch.get()
        && batch.value.0 > copies
    {
        cx.sink.warning(batch.span, format!("there are no {} copies to be replaced at once", batch.value.0));
    }
    if let Some(given) = raw.max_unhealthy.get()
        && given.value.0 >= copies
        && given.value.0 > 0
    {
        let detail = match copies {
            1 => "the only copy may fail, and nothing would stop a restart".to_owned(),
            _ => format!("all {copies} copies may fail, and nothing would stop a restart"),
        };
        cx.sink.error(given.span, detail).help("it must be less than copies");
    }
    if let Some(pause) = raw.pause_timeout.get()
        && raw.swap().0 != Swap::StopFirst
        && raw.swap.is_present() == raw.swap.get().is_some()
    {
        cx.sink.warning(pause.span, "pause_timeout has no effect without swap = \"stop-first\"");
    }
}

/// Being started by the first connection, or the first request that is passed to it.
fn demand(subject: Subject<'_>, sockets: &[ProgramSocket], private: Option<Private>, cx: &mut Cx<'_>) {
    let raw = subject.raw;
    let on_demand = raw.on_demand.get().filter(|on_demand| on_demand.value);
    let by_connection = subject.accepts() != Accepts::Program;
    if let Some(given) = on_demand {
        if by_connection {
            cx.sink.warning(given.span, "on_demand has no effect: it is started by connections anyway");
        } else if sockets.is_empty()
            && !raw.listen.is_present()
            && (private.is_none() || subject.led.is_none())
        {
            cx.sink
                .error(
                    given.span,
                    "nobody would notice the first connection: no socket is held for the program, and no route leads to it",
                )
                .help("add listen, or a route or service with this program");
        }
    }
    if let Some(idle) = raw.idle.get()
        && on_demand.is_none()
        && raw.on_demand.is_present() == raw.on_demand.get().is_some()
    {
        cx.sink
            .error(idle.span, "it would be stopped when idle, and never be started again")
            .help("add on_demand = true");
    }
}

/// A process for each connection, and the other way of old.
fn accepting(subject: Subject<'_>, sockets: &[ProgramSocket], cx: &mut Cx<'_>) {
    let raw = subject.raw;
    let accepts = subject.accepts();
    let understood = raw.accept.is_present() == raw.accept.get().is_some();
    for (key, span) in [
        ("max_processes", raw.max_processes.get().map(|field| field.span)),
        ("max_per_second", raw.max_per_second.get().map(|field| field.span)),
    ] {
        if let Some(span) = span.filter(|_| understood && accepts != Accepts::Each) {
            cx.sink.warning(span, format!("{key} has no effect without accept = \"each\""));
        }
    }
    let Some(given) = raw.accept.get().filter(|_| accepts != Accepts::Program) else { return };
    let word = if accepts == Accepts::Each { "each" } else { "wait" };
    if sockets.is_empty() && !raw.listen.is_present() {
        cx.sink
            .error(given.span, format!("accept = \"{word}\" needs sockets on which connections come"))
            .help("add listen");
    }
    if accepts == Accepts::Wait && sockets.len() > 1 {
        cx.sink
            .error(given.span, "a process has one standard input, and would get one of the sockets only")
            .help("write a program for each address");
    }
    let without_effect: [(&str, Option<Span>); 4] = [
        ("copies", raw.copies.get().map(|field| field.span)),
        ("swap", raw.swap.get().map(|field| field.span)),
        ("settle", raw.settle.get().map(|field| field.span)),
        ("restart", raw.restart.get().map(|field| field.span)),
    ];
    for (key, span) in without_effect {
        if let Some(span) = span {
            cx.sink.warning(span, format!("{key} has no effect with accept = \"{word}\""));
        }
    }
}
