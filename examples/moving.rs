//! A TCP server whose connections survive its upgrade: each counts its lines, and goes on counting in the new binary.
//!
//! ```text
//! cargo run --example moving
//!
//! nc 127.0.0.1 7008                          every line comes back with its number
//! handover --control <socket> upgrade        the same connection goes on, in another process
//! ```

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use handover::{Context, Movable, Mover, Moves, Server};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The longest line, in bytes; a connection with a longer one is closed.
const LONGEST_LINE: usize = 4096;
/// How long nothing is accepted after that failed, say because the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// All that is known of a connection: what another process needs to go on with it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Talk {
    /// Lines that were answered.
    lines: u64,
    /// What was read of the next one.
    unread: Vec<u8>,
}

impl Movable for Talk {
    fn write(&self, _format: u16) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn read(_format: u16, bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

fn main() -> ExitCode {
    let mut server = Server::new("moving-example", env!("CARGO_PKG_VERSION"));
    server.listener("lines", "127.0.0.1:7008");
    let talks = server.movable::<Talk>("lines");
    server.run(move |cx| serve(cx, talks.clone()))
}

/// Takes connections from the network, and those that come from the process before.
async fn serve(cx: Context, talks: Moves<Talk>) -> io::Result<()> {
    let listener = cx.listener("lines")?;
    let mut adopted = talks.adopted();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => drop(tokio::spawn(talk(stream, Talk::default(), talks.mover(&cx)))),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            came = adopted.next() => match came {
                Ok((state, stream)) => drop(tokio::spawn(talk(stream, state, talks.mover(&cx)))),
                Err(error) => tracing::error!("{error}"),
            },
            () = cx.draining() => return Ok(()),
        }
    }
}

/// One connection. Whenever it waits for the client it can be written down: that is where it may be asked to move.
async fn talk(mut stream: TcpStream, mut talk: Talk, mut mover: Mover<Talk>) -> io::Result<()> {
    loop {
        while let Some(end) = talk.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = talk.unread.drain(..=end).collect();
            talk.lines += 1;
            stream.write_all(format!("{} {}", talk.lines, String::from_utf8_lossy(&line)).as_bytes()).await?;
        }
        if talk.unread.len() > LONGEST_LINE {
            return Ok(());
        }
        tokio::select! {
            read = stream.read_buf(&mut talk.unread) => {
                if read? == 0 {
                    return Ok(());
                }
            }
            () = mover.asked() => match mover.give(&talk, stream).await {
                Ok(()) => return Ok(()),
                // It comes to its end here.
                Err(kept) => stream = kept.sockets?,
            },
        }
    }
}
