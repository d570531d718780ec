//! Requests and responses, moved at every byte.

use super::rig::*;
use crate::conn::state::FORMATS;
use crate::conn::{Conn, End};

/// One exchange, or several on one connection.
struct Scene {
    name: &'static str,
    request: Vec<u8>,
    /// What the endpoint says, and whether it closes then.
    response: Vec<u8>,
    closes: bool,
}

/// What everybody has got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    client: Vec<u8>,
    client_ended: bool,
    endpoint: Vec<u8>,
    /// How the connection ended, if it did.
    end: Option<End>,
    /// Requests, and bytes from and to the client, as all processes together count them.
    counted: [u64; 3],
    /// Bytes from and to the client, as the connection counts them.
    carried: (u64, u64),
}

/// Where a scene pauses.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// Behind so many bytes of all that is said, first by the client, then by the endpoint.
    At(usize),
    /// Behind each.
    Everywhere,
}

impl Pause {
    fn is_at(self, place: usize) -> bool {
        match self {
            Self::At(at) => at == place,
            Self::Everywhere => true,
        }
    }
}

/// The connection while the scene is played: always in one of the two processes.
struct Play<'a> {
    stage: &'a Stage,
    here: &'a mut Process,
    there: &'a mut Process,
    /// In which format it moves when the scene pauses; `None`: it stays.
    format: Option<u16>,
    moves: usize,
    conn: Option<Conn>,
    client: std::os::fd::OwnedFd,
    endpoint: Option<std::os::fd::OwnedFd>,
    got: Got,
}

impl Play<'_> {
    fn run(&mut self) {
        if let Some(conn) = self.conn.take() {
            match self.here.run(conn) {
                Ok(conn) => self.conn = Some(conn),
                Err(end) => self.got.end = Some(end),
            }
        }
        if let Some(fd) = self.stage.accept() {
            self.endpoint = Some(fd);
            self.run();
        }
        self.got.client_ended |= hear(&self.client, &mut self.got.client);
        if let Some(endpoint) = &self.endpoint {
            hear(endpoint, &mut self.got.endpoint);
        }
    }

    fn move_on(&mut self) {
        let Some(format) = self.format else { return };
        if self.conn.as_ref().is_some_and(|conn| conn.is_movable(&self.here.cx)) {
            self.conn = self.conn.take().map(|conn| move_to(self.here, self.there, conn, format));
            std::mem::swap(self.here, self.there);
            self.moves += 1;
            self.run();
        }
    }
}

fn counted(process: &Process) -> [u64; 3] {
    let cells = process.cx.local().generation.listeners[0].cells.of(0);
    let requests = cells.requests.iter().map(|cell| cell.get()).sum();
    [requests, cells.bytes_in.get(), cells.bytes_out.get()]
}

/// What everybody gets of a scene, and how often the connection moved.
fn play(
    stage: &Stage,
    (here, there): (&mut Process, &mut Process),
    scene: &Scene,
    pause: Pause,
    format: Option<u16>,
) -> (Got, usize) {
    let before = [counted(here), counted(there)];
    let (conn, client) = here.connect("web");
    let got = Got::default();
    let conn = Some(conn);
    let mut play = Play { stage, here, there, format, moves: 0, conn, client, endpoint: None, got };
    play.run();
    if pause.is_at(0) {
        play.move_on();
    }
    let all = scene.request.len() + scene.response.len();
    let mut at = 0;
    while at < all {
        // What is said between two pauses is said at once.
        let mut to = (at + 1..=all).find(|place| pause.is_at(*place)).unwrap_or(all);
        if at < scene.request.len() {
            to = to.min(scene.request.len());
            say(&play.client, &scene.request[at..to]);
        } else if let Some(endpoint) = &play.endpoint {
            let said = at - scene.request.len()..to - scene.request.len();
            say(endpoint, &scene.response[said]);
        }
        at = to;
        play.run();
        if pause.is_at(at) {
            play.move_on();
        }
    }
    if scene.closes {
        play.endpoint = None;
        play.run();
    }
    if let Some(conn) = play.conn.take() {
        let shown = conn.show(&play.here.cx);
        play.got.carried = (shown.bytes_in, shown.bytes_out);
        conn.close(End::Done, &mut play.here.cx);
    }
    let Play { here, there, mut got, moves, .. } = play;
    for process in [&*here, &*there] {
        assert_eq!((process.active(), process.in_use()), (0, 0), "{}", scene.name);
        assert_eq!(process.cx.buffers.bytes_out(), 0, "{}", scene.name);
    }
    let after = [counted(here), counted(there)];
    for (index, sum) in got.counted.iter_mut().enumerate() {
        let of = |both: &[[u64; 3]; 2]| both.iter().map(|cells| cells[index]).sum::<u64>();
        *sum = of(&after) - of(&before);
    }
    (got, moves)
}

fn chunked(parts: &[&str], trailers: &str) -> String {
    let chunks: String = parts.iter().map(|part| format!("{:x};ext=1\r\n{part}\r\n", part.len())).collect();
    format!("{chunks}0\r\n{trailers}\r\n")
}

const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

fn scene(name: &'static str, request: impl AsRef<[u8]>, response: impl AsRef<[u8]>, closes: bool) -> Scene {
    Scene { name, request: request.as_ref().to_vec(), response: response.as_ref().to_vec(), closes }
}

fn scenes() -> Vec<Scene> {
    let get = "GET /a HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n\r\n";
    let old = "GET /a HTTP/1.0\r\n\r\n";
    let ok = format!("HTTP/1.1 200 OK\r\n{DATE}");
    let body = "0123456789abcdefghij";
    let long = "x".repeat(5_000);
    let parts = chunked(&["hello", "0123456789abcdef"], "X-Sum: 1\r\n");
    let length = format!("{ok}Content-Length: 20\r\n\r\n{body}");
    vec![
        scene("length", get, &length, false),
        scene(
            "length, endpoint closes",
            get,
            format!("{ok}Connection: close\r\nContent-Length: 20\r\n\r\n{body}"),
            true,
        ),
        scene("chunked", get, format!("{ok}Transfer-Encoding: chunked\r\n\r\n{parts}"), false),
        scene("until close", get, format!("{ok}\r\n{body}"), true),
        scene("cut short", get, format!("{ok}Content-Length: 30\r\n\r\n{body}"), true),
        scene("chunked for HTTP/1.0", old, format!("{ok}Transfer-Encoding: chunked\r\n\r\n{parts}"), false),
        scene("no content", get, format!("HTTP/1.1 204 No Content\r\n{DATE}\r\n"), false),
        scene("head", get.replace("GET", "HEAD"), format!("{ok}Content-Length: 20\r\n\r\n"), false),
        scene("interim", get, format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{length}"), false),
        scene("interim, and no more", get, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", true),
        scene("too many interim", get, "HTTP/1.1 102 Processing\r\n\r\n".repeat(17), false),
        scene("closed before an answer", get, "", true),
        scene("no response", get, "What is this?\r\n\r\n", false),
        scene(
            "short request body",
            format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{body}"),
            &length,
            false,
        ),
        scene(
            "chunked request body",
            format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{parts}"),
            format!("{ok}Transfer-Encoding: chunked\r\n\r\n{parts}"),
            false,
        ),
        scene(
            "broken request body",
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello, this is too long",
            "",
            false,
        ),
        scene(
            "expectation",
            format!(
                "POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20\r\n\r\n{body}"
            ),
            format!("HTTP/1.1 100 Continue\r\n\r\n{length}"),
            false,
        ),
        scene("pipelined", get.repeat(2), &length, false),
        scene("closing client", get.replace("User-Agent: test", "Connection: close"), &length, false),
        scene("long", format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), &length, false),
    ]
}

#[test]
fn a_request_that_moves_at_any_byte_is_answered_as_if_it_had_stayed() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    for scene in scenes() {
        let all = scene.request.len() + scene.response.len();
        let mut moved = 0;
        for at in (0..=all).step_by(if all > 2_000 { 97 } else { 1 }) {
            let (stayed, _) = play(&stage, (&mut here, &mut there), &scene, Pause::At(at), None);
            for format in FORMATS {
                let (got, moves) = play(&stage, (&mut here, &mut there), &scene, Pause::At(at), Some(format));
                assert_eq!(got.show(), stayed.show(), "{}, moved at {at} in format {format}", scene.name);
                moved += moves;
            }
        }
        assert!(moved > all / 2 || all > 2_000, "{}: moved {moved} times only", scene.name);
    }
}

#[test]
fn a_request_that_moves_at_every_byte_is_answered_as_if_it_had_stayed() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    for scene in scenes().iter().filter(|scene| scene.request.len() < 2_000) {
        let (stayed, _) = play(&stage, (&mut here, &mut there), scene, Pause::Everywhere, None);
        for format in FORMATS {
            let (got, moves) = play(&stage, (&mut here, &mut there), scene, Pause::Everywhere, Some(format));
            assert_eq!(got.show(), stayed.show(), "{} in format {format}", scene.name);
            assert!(moves > 20, "{}: moved {moves} times only", scene.name);
        }
    }
}

impl Got {
    /// Without the dates of answers that are our own.
    fn show(&self) -> String {
        let Self { client, client_ended, endpoint, end, counted, carried } = self;
        let client = String::from_utf8_lossy(client);
        let lines =
            client.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ") || *line == DATE);
        format!(
            "{end:?} {client_ended} {counted:?} {carried:?}\n{}\n----\n{}",
            lines.collect::<String>(),
            String::from_utf8_lossy(endpoint)
        )
    }
}
