//! How a program is told to read its configuration anew, and what came of it.
//!
//! ```text
//!   notify:  signal ─▶ RELOADING=1, not from before ─▶ READY=1 ─▶ applied
//!   command: exit 0 ─▶ applied        http: 2xx ─▶ applied        else rejected, with its own words
//!   signal:  sent ─▶ (a check command) ─▶ applied │ rejected, or, without one, sent: nobody knows
//!   any of them: the copy has ended instead ─▶ rejected, and the copies after it are not told
//! ```

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use handover_handoff::process::Exit;
use hyper::Method;
use tokio::time::{Instant, timeout_at};

use super::checks::asking::{self, Question};
use super::checks::contact::{self, Search, Whose};
use super::checks::{self, Finding, Spoken, Subject};
use super::commands::{self, Failed};
use crate::protocol::{CommandSpec, Reload};

/// Connections that are made at most until the copy has accepted one.
const MAX_CROWD: usize = 64;
/// How long each may wait for that.
const ACCEPT_LIMIT: Duration = Duration::from_secs(1);
/// Who does not know a signal is ended by it: that is seen after so long.
const SEEN_AFTER: Duration = Duration::from_millis(100);

/// Sends a signal to the first process of a copy, by its number.
pub(crate) type SendSignal = Arc<dyn Fn(i32) -> io::Result<()> + Send + Sync>;

/// Waits until the first process of a copy has ended, and says how.
pub(crate) type AwaitEnd = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Exit> + Send>> + Send + Sync>;

/// A copy that is to reload.
#[derive(Clone)]
pub(crate) struct Reloading {
    /// The copy.
    pub(crate) subject: Subject,
    /// How it is signalled.
    pub(crate) signal: SendSignal,
    /// How its end is noticed.
    pub(crate) ended: AwaitEnd,
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reloaded {
    /// It has reloaded, and said so itself.
    Applied {
        /// In its own words; of several copies, those of the last.
        answer: Option<String>,
    },
    /// The signal was sent; whether it took effect, nobody has said.
    Sent,
}

/// It has not reloaded; what it did before, it does still, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct NotReloaded {
    /// One sentence.
    pub(crate) why: String,
    /// What it said: a command's output, the body of an answer.
    pub(crate) said: Option<String>,
    /// Whether the copy is no more: it has ended instead.
    pub(crate) ended: bool,
}

impl NotReloaded {
    fn new(subject: &Subject, why: impl fmt::Display) -> Self {
        Self { why: format!("copy {} has not reloaded: {why}", subject.number), said: None, ended: false }
    }

    fn ended(subject: &Subject, exit: Exit) -> Self {
        let why = format!("{}/{} {exit} instead of reloading", subject.program, subject.number);
        Self { why, said: None, ended: true }
    }

    /// What became of the other copies.
    fn among(mut self, done: usize, all: usize) -> Self {
        let left = all - done - 1;
        match done {
            0 => {}
            1 => self.why.push_str("; 1 copy has reloaded before it"),
            n => self.why.push_str(&format!("; {n} copies have reloaded before it")),
        }
        match left {
            0 => {}
            1 => self.why.push_str("; 1 copy was not told"),
            n => self.why.push_str(&format!("; {n} copies were not told")),
        }
        self
    }

    fn of_command(subject: &Subject, failed: &Failed) -> Self {
        let said = failed.said().map(|said| said.text.clone()).filter(|text| !text.is_empty());
        Self { said, ..Self::new(subject, failed) }
    }
}

/// Tells all copies, one after the other, and waits for what each says, at most for `limit` altogether. It may be dropped at
/// any time; what was told by then was told.
///
/// # Errors
/// The first that did not reload; those after it were not told, those before it have reloaded.
pub(crate) async fn reload(
    how: &Reload,
    check: Option<&CommandSpec>,
    copies: &[Reloading],
    limit: Duration,
) -> Result<Reloaded, NotReloaded> {
    let deadline = Instant::now() + limit;
    let mut last = Reloaded::Applied { answer: None };
    for (done, copy) in copies.iter().enumerate() {
        let told = one_that_lives(how, check, copy, deadline, limit).await;
        last = told.map_err(|not| not.among(done, copies.len()))?;
    }
    Ok(last)
}

/// As [`one`], but what ends instead of reloading is noticed at once, and of a signal soon.
async fn one_that_lives(
    how: &Reload,
    check: Option<&CommandSpec>,
    copy: &Reloading,
    deadline: Instant,
    limit: Duration,
) -> Result<Reloaded, NotReloaded> {
    let ended = async {
        let exit = (copy.ended)().await;
        Err(NotReloaded::ended(&copy.subject, exit))
    };
    let told = async {
        let told = one(how, check, copy, deadline, limit).await;
        if told == Ok(Reloaded::Sent) {
            tokio::time::sleep(SEEN_AFTER).await;
        }
        told
    };
    tokio::select! {
        biased;
        not = ended => not,
        told = told => told,
    }
}

async fn one(
    how: &Reload,
    check: Option<&CommandSpec>,
    copy: &Reloading,
    deadline: Instant,
    limit: Duration,
) -> Result<Reloaded, NotReloaded> {
    let subject = &copy.subject;
    let told = match how {
        Reload::Notify { signal } => notify(copy, *signal, deadline, limit).await?,
        Reload::Command(spec) => Reloaded::Applied { answer: command(subject, spec, deadline).await? },
        Reload::Http { path, host, limit } => {
            let limit = (*limit).min(deadline.saturating_duration_since(Instant::now()));
            Reloaded::Applied { answer: post(subject, path, host, limit).await? }
        }
        Reload::Signal { signal } => {
            send(copy, *signal)?;
            Reloaded::Sent
        }
    };
    let Some(check) = check else { return Ok(told) };
    // Whatever it has said itself: the check decides.
    let checked = command(subject, check, deadline).await?;
    Ok(match told {
        Reloaded::Applied { answer: Some(answer) } => Reloaded::Applied { answer: Some(answer) },
        _ => Reloaded::Applied { answer: checked },
    })
}

fn send(copy: &Reloading, signal: i32) -> Result<(), NotReloaded> {
    (copy.signal)(signal)
        .map_err(|error| NotReloaded::new(&copy.subject, format!("the signal cannot be sent: {error}")))
}

/// The signal, `RELOADING=1` that is no older than it, and `READY=1`.
async fn notify(
    copy: &Reloading,
    signal: i32,
    deadline: Instant,
    limit: Duration,
) -> Result<Reloaded, NotReloaded> {
    let Some(mut spoken) = copy.subject.spoken.clone() else {
        return Err(NotReloaded::new(&copy.subject, "it has no NOTIFY_SOCKET on which it could say so"));
    };
    let told_at = monotonic_micros();
    send(copy, signal)?;
    let is_done = |spoken: &Spoken| spoken.reloaded.is_some_and(|at| at >= told_at);
    let done = timeout_at(deadline, spoken.wait_for(is_done)).await.map(|done| done.is_ok());
    let said = spoken.borrow().clone();
    let quoted = |status: &String| format!("; the last it said is \"{status}\"");
    let status = said.status.as_ref().map(quoted).unwrap_or_default();
    match done {
        Ok(true) => match said.errno.filter(|errno| *errno != 0) {
            // It says READY=1 also if it has failed and goes on as before (sd_notify(3)).
            Some(errno) => Err(NotReloaded::new(&copy.subject, format!("it said ERRNO={errno}{status}"))),
            None => Ok(Reloaded::Applied { answer: said.status }),
        },
        Ok(false) => Err(NotReloaded::new(&copy.subject, "nobody listens to its NOTIFY_SOCKET any more")),
        Err(_) if said.reloading.is_some_and(|at| at >= told_at) => {
            let why = format!("it said RELOADING=1, but not READY=1 within {limit:?}{status}");
            Err(NotReloaded::new(&copy.subject, why))
        }
        Err(_) => {
            let why = format!("it has not said RELOADING=1 within {limit:?}{status}");
            Err(NotReloaded::new(&copy.subject, why))
        }
    }
}

/// CLOCK_MONOTONIC, in microseconds: what `MONOTONIC_USEC` is compared with.
pub(crate) fn monotonic_micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default().saturating_mul(1_000_000).saturating_add(nanos.unwrap_or_default() / 1000)
}

/// A command, told about the copy in its environment; `{pid}` in it is the copy's first process.
async fn command(
    subject: &Subject,
    spec: &CommandSpec,
    deadline: Instant,
) -> Result<Option<String>, NotReloaded> {
    let pid = subject.pid.to_string();
    let command = spec.command.iter().map(|word| word.replace("{pid}", &pid)).collect();
    let limit = spec.limit.min(deadline.saturating_duration_since(Instant::now()));
    let spec = CommandSpec { command, limit };
    match commands::run(&subject.program, &spec, &checks::setting(subject)).await {
        Ok(finished) => Ok(Some(finished.said.text).filter(|text| !text.is_empty())),
        Err(failed) => Err(NotReloaded::of_command(subject, &failed)),
    }
}

/// A POST, over a connection that this copy has accepted: it must not reach another one.
async fn post(
    subject: &Subject,
    path: &str,
    host: &str,
    limit: Duration,
) -> Result<Option<String>, NotReloaded> {
    let Some(place) = &subject.place else {
        return Err(NotReloaded::new(subject, "it has no address to which a request could be sent"));
    };
    let deadline = Instant::now() + limit;
    let search = Search { crowd: MAX_CROWD, wait: ACCEPT_LIMIT.min(limit) };
    let at = || place.address.to_string();
    let not = |finding: Finding| NotReloaded::new(subject, finding);
    let found = timeout_at(deadline, contact::contact(place, &subject.processes, search)).await;
    let contact = found.unwrap_or_else(|_| Err(Finding::NobodyAccepted { place: at() })).map_err(not)?;
    if contact.whose == Whose::Nobodys {
        return Err(not(Finding::NobodyAccepted { place: at() }));
    }
    let question = Question { method: Method::POST, target: path, host, limit, until: deadline };
    let answer = asking::ask(contact, place, &subject.processes, &question).await.map_err(not)?;
    let body = Some(answer.body).filter(|body| !body.is_empty());
    if (200..300).contains(&answer.status) {
        return Ok(body);
    }
    let why = format!("answered {} to POST {path}", answer.status);
    Err(NotReloaded { said: body, ..NotReloaded::new(subject, why) })
}

#[cfg(test)]
mod tests;
