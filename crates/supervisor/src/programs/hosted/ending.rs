//! How operations on a program end: what the machine says, in figures and words.

use handover_api::{Problem, ProgramGoesBack, ServesNow};
use handover_lifecycle::program::{Figures, State};
use handover_lifecycle::{Cause, OperationKey, Outcome};

use super::super::asked::What;
use super::super::common::Common;
use super::Hosted;
use crate::protocol::Swap;

impl Hosted {
    /// The machine has ended an operation.
    pub(super) fn done(
        &mut self,
        common: &mut Common,
        operation: OperationKey,
        outcome: Outcome,
        cause: Cause,
        figures: Figures,
    ) {
        if self.active.as_ref().is_none_or(|active| active.inner != operation) {
            // It was another supervisor's: nobody waits for it, so it was called off, as if the server were to end.
            let cause = if cause == Cause::ShuttingDown { Cause::SupervisorDied } else { cause };
            return tracing::info!(
                program = self.name,
                "an operation of an earlier supervisor ended: {outcome} ({cause})"
            );
        }
        // If nobody has come to answer them, nobody is waited for any more.
        self.held_since = None;
        let serves = self.serves_now(outcome);
        let view = self.view();
        let warm = view.warm_until.map(|at| common.time_of_day(at));
        let goes_back = self.goes_back(common, operation);
        let to = self.serving_place();
        let name = self.name.clone();
        let private = self.spec().is_some_and(|spec| spec.private.is_some());
        let Some(active) = &mut self.active else { return };
        if goes_back.is_some() {
            self.pending_by = Some(active.asker.clone());
        }
        let result = &mut active.ended.program;
        (result.started, result.stopped) = (figures.ready, figures.ended);
        (result.serves, result.goes_back) = (serves, goes_back);
        result.next_connection = view.state == State::OnDemand;
        result.warm_until = warm.filter(|_| outcome.is_success());
        if outcome.is_success() && active.what.moves() {
            result.to = to.or(result.to.take());
        }
        if !active.what.moves() {
            let stays = result.to.take().filter(|_| active.what == What::Confirm);
            (result.from, result.to) = (None, stays);
        }
        if !private {
            result.in_flight_ended = None;
        }
        let is_deploy = matches!(active.what, What::Deploy { .. });
        if is_deploy && outcome.is_success() && !private {
            active.ended.warnings.push(Problem::new(format!(
                "{name} accepts from shared sockets, so what ran before was stopped and is not kept warm: a rollback \
                 starts it anew"
            )));
        }
        active.ended.warnings.extend(unquiet(figures.unquiet, &name));
        let needs_words = !outcome.is_success() && active.ended.problems.is_empty();
        if needs_words && let Some(words) = words_for(cause, &active.what, &name) {
            active.ended.problems.push(Problem::new(words));
        }
        self.finish(common, outcome, cause);
    }

    /// What becomes of what this operation has deployed, if it awaits confirmation.
    fn goes_back(&self, common: &Common, operation: OperationKey) -> Option<ProgramGoesBack> {
        let pending = self.view().pending.filter(|pending| pending.operation == Some(operation))?;
        let left = pending.until.saturating_sub(common.now());
        Some(ProgramGoesBack {
            to: self.place_name(pending.back_to).unwrap_or_else(|| "what ran before".to_owned()),
            at: common.in_time(left),
            within_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What serves when the operation has ended.
    fn serves_now(&self, outcome: Outcome) -> ServesNow {
        let view = self.view();
        let serves = view.copies.iter().any(|copy| copy.on);
        let Some(active) = &self.active else { return ServesNow::Old };
        let is_new = view.copies.iter().any(|copy| copy.on && active.copies.contains(&copy.copy));
        let stops_first = self.spec().is_some_and(|spec| spec.swap == Swap::StopFirst);
        match (outcome.is_success(), serves) {
            (_, false) if !matches!(view.state, State::Running | State::Swapping) => ServesNow::Nothing,
            (true, _) if is_new || matches!(active.what, What::Rollback | What::Cancel | What::GoBack) => {
                ServesNow::New
            }
            (true, _) => ServesNow::Old,
            (false, _) if stops_first && is_new => ServesNow::OldAgain,
            (false, _) => ServesNow::Old,
        }
    }
}

impl What {
    /// Whether it leads from one place to another.
    fn moves(&self) -> bool {
        matches!(self, What::Deploy { .. } | What::Rollback | What::Cancel | What::GoBack)
    }
}

/// Some copies were asked to end before what was in flight at them had.
fn unquiet(copies: u32, name: &str) -> Option<Problem> {
    let which = match copies {
        0 => return None,
        1 => "1 old copy".to_owned(),
        n => format!("{n} old copies"),
    };
    Some(Problem::new(format!("what was in flight at {which} of {name} did not end in time")))
}

/// What there is to say about an end of which no copy has told why.
fn words_for(cause: Cause, what: &What, name: &str) -> Option<String> {
    Some(match cause {
        Cause::Pending => {
            format!(
                "a deploy of {name} awaits confirmation: 'handover confirm {name}' or 'handover cancel {name}' first"
            )
        }
        Cause::StateNotSaved => format!(
            "which slot of {name} serves could not be written down, and a restart would not know it: look at the disk of \
             the state directory"
        ),
        Cause::Unfit if matches!(what, What::Confirm | What::Cancel) => {
            format!("no deploy of {name} awaits confirmation")
        }
        Cause::Unfit => {
            format!("there is nothing that {name} ran before its last deploy and could go back to")
        }
        _ => return None,
    })
}
