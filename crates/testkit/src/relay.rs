//! Something between a client and a server that lets so many of the client's bytes pass, and the rest when it is told to: a
//! handshake, a record, a head that is half there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::deadline::DEADLINE;
use crate::gate::Gate;

/// A relay for one connection.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    gate: Gate,
}

impl Relay {
    /// Passes on to `server` the first `first` bytes of what its client sends, and the others once [`Relay::release`] was
    /// called; everything the other way.
    #[must_use]
    pub fn holding(server: SocketAddr, first: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port of a relay");
        let address = listener.local_addr().expect("address of a relay");
        let gate = Gate::shut();
        let held = gate.clone();
        thread::spawn(move || {
            // What goes wrong here, the client sees.
            let _ = listener.accept().and_then(|(client, _)| pass(&client, server, first, &held));
        });
        Self { address, gate }
    }

    /// Where its client connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until there is more than may pass.
    pub fn wait_held(&self) {
        self.gate.arrived(1);
    }

    /// Lets the rest pass.
    pub fn release(&self) {
        self.gate.open();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.gate.open();
    }
}

fn pass(client: &TcpStream, server: SocketAddr, first: usize, gate: &Gate) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&server, DEADLINE)?;
    for end in [client, &server] {
        end.set_nodelay(true)?;
    }
    let (from, to) = (server.try_clone()?, client.try_clone()?);
    let back = thread::spawn(move || copy(&from, &to));
    let mut buffer = vec![0; first];
    let (mut filled, mut reader, mut writer) = (0, client, &server);
    while filled < first {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            length => {
                writer.write_all(&buffer[filled..filled + length])?;
                filled += length;
            }
        }
    }
    let mut next = [0];
    if reader.read(&mut next)? == 1 {
        gate.pass();
        writer.write_all(&next)?;
        copy(client, &server);
    } else {
        server.shutdown(Shutdown::Write)?;
    }
    let _ = back.join();
    Ok(())
}

/// Copies to the end, and passes the end on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
