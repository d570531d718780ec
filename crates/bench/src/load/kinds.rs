//! What each kind of client does.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use handover_testkit::{pattern, websocket};
use tokio::task::JoinSet;

use super::client::{Client, Expect};
use super::tally::Tally;
use super::wire::Tls;
use super::{Mix, Tallies};
use crate::failure::Failure;

/// After a failed connect a client rests for this long, so that a dead server is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// How many open-loop connections may be under way at once on one thread; more are failures of the load tool.
const MOST_UNDER_WAY: usize = 10_000;
/// What the open loop sleeps when nothing is due.
const TICK: Duration = Duration::from_millis(1);
/// A slow body: this many pieces,
const PIECES: usize = 20;
/// of this many bytes,
const PIECE_BYTES: usize = 4096;
/// with this pause after each.
const PIECE_PAUSE: Duration = Duration::from_millis(25);
/// What is sent over held connections.
const MESSAGE: &[u8] = b"is anybody there?";

/// What the clients of one kind on one thread share.
struct Shared {
    mix: Mix,
    until: Instant,
    tally: RefCell<Tally>,
    request: Vec<u8>,
    body: Option<Vec<u8>>,
    tls: Option<Tls>,
}

impl Shared {
    fn new(mix: &Mix, until: Instant, last: bool, tls: Option<Tls>) -> Rc<Self> {
        let close = if last { "Connection: close\r\n" } else { "" };
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{close}\r\n", mix.path, mix.host).into_bytes();
        let length = mix.path.strip_prefix("/bytes/").and_then(|length| length.parse().ok());
        Rc::new(Self {
            mix: mix.clone(),
            until,
            tally: RefCell::default(),
            request,
            body: length.map(pattern::bytes),
            tls,
        })
    }

    fn over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn expect(&self) -> Expect<'_> {
        self.body.as_deref().map_or(Expect::Any, Expect::Bytes)
    }

    fn succeeded(&self, took: Duration, bytes: u64) {
        let marked = self.mix.mark.load(Ordering::Relaxed);
        self.tally.borrow_mut().success(took, bytes, marked);
    }

    fn failed(&self, failure: Failure) {
        self.tally.borrow_mut().failure(failure);
    }

    async fn connect(&self) -> Option<Client> {
        self.connect_to(self.mix.target, self.tls.as_ref()).await
    }

    async fn connect_to(&self, target: std::net::SocketAddr, tls: Option<&Tls>) -> Option<Client> {
        self.tally.borrow_mut().connects += 1;
        let tls = tls.map(|tls| (tls, self.mix.host.as_str()));
        match Client::connect(target, tls, Duration::from_millis(self.mix.limit_ms)).await {
            Ok(client) => Some(client),
            Err(failure) => {
                self.failed(failure);
                tokio::time::sleep(AFTER_FAILURE).await;
                None
            }
        }
    }

    /// One exchange, counted; false if the connection cannot be used again.
    async fn ask(&self, client: &mut Client, due: Instant) -> bool {
        match client.exchange(&self.request, self.expect()).await {
            Ok(answer) => {
                self.succeeded(due.elapsed(), answer.bytes);
                !answer.closes
            }
            Err(failure) => {
                self.failed(failure);
                false
            }
        }
    }
}

/// Runs one thread's share until the end and gives its counts.
pub(super) async fn run(mix: Mix, tls: Option<Tls>, until: Instant) -> Tallies {
    let mut all: Vec<(&'static str, Rc<Shared>)> = Vec::new();
    let mut tasks = JoinSet::new();
    let pause = mix.pace.unwrap_or(Duration::from_millis(mix.pause_ms));
    let idle = Duration::from_millis(mix.idle_every_ms);
    let mut kind = |name, count: usize, last: bool| {
        let shared = Shared::new(&mix, until, last, tls.clone());
        if count > 0 {
            all.push((name, Rc::clone(&shared)));
        }
        shared
    };
    let shared = kind("keepalive", mix.keepalive, false);
    match mix.pace {
        Some(pace) => {
            spawn(&mut tasks, mix.keepalive, pace, |wait| later(wait, paced(Rc::clone(&shared), pace)));
        }
        None => spawn(&mut tasks, mix.keepalive, pause, |_| kept(Rc::clone(&shared), pause)),
    }
    let shared = kind("idle", mix.idle, false);
    spawn(&mut tasks, mix.idle, idle, |wait| later(wait, kept(Rc::clone(&shared), idle)));
    let shared = kind("fresh_loop", mix.fresh_loop, true);
    spawn(&mut tasks, mix.fresh_loop, Duration::ZERO, |_| fresh_loop(Rc::clone(&shared)));
    let shared = kind("fresh", mix.fresh_rate, true);
    spawn(&mut tasks, mix.fresh_rate.min(1), Duration::ZERO, |_| fresh(Rc::clone(&shared)));
    let every = Duration::from_millis(mix.echo_every_ms);
    let shared = kind("websocket", mix.websocket, false);
    spawn(&mut tasks, mix.websocket, every, |wait| later(wait, held_websocket(Rc::clone(&shared))));
    let shared = kind("tcp", mix.tcp, false);
    spawn(&mut tasks, mix.tcp, every, |wait| later(wait, held_tcp(Rc::clone(&shared))));
    let shared = kind("download", mix.download, false);
    spawn(&mut tasks, mix.download, PIECE_PAUSE, |wait| later(wait, download(Rc::clone(&shared))));
    let shared = kind("upload", mix.upload, false);
    spawn(&mut tasks, mix.upload, PIECE_PAUSE, |wait| later(wait, upload(Rc::clone(&shared))));
    while tasks.join_next().await.is_some() {}
    all.into_iter().map(|(name, shared)| (name, shared.tally.take())).collect()
}

/// Starts `count` clients, their beginnings spread over `period`.
fn spawn<F>(tasks: &mut JoinSet<()>, count: usize, period: Duration, client: impl Fn(Duration) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for number in 0..count {
        let share = u32::try_from(number).unwrap_or_default();
        let wait = period * share / u32::try_from(count).unwrap_or(1).max(1);
        tasks.spawn_local(client(wait));
    }
}

async fn later(wait: Duration, client: impl Future<Output = ()>) {
    tokio::time::sleep(wait).await;
    client.await;
}

/// A kept connection, with a rest between two requests, during which the server may end it.
async fn kept(shared: Rc<Shared>, rest: Duration) {
    while !shared.over() {
        let Some(mut client) = shared.connect().await else { continue };
        while !shared.over() && shared.ask(&mut client, Instant::now()).await {
            if !rest.is_zero() && !client.rest(rest.min(left(shared.until))).await {
                shared.tally.borrow_mut().closed_idle += 1;
                break;
            }
        }
    }
}

/// A kept connection whose requests have their due times, from which latencies count: one that is late is not left out.
async fn paced(shared: Rc<Shared>, pace: Duration) {
    let mut due = Instant::now();
    while !shared.over() {
        let Some(mut client) = shared.connect().await else { continue };
        while !shared.over() && shared.ask(&mut client, due).await {
            due += pace;
            let wait = due.saturating_duration_since(Instant::now());
            if !wait.is_zero() && !client.rest(wait.min(left(shared.until))).await {
                shared.tally.borrow_mut().closed_idle += 1;
                break;
            }
        }
    }
}

async fn fresh_loop(shared: Rc<Shared>) {
    while !shared.over() {
        let due = Instant::now();
        if let Some(mut client) = shared.connect().await {
            shared.ask(&mut client, due).await;
            client.end().await;
        }
    }
}

/// Opens connections at their due times, however the earlier ones fare.
async fn fresh(shared: Rc<Shared>) {
    let interval = Duration::from_secs(1) / u32::try_from(shared.mix.fresh_rate).unwrap_or(u32::MAX).max(1);
    let mut due = Instant::now();
    let under_way = Rc::new(RefCell::new(JoinSet::new()));
    while due < shared.until {
        while due <= Instant::now() && due < shared.until {
            let mut under_way = under_way.borrow_mut();
            while under_way.try_join_next().is_some() {}
            if under_way.len() < MOST_UNDER_WAY {
                under_way.spawn_local(one_fresh(Rc::clone(&shared), due));
            } else {
                shared.failed(Failure::OwnLimit);
            }
            due += interval;
        }
        tokio::time::sleep(TICK).await;
    }
    let mut under_way = under_way.take();
    while under_way.join_next().await.is_some() {}
}

async fn one_fresh(shared: Rc<Shared>, due: Instant) {
    if let Some(mut client) = shared.connect().await {
        shared.ask(&mut client, due).await;
        client.end().await;
    }
}

async fn held_websocket(shared: Rc<Shared>) {
    let request = websocket::upgrade_request("/ws");
    let message = websocket::client_frame(websocket::TEXT, MESSAGE);
    let back = websocket::server_frame(websocket::TEXT, MESSAGE);
    while !shared.over() {
        let Some(mut client) = shared.connect().await else { continue };
        match client.upgrade(&request).await {
            Ok(()) => hold(&shared, &mut client, &message, &back).await,
            Err(failure) => shared.failed(failure),
        }
    }
}

async fn held_tcp(shared: Rc<Shared>) {
    let Some(target) = shared.mix.tcp_target else { return shared.failed(Failure::OwnLimit) };
    while !shared.over() {
        if let Some(mut client) = shared.connect_to(target, None).await {
            hold(&shared, &mut client, MESSAGE, MESSAGE).await;
        }
    }
}

/// Echoes over a held connection until the end, or until it is cut.
async fn hold(shared: &Shared, client: &mut Client, message: &[u8], back: &[u8]) {
    let every = Duration::from_millis(shared.mix.echo_every_ms);
    while !shared.over() {
        let began = Instant::now();
        match client.echo(message, back).await {
            Ok(()) => {
                let bytes = u64::try_from(back.len()).unwrap_or_default();
                shared.succeeded(began.elapsed(), bytes);
            }
            Err(failure) => return shared.failed(failure),
        }
        if !client.rest(every.min(left(shared.until))).await {
            return shared.failed(Failure::Cut);
        }
    }
}

async fn download(shared: Rc<Shared>) {
    let body = pattern::bytes(PIECES * PIECE_BYTES);
    let path = format!("/drip/{PIECES}/{PIECE_BYTES}/{}", PIECE_PAUSE.as_millis());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", shared.mix.host);
    while !shared.over() {
        let Some(mut client) = shared.connect().await else { continue };
        let mut open = true;
        while open && !shared.over() {
            let began = Instant::now();
            match client.exchange(request.as_bytes(), Expect::Bytes(&body)).await {
                Ok(answer) => {
                    shared.succeeded(began.elapsed(), answer.bytes);
                    open = !answer.closes;
                }
                Err(failure) => {
                    shared.failed(failure);
                    open = false;
                }
            }
        }
    }
}

async fn upload(shared: Rc<Shared>) {
    let body = pattern::bytes(PIECES * PIECE_BYTES);
    let head =
        format!("POST /sink HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", shared.mix.host, body.len());
    let expected = format!("{} bytes\n", body.len());
    while !shared.over() {
        let Some(mut client) = shared.connect().await else { continue };
        let mut open = true;
        while open && !shared.over() {
            let began = Instant::now();
            open = match one_upload(&mut client, head.as_bytes(), &body, expected.as_bytes()).await {
                Ok(closes) => {
                    shared.succeeded(began.elapsed(), 0);
                    !closes
                }
                Err(failure) => {
                    shared.failed(failure);
                    false
                }
            };
        }
    }
}

async fn one_upload(client: &mut Client, head: &[u8], body: &[u8], expected: &[u8]) -> Result<bool, Failure> {
    client.send(head).await?;
    for piece in body.chunks(PIECE_BYTES) {
        client.send(piece).await?;
        tokio::time::sleep(PIECE_PAUSE).await;
    }
    Ok(client.answer(Expect::Bytes(expected)).await?.closes)
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
