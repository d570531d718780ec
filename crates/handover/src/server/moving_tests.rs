//! A program's connections, moved from one of its workers to the next: both in this process, with a channel of the test's own
//! between them.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream as Client};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::drain::Drain;
use crate::moving::{FrozenView, Lost, Moving as _, Outlet, Sink};
use crate::prepare::{BindError, Bound};
use crate::service::Service as _;
use crate::types::ListenerSpec;

const PATIENCE: Duration = Duration::from_secs(30);

/// How many bytes a connection has echoed.
#[derive(Debug, PartialEq, Eq)]
struct Echoed(u64);

impl Movable for Echoed {
    fn write(&self, format: u16) -> Vec<u8> {
        assert_eq!(format, 2);
        self.0.to_le_bytes().to_vec()
    }

    fn read(format: u16, bytes: &[u8]) -> Result<Self, String> {
        assert_eq!(format, 2);
        Ok(Self(u64::from_le_bytes(bytes.try_into().map_err(|_| "not eight bytes")?)))
    }
}

/// Answers each byte with the number of bytes so far.
async fn echo(mut stream: TcpStream, mut echoed: Echoed, mut mover: Mover<Echoed>) -> io::Result<()> {
    loop {
        tokio::select! {
            byte = stream.read_u8() => {
                byte?;
                echoed.0 += 1;
                stream.write_u8(u8::try_from(echoed.0).unwrap()).await?;
            }
            () = mover.asked() => match mover.give(&echoed, stream).await {
                Ok(()) => return Ok(()),
                Err(kept) => stream = kept.sockets?,
            },
        }
    }
}

async fn serve(cx: Context, moves: Moves<Echoed>, began: Arc<AtomicUsize>) -> io::Result<()> {
    began.fetch_add(1, Ordering::SeqCst);
    let listener = cx.listener("echo")?;
    let mut adopted = moves.adopted();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                tokio::spawn(echo(accepted?.0, Echoed(0), moves.mover(&cx)));
            }
            came = adopted.next() => {
                let (echoed, stream) = came?;
                tokio::spawn(echo(stream, echoed, moves.mover(&cx)));
            }
            () = cx.draining() => return Ok(()),
        }
    }
}

/// One worker of the program.
struct Program {
    hosted: Arc<Hosted>,
    counters: Counters,
    began: Arc<AtomicUsize>,
}

impl Program {
    fn new(candidate: bool, listener: &TcpListener) -> Self {
        let mut server = Server::new("echo", "1");
        server.listener("echo", "127.0.0.1:0").state_formats(1..=2);
        let (moves, counters) = (server.movable::<Echoed>("echo"), server.counters());
        let began = Arc::new(AtomicUsize::new(0));
        let inside = Arc::clone(&began);
        let declared = server.declare(move |cx| serve(cx, moves.clone(), Arc::clone(&inside))).1;
        let hosted = Arc::new(Hosted::new(declared));
        if candidate {
            hosted.stand_by();
        }
        let listener = listener.try_clone().unwrap();
        let bind = move |specs: &[ListenerSpec]| -> Vec<Result<Bound, BindError>> {
            specs.iter().map(|_| Ok(Bound::Socket(OwnedFd::from(listener.try_clone().unwrap())))).collect()
        };
        let directory = tempfile::tempdir().unwrap();
        let mut cx = Prepare::stand_alone(1, false, directory.path(), bind);
        hosted.prepare(&mut cx).unwrap_or_else(|problems| panic!("{problems:?}")).commit();
        Self { hosted, counters, began }
    }
}

/// Hands everything to another worker at once, unless it is shut.
struct To(Arc<Hosted>, Arc<AtomicBool>);

impl Sink for To {
    fn sockets(&self, _: u32, _: u64, _: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        panic!("nothing is sent ahead")
    }

    fn late(&self, thread: u32, state: &[u8], sockets: &[BorrowedFd<'_>]) -> Result<(), Lost> {
        if self.1.load(Ordering::SeqCst) {
            return Err(Lost::Refused("scripted".to_owned()));
        }
        let sockets = sockets.iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect();
        self.0.late(2, thread, state, sockets);
        Ok(())
    }

    fn may_send(&self) -> bool {
        true
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn notify(&self, _: Arc<dyn Fn() + Send + Sync>) {}
}

/// What the library does with the two workers; the drain goes on in a thread, which says what it cost.
fn hand_over(from: &Program, to: &Program, shut: &Arc<AtomicBool>) -> (Drain, mpsc::Receiver<u64>) {
    let outlet = Outlet::new(Box::new(To(Arc::clone(&to.hosted), Arc::clone(shut))));
    from.hosted.precopy(&outlet, 2);
    let frozen = FrozenView::from(from.hosted.freeze().unwrap());
    to.hosted.adopt(2, frozen).unwrap();
    from.hosted.release();
    to.hosted.serve();
    let (done, drained) = mpsc::channel();
    let (hosted, drain) = (Arc::clone(&from.hosted), Drain::new(PATIENCE));
    let running = drain.clone();
    std::thread::spawn(move || done.send(hosted.drain(&running).total()));
    (drain, drained)
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> Client {
    let client = Client::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

fn say(client: &mut Client) -> u8 {
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).unwrap();
    byte[0]
}

#[test]
fn a_connection_goes_on_in_the_next_worker_where_it_was_and_comes_back_too() {
    let (listener, address) = listen();
    let (old, new) = (Program::new(false, &listener), Program::new(true, &listener));
    assert_eq!(new.began.load(Ordering::SeqCst), 1, "it has come as far as its listener");
    let mut client = connect(address);
    assert_eq!((say(&mut client), say(&mut client)), (1, 2));
    old.counters.request(200);

    let shut = Arc::default();
    let (_, drained) = hand_over(&old, &new, &shut);
    assert_eq!(drained.recv_timeout(PATIENCE), Ok(0));
    assert_eq!(say(&mut client), 3);
    assert_eq!(say(&mut connect(address)), 1, "new ones are served by the new worker");
    assert_eq!(new.counters.figures().requests, 1, "counters go on where they were");
    old.counters.request(200);
    new.hosted.add_totals(&old.hosted.totals());
    assert_eq!(new.counters.figures().requests, 2);

    // Back, to the very worker that gave it.
    let (_, drained) = hand_over(&new, &old, &shut);
    assert_eq!(drained.recv_timeout(PATIENCE), Ok(0));
    assert_eq!(say(&mut client), 4);
    assert_eq!(old.counters.figures().requests, 2);
    old.hosted.stop_now();
}

#[test]
fn a_connection_that_cannot_be_given_goes_on_where_it_is_until_its_end() {
    let (listener, address) = listen();
    let (old, new) = (Program::new(false, &listener), Program::new(true, &listener));
    let mut client = connect(address);
    assert_eq!(say(&mut client), 1);
    let (_, drained) = hand_over(&old, &new, &Arc::new(AtomicBool::new(true)));
    assert_eq!((say(&mut client), say(&mut client)), (2, 3));
    drop(client);
    assert_eq!(drained.recv_timeout(PATIENCE), Ok(0), "the drain waited for it");
    assert_eq!(say(&mut connect(address)), 1);
    new.hosted.stop_now();
}

#[test]
fn a_worker_that_stands_by_accepts_nothing_and_ends_without_having_served() {
    let (listener, address) = listen();
    let new = Program::new(true, &listener);
    let _waiting = connect(address);
    assert_eq!(new.hosted.open_connections().unwrap_or(0), 0);
    assert_eq!(new.hosted.stop_now().total(), 0);
    let (mut accepted, _) = loop {
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => break result.unwrap(),
        }
    };
    accepted.write_all(b"still in the queue").unwrap();
}

#[test]
fn a_state_that_cannot_be_read_closes_that_connection_only() {
    let (listener, address) = listen();
    let new = Program::new(true, &listener);
    let (mut client, server) = (
        connect(address),
        loop {
            if let Ok((server, _)) = listener.accept() {
                break server;
            }
        },
    );
    new.hosted.late(2, 0, b"\x04\x00echoshort", vec![server.into()]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    new.hosted.late(2, 0, b"\x05\x00other", Vec::new());
    new.hosted.late(2, 0, b"", Vec::new());
    new.hosted.serve();
    assert_eq!(say(&mut connect(address)), 1);
    new.hosted.stop_now();
}
