//! Programs: what is run, as whom, on which sockets, and how it is known to be well.
//!
//! ```text
//!   routes, services ── lead to ─▶ Leading ─┐
//!   [program.NAME] ─▶ start ─▶ sockets ─────┴▶ proofs ─▶ life ─▶ ProgramSpec ─▶ order of all of them
//! ```
//!
//! Whether directories and commands exist is looked at as well, where the disk is what counts ([`super::super::Files::stands`]):
//! what could not be started is refused before anything of it is tried.

mod life;
mod order;
mod proofs;
mod sockets;
mod start;
mod words;

use handover::program::{Private, ProgramSocket, ProgramSpec, Swap};

use super::super::decode::{Field, Named};
use super::super::model::{Program, Service, ServiceIndex};
use super::super::raw::RawService;
use super::super::raw_programs::{Accepts, MAX_PROGRAMS, RawProgram};
use super::super::sink::{Located, Span};
use super::listeners::Taken;
use super::tls::Loaded;
use super::{Cx, Names, services};

/// Which services and routes lead to which programs.
pub(super) struct Leading {
    names: Names,
    /// Where something is first said to lead to the program of that position.
    from: Vec<Option<Span>>,
    /// Services of the file: their number, and for each with a program the position of that.
    written: usize,
    services: Vec<(ServiceIndex, String, Option<usize>, Span)>,
    /// Programs that a route leads to without a service of the file; each has one of its own, after those of the file.
    implied: Vec<usize>,
}

impl Leading {
    /// `services` are those of the file, as written.
    pub(super) fn new<'n>(
        names: impl Iterator<Item = &'n Located<String>>,
        services: &[(Located<String>, Field<RawService>)],
        cx: &mut Cx<'_>,
    ) -> Self {
        let names = Names::new("program", "program", names);
        let from = vec![None; names.len()];
        let mut leading =
            Self { names, from, written: services.len(), services: Vec::new(), implied: Vec::new() };
        for (index, (name, service)) in services.iter().enumerate() {
            let program = service.get().and_then(|service| service.value.program.get());
            let at = program.and_then(|program| leading.refer(program, cx));
            leading.services.push((index, name.value.clone(), at, name.span));
        }
        leading
    }

    /// The position of a program that something leads to, or a report.
    fn refer(&mut self, name: &Located<String>, cx: &mut Cx<'_>) -> Option<usize> {
        let at = self.names.refer(name, cx.sink)?;
        if let Some(from) = self.from.get_mut(at) {
            from.get_or_insert(name.span);
        }
        Some(at)
    }

    /// The service of the program that a route leads to.
    pub(super) fn service(&mut self, program: &Located<String>, cx: &mut Cx<'_>) -> Option<ServiceIndex> {
        let at = self.refer(program, cx)?;
        if let Some((index, name, leads_to, span)) =
            self.services.iter().find(|(_, name, ..)| *name == program.value)
        {
            if *leads_to == Some(at) {
                return Some(*index);
            }
            let detail = format!("service {name:?} has the name of the program, and does not lead to it");
            cx.sink
                .error(program.span, detail)
                .help(format!("give the service another name, or program = {name:?}"))
                .also(*span, "this service");
            return None;
        }
        let position = self.implied.iter().position(|known| *known == at).unwrap_or_else(|| {
            self.implied.push(at);
            self.implied.len() - 1
        });
        Some(self.written + position)
    }

    /// The services that no table of the file has, in the order of their indices.
    pub(super) fn implied_services(&self, loaded: &Loaded, cx: &mut Cx<'_>) -> Vec<Service> {
        let mut implied = Vec::with_capacity(self.implied.len());
        for at in &self.implied {
            let Some(name) = self.names.get(*at) else { continue };
            let raw = RawService { program: Field::Set(name.clone()), ..RawService::default() };
            implied.push(services::check_one(name, raw, name.span, loaded, cx));
        }
        implied
    }
}

/// A program that is being checked.
#[derive(Clone, Copy)]
struct Subject<'a> {
    name: &'a Located<String>,
    raw: &'a RawProgram,
    /// Where something leads to it.
    led: Option<Span>,
}

impl Subject<'_> {
    fn accepts(&self) -> Accepts {
        self.raw.accept().0
    }
}

/// Checks all programs.
pub(super) fn check(
    raw: Named<RawProgram, MAX_PROGRAMS>,
    leading: &mut Leading,
    taken: &mut Taken,
    cx: &mut Cx<'_>,
) -> Vec<Program> {
    let mut programs = Vec::with_capacity(raw.0.len());
    let mut followers = Vec::with_capacity(raw.0.len());
    for (at, (name, raw)) in raw.0.iter().enumerate() {
        cx.name(name, "program");
        let mut after = Vec::new();
        if let Field::Set(raw) = raw {
            let led = leading.from.get(at).copied().flatten();
            let subject = Subject { name, raw: &raw.value, led };
            programs.push(check_one(subject, taken, cx));
            after = order::after(subject, &mut leading.names, cx);
        }
        followers.push(after);
    }
    order::refuse_circles(&followers, &leading.names, cx.sink);
    programs
}

fn check_one(subject: Subject<'_>, taken: &mut Taken, cx: &mut Cx<'_>) -> Program {
    let raw = subject.raw;
    let start = start::check(subject, cx);
    let sockets = sockets::check(subject, taken, cx);
    let uses = words::uses(raw);
    let private = sockets::private(subject, &sockets, &uses, cx);
    let pass = sockets::pass(subject, &sockets, private, cx);
    words::refuse_empty_ones(subject, &sockets, private, cx);
    let ready = proofs::ready(subject, &sockets, private, cx);
    let reload = proofs::reload(subject, &sockets, private, cx);
    let hook = raw.hook.get().and_then(|hook| start::command_spec(&hook.value.0, cx));
    let life = life::check(subject, &sockets, private, cx);
    // Of a process for each connection there are no copies that could follow each other.
    let has_copies = subject.accepts() == Accepts::Program;
    let spec = ProgramSpec {
        name: subject.name.value.clone(),
        command: start.command,
        directory: Some(start.directory),
        environment: start.environment,
        clear_environment: raw.clear_environment(),
        user: start.user,
        limits: start.limits,
        sockets,
        pass,
        private,
        copies: if has_copies { raw.copies().0 } else { 1 },
        swap: if has_copies { raw.swap().0 } else { Swap::Overlap },
        slots: start.slots,
        hook,
        ready,
        ready_limit: raw.ready_timeout().0,
        settle: raw.settle().0,
        reload: reload.how,
        reload_check: reload.check,
        stop: life.stop,
        restart: life.restart,
        after: raw.after.get().map(|after| order::names(&after.value)).unwrap_or_default(),
        accept: life.accept,
        on_demand: raw.on_demand(),
        idle: raw.idle.get().map(|idle| idle.value.0),
        warm: raw.warm().0,
        batch: raw.batch().0,
        max_unhealthy: if has_copies { raw.max_unhealthy().0 } else { 0 },
        max_held: raw.max_held().0,
        pause_limit: raw.pause_timeout().0,
    };
    Program { spec, backlog: raw.backlog().0 }
}

/// Whether a program has any address at which it could be asked.
fn has_address(sockets: &[ProgramSocket], private: Option<Private>) -> bool {
    private.is_some() || !sockets.is_empty()
}
