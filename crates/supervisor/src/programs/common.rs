//! What all programs share: where things are, who reads their output, what is said to the worker and to the driver.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use handover_api::Losses;
use handover_lifecycle::CallKey;
use handover_lifecycle::program::CopyKey;
use tokio::sync::mpsc;

use super::copy::SavedCopy;
use super::groups::Groups;
use super::happened::{Happened, Inner, Of};
use super::out::Out;
use super::output::Outputs;
use super::private::Place;
use super::state::{Durable, DurableProgram, StateFile, Write, Writer};
use super::traffic::{Board, Waiter};
use super::{Setup, Sockets};
use crate::protocol::ToWorker;

/// What all programs share.
#[derive(Debug)]
pub(super) struct Common {
    /// The server's name.
    pub(super) server: String,
    pub(super) place: Place,
    pub(super) board: Board,
    pub(super) out: Vec<Out>,
    /// What programs need of the listeners of the generation that serves.
    pub(super) sockets: Sockets,
    pub(super) groups: Groups,
    outputs: Option<Outputs>,
    happened: mpsc::UnboundedSender<Happened>,
    begun: Instant,
    file: StateFile,
    writer: Writer<(String, CallKey)>,
    programs: BTreeMap<String, DurableProgram>,
    copies: BTreeMap<(String, CopyKey), SavedCopy>,
    /// What exams have found since anybody looked.
    pub(super) prepared: Vec<Prepared>,
    /// Connections that were cut, and no operation on a program was told of: that is what a stop of the server has cut.
    pub(super) lost: Losses,
    /// Operations as machines know them; never twice, not even in another life.
    pub(super) operations: u64,
}

impl Common {
    pub(super) fn new(setup: &Setup, happened: mpsc::UnboundedSender<Happened>) -> Self {
        Common {
            server: setup.name.clone(),
            place: Place::new(&setup.runtime, &setup.name),
            board: Board::default(),
            out: Vec::new(),
            sockets: Sockets::new(),
            groups: Groups::none(),
            outputs: None,
            happened,
            begun: Instant::now(),
            file: StateFile::new(&setup.state),
            writer: Writer::default(),
            programs: BTreeMap::new(),
            copies: BTreeMap::new(),
            prepared: Vec::new(),
            lost: Losses::default(),
            operations: 0,
        }
    }

    /// The time of the machines.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Another life has written its times so long ago, when its time was nothing.
    pub(super) fn go_on_after(&mut self, elapsed: Duration) {
        self.begun = Instant::now().checked_sub(elapsed).unwrap_or(self.begun);
    }

    /// The moment that a machine means.
    pub(super) fn moment(&self, at: Duration) -> Option<Instant> {
        self.begun.checked_add(at)
    }

    /// The same as a time of day, RFC 3339.
    pub(super) fn time_of_day(&self, at: Duration) -> String {
        self.in_time(at.saturating_sub(self.now()))
    }

    /// The time of day after this time, RFC 3339.
    pub(super) fn in_time(&self, left: Duration) -> String {
        let now = jiff::Timestamp::now();
        let left = jiff::SignedDuration::try_from(left).unwrap_or(jiff::SignedDuration::MAX);
        crate::journal::written(now.checked_add(left).unwrap_or(now))
    }

    /// What programs write goes here. Its threads begin with the first program.
    pub(super) fn outputs(&mut self) -> Result<Outputs, String> {
        if let Some(outputs) = &self.outputs {
            return Ok(outputs.clone());
        }
        let outputs =
            Outputs::start().map_err(|error| format!("the output of programs cannot be read: {error}"))?;
        self.groups = Groups::detect(&self.server);
        self.outputs = Some(outputs.clone());
        Ok(outputs)
    }

    /// The same, if any program was started.
    pub(super) fn outputs_if_any(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Where tasks of a program say what happened.
    pub(super) fn teller(&self, program: &str) -> Teller {
        Teller { program: program.to_owned(), is_served: false, happened: self.happened.clone() }
    }

    /// The same, of one whose connections are accepted, or looked for, here.
    pub(super) fn teller_of_served(&self, program: &str) -> Teller {
        Teller { is_served: true, ..self.teller(program) }
    }

    /// The worker is told, as far as there is one; if nobody waits, it is told all the same.
    pub(super) fn say_traffic(&mut self, waiter: Option<Waiter>) {
        let message = self.board.say(waiter, Instant::now());
        self.out.push(Out::ToWorker(message));
        self.out.push(Out::Keep);
    }

    /// Sent to the worker that serves.
    pub(super) fn send(&mut self, messages: Vec<ToWorker>) {
        self.out.extend(messages.into_iter().map(Out::ToWorker));
    }

    /// An operation's key for a machine.
    pub(super) fn next_operation(&mut self) -> handover_lifecycle::OperationKey {
        self.operations += 1;
        handover_lifecycle::OperationKey(self.operations)
    }

    /// This is to be on the disk. Says whether it is already.
    pub(super) fn save_program(&mut self, name: &str, state: DurableProgram, call: CallKey) -> bool {
        self.programs.insert(name.to_owned(), state);
        self.save(Some((name.to_owned(), call))).is_some()
    }

    /// The same, and nobody waits for it.
    pub(super) fn note_program(&mut self, name: &str, state: DurableProgram) {
        self.programs.insert(name.to_owned(), state);
        self.save(None);
    }

    /// The program is no more.
    pub(super) fn forget_program(&mut self, name: &str) {
        if self.programs.remove(name).is_some() {
            self.save(None);
        }
        self.board.forget(name);
        if let Some(outputs) = &self.outputs {
            outputs.forget(name);
        }
    }

    /// It is no more, but another one has its name that is started otherwise.
    pub(super) fn forget_traffic(&mut self, name: &str) {
        self.board.forget(name);
    }

    /// A copy of ours runs.
    pub(super) fn save_copy(&mut self, name: &str, copy: CopyKey, saved: SavedCopy) {
        self.copies.insert((name.to_owned(), copy), saved);
        self.save(None);
    }

    /// Nothing of it is left.
    pub(super) fn forget_copy(&mut self, name: &str, copy: CopyKey) {
        self.place.forget_copy(name, copy.0);
        if self.copies.remove(&(name.to_owned(), copy)).is_some() {
            self.save(None);
        }
    }

    /// What an earlier life has written about a program.
    pub(super) fn durable(&self, name: &str) -> Option<&DurableProgram> {
        self.programs.get(name)
    }

    /// Reads what an earlier life has written; its copies are given back, and are ours to end.
    pub(super) fn read_state(&mut self) -> Vec<SavedCopy> {
        match self.file.read() {
            Ok(durable) => {
                self.programs = durable.programs;
                durable.copies
            }
            Err(error) => {
                tracing::warn!("{error}: programs are started from their first slots");
                self.file.set_aside();
                Vec::new()
            }
        }
    }

    /// Takes over what was written by this life, before this process was another program.
    pub(super) fn known_state(&mut self, programs: BTreeMap<String, DurableProgram>) {
        self.programs = programs;
    }

    /// What is to be on the disk of programs.
    pub(super) fn programs_state(&self) -> &BTreeMap<String, DurableProgram> {
        &self.programs
    }

    fn save(&mut self, waiter: Option<(String, CallKey)>) -> Option<(String, CallKey)> {
        let mut durable = Durable { programs: self.programs.clone(), ..Durable::default() };
        durable.copies = self.copies.values().cloned().collect();
        let (write, waiter) = self.writer.save(durable, waiter);
        if let Write::Now(durable) = write {
            self.write(durable);
        }
        waiter
    }

    fn write(&self, durable: Durable) {
        let (file, happened) = (self.file.clone(), self.happened.clone());
        tokio::task::spawn_blocking(move || {
            let written = file.write(&durable).map_err(|error| error.to_string());
            // Nobody is there any more when the supervisor has ended.
            let _ = happened.send(Happened(Inner::Written(written)));
        });
    }

    /// It was written, or not; says who has waited for that.
    pub(super) fn written(&mut self, ok: bool) -> Vec<(String, CallKey)> {
        let (waited, next) = self.writer.written(ok);
        if let Some(durable) = next {
            self.write(durable);
        }
        waited
    }
}

/// What an exam has found about one program.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) program: String,
    pub(super) passed: bool,
    pub(super) problems: Vec<String>,
    pub(super) lines: Vec<String>,
    /// What of its definition could not be kept, although it passed: limits without a control group.
    pub(super) warnings: Vec<String>,
}

/// Tells what happened to a program.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    program: String,
    is_served: bool,
    happened: mpsc::UnboundedSender<Happened>,
}

impl Teller {
    /// Nobody hears it any more when the supervisor has ended.
    pub(super) fn tell(&self, what: Of) {
        let program = self.program.clone();
        let of = if self.is_served { Inner::OfServed(program, what) } else { Inner::Of(program, what) };
        let _ = self.happened.send(Happened(of));
    }
}
