//! An HTTPS server whose certificate can be replaced while it serves.
//!
//! ```text
//! cargo run --example axum -- cert.pem key.pem
//!
//! curl --insecure https://127.0.0.1:8443/
//! curl --unix-socket $XDG_RUNTIME_DIR/handover/axum-example.sock -X POST http://localhost/v1/actions/reload_certs
//! kill -HUP <pid>
//! ```
//!
//! Both last lines load the certificate and the key anew and check that they belong together. If so, the next
//! handshake uses them; if not, the answer says why, and the old ones stay. Connections that are open go on.
//!
//! [`main`] declares what the server has, [`serve`] runs it. The rest is TLS for axum, and knows nothing of handover
//! beyond a value that is loaded anew and a guard that counts a connection.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use handover::{Context, Prepare, Reloadable, Server, TrackedStream};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

fn main() -> ExitCode {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let certificate = paths.next().unwrap_or_else(|| "cert.pem".into());
    let key = paths.next().unwrap_or_else(|| "key.pem".into());

    let mut server = Server::new("axum-example", env!("CARGO_PKG_VERSION"));
    server.listener("https", "127.0.0.1:8443");
    let tls = server.reloadable("cert", move |files| load(files, &certificate, &key));
    let again = tls.clone();
    server.action("reload_certs", move |call| match call.reload(&again) {
        Ok(()) => Ok("Successfully reloaded cert".to_owned()),
        Err(error) => Err(format!("could not reload cert: {error}")),
    });
    server.run(move |cx| serve(cx, tls.clone()))
}

async fn serve(cx: Context, tls: Reloadable<ServerConfig>) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!\n" }));
    let https = Https { tcp: cx.listener("https")?, tls, handshakes: JoinSet::new(), cx: cx.clone() };
    axum::serve(https, app).with_graceful_shutdown(cx.draining()).await
}

/// Reads through `files`, so that the bytes belong to the generation: a worker that has to be replaced gets the same
/// pair, even if only one of the two has been renewed on the disk by then.
fn load(
    files: &mut Prepare,
    certificate: &Path,
    key: &Path,
) -> Result<ServerConfig, Box<dyn Error + Send + Sync>> {
    let chain = CertificateDer::pem_slice_iter(&files.read(certificate)?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&files.read(key)?)?;
    // Fails if the key does not belong to the certificate.
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// TLS handshakes that may be under way at the same time; beyond that, connections wait to be accepted.
const MAX_HANDSHAKES: usize = 256;
/// How long a client may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long nothing is accepted after that failed, say because the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts TLS connections. Handshakes are done beside each other, so that a slow client holds up nobody.
struct Https {
    tcp: TcpListener,
    tls: Reloadable<ServerConfig>,
    handshakes: JoinSet<Option<(Connection, SocketAddr)>>,
    cx: Context,
}

type Connection = TrackedStream<TlsStream<TcpStream>>;

impl Https {
    fn shake_hands(&mut self, stream: TcpStream, peer: SocketAddr) {
        // The configuration of this moment: a connection keeps the certificate that it began with.
        let acceptor = TlsAcceptor::from(self.tls.load());
        let tracked = self.cx.track("https");
        self.handshakes.spawn(async move {
            let stream = tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await.ok()?.ok()?;
            Some((tracked.wrap(stream), peer))
        });
    }
}

impl Listener for Https {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let room = self.handshakes.len() < MAX_HANDSHAKES;
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                accepted = self.tcp.accept(), if room => match accepted {
                    Ok((stream, peer)) => self.shake_hands(stream, peer),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}
