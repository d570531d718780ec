//! A TCP server without any framework: it greets, then sends every line back.
//!
//! ```text
//! echo 'Good morning' > greeting.txt
//! cargo run --example raw_tcp -- greeting.txt
//!
//! nc 127.0.0.1 7007
//! kill -HUP <pid>        new connections are greeted with what greeting.txt says now
//! kill -TERM <pid>       whoever is connected has 30 seconds to finish; nobody new is taken
//! ```

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use handover::{Context, Reloadable, Server};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// The longest line that is sent back, in bytes.
const LONGEST_LINE: u64 = 4096;
/// How long nothing is accepted after that failed, say because the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let path = std::env::args_os().nth(1).map_or_else(|| "greeting.txt".into(), PathBuf::from);

    let mut server = Server::new("raw-tcp-example", env!("CARGO_PKG_VERSION"));
    server.listener("lines", "127.0.0.1:7007");
    let greeting = server.reloadable("greeting", move |files| files.read_to_string(&path));
    server.run(move |cx| serve(cx, greeting.clone()))
}

/// Ends when the server is to drain. The connections that are open then are tracked: the drain waits for them.
async fn serve(cx: Context, greeting: Reloadable<String>) -> io::Result<()> {
    let listener = cx.listener("lines")?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _peer)) => {
                    let stream = cx.track("tcp").wrap(stream);
                    tokio::spawn(talk(stream, greeting.load(), cx.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            () = cx.draining() => return Ok(()),
        }
    }
}

/// One connection, which keeps the greeting that it began with. An error is the end of this connection only.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    greeting: impl AsRef<String>,
    cx: Context,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(greeting.as_ref().as_bytes()).await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        stream.write_all(&line).await?;
        if cx.is_draining() {
            return stream.write_all(b"(this server is about to stop, goodbye)\n").await;
        }
    }
}
