//! Connections to the control socket: who they are, how many there may be, and how long they may take.

use std::collections::HashMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Extension, Router};
use handover_api::Refused;
use handover_handoff::peer::Peer;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::crossing::{Connection, Crossing};
use super::expiring::Expiring;
use super::role::Visitor;
use super::{answer, archiving, changing, events, logs, looking, programs};
use crate::handle::DriverHandle;

/// Connections in all.
pub(super) const MAX_CONNECTIONS: usize = 128;
/// Connections of one user other than root and the server's own, so that nobody keeps an operator out.
pub(super) const MAX_CONNECTIONS_OF_A_USER: usize = 16;
/// How long a request's head may take, and how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long whoever has connected may take to begin to ask when the supervisor is about to end or to become another program.
const BEGIN_LIMIT: Duration = Duration::from_millis(250);
/// Streams of events and of lines that may be open at once.
pub(super) const MAX_STREAMS: usize = 32;
/// The longest head.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Fields in a head.
const MAX_FIELDS: usize = 64;
/// How long answers that are being written may take when the supervisor ends.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long nothing is accepted after accepting failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every endpoint can reach.
#[derive(Debug, Clone)]
pub(super) struct App {
    pub(super) driver: DriverHandle,
    pub(super) server_uid: u32,
    pub(super) refusals: Arc<changing::RefusalLimit>,
    streams: Arc<Semaphore>,
    /// One archive at a time is made or taken in: each may take as much memory as a generation's files.
    pub(super) archives: Arc<Semaphore>,
    pub(super) expiring: Arc<Expiring>,
}

impl App {
    pub(super) fn new(driver: DriverHandle, server_uid: u32) -> Self {
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        Self {
            driver,
            server_uid,
            refusals: Arc::default(),
            streams,
            archives: Arc::new(Semaphore::new(1)),
            expiring: Arc::default(),
        }
    }

    /// A place among the streams that may be open at once, if there is one.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let permit = self.streams.clone().try_acquire_owned();
        permit.map_err(|_| Refused::Unavailable(format!("{MAX_STREAMS} streams are open already")))
    }

    /// Returns when the supervisor is about to end, or becomes another program: no stream goes on then.
    pub(super) fn ends(&self) -> impl Future<Output = ()> + use<> {
        let (closing, crossing) = (self.driver.closing(), self.driver.crossing.clone());
        async move {
            tokio::select! {
                () = over(closing) => {}
                () = crossing.left() => {}
            }
        }
    }
}

/// Serves the control API on this socket (non-blocking) until the supervisor is about to end and every answer
/// is written, for at most two seconds.
///
/// # Errors
/// The socket cannot be used at all.
pub async fn serve(socket: OwnedFd, driver: DriverHandle) -> std::io::Result<()> {
    let listener = UnixListener::from_std(socket.into())?;
    let server_uid = rustix::process::geteuid().as_raw();
    let closing = driver.closing();
    let ends = Ends { closing, crossing: driver.crossing.clone() };
    let router = router(App::new(driver, server_uid));
    let mut connections = Connections::default();
    loop {
        ends.crossing.set_open(connections.tasks.len());
        tokio::select! {
            () = over(ends.closing.clone()) => break,
            Some(ended) = connections.tasks.join_next(), if !connections.tasks.is_empty() => connections.ended(ended),
            // While the supervisor is about to become another program, who connects waits for that.
            accepted = accept(&listener, &ends.crossing) => match accepted {
                Ok(stream) => connections.admit(stream, &router, &ends, server_uid),
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let written = async { while connections.tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_LIMIT, written).await.is_err() {
        tracing::warn!("control connections that did not read their answers were cut");
    }
    Ok(())
}

async fn accept(listener: &UnixListener, crossing: &Crossing) -> std::io::Result<UnixStream> {
    loop {
        crossing.stayed().await;
        tokio::select! {
            biased;
            () = crossing.left() => {}
            accepted = listener.accept() => return Ok(accepted?.0),
        }
    }
}

/// What ends a connection as soon as its request is answered.
#[derive(Debug, Clone)]
struct Ends {
    closing: watch::Receiver<bool>,
    crossing: Crossing,
}

/// The connections that are open, and whose they are.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<u32>,
    by_user: HashMap<u32, usize>,
}

impl Connections {
    fn admit(&mut self, stream: UnixStream, router: &Router, ends: &Ends, server_uid: u32) {
        // A peer that is gone already has no credentials and needs no answer.
        let Ok(peer) = Peer::of(&stream) else { return };
        let visitor = Visitor::new(peer);
        let uid = visitor.uid();
        let of_user = self.by_user.entry(uid).or_default();
        let privileged = uid == 0 || uid == server_uid;
        let too_many = if privileged { MAX_CONNECTIONS } else { MAX_CONNECTIONS_OF_A_USER };
        let in_all = if privileged { MAX_CONNECTIONS } else { MAX_CONNECTIONS - MAX_CONNECTIONS_OF_A_USER };
        if *of_user >= too_many || self.tasks.len() >= in_all {
            tracing::warn!(uid, connections = *of_user, "too many control connections, one was closed");
            return;
        }
        *of_user += 1;
        let mut router = router.clone().layer(Extension(Arc::new(visitor)));
        if let Some(connection) = Connection::of(&stream) {
            router = router.layer(Extension(connection));
        }
        let ends = ends.clone();
        self.tasks.spawn(async move {
            connection(stream, router, ends).await;
            uid
        });
    }

    fn ended(&mut self, ended: Result<u32, tokio::task::JoinError>) {
        // A task that panicked does not say whose it was: start counting anew when nothing is open.
        if let Ok(uid) = ended
            && let Some(count) = self.by_user.get_mut(&uid)
        {
            *count = count.saturating_sub(1);
        }
        self.by_user.retain(|_, count| *count > 0);
        if self.tasks.is_empty() {
            self.by_user.clear();
        }
    }
}

async fn connection(stream: UnixStream, router: Router, ends: Ends) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS);
    if !is_begun(&stream, &ends).await {
        return;
    }
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        // What has come is read first.
        biased;
        result = connection.as_mut() => result,
        () = over(ends.closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = ends.crossing.left() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a control connection ended early");
    }
}

/// Waits for the first bytes. Whoever was accepted just before the supervisor is to be another program, or to end, is about to
/// ask: if the connection was closed now, nobody could say what became of that.
async fn is_begun(stream: &UnixStream, ends: &Ends) -> bool {
    let ending = async {
        tokio::select! {
            () = over(ends.closing.clone()) => {}
            () = ends.crossing.left() => {}
        }
        tokio::time::sleep(BEGIN_LIMIT).await;
    };
    // Looked at and left where it is; that it may be readable is no proof.
    let first = || rustix::net::recv(stream, &mut [0], RecvFlags::PEEK).map_err(std::io::Error::from);
    let begins = stream.async_io(Interest::READABLE, first);
    tokio::select! {
        biased;
        begun = tokio::time::timeout(HEAD_LIMIT, begins) => matches!(begun, Ok(Ok(_))),
        () = ending => false,
    }
}

/// Waits until the supervisor says that it is about to end, or is gone without a word.
async fn over(mut closing: watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

/// All endpoints. Every answer passes `answer::render` on its way out.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .merge(looking::routes())
        .merge(changing::routes())
        .merge(programs::routes())
        .merge(logs::routes())
        .merge(archiving::routes())
        .merge(events::routes())
        .fallback(looking::unknown_path)
        .method_not_allowed_fallback(looking::wrong_method)
        .with_state(app)
        .layer(middleware::from_fn(rendered))
}

async fn rendered(request: Request<Body>, next: Next) -> Result<Response, Infallible> {
    let accept = request.headers().clone();
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.request(&accept);
    }
    Ok(answer::render(&accept, next.run(request).await))
}
