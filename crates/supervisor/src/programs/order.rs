//! Which programs begin and end when: those that come after others wait for them, and end before them.
//!
//! ```text
//!   db ◀── after ── web ◀── after ── cron       begin: db, web, cron       end: cron, web, db
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_api::Problem;
use handover_lifecycle::OperationKey;
use handover_lifecycle::program::Plan;

use super::common::{Common, Prepared};
use super::hosted::Hosted;
use super::out::Out;
use super::served::Served;
use super::{Edition, Sockets};
use crate::protocol::ProgramSpec;

/// All programs, by name.
pub(super) type All = BTreeMap<String, Hosted>;

/// A stop of everything.
#[derive(Debug)]
pub(super) struct Ending {
    /// When those that still run get no more time.
    until: Instant,
    /// Whether they were told so.
    hurried: bool,
}

impl Ending {
    pub(super) fn new(limit: Duration) -> Self {
        let now = Instant::now();
        Ending { until: now.checked_add(limit).unwrap_or(now), hurried: false }
    }

    /// When it is to be looked at again.
    pub(super) fn deadline(&self) -> Instant {
        if self.hurried { self.given_up() } else { self.until }
    }

    fn given_up(&self) -> Instant {
        self.until.checked_add(Plan::KILL_LIMIT + Duration::from_secs(2)).unwrap_or(self.until)
    }

    /// Ends what may end now. True when nothing runs any more, or what runs cannot be ended.
    pub(super) fn go_on(&mut self, common: &mut Common, all: &mut All, others_are_over: bool) -> bool {
        let now = Instant::now();
        if now >= self.until && !self.hurried {
            self.hurried = true;
            for hosted in all.values_mut().filter(|hosted| !hosted.is_over()) {
                hosted.end(common, Some(Duration::ZERO), false);
            }
        }
        if !self.hurried {
            let left = self.until.saturating_duration_since(now);
            for name in free_to_end(all) {
                if let Some(hosted) = all.get_mut(&name) {
                    hosted.end_once(common, Some(left));
                }
            }
        }
        others_are_over && all.values().all(Hosted::is_over) || now >= self.given_up()
    }
}

/// Those that run and that nobody else who runs comes after.
fn free_to_end(all: &All) -> Vec<String> {
    let is_needed = |name: &str| {
        let mut others = all.values().filter(|other| !other.is_over());
        others.any(|other| other.spec().is_some_and(|spec| spec.after.iter().any(|after| after == name)))
    };
    let free = all.values().filter(|hosted| !hosted.is_over() && !is_needed(&hosted.name));
    let mut free: Vec<String> = free.map(|hosted| hosted.name.clone()).collect();
    if free.is_empty() {
        // They wait for each other in a circle, which the configuration does not allow.
        free = all.keys().cloned().collect();
    }
    free
}

/// Those that have not begun, and may. What is not there is not waited for.
pub(super) fn ready_to_begin(all: &All, served: &BTreeMap<String, Served>) -> Vec<String> {
    let up = |spec: &ProgramSpec| {
        let is_up = |name: &String| {
            all.get(name).map(Hosted::is_up).or_else(|| served.get(name).map(Served::is_up)).unwrap_or(true)
        };
        spec.after.iter().all(is_up)
    };
    let hosted = all.values().filter(|hosted| hosted.waits_to_begin());
    let hosted = hosted.filter(|hosted| hosted.spec().is_some_and(|spec| up(&spec)));
    let served = served.values().filter(|served| served.waits_to_begin() && up(served.spec()));
    hosted.map(|hosted| hosted.name.clone()).chain(served.map(|served| served.name.clone())).collect()
}

/// The exam of a reload.
#[derive(Debug)]
pub(super) struct Exam {
    pub(super) operation: OperationKey,
    /// Those that come after others of this exam.
    waiting: Vec<Arc<ProgramSpec>>,
    running: Vec<String>,
    sockets: Sockets,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Whether everybody was told what came of it.
    told: bool,
}

impl Exam {
    pub(super) fn new(operation: OperationKey, specs: Vec<Arc<ProgramSpec>>, sockets: Sockets) -> Self {
        let (running, problems, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Exam { operation, waiting: specs, running, sockets, problems, warnings, told: false }
    }

    /// Begins what may begin; says so if nothing is left to be done.
    pub(super) fn go_on(&mut self, common: &mut Common, all: &mut All) {
        for prepared in std::mem::take(&mut common.prepared) {
            self.running.retain(|name| *name != prepared.program);
            let named = |warning: &String| Problem::new(format!("{}: {warning}", prepared.program));
            self.warnings.extend(prepared.warnings.iter().map(named));
            if !prepared.passed {
                self.waiting.clear();
                self.problems.extend(problems(prepared));
            }
        }
        let in_exam = |name: &str, waiting: &[Arc<ProgramSpec>], running: &[String]| {
            waiting.iter().any(|spec| spec.name == name) || running.iter().any(|known| known == name)
        };
        let (waiting, running) = (&self.waiting, &self.running);
        let may = |spec: &Arc<ProgramSpec>| {
            !spec.after.iter().any(|after| *after != spec.name && in_exam(after, waiting, running))
        };
        let mut now: Vec<_> = self.waiting.iter().filter(|spec| may(spec)).cloned().collect();
        if now.is_empty() && self.running.is_empty() {
            now.clone_from(&self.waiting);
        }
        self.waiting.retain(|spec| !now.iter().any(|begun| begun.name == spec.name));
        for spec in now {
            self.running.push(spec.name.clone());
            let hosted = all.entry(spec.name.clone()).or_insert_with(|| Hosted::new(&spec.name, 1));
            let edition: Edition = hosted.next_edition(&spec, &self.sockets);
            hosted.examine(common, edition);
        }
        if !common.prepared.is_empty() {
            return self.go_on(common, all);
        }
        let is_over = self.running.is_empty() && self.waiting.is_empty() || !self.problems.is_empty();
        if is_over && !self.told {
            self.told = true;
            let (problems, warnings) =
                (std::mem::take(&mut self.problems), std::mem::take(&mut self.warnings));
            let (operation, passed) = (self.operation, problems.is_empty());
            common.out.push(Out::Examined { operation, passed, problems, warnings });
        }
    }
}

fn problems(prepared: Prepared) -> Vec<Problem> {
    let mut problems: Vec<_> = prepared.problems.into_iter().map(Problem::new).collect();
    if let Some(last) = problems.last_mut().filter(|_| !prepared.lines.is_empty()) {
        last.excerpt = Some(prepared.lines.join("\n"));
    }
    problems
}
