//! Live connections go from one worker's data plane to another's, and their clients notice nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::moves::{Move, hand_over};
use common::{Plane, to_endpoints};
use handover_testkit::crowd::{self, Crowd, Idle};
use handover_testkit::echo::Echo;
use handover_testkit::http::Connection;
use handover_testkit::origin::Origin;
use handover_testkit::{Authority, TlsClient, Workspace};

/// How often everything moves there and back in the long tests.
const TIMES: usize = 10;

/// All kinds of listeners, an origin and an echo behind them.
struct Scene {
    root: Authority,
    origin: Origin,
    _echo: Echo,
    planes: [Plane; 2],
}

impl Scene {
    fn new(threads: [usize; 2]) -> Self {
        let root = Authority::new("root");
        let workspace = Workspace::new();
        root.pair(&["a.test"]).write(&workspace, "a");
        let (origin, echo) = (Origin::start("one"), Echo::start());
        let tls =
            |name: &str| format!("[listeners.{name}.tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\n\n");
        let config = [
            "[listeners.web]\naddress = \"127.0.0.1:0\"\n\n",
            "[listeners.secure]\naddress = \"127.0.0.1:0\"\n\n",
            &tls("secure"),
            "[listeners.raw]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n",
            "[listeners.sealed]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nservice = \"echo\"\n\n",
            &tls("sealed"),
            &format!("[services.echo]\nendpoints = \"{}\"\n\n", echo.address()),
            &to_endpoints(&[origin.address()], ""),
        ]
        .concat();
        let first = Plane::serve_in(workspace, threads[0], &config);
        let second = first.candidate(threads[1]);
        Self { root, origin, _echo: echo, planes: [first, second] }
    }

    fn plain(&self, listener: &str) -> Connection {
        self.planes[0].connect(listener)
    }

    fn client(&self) -> TlsClient {
        TlsClient::trusting(self.root.pem(), "a.test")
    }

    fn secure(&self, listener: &str) -> Connection {
        self.client().connect(self.planes[0].address(listener)).connection
    }

    fn tls12(&self, listener: &str) -> Connection {
        self.client().only_tls12().connect(self.planes[0].address(listener)).connection
    }

    /// Clients of every kind, over all versions of TLS and without it.
    fn crowd(&self) -> Crowd {
        let mut crowd = Crowd::new();
        crowd.add("keep-alive", crowd::keep_alive(self.plain("web"), false));
        crowd.add("keep-alive, TLS 1.3", crowd::keep_alive(self.secure("secure"), true));
        crowd.add("keep-alive, TLS 1.2", crowd::keep_alive(self.tls12("secure"), false));
        crowd.add("fresh", crowd::fresh(self.planes[0].address("web"), None));
        crowd.add("fresh, TLS", crowd::fresh(self.planes[0].address("secure"), Some(self.client())));
        crowd.add("WebSocket", crowd::websocket(self.plain("web"), false));
        crowd.add("WebSocket, TLS", crowd::websocket(self.secure("secure"), true));
        crowd.add("tunnel", crowd::tunnel(self.plain("raw"), false));
        crowd.add("tunnel, TLS 1.3", crowd::tunnel(self.secure("sealed"), true));
        crowd.add("tunnel, TLS 1.2", crowd::tunnel(self.tls12("sealed"), false));
        crowd.add("download", crowd::download(self.plain("web"), false));
        crowd.add("download, TLS", crowd::download(self.secure("secure"), true));
        crowd.add("upload", crowd::upload(self.plain("web"), false));
        crowd.add("upload, TLS", crowd::upload(self.secure("secure"), true));
        crowd
    }

    fn total(&self, plane: usize, metric: &str) -> u64 {
        self.planes[plane].metric(metric)
    }
}

#[test]
fn everything_goes_there_and_back_many_times_and_nobody_notices() {
    let scene = Scene::new([2, 3]);
    let [first, second] = &scene.planes;
    let mut idle = Idle::default();
    for _ in 0..50 {
        idle.add(scene.plain("web"));
        idle.add(scene.secure("secure"));
    }
    let crowd = scene.crowd();
    crowd.rounds(3);
    for _ in 0..TIMES {
        let moved = hand_over(first, second);
        assert!(moved["http"] >= 100, "{moved:?}");
        crowd.rounds(2);
        hand_over(second, first);
        crowd.rounds(2);
    }
    idle.ask();
    hand_over(first, second);
    idle.ask();
    crowd.finish();
}

#[test]
fn what_is_called_off_in_the_middle_goes_on_as_if_nothing_had_been() {
    let scene = Scene::new([2, 2]);
    let [first, second] = &scene.planes;
    let mut idle = Idle::default();
    for _ in 0..20 {
        idle.add(scene.plain("web"));
        idle.add(scene.secure("secure"));
    }
    let crowd = scene.crowd();
    crowd.rounds(2);
    for _ in 0..TIMES {
        // Before anything stands still, and then.
        Move::begin(first, second).thaw();
        let beginning = Move::begin(first, second);
        drop(beginning.freeze());
        beginning.thaw();
        crowd.rounds(1);
    }
    idle.ask();
    crowd.finish();
    assert_eq!(scene.total(0, "handover_failed_moves_total"), 0);
}
