//! The server's side of a handshake.
//!
//! ```text
//!   first bytes: plain HTTP? not TLS? ──▶ refused
//!        └─ TLS ──▶ rustls, until Finished ──▶ session, with the name from the ClientHello
//! ```

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::time_provider::TimeProvider;

use super::drive::{Drive, Step, plain_alert};
use super::error::Peer;
use super::hello::{Hello, Reader};
use super::{Established, Fed, HandshakeError, established};
use crate::keys::{Captured, TrafficSecrets};
use crate::session::Side;

/// The first bytes of requests of HTTP.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * HTTP/2",
];

/// The content types that a first record could have: the alert of somebody who gave up, or a handshake message.
const FIRST_TYPES: [u8; 2] = [21, 22];

/// A client that is being let in.
pub struct Accepting {
    /// None once the handshake has ended.
    connection: Option<UnbufferedServerConnection>,
    drive: Drive,
    captured: Captured,
    reader: Reader,
    hello: Hello,
    /// True once the first bytes were looked at.
    is_tls: bool,
    /// What rustls reads the time from.
    clock: Arc<dyn TimeProvider>,
}

impl fmt::Debug for Accepting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepting").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl Accepting {
    /// Waits for a client's first message.
    ///
    /// # Errors
    /// [`HandshakeError::Internal`]: the configuration is not fit, see [`super::prepare_server`].
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, HandshakeError> {
        if !config.enable_secret_extraction {
            return Err(HandshakeError::Internal("the configuration was not prepared for it".to_owned()));
        }
        let clock = Arc::clone(&config.time_provider);
        let connection = UnbufferedServerConnection::new(config)
            .map_err(|error| HandshakeError::from_rustls(error, Peer::Client, &Hello::default()))?;
        Ok(Self {
            connection: Some(connection),
            drive: Drive::default(),
            captured: Captured::default(),
            reader: Reader::default(),
            hello: Hello::default(),
            is_tls: false,
            clock,
        })
    }

    /// The name that the client asked for, once its first message is there whole: for logs, also of failures.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.hello.name.as_deref()
    }

    /// The bytes that were fed and not used yet: after [`HandshakeError::PlainHttp`], the beginning of the request.
    #[must_use]
    pub fn unused(&self) -> &[u8] {
        self.drive.waiting()
    }

    /// Takes bytes from the client, and appends to `out` what must be sent to it, whatever the result is.
    ///
    /// # Errors
    /// Why the handshake failed. Nothing more can be fed.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        self.drive.take(input);
        if !self.is_tls {
            match first_bytes(self.drive.waiting()) {
                First::Unclear => return Ok(Fed::More),
                First::Tls => self.is_tls = true,
                First::Http => return self.end(HandshakeError::PlainHttp),
                First::Other => return self.end(HandshakeError::NotTls(Peer::Client)),
            }
        }
        let Some(connection) = &mut self.connection else {
            return Err(HandshakeError::Internal("it has ended already".to_owned()));
        };
        let before = out.len();
        let (drive, reader, hello) = (&mut self.drive, &mut self.reader, &mut self.hello);
        let step = TrafficSecrets::capture(&mut self.captured, || {
            drive.run(connection, out, |record| {
                if let Some(found) = reader.take(record) {
                    *hello = found;
                }
            })
        });
        match step {
            Step::More => Ok(Fed::More),
            Step::Finished => self.finish(out),
            Step::Ended(error) => {
                self.say(&error, out);
                self.end(error)
            }
            Step::Failed(error) => {
                let error = HandshakeError::from_rustls(error, Peer::Client, &self.hello);
                match error {
                    // rustls says access_denied, or what else old clients lack; there are words for what is meant.
                    HandshakeError::NoCertificate(_) | HandshakeError::Version(_) => {
                        out.truncate(before);
                        error.alert().into_iter().for_each(|alert| plain_alert(alert, out));
                    }
                    _ if out.len() == before => self.say(&error, out),
                    _ => {}
                }
                self.end(error)
            }
        }
    }

    /// Appends the alert for `error`, if that can still be said without keys.
    fn say(&self, error: &HandshakeError, out: &mut Vec<u8>) {
        if let (false, Some(alert)) = (self.drive.has_sent, error.alert()) {
            plain_alert(alert, out);
        }
    }

    fn end(&mut self, error: HandshakeError) -> Result<Fed, HandshakeError> {
        self.connection = None;
        Err(error)
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        let Some(connection) = self.connection.take() else { return Ok(Fed::More) };
        let captured = std::mem::take(&mut self.captured);
        let mut facts = established::facts(&connection)?;
        facts.sni = self.hello.name.take();
        let certificate = connection.peer_certificates().and_then(|chain| chain.first()).cloned();
        let sent = self.drive.encrypted_records(out);
        let mut session = established::session(Side::Server, facts.suite, captured, sent, || {
            connection.dangerous_into_kernel_connection().map(|(secrets, _)| secrets)
        })?;
        if let Some(certificate) = certificate {
            let now = self.clock.current_time().and_then(|now| i64::try_from(now.as_secs()).ok());
            match super::subject::shown(&certificate, now) {
                Ok(subject) => facts.client_subject = Some(subject),
                Err((alert, why)) => {
                    session.end_with(alert, out);
                    return Err(HandshakeError::Certificate(Peer::Client, why.to_owned()));
                }
            }
        }
        Ok(Fed::Done(Box::new(Established { session, facts, leftover: self.drive.leftover() })))
    }
}

/// What the first bytes of a connection are.
enum First {
    Tls,
    Http,
    Other,
    /// Too few to tell.
    Unclear,
}

fn first_bytes(bytes: &[u8]) -> First {
    match bytes.first() {
        None => First::Unclear,
        Some(first) if FIRST_TYPES.contains(first) => First::Tls,
        Some(_) if METHODS.iter().any(|method| bytes.starts_with(method)) => First::Http,
        Some(_) if METHODS.iter().any(|method| method.starts_with(bytes)) => First::Unclear,
        Some(_) => First::Other,
    }
}
