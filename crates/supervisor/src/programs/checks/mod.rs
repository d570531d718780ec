//! How a copy is known to be ready: proofs that are its own.
//!
//! ```text
//!   prove ─▶ try ──ready──▶ Proof
//!             │ ▲
//!      finding│ │ a pause, growing from 20 ms to 500 ms
//!             ▼ │
//!            wait ──limit──▶ NotReady {last finding}
//! ```
//!
//! A port that answers proves nothing: the old copy listens on the same socket, and the kernel takes connections into its
//! queue for nobody at all. So a connection counts only if the kernel says that the socket at its other end is open in a
//! process of this very copy ([`crate::programs::connections`]), and a question is asked only over such a connection. A
//! socket that only this copy has needs no such proof.

pub(crate) mod asking;
pub(crate) mod contact;
mod finding;
mod spoken;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use self::asking::Question;
use self::contact::{Search, Whose};
use super::commands::{self, Setting};
use super::connections;
use crate::protocol::{Address, CommandSpec, Ready};

pub(crate) use finding::Finding;
pub(crate) use spoken::Spoken;

/// The first pause between two tries; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How long the first connection may wait to be accepted; each try waits longer, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// How long a connection may wait to be accepted at most, within one try.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// Connections made at most in one try, where several copies accept.
const MAX_CROWD: usize = 8;
/// How much later than the deadline a command may be cleared away that was killed at it.
const KILL_GRACE: Duration = Duration::from_secs(1);
/// That no answer came within less time than this tells nothing.
const TELLING: Duration = Duration::from_millis(500);
/// Less time than this is no time for another try.
const LAST_TRY: Duration = Duration::from_millis(20);

/// Says which processes a copy has at this moment, its first one included.
#[derive(Clone)]
pub(crate) struct Processes(pub(crate) Arc<dyn Fn() -> Vec<u32> + Send + Sync>);

impl Processes {
    /// From any function.
    pub(crate) fn new(processes: impl Fn() -> Vec<u32> + Send + Sync + 'static) -> Self {
        Self(Arc::new(processes))
    }

    /// Those that there are now.
    pub(crate) fn now(&self) -> Vec<u32> {
        (self.0)()
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Processes").field(&self.now()).finish()
    }
}

/// Where a copy is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The address, a real one: with the port that the kernel chose, where 0 was asked for.
    pub(crate) address: Address,
    /// Whether nobody but this copy can accept there: a socket of its own.
    pub(crate) own: bool,
}

/// The copy that is to prove that it is ready.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// The program's name.
    pub(crate) program: String,
    /// The copy's number, from 1.
    pub(crate) number: u32,
    /// Its first process.
    pub(crate) pid: u32,
    /// All its processes.
    pub(crate) processes: Processes,
    /// Where it is asked, if the check itself names no address.
    pub(crate) place: Option<Place>,
    /// What it has said on its `NOTIFY_SOCKET`, if it has one.
    pub(crate) spoken: Option<watch::Receiver<Spoken>>,
    /// How commands about it are run: the copy's own directory, environment and user.
    pub(crate) setting: Setting,
}

/// It is ready, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// `answered 200 at 127.0.0.1:8080 (process 4711)`.
    pub(crate) how: String,
    /// Whether nothing was checked but that it lives.
    pub(crate) by_time: bool,
    /// How long it took, from the first try.
    pub(crate) took: Duration,
}

/// It was not ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not ready within {limit:?}: {finding}")]
pub(crate) struct NotReady {
    /// The time that it had.
    pub(crate) limit: Duration,
    /// What the last try has found: `answered 500`, `connection refused`, `nobody accepted` …
    pub(crate) finding: Finding,
}

/// Waits until the copy has proved that it is ready, at most for `limit`. It may be dropped at any time; nothing of it is
/// left then. That the copy ends is not looked for: whoever watches it drops this.
///
/// # Errors
/// It was not ready in time, or the check cannot be made at all (there is no address, or no notify socket).
pub(crate) async fn prove(subject: &Subject, ready: &Ready, limit: Duration) -> Result<Proof, NotReady> {
    let began = Instant::now();
    let deadline = began + limit;
    let proved = match ready {
        Ready::Notify => said_ready(subject, deadline).await,
        Ready::After(time) => lived(*time, deadline).await,
        Ready::Http { address, .. } | Ready::Tcp { address } => match place(subject, address.as_ref()) {
            Some(place) => again(subject, ready, Some(&place), deadline).await,
            None => Err(Finding::Impossible("it has no address at which it could be asked")),
        },
        Ready::Command(_) => again(subject, ready, None, deadline).await,
    };
    match proved {
        Ok(how) => {
            let by_time = matches!(ready, Ready::After(_));
            Ok(Proof { how, by_time, took: began.elapsed() })
        }
        Err(finding) => Err(NotReady { limit, finding }),
    }
}

/// Where this copy is asked. An address that the check names may be anybody's.
fn place(subject: &Subject, named: Option<&Address>) -> Option<Place> {
    match named {
        Some(address) => Some(Place { address: address.clone(), own: false }),
        None => subject.place.clone(),
    }
}

/// Tries until it succeeds, or the time is over.
async fn again(
    subject: &Subject,
    ready: &Ready,
    place: Option<&Place>,
    deadline: Instant,
) -> Result<String, Finding> {
    let mut finding = Finding::NotAsked;
    let mut pause = FIRST_PAUSE;
    for number in 0_u32.. {
        let left = deadline.saturating_duration_since(Instant::now());
        if left < LAST_TRY && number > 0 {
            break;
        }
        let one = async {
            match (ready, place) {
                (Ready::Http { path, host, status, .. }, Some(place)) => {
                    // So that it can still say itself that the time was over.
                    let limit = ANSWER_LIMIT.min(left.saturating_sub(LAST_TRY / 2));
                    let until = Instant::now() + limit;
                    let question = Question { method: Method::GET, target: path, host, limit, until };
                    ask(subject, place, &question, *status, number).await
                }
                (_, Some(place)) => accepts(subject, place, number).await,
                (Ready::Command(spec), None) => {
                    command(subject, spec, left.saturating_sub(LAST_TRY / 2)).await
                }
                _ => Err(Finding::Impossible("it has no address at which it could be asked")),
            }
        };
        let cut = if place.is_none() { deadline + KILL_GRACE } else { deadline };
        match timeout_at(cut, one).await {
            Ok(Ok(how)) => return Ok(how),
            // What was cut short by the end of the time says less than what was found before.
            Ok(Err(Finding::NoAnswer { .. })) if number > 0 && left < TELLING => {}
            Ok(Err(found)) => finding = found,
            Err(_) => break,
        }
        let next = (Instant::now() + pause).min(deadline);
        tokio::time::sleep_until(next).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(finding)
}

/// How hard the copy is looked for in this try: more with each.
fn search(place: &Place, number: u32) -> Search {
    let crowd =
        if place.own { 1 } else { 1_usize.checked_shl(number).unwrap_or(MAX_CROWD).clamp(1, MAX_CROWD) };
    Search { crowd, wait: FIRST_WAIT.saturating_mul(number.saturating_add(1)).min(LONGEST_WAIT) }
}

/// One HTTP request over a connection that it has accepted.
async fn ask(
    subject: &Subject,
    place: &Place,
    question: &Question<'_>,
    wanted: Option<u16>,
    number: u32,
) -> Result<String, Finding> {
    let contact = contact::contact(place, &subject.processes, search(place, number)).await?;
    let answer = asking::ask(contact, place, &subject.processes, question).await?;
    let fits = wanted.map_or((200..300).contains(&answer.status), |wanted| answer.status == wanted);
    if !fits {
        let target = question.target.to_owned();
        return Err(Finding::Answered { status: answer.status, target, wanted });
    }
    let process = answer.process.map(|process| format!(" (process {process})")).unwrap_or_default();
    Ok(format!("answered {} at {}{process}", answer.status, place.address))
}

/// One connection that it accepts.
async fn accepts(subject: &Subject, place: &Place, number: u32) -> Result<String, Finding> {
    let at = place.address.to_string();
    let by = |process: u32| format!("accepted a connection at {at} (process {process})");
    let contact = match contact::contact(place, &subject.processes, search(place, number)).await {
        Ok(contact) => contact,
        Err(unseen @ Finding::CannotBeSeen { .. }) => {
            // Any connection will do that it has accepted there.
            let processes = subject.processes.now();
            let accepted = connections::has_accepted_at(&processes, &place.address).ok().flatten();
            return accepted.map(by).ok_or(unseen);
        }
        Err(finding) => return Err(finding),
    };
    match contact.whose {
        Whose::Copys(process) => Ok(by(process)),
        Whose::Nobodys => Err(Finding::NobodyAccepted { place: at }),
        Whose::Anothers => Ok(format!("a process outside of the copy accepted a connection at {at}")),
        // Either it was closed at once, which takes somebody who has accepted it, or the far end is in another network
        // namespace, where the kernel makes a connection only for somebody who listens.
        Whose::Gone => Ok(format!("took a connection at {at}")),
    }
}

/// One run of the check command.
async fn command(subject: &Subject, spec: &CommandSpec, left: Duration) -> Result<String, Finding> {
    let spec = CommandSpec { command: spec.command.clone(), limit: spec.limit.min(left) };
    match commands::run(&subject.program, &spec, &setting(subject)).await {
        Ok(finished) => Ok(match finished.said.last_line() {
            Some(line) => format!("the check command exited with 0: {line}"),
            None => "the check command exited with 0".to_owned(),
        }),
        Err(failed) => Err(Finding::Command(failed.in_a_line())),
    }
}

/// How a command about this copy is run: as the copy itself, and told which one it is about.
pub(crate) fn setting(subject: &Subject) -> Setting {
    let mut setting = subject.setting.clone();
    let mut set = |name: &str, value: String| setting.environment.insert(name.to_owned(), value);
    set("HANDOVER_COPY", subject.number.to_string());
    set("HANDOVER_PID", subject.pid.to_string());
    if let Some(place) = &subject.place {
        set("HANDOVER_ADDRESS", place.address.to_string());
    }
    setting
}

/// Waits for `READY=1`.
async fn said_ready(subject: &Subject, deadline: Instant) -> Result<String, Finding> {
    let Some(mut spoken) = subject.spoken.clone() else {
        return Err(Finding::Impossible("it has no NOTIFY_SOCKET on which it could say READY=1"));
    };
    let said = timeout_at(deadline, spoken.wait_for(|spoken| spoken.ready)).await.map(|said| said.is_ok());
    match said {
        Ok(true) => Ok("said READY=1".to_owned()),
        Ok(false) => Err(Finding::Impossible("nobody listens to its NOTIFY_SOCKET any more")),
        Err(_) => Err(Finding::NotSaid { status: spoken.borrow().status.clone() }),
    }
}

/// Waits, and no more: whoever watches the copy drops this if it ends.
async fn lived(time: Duration, deadline: Instant) -> Result<String, Finding> {
    if Instant::now() + time > deadline {
        return Err(Finding::Impossible(
            "the time that it must live is longer than the time until it must be ready",
        ));
    }
    sleep(time).await;
    Ok(format!("alive for {time:?}; nothing else was checked"))
}

#[cfg(test)]
mod tests;
