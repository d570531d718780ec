//! What is to run: the exam of a reload, and what is applied when it serves.
//!
//! ```text
//!   differs? ─▶ examine ─▶ Examined ─▶ apply (what was proved serves)
//!                                └───▶ abort (what was started is killed)
//!   apply without an exam: each program that differs is swapped by itself
//! ```

use std::sync::Arc;
use std::time::Duration;

use handover_lifecycle::OperationKey;

use super::editions::Edition;
use super::hosted::{self, Hosted};
use super::order::Exam;
use super::out::Out;
use super::served::Served;
use super::{Programs, SharedSocket, Sockets, leftovers};
use crate::protocol::{Accept, Names, ProgramSpec, Target};

impl Programs {
    /// Whether a reload to these needs an exam, and the longest time that it may take.
    pub(crate) fn differs(&self, specs: &[ProgramSpec]) -> Option<Duration> {
        let limits: Vec<_> = specs.iter().filter_map(|spec| self.exam_limit(spec)).collect();
        // Those that come after others are examined after them.
        (!limits.is_empty()).then(|| limits.iter().sum())
    }

    /// The longest time that the exam of this definition may take; `None` if it needs none, or cannot have one.
    fn exam_limit(&self, spec: &ProgramSpec) -> Option<Duration> {
        if spec.accept != Accept::Program {
            return None;
        }
        match self.all.get(&spec.name) {
            Some(hosted) if hosted.is_leaving() => None,
            Some(hosted) if !hosted.starts_otherwise(spec) => None,
            Some(hosted) => hosted.longest_exam(spec),
            // Its connections are accepted here until then, and both cannot have them.
            None if self.served.contains_key(&spec.name) => None,
            None => Hosted::new(&spec.name, 1).longest_exam(spec),
        }
    }

    /// Starts what is new beside what runs, and proves it; [`Out::Examined`] follows. Then [`Programs::apply`] with the same
    /// operation, or [`Programs::abort`].
    pub(crate) fn examine(&mut self, operation: OperationKey, specs: &[ProgramSpec], sockets: Sockets) {
        let examined = specs.iter().filter(|spec| self.exam_limit(spec).is_some());
        let examined = examined.cloned().map(Arc::new).collect();
        self.exam = Some(Exam::new(operation, examined, of_programs(specs, sockets)));
        self.go_on();
    }

    /// What was started for this exam is killed.
    pub(crate) fn abort(&mut self, operation: OperationKey) {
        if self.exam.take_if(|exam| exam.operation == operation).is_some() {
            for hosted in self.all.values_mut() {
                hosted.abort(&mut self.common);
            }
        }
        self.go_on();
    }

    /// These are to run from now on. With an exam, what it has started serves; otherwise each program that differs is
    /// swapped by itself.
    pub(crate) fn apply(
        &mut self,
        specs: &[ProgramSpec],
        names: &Names,
        sockets: Sockets,
        examined: Option<OperationKey>,
    ) {
        self.names = names.clone();
        self.end_pauses_of_nothing();
        self.common.sockets = of_programs(specs, sockets);
        let exam = self.exam.take();
        let passed = exam.is_some_and(|exam| Some(exam.operation) == examined);
        let (accepted, own): (Vec<_>, Vec<_>) =
            specs.iter().cloned().map(Arc::new).partition(|spec| spec.accept != Accept::Program);
        self.apply_served(&accepted);
        self.end_forgotten();
        for spec in own {
            let hosted = self.all.entry(spec.name.clone()).or_insert_with(|| Hosted::new(&spec.name, 1));
            let edition: Edition = hosted.next_edition(&spec, &self.common.sockets);
            hosted.resume(&mut self.common);
            hosted.apply(&mut self.common, edition, passed);
        }
        let is_own = |spec: &&ProgramSpec| spec.accept == Accept::Program;
        let is_wanted = |name: &str| specs.iter().filter(is_own).any(|spec| spec.name == name);
        for hosted in self.all.values_mut().filter(|hosted| !is_wanted(&hosted.name)) {
            hosted.resume(&mut self.common);
            hosted.leave(&mut self.common);
        }
        self.go_on();
    }

    /// What is not there any more is not paused, nor when it comes again.
    fn end_pauses_of_nothing(&mut self) {
        let names = &self.names;
        let over = self.common.board.resume(|paused| match &paused.target {
            Target::Service(name) => !names.services.contains_key(name),
            Target::Route(name) => !names.routes.contains(name),
            Target::Listener(name) => !names.listeners.contains(name),
            // A program's ends when nothing of it is left.
            Target::Program(_) | Target::Endpoint(_) => false,
        });
        if over.is_empty() {
            return;
        }
        for paused in over {
            let notice = format!("the pause of {} is over: there is none any more", paused.target);
            self.common.out.push(Out::Notice(notice));
        }
        self.common.say_traffic(None);
    }

    /// The same for those whose connections are accepted here.
    fn apply_served(&mut self, specs: &[Arc<ProgramSpec>]) {
        for spec in specs {
            match self.served.get_mut(&spec.name) {
                Some(served) => served.apply(&mut self.common, spec),
                None => {
                    let sockets = hosted::sockets_of(spec, &self.common.sockets);
                    let edition = Edition { spec: Arc::clone(spec), place: None, sockets };
                    self.served.insert(spec.name.clone(), Served::new(edition, &self.common));
                }
            }
        }
        for (program, process) in std::mem::take(&mut self.found) {
            match self.served.get_mut(&program) {
                Some(served) => served.found(&self.common, vec![process]),
                None => self.leftovers.push(process.copy),
            }
        }
        for served in self.served.values_mut() {
            let ends = served.is_leaving() && !served.waits_for_resume();
            if !ends && !specs.iter().any(|spec| spec.name == served.name) {
                served.end(&mut self.common, None, true);
            }
        }
    }

    /// After a start that takes over from nobody, nothing of them runs any more. Otherwise what was known of them is lost.
    fn end_forgotten(&mut self) {
        let copies = std::mem::take(&mut self.leftovers);
        if !copies.is_empty() {
            let (place, marks) =
                (self.common.place.clone(), copies.iter().map(|copy| copy.mark.clone()).collect());
            tokio::spawn(async move {
                for ended in leftovers::end_all(copies).await {
                    tracing::warn!("{ended}");
                }
                place.forget_marks(&marks);
            });
        }
    }
}

/// Those that a program names. Of the others none may be held here: a listener that is closed would go on taking connections.
fn of_programs(specs: &[ProgramSpec], sockets: Sockets) -> Sockets {
    let is_named = |shared: &SharedSocket| {
        let named = specs.iter().flat_map(|spec| &spec.sockets);
        named.map(|socket| &socket.address).any(|address| address.is_same_place(&shared.address))
    };
    sockets.into_iter().filter(is_named).collect()
}
