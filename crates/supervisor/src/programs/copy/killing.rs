//! How a copy ends for certain: asked, killed, counted, waited for.
//!
//! ```text
//!   first process ended ─▶ what is left ── signal_rest ─▶ (its own limit) ── kill_all ─▶ looked for again ─┬─ nothing: gone
//!                                                              ▲                                          │
//!                                                              └────────────────── something, in time ◀───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handover_handoff::process::{self, Child};
use handover_handoff::reactor;
use rustix::process::{Pid, Signal};

use super::super::groups::{self, Survey};
use super::{Copy, named};

/// How often [`Copy::kill_now`] looks for what was forked while it looked before.
const MAX_LOOKS: u32 = 8;
/// Between two looks at what cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What became of a kill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Killed {
    /// Processes that had to be killed.
    pub(crate) killed: u32,
    /// Processes that could not be (they wait for a device, uninterruptibly), after the time was over.
    pub(crate) left: u32,
}

impl Copy {
    /// Waits until nothing of it is left, and removes its control group. Cancel-safe.
    pub(crate) async fn gone(&self) {
        loop {
            // What it leaves behind is looked for when the first process has ended: until then there is something.
            if self.main.is_some() {
                self.exited().await;
            }
            let members = self.members(&look().await);
            if members.is_empty() {
                if !self.group().is_some_and(|group| group.is_populated()) {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            for (pid, began) in members {
                ended(pid, began).await;
            }
        }
        self.group().iter().for_each(groups::Group::remove);
    }

    /// Sends a signal to all others than the first process; says to how many.
    ///
    /// # Errors
    /// There is no such signal.
    pub(crate) fn signal_rest(&self, signal: i32) -> io::Result<u32> {
        let signal = named(signal)?;
        if self.is_clearly_gone() {
            return Ok(0);
        }
        let members = self.members(&Survey::take());
        let rest = members.into_iter().filter(|(pid, _)| *pid != self.pid());
        let sent = rest.filter(|(pid, began)| send(*pid, *began, signal)).count();
        Ok(u32::try_from(sent).unwrap_or(u32::MAX))
    }

    /// Kills everything that is left of it, also what is forked meanwhile, and waits until it has ended, or `limit` is over.
    pub(crate) async fn kill_all(&self, limit: Duration) -> Killed {
        let deadline = Instant::now() + limit;
        let mut killed = BTreeSet::new();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut is_killed = false;
        loop {
            let members = if self.is_clearly_gone() {
                // Whatever forks faster than one can look is ended by this.
                is_killed = true;
                self.kill_at_once();
                BTreeMap::new()
            } else {
                self.members(&look().await)
            };
            if members.is_empty() && is_killed {
                self.group().iter().for_each(groups::Group::remove);
                return Killed { killed: count(killed.len()), left: 0 };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Killed {
                    killed: count(killed.len().saturating_sub(members.len())),
                    left: count(members.len()),
                };
            }
            self.kill_at_once();
            is_killed = true;
            for (pid, began) in &members {
                send(*pid, *began, Signal::KILL);
            }
            killed.extend(members.iter().map(|(pid, began)| (*pid, *began)));
            let all_ended = async {
                for (pid, began) in members {
                    ended(pid, began).await;
                }
            };
            // Then they are looked at once more, and told as left.
            let _ = tokio::time::timeout(left, all_ended).await;
        }
    }

    /// Kills everything that is left of it, without waiting until it has ended: where nobody can wait any more. Takes as long as
    /// a look at all processes does, or a few.
    pub(crate) fn kill_now(&self) {
        if self.is_clearly_gone() {
            return;
        }
        let mut killed = BTreeSet::new();
        for _ in 0..MAX_LOOKS {
            self.kill_at_once();
            // What was killed may be seen once more, and forks nothing any more.
            let members = self.members(&Survey::take()).into_iter();
            let new: Vec<(u32, u64)> = members.filter(|member| killed.insert(*member)).collect();
            if new.is_empty() {
                return;
            }
            for (pid, began) in new {
                send(pid, began, Signal::KILL);
            }
        }
    }

    /// Whether nothing of it is left, as far as that can be seen without a look at all processes: whoever has lost its parent is
    /// a child of this process. `false` if it cannot be seen.
    pub(super) fn is_clearly_gone(&self) -> bool {
        let Some(main) = self.main.as_ref().filter(|main| main.is_child && main.exit().is_some()) else {
            return false;
        };
        if let Some(group) = self.group() {
            return !group.is_populated();
        }
        if !process::is_subreaper() {
            return false;
        }
        let children = process::children().unwrap_or_default();
        // The first process is one as long as it is not reaped; otherwise the list is none.
        let belonging = self.belonging();
        children.contains(&main.process.child.pid())
            && !children.into_iter().any(|pid| groups::lives(pid) && belonging.has(pid))
    }

    /// Kills what the kernel can kill in one step, so that nothing is forked in between.
    fn kill_at_once(&self) {
        if let Some(group) = self.group() {
            // What is outside of it, or an older kernel, is seen to one by one.
            let _ = group.kill();
        }
        // As long as the first process is not reaped, no other process group has its number.
        let Some(main) = self.main.as_ref().filter(|main| main.is_child) else { return };
        if let Some(group) = i32::try_from(main.process.child.pid()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// All processes now, looked at by a thread that may take its time.
async fn look() -> Survey {
    tokio::task::spawn_blocking(Survey::take).await.unwrap_or_default()
}

/// Takes hold of the process that has this number, if it is the one that began then.
fn hold(pid: u32, began: u64) -> Option<Child> {
    let child = Child::of(pid).ok()?;
    // After it is held, so that the number cannot change hands in between.
    (groups::began(pid) == Some(began)).then_some(child)
}

fn send(pid: u32, began: u64, signal: Signal) -> bool {
    hold(pid, began).is_some_and(|child| child.signal(signal).is_ok())
}

/// Waits until this process has ended.
async fn ended(pid: u32, began: u64) {
    let Some(child) = hold(pid, began) else { return };
    match reactor::register_child(Arc::new(child)) {
        Ok(child) => drop(child.readable().await),
        // Out of descriptors: it is looked at again.
        Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
    }
}
