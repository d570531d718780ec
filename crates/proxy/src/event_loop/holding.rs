//! What is held goes on, tries again, is answered: when something has changed, and when its time has come.

use super::*;

impl EventLoop {
    /// Acts on what is published of the traffic.
    pub(super) fn follow_traffic(&mut self) {
        self.cx.refresh();
    }

    /// Counts what is in flight of something.
    pub(super) fn answer_census(&mut self, census: Census) {
        let _ = census;
    }
}
