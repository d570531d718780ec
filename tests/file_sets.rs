//! Immutable file sets: the worked example of docs/file-sets.md, run as it stands there, and what is held against it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use handover_testkit::config::{fixed, from_file, tls_listener};
use handover_testkit::{
    Authority, EndOnDrop, Handover, Handshakes, Output, Pair, Port, SITE, TlsClient, Workspace, handover,
    run, text_at,
};

/// The pieces of the example that a shell runs, in order.
fn example() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/file-sets.md");
    let text = fs::read_to_string(path).unwrap();
    let pieces = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    pieces.collect()
}

/// A shell whose variables last from one piece to the next.
struct Shell<'a> {
    workspace: &'a Workspace,
    port: &'a Port,
    before: String,
}

impl Shell<'_> {
    fn run(&mut self, piece: &str) -> Output {
        let mut shell = handover_testkit::command(Path::new("sh"), self.workspace);
        let directory = Path::new(handover!()).parent().unwrap().display().to_string();
        shell.env("PATH", format!("{directory}:{}", std::env::var("PATH").unwrap()));
        shell.env("ADDRESS", self.port.address().to_string());
        // What earlier pieces set, and nothing that they did.
        shell.arg("-c").arg(format!("set -eu\n{}\n{piece}\nset > variables", self.before));
        let output = run(shell);
        output.expect_code(0);
        let set = self.workspace.read("variables");
        let kept = set.lines().filter(|line| line.starts_with("set=") || line.starts_with("next="));
        self.before = kept.collect::<Vec<_>>().join("\n");
        output
    }
}

fn incoming(workspace: &Workspace, directory: &str, pair: &Pair, page: &str) {
    workspace.write(format!("{directory}/site.pem"), pair.certificate());
    workspace.write(format!("{directory}/site.key"), &pair.key);
    workspace.write(format!("{directory}/page.html"), page);
}

#[test]
fn the_worked_example_does_what_it_says() {
    let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
    let (first, renewed) = (authority.pair(&[SITE]), authority.pair(&[SITE]));
    incoming(&workspace, "incoming", &first, "<p>first</p>\n");
    incoming(&workspace, "renewed", &renewed, "");
    let pieces = example();
    assert_eq!(pieces.len(), 7, "{pieces:#?}");
    let mut shell = Shell { workspace: &workspace, port: &port, before: String::new() };
    let client = TlsClient::trusting(authority.pem(), SITE);
    let served = || {
        let (served, response) = client.get(port.address(), "/");
        assert_eq!(response.header("content-type"), Some("text/html"));
        (served.serial, response.text())
    };
    for piece in &pieces[..3] {
        shell.run(piece);
    }
    let _server = Handover::of(handover!(), &workspace).config_file("handover.toml").start();
    assert_eq!(served(), (first.serial, "<p>first</p>\n".to_owned()));
    shell.run(&pieces[3]);
    assert_eq!(served(), (first.serial, "<p>first</p>\n".to_owned()), "composed is not activated");
    let output = shell.run(&pieces[4]);
    output.says("applied");
    assert_eq!(served(), (renewed.serial, "<p>renewed</p>\n".to_owned()));
    shell.run(&pieces[5]).says("applied");
    assert_eq!(served(), (first.serial, "<p>first</p>\n".to_owned()));
    let before = fs::read_dir(workspace.path("files")).unwrap().count();
    shell.run(&pieces[6]).says("unchanged");
    let after = fs::read_dir(workspace.path("files")).unwrap().count();
    assert_eq!((before, after), (6, 3), "what no set names is gone, what serves is there");
    assert_eq!(served(), (first.serial, "<p>first</p>\n".to_owned()));
}

/// Two sets whose top-level files are renamed into place.
struct Sets {
    workspace: Workspace,
    port: Port,
    authority: Authority,
    /// What each set is known by: the serial number of its certificate.
    serials: [u64; 2],
}

impl Sets {
    fn new() -> Self {
        let (workspace, port, authority) = (Workspace::new(), Port::claim(), Authority::new("CA"));
        let serials = ["a", "b"].map(|set| {
            let pair = authority.pair(&[SITE]);
            pair.write(&workspace, &format!("site-{set}"));
            workspace.write(format!("body-{set}.txt"), format!("body of {set}"));
            let config = tls_listener("secure", &port, &[&format!("site-{set}")], "")
                + &fixed("/", format!("message of {set}"))
                + &from_file("/body", &format!("body-{set}.txt"));
            workspace.write(format!("set-{set}.toml"), config);
            pair.serial
        });
        let this = Self { workspace, port, authority, serials };
        this.activate(0);
        this
    }

    fn activate(&self, number: usize) {
        let set = ["a", "b"][number % 2];
        let next = self.workspace.path("handover.toml.next");
        fs::copy(self.workspace.path(format!("set-{set}.toml")), &next).unwrap();
        fs::rename(next, self.workspace.path("handover.toml")).unwrap();
    }
}

/// Which of the two sets the files of a generation belong to.
fn sets_of(generation: &serde_json::Value) -> BTreeSet<char> {
    let files = generation["files"].as_array().unwrap();
    let paths = files.iter().map(|file| text_at(file, "/path"));
    paths.filter_map(|path| path.rsplit_once('-')?.1.chars().next()).collect()
}

#[test]
fn a_thousand_renames_during_reloads_serve_whole_sets_only_and_no_reload_is_refused() {
    const RENAMES: usize = 1000;
    const RELOADS: usize = 50;
    const BETWEEN: Duration = Duration::from_micros(500);
    let sets = Sets::new();
    let server = Handover::of(handover!(), &sets.workspace).config_file("handover.toml").start();
    let client = TlsClient::trusting(sets.authority.pem(), SITE);
    let message = Handshakes::start(client.clone(), sets.port.address(), "/");
    let body = Handshakes::start(client, sets.port.address(), "/body");
    let (over, renamed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut outcomes = BTreeMap::<String, usize>::new();
    let reload = || {
        let (status, operation) = server.control.post("/v1/reload", &[]);
        assert_eq!(status, 200, "{operation}");
        let generation = server.control.get(&format!("/v1/generations/{}", server.control.generation()));
        let of = sets_of(&generation);
        assert_eq!(of.len(), 1, "half of one and half of the other: {generation}");
        (text_at(&operation, "/outcome").to_owned(), of)
    };
    std::thread::scope(|scope| {
        let _end = EndOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                sets.activate(renamed.fetch_add(1, Ordering::AcqRel) + 1);
                // Spread over many reloads, so that they meet in every way; nothing is waited for here.
                std::thread::park_timeout(BETWEEN);
            }
        });
        let mut reloads = 0;
        while reloads < RELOADS || renamed.load(Ordering::Acquire) < RENAMES {
            *outcomes.entry(reload().0).or_default() += 1;
            reloads += 1;
        }
    });
    assert!(outcomes["applied"] > 10, "{outcomes:?}");
    sets.activate(0);
    assert_eq!(reload().1, ['a'].into());
    for client in [message, body] {
        let met = client.finish();
        met.expect_all_good();
        assert!(met.serials.keys().all(|serial| sets.serials.contains(serial)), "{met:?}");
    }
}
