//! What becomes of a request whose endpoint broke off before a response began.
//!
//! ```text
//!   nothing was sent ──────────────────────────────────────────────────────────────▶ elsewhere
//!   whole and idempotent ──over a kept connection, which may have gone stale────────▶ once more
//!                        └─to a copy of a program, which is followed by another one─▶ elsewhere, or to the next copy, MAX_DEATHS times
//!   anything else ─────────────────────────────────────────────────────────────────▶ 502
//! ```

use handover_http1::Refusal;

use super::{Cx, Proxy, Sending, Step};

/// So many copies of a program may die of one request before that is told that they do.
const MAX_DEATHS: u8 = 2;

impl Proxy {
    /// The endpoint's connection broke before a response. `None`: the request goes elsewhere.
    pub(super) fn lost(&mut self, cx: &mut Cx) -> Option<Step> {
        let again = !self.began || (self.replayable && self.idempotent && self.may_be_sent_again());
        if !again || self.interim > 0 {
            let reason = "the endpoint closed the connection before it answered";
            return Some(Step::Fail(Refusal::new(502, reason)));
        }
        if self.dial.is_reused() {
            self.dial.was_dead(cx);
        } else if self.began {
            self.dial.died(cx);
        } else {
            self.dial.failed(cx);
        }
        if self.replayable {
            self.out.rewind_to(0);
            self.sending = Sending::Whole;
        }
        self.began = false;
        cx.buffers.release(&mut self.inbuf);
        self.seen = 0;
        None
    }

    /// What was kept is known to go stale; and a copy of a program that dies is followed by another one.
    fn may_be_sent_again(&mut self) -> bool {
        if self.dial.is_reused() {
            return true;
        }
        self.deaths += 1;
        self.leads_to_program() && self.deaths <= MAX_DEATHS
    }

    fn leads_to_program(&self) -> bool {
        self.dial.plan().is_some_and(|plan| plan.program.is_some())
    }
}
