//! The client's side of a handshake.
//!
//! ```text
//!   new: our first message ──▶ rustls, until Finished ──▶ session, which goes on taking session tickets
//! ```

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls_pki_types::ServerName;

use super::drive::{Drive, Step};
use super::error::Peer;
use super::hello::Hello;
use super::{Established, Fed, HandshakeError, established};
use crate::keys::{Captured, TrafficSecrets};
use crate::session::{Resumption, Side};
use crate::suite::Version;

/// The content types that a first record of a server can have.
const FIRST_TYPES: [u8; 2] = [21, 22];

/// A server that is being connected to.
pub struct Connecting {
    /// None once the handshake has ended.
    connection: Option<UnbufferedClientConnection>,
    drive: Drive,
    captured: Captured,
    name: Option<Box<str>>,
    is_tls: bool,
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Connecting {
    /// Begins, and appends the first message to `out`. `name` is what the server's certificate must be for.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`]: the configuration is not fit, see [`super::prepare_client`].
    pub fn new(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        out: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        if !config.enable_secret_extraction {
            return Err(HandshakeError::Internal("the configuration was not prepared for it".to_owned()));
        }
        let asked = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().into()),
            _ => None,
        };
        let connection = UnbufferedClientConnection::new(config, name)
            .map_err(|error| HandshakeError::from_rustls(error, Peer::Server, &Hello::default()))?;
        let mut connecting = Self {
            connection: Some(connection),
            drive: Drive::default(),
            captured: Captured::default(),
            name: asked,
            is_tls: false,
        };
        connecting.run(out)?;
        Ok(connecting)
    }

    /// Takes bytes from the server, and appends to `out` what must be sent to it, whatever the result is.
    ///
    /// # Errors
    /// Why the handshake failed. Nothing more can be fed.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        self.drive.take(input);
        if !self.is_tls {
            match self.drive.waiting().first() {
                None => return Ok(Fed::More),
                Some(first) if FIRST_TYPES.contains(first) => self.is_tls = true,
                Some(_) => {
                    self.connection = None;
                    return Err(HandshakeError::NotTls(Peer::Server));
                }
            }
        }
        self.run(out)
    }

    fn run(&mut self, out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        let Some(connection) = &mut self.connection else {
            return Err(HandshakeError::Internal("it has ended already".to_owned()));
        };
        let drive = &mut self.drive;
        let step = TrafficSecrets::capture(&mut self.captured, || drive.run(connection, out, |_| {}));
        let error = match step {
            Step::More => return Ok(Fed::More),
            Step::Finished => return self.finish(),
            Step::Ended(error) => error,
            Step::Failed(error) => HandshakeError::from_rustls(error, Peer::Server, &Hello::default()),
        };
        self.connection = None;
        Err(error)
    }

    fn finish(&mut self) -> Result<Fed, HandshakeError> {
        let Some(connection) = self.connection.take() else { return Ok(Fed::More) };
        let captured = std::mem::take(&mut self.captured);
        let mut facts = established::facts(&connection)?;
        facts.sni = self.name.take();
        let (secrets, kernel) = connection
            .dangerous_into_kernel_connection()
            .map_err(|error| HandshakeError::Internal(error.to_string()))?;
        // Nothing is sent under the first traffic key of TLS 1.3 before the session is ours.
        let mut session = established::session(Side::Client, facts.suite, captured, 0, || Ok(secrets))?;
        if facts.version == Version::Tls13 {
            session.keep_tickets(Resumption::new(kernel));
        }
        Ok(Fed::Done(Box::new(Established { session, facts, leftover: self.drive.leftover() })))
    }
}
