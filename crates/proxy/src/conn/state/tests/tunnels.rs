//! Tunnels and long bodies, moved whenever anything has happened, with whatever lies in their buffers.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

use super::rig::*;
use crate::access_log::AccessLog;
use crate::conn::state::FORMATS;
use crate::conn::{Conn, End};

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Act {
    ClientSays(&'static [u8]),
    EndpointSays(&'static [u8]),
    ClientEnds,
    EndpointEnds,
}
use Act::{ClientEnds, ClientSays, EndpointEnds, EndpointSays};

#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    client: Vec<u8>,
    client_ended: bool,
    endpoint: Vec<u8>,
    endpoint_ended: bool,
    end: Option<End>,
    log: String,
}

/// Plays a tunnel; it moves after each act if there is a format.
fn play(listener: &str, acts: &[Act], format: Option<u16>) -> Got {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let (conn, client) = here.connect(listener);
    let (mut conn, mut endpoint) = (Some(conn), None::<OwnedFd>);
    let mut got = Got::default();
    for act in acts {
        match act {
            ClientSays(bytes) => say(&client, bytes),
            EndpointSays(bytes) => say(endpoint.as_ref().unwrap(), bytes),
            ClientEnds => end(&client),
            EndpointEnds => end(endpoint.as_ref().unwrap()),
        }
        for _ in 0..2 {
            if let Some(present) = conn.take() {
                match here.run(present) {
                    Ok(present) => conn = Some(present),
                    Err(end) => got.end = Some(end),
                }
            }
            endpoint = endpoint.or_else(|| stage.accept());
        }
        got.client_ended |= hear(&client, &mut got.client);
        if let Some(endpoint) = &endpoint {
            got.endpoint_ended |= hear(endpoint, &mut got.endpoint);
        }
        if let Some(format) = format
            && let Some(present) = conn.take_if(|conn| conn.is_movable(&here.cx))
        {
            conn = Some(move_to(&mut here, &mut there, present, format));
            std::mem::swap(&mut here, &mut there);
        }
    }
    if let Some(conn) = conn {
        conn.close(End::Cut, &mut here.cx);
    }
    got.log = log_of(&stage, [&mut here, &mut there]);
    got
}

/// The access log without its times.
fn log_of(stage: &Stage, processes: [&mut Process; 2]) -> String {
    for process in processes {
        let log: &mut AccessLog = &mut process.cx.log;
        assert_eq!(log.flush(), 0);
        process.writer.sync();
    }
    let text = std::fs::read_to_string(stage.log()).unwrap_or_default();
    let is_time =
        |word: &&str| word.starts_with('[') || word.split('.').nth(1).is_some_and(|part| part.len() == 6);
    let endpoint = stage.directory.path().display().to_string();
    let mut lines: Vec<_> = text.lines().collect();
    // Which process writes first is not said.
    lines.sort_unstable();
    lines
        .into_iter()
        .map(|line| line.split(' ').filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ") + "\n")
        .collect::<String>()
        .replace(&endpoint, "")
}

const ASK: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const YES: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst words";

#[test]
fn a_tunnel_that_moves_after_each_word_passes_the_same_words() {
    let endings: [&[Act]; 4] = [
        &[ClientEnds, EndpointSays(b"still here"), EndpointEnds],
        &[EndpointEnds, ClientSays(b"still here"), ClientEnds],
        &[ClientSays(b"a"), EndpointSays(b"b")],
        &[EndpointSays(&[7; 40_000]), ClientSays(&[9; 40_000]), ClientEnds, EndpointEnds],
    ];
    for ending in endings {
        let talk = [ClientSays(b"one"), EndpointSays(b"two"), ClientSays(b"three"), EndpointSays(b"four")];
        let tcp = [&talk, ending].concat();
        let websocket = [&[ClientSays(ASK), EndpointSays(YES)], &talk[..], ending].concat();
        for (listener, acts) in [("raw", tcp), ("web", websocket)] {
            let stayed = play(listener, &acts, None);
            let words = [&stayed.client[..], &stayed.endpoint[..]].concat();
            for word in ["one", "two", "three", "four"] {
                assert!(words.windows(word.len()).any(|part| part == word.as_bytes()), "{word}");
            }
            assert!(!stayed.log.is_empty());
            for format in FORMATS {
                assert_eq!(play(listener, &acts, Some(format)), stayed, "{listener} in format {format}");
            }
        }
    }
}

#[test]
fn the_access_log_says_of_a_request_that_moved_what_it_says_of_one_that_stayed() {
    let acts = [
        ClientSays(
            b"POST /a HTTP/1.1\r\nHost: a\r\nReferer: /b\r\nUser-Agent: \"me\"\r\nContent-Length: 9\r\n\r\n",
        ),
        ClientSays(b"some"),
        ClientSays(b"thing"),
        EndpointSays(b"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n"),
        EndpointSays(b"\r\nhe"),
        EndpointSays(b"llo"),
        ClientSays(b"GET /b HTTP/1.1\r\nHo"),
        ClientEnds,
    ];
    let stayed = play("web", &acts, None);
    assert_eq!(
        stayed.log,
        "unix - - +0000] \"POST /a HTTP/1.1\" \"/b\" \"\\\"me\\\"\" 200 52 unix:/endpoint\n"
    );
    for format in FORMATS {
        assert_eq!(play("web", &acts, Some(format)), stayed, "format {format}");
    }
}

/// As much as the kernel and all buffers take, and then some.
const MUCH: usize = 3_000_000;

/// A stream that can be told from any other: no two places nearby look alike.
fn stream() -> Vec<u8> {
    (0..MUCH).map(|at| u8::try_from((at * 7 + at / 251) % 251).unwrap()).collect()
}

fn in_chunks(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in bytes.chunks(7_001) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Undoes [`in_chunks`], however long the chunks have become.
fn out_of_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let line = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        bytes = &bytes[line + 2..];
        if size == 0 {
            assert_eq!(bytes, b"\r\n");
            return out;
        }
        out.extend_from_slice(&bytes[..size]);
        assert_eq!(&bytes[size..size + 2], b"\r\n");
        bytes = &bytes[size + 2..];
    }
}

/// Pushes `bytes` from one end to the other; whoever takes them takes little at a time, and everything moves whenever nothing goes any
/// more. Returns what came out, without what comes before an empty line.
fn push(
    (here, there): (&mut Process, &mut Process),
    conn: &mut Option<Conn>,
    bytes: &[u8],
    (from, to): (&OwnedFd, &OwnedFd),
    wanted: impl Fn(&[u8]) -> bool,
) -> Vec<u8> {
    let (mut sent, mut got, mut moves, mut format) = (0, Vec::new(), 0, 1);
    let mut taken = vec![0; 300_000];
    while !wanted(&got) {
        if let Ok(count) = send(from, &bytes[sent..], SendFlags::NOSIGNAL) {
            sent += count;
        }
        let present = here.run(conn.take().unwrap()).unwrap();
        *conn = Some(move_to(here, there, present, format));
        std::mem::swap(here, there);
        (format, moves) = (3 - format, moves + 1);
        if let Ok(count) = rustix::io::read(to, &mut taken[..]) {
            assert_ne!(count, 0, "it ended after {} bytes", got.len());
            got.extend_from_slice(&taken[..count]);
        }
        assert!(moves < 10_000, "nothing comes any more after {} bytes", got.len());
    }
    assert!(moves > 8, "moved only {moves} times");
    let head = got.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    got.split_off(head)
}

#[test]
fn bodies_that_fill_all_buffers_arrive_whole_however_often_they_move() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let body = stream();
    for chunked in [false, true] {
        let framing =
            if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {MUCH}") };
        let framed = if chunked { in_chunks(&body) } else { body.clone() };
        let whole = |bytes: &[u8]| if chunked { bytes.ends_with(b"0\r\n\r\n") } else { bytes.len() > MUCH };
        let unframed = |bytes: Vec<u8>| if chunked { out_of_chunks(&bytes) } else { bytes };
        let (conn, client) = here.connect("web");
        say(&client, format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").as_bytes());
        let mut conn = Some(here.run(conn).unwrap());
        let endpoint = stage.accept().unwrap();
        let ends = (&client, &endpoint);
        let got = push((&mut here, &mut there), &mut conn, &framed, ends, |got| {
            whole(got) && (chunked || got.ends_with(&body[MUCH - 100..]))
        });
        assert!(unframed(got) == body, "the request's body, chunked: {chunked}");
        say(&endpoint, format!("HTTP/1.1 200 OK\r\nDate: x\r\n{framing}\r\n\r\n").as_bytes());
        let ends = (&endpoint, &client);
        let got = push((&mut here, &mut there), &mut conn, &framed, ends, |got| {
            whole(got) && (chunked || got.ends_with(&body[MUCH - 100..]))
        });
        assert!(unframed(got) == body, "the response's body, chunked: {chunked}");
        conn.unwrap().close(End::Done, &mut here.cx);
    }
}

#[test]
fn a_tunnel_that_fills_all_buffers_loses_nothing_however_often_it_moves() {
    let stage = Stage::new();
    let (mut here, mut there) = (stage.process(), stage.process());
    let (conn, client) = here.connect("raw");
    let mut conn = Some(here.run(conn).unwrap());
    let endpoint = stage.accept().unwrap();
    let bytes = stream();
    for ends in [(&client, &endpoint), (&endpoint, &client)] {
        let got = push((&mut here, &mut there), &mut conn, &bytes, ends, |got| got.len() == MUCH);
        assert!(bytes.ends_with(&got) && got.len() > MUCH - 300, "{} bytes", got.len());
    }
    conn.unwrap().close(End::Done, &mut here.cx);
}
