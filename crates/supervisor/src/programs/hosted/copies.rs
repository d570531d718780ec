//! A copy that runs: watched, proved, asked to stop, killed.
//!
//! ```text
//!   Starting ─▶ Running ── its first process ends ─▶ what it left behind ─▶ gone
//!      │           └─ Stop: its signal · Kill: all of it
//!      └─ Stop and Kill are remembered until it runs
//! ```

use std::sync::Arc;
use std::time::Duration;

use handover_handoff::process::Exit;
use handover_lifecycle::program::{CopyKey, EditionKey, Plan};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::super::actual_address;
use super::super::checks::{self, Proof, Spoken, Subject};
use super::super::common::Teller;
use super::super::connections::{self, Wanted};
use super::super::copy::Copy;
use super::super::editions::Edition;
use super::super::happened::Of;
use super::super::notify::NotifySocket;
use super::starting::Born;
use crate::protocol::{Address, Ready, Stop};

/// How long the count of connections may hold up a signal.
const COUNT_LIMIT: Duration = Duration::from_millis(250);
/// Messages of a copy that are heard one right after the other.
const HEARD_AT_ONCE: u32 = 16;
/// The pause after that: what a copy says without end takes no more than a little time of the supervisor's.
const HEARD_PAUSE: Duration = Duration::from_millis(20);
/// The time between two looks of a guard.
const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// How long a guarded copy may take to answer.
const GUARD_LIMIT: Duration = Duration::from_secs(2);
/// How much later than a check's own limit the machine gives a copy up: time enough, on a machine that is busy, for the check to say
/// what it has found instead.
pub(super) const TO_REPORT: Duration = Duration::from_secs(5);

/// A copy, from the moment the machine wants it until nothing of it is left.
#[derive(Debug)]
pub(in super::super) struct Entry {
    pub(super) edition: EditionKey,
    pub(super) number: u32,
    /// What its processes have in their environment.
    pub(super) mark: String,
    pub(super) born: Option<Born>,
    /// What is to be done as soon as it runs.
    pub(super) wanted: Wish,
    /// The proof, or the guard, that runs.
    pub(super) check: Option<AbortHandle>,
    pub(super) spoken: Option<watch::Sender<Spoken>>,
    pub(super) proof: Option<Proof>,
    /// Whether it has said so in another life of the supervisor.
    pub(super) said_ready: bool,
    pub(super) exit: Option<Exit>,
    /// Whether it was asked to stop, or killed: then its end is no surprise.
    pub(super) asked: bool,
    /// Connections of shared sockets when it was asked to stop.
    pub(super) accepted: Option<u64>,
    /// Tasks that end with it.
    pub(super) tasks: Vec<AbortHandle>,
}

/// What is wanted of a copy that is being started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Wish {
    #[default]
    Nothing,
    Stop,
    Kill,
}

impl Entry {
    pub(super) fn new(edition: EditionKey, number: u32, mark: String) -> Self {
        Entry {
            edition,
            number,
            mark,
            born: None,
            wanted: Wish::Nothing,
            check: None,
            spoken: None,
            proof: None,
            said_ready: false,
            exit: None,
            asked: false,
            accepted: None,
            tasks: Vec::new(),
        }
    }

    /// It runs: its end is waited for, and what it says is heard.
    pub(super) fn run(&mut self, key: CopyKey, born: Born, teller: &Teller) {
        if let Some(notify) = &born.notify {
            let (spoken, _) = watch::channel(Spoken::default());
            let task = tokio::spawn(hear(Arc::clone(notify), Arc::clone(&born.copy), spoken.clone()));
            self.spoken = Some(spoken);
            self.tasks.push(task.abort_handle());
        }
        tokio::spawn(watch_end(key, Arc::clone(&born.copy), teller.clone()));
        self.born = Some(born);
    }

    /// The copy, for those who ask it something.
    pub(super) fn subject(&self, edition: &Edition) -> Option<Subject> {
        let born = self.born.as_ref()?;
        let spoken = self.spoken.as_ref().map(watch::Sender::subscribe);
        Some(super::starting::subject(born, edition, self.number, spoken))
    }

    /// It is to prove that it is ready.
    pub(super) fn check(&mut self, key: CopyKey, edition: &Edition, limit: Duration, teller: &Teller) {
        self.end_check();
        let Some(subject) = self.subject(edition) else { return };
        let ready = filled(&edition.spec.ready, self.born.as_ref());
        // What was found says more than the machine, whose own limit comes later.
        let limit = limit.saturating_sub(TO_REPORT);
        let teller = teller.clone();
        let task = tokio::spawn(async move {
            let proof = checks::prove(&subject, &ready, limit).await;
            teller.tell(Of::Proved { copy: key, proof });
        });
        self.check = Some(task.abort_handle());
    }

    /// It is looked at again and again.
    pub(super) fn guard(&mut self, key: CopyKey, edition: &Edition, teller: &Teller) {
        self.end_check();
        if matches!(edition.spec.ready, Ready::Notify | Ready::After(_)) {
            return;
        }
        let Some(subject) = self.subject(edition) else { return };
        let ready = filled(&edition.spec.ready, self.born.as_ref());
        let teller = teller.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(GUARD_INTERVAL).await;
                if let Err(not_ready) = checks::prove(&subject, &ready, GUARD_LIMIT).await {
                    return teller.tell(Of::Fares { copy: key, finding: not_ready.to_string() });
                }
            }
        });
        self.check = Some(task.abort_handle());
    }

    pub(super) fn end_check(&mut self) {
        if let Some(check) = self.check.take() {
            check.abort();
        }
    }

    /// It is asked to stop: its first process, or what that has left behind.
    pub(super) fn stop(&mut self, key: CopyKey, edition: &Edition, teller: &Teller) {
        self.asked = true;
        let Some(born) = &self.born else { return self.wanted = self.wanted.max_of(Wish::Stop) };
        let (copy, stop, teller) = (Arc::clone(&born.copy), edition.spec.stop.clone(), teller.clone());
        let (places, has_ended) = (shared_places(edition), self.exit.is_some());
        tokio::spawn(async move {
            if has_ended {
                return signal(copy, &stop, has_ended).await;
            }
            let accepted = count(&copy, places).await;
            signal(copy, &stop, has_ended).await;
            teller.tell(Of::Stopping { copy: key, accepted });
        });
    }

    /// It is killed, with all that belongs to it.
    pub(super) fn kill(&mut self, key: CopyKey, edition: Option<&Edition>, teller: &Teller) {
        self.asked = true;
        self.end_check();
        let Some(born) = &self.born else { return self.wanted = Wish::Kill };
        let (copy, teller) = (Arc::clone(&born.copy), teller.clone());
        let places = edition.map(shared_places).unwrap_or_default();
        tokio::spawn(async move {
            let accepted = count(&copy, places).await;
            let killed = copy.kill_all(Plan::KILL_LIMIT).await;
            teller.tell(Of::Killed { copy: key, killed, accepted });
        });
    }

    /// `4711`, once it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.born.as_ref().map(|born| born.copy.pid())
    }

    /// Nothing of it is left: neither is anything that was made for it.
    pub(super) fn clear(&mut self) {
        self.end_check();
        self.tasks.drain(..).for_each(|task| task.abort());
        if let Some(born) = &self.born {
            if let Some(own) = &born.own {
                own.remove();
            }
            if let Some(notify) = &born.notify {
                notify.unlink();
            }
        }
    }
}

impl Wish {
    fn max_of(self, other: Wish) -> Wish {
        if self == Wish::Kill { self } else { other }
    }
}

/// The check, its command with the words of this copy in it.
fn filled(ready: &Ready, born: Option<&Born>) -> Ready {
    let (Ready::Command(spec), Some(born)) = (ready, born) else { return ready.clone() };
    let mut spec = spec.clone();
    // What stands for nothing stays as it is; the command then fails, and says so.
    if let Ok(command) = born.words.expand_all(&spec.command) {
        spec.command = command;
    }
    Ready::Command(spec)
}

/// The addresses at which connections would be cut with the copy: those of sockets that all copies share.
fn shared_places(edition: &Edition) -> Vec<Address> {
    edition.sockets.iter().map(actual_address).collect()
}

/// How many connections of these places the copy has, if that is found out in time.
async fn count(copy: &Arc<Copy>, places: Vec<Address>) -> Option<u64> {
    if places.is_empty() {
        return None;
    }
    let counted = async {
        let processes = processes(copy).await?;
        let surveys = connections::survey(vec![Wanted { processes, places }]).await.ok()?;
        surveys.first().map(|survey| survey.accepted)
    };
    tokio::time::timeout(COUNT_LIMIT, counted).await.ok().flatten()
}

async fn processes(copy: &Arc<Copy>) -> Option<Vec<u32>> {
    let copy = Arc::clone(copy);
    tokio::task::spawn_blocking(move || copy.processes()).await.ok()
}

async fn signal(copy: Arc<Copy>, stop: &Stop, has_ended: bool) {
    let (pid, number) = (copy.pid(), stop.signal);
    let sent = tokio::task::spawn_blocking(move || match has_ended {
        true => copy.signal_rest(number).map(|_| ()),
        false => copy.signal(number),
    });
    if let Ok(Err(error)) = sent.await {
        tracing::warn!("signal {number} cannot be sent to process {pid}: {error}; it will be killed");
    }
}

/// Waits for the end of the first process, then for that of all others.
async fn watch_end(key: CopyKey, copy: Arc<Copy>, teller: Teller) {
    let exit = copy.exited().await;
    // To look for what it has left takes its time where many processes run.
    teller.tell(Of::Over { copy: key });
    let left = processes(&copy).await.map_or(0, |left| u32::try_from(left.len()).unwrap_or(u32::MAX));
    teller.tell(Of::Exited { copy: key, exit, left });
    copy.gone().await;
    teller.tell(Of::Gone { copy: key });
}

/// Hears what the copy says, and nobody else.
async fn hear(notify: Arc<NotifySocket>, copy: Arc<Copy>, spoken: watch::Sender<Spoken>) {
    let mut heard = 0_u32;
    while let Ok(notified) = notify.next().await {
        heard = heard.wrapping_add(1);
        if heard.is_multiple_of(HEARD_AT_ONCE) {
            // One that says nothing but this waits, and keeps nobody else waiting.
            tokio::time::sleep(HEARD_PAUSE).await;
        }
        if !copy.owns(notified.pid) {
            tracing::debug!(
                pid = notified.pid,
                "a process that is none of the copy's wrote to its notify socket"
            );
            continue;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let micros = u64::try_from(now.tv_nsec / 1000).unwrap_or_default();
        let now = seconds.saturating_mul(1_000_000).saturating_add(micros);
        spoken.send_modify(|spoken| spoken.hear(notified.lines.iter().map(String::as_str), now));
    }
}
