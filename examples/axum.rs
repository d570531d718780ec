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
//! Both last lines load the certificate and the key anew and check them: that they belong together, that they can be
//! read, that they have not expired. If all is well, the next handshake uses them; if not, the answer says why, and the
//! old ones stay. Connections that are open go on.
//!
//! `handover reload --certs` does the same and leaves everything else alone. All three can be told apart in
//! `handover history`; `handover certificates` shows what serves.
//!
//! [`main`] declares what the server has, [`serve`] runs it. The rest is TLS for axum, and knows nothing of handover
//! beyond a resolver that rustls asks for certificates, and a guard that counts a connection.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use handover::tls::{CertificateStore, Pair};
use handover::{Context, Server, TrackedStream};
use rustls::ServerConfig;
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
    let store = Arc::new(CertificateStore::new());
    let certificates = server.certificates(&store, [Pair::new(certificate, key)]);
    server.action("reload_certs", move |call| match call.reload_certificates(&certificates) {
        Ok(()) => Ok("Successfully reloaded cert".to_owned()),
        Err(error) => Err(format!("could not reload cert: {error}")),
    });
    server.run(move |cx| serve(cx, Arc::clone(&store)))
}

async fn serve(cx: Context, store: Arc<CertificateStore>) -> io::Result<()> {
    let app = Router::new().route("/", get(|| async { "Hello, World!\n" }));
    // Every handshake asks the store: what it serves is replaced as one set, certificate and key together.
    let mut tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(store);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let https = Https { tcp: cx.listener("https")?, tls, handshakes: JoinSet::new(), cx: cx.clone() };
    axum::serve(https, app).with_graceful_shutdown(cx.draining()).await
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
    tls: TlsAcceptor,
    handshakes: JoinSet<Option<(Connection, SocketAddr)>>,
    cx: Context,
}

type Connection = TrackedStream<TlsStream<TcpStream>>;

impl Https {
    fn shake_hands(&mut self, stream: TcpStream, peer: SocketAddr) {
        let acceptor = self.tls.clone();
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
