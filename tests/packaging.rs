//! The units in `packaging/`: that systemd understands them, that they are as closed as they say, and that the server can still do all
//! of its work under them, in a real `systemd --user`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use handover_testkit::http;
use handover_testkit::servers::any_program;
use handover_testkit::systemd::Manager;
use handover_testkit::{Output, Port, Workspace, handover, have, proc, run, until};

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "29";
/// Where the server is, within the manager's namespace: where the unit lets it read.
const PLACE: &str = "/run/place";
/// Inside, and to systemctl.
const UNIT: &str = "handover.service";

fn packaged(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    fs::read_to_string(root.join("packaging").join(name)).unwrap()
}

/// The directives of a unit: names and values, in order.
fn directives(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let found = directives(text).into_iter().find(|(one, _)| *one == name);
    found.unwrap_or_else(|| panic!("{name} is not set")).1
}

/// Both units in a directory, for a binary that is there.
fn units(workspace: &Workspace) -> (PathBuf, PathBuf) {
    let service = packaged("handover.service").replace("/usr/bin/handover", handover!());
    (workspace.write(UNIT, service), workspace.write("handover.socket", packaged("handover.socket")))
}

fn analyze(words: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(words).args(files).env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
    run(command)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !have("systemd-analyze", "systemd_finds_nothing_wrong_with_the_units") {
        return;
    }
    let workspace = Workspace::new();
    let (service, socket) = units(&workspace);
    let output = analyze(&["verify", "--man=no", "--recursive-errors=no"], &[&service, &socket]);
    // What it does not understand it says and ignores: then its code is 0 all the same.
    let about = |line: &&str| line.contains(UNIT) || line.contains("handover.socket");
    let said = output.all();
    let found: Vec<&str> = said.lines().filter(about).collect();
    assert_eq!((output.code, found), (0, Vec::new()), "{said}");
}

#[test]
fn the_service_is_less_exposed_than_three() {
    if !have("systemd-analyze", "the_service_is_less_exposed_than_three") {
        return;
    }
    let workspace = Workspace::new();
    let (service, _) = units(&workspace);
    let threshold = format!("--threshold={EXPOSURE}");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold], &[&service]);
    assert_eq!(output.code, 0, "{}", output.all());
    assert!(output.stdout.contains("Overall exposure level"), "{}", output.all());
    // It does measure: without its lines the same unit fails.
    let (head, _) = packaged("handover.service")
        .split_once("NoNewPrivileges=")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let bare = workspace.write("bare.service", head);
    assert_ne!(analyze(&["security", "--offline=true", "--no-pager", &threshold], &[&bare]).code, 0);
}

/// What is left out is said beside it, so that whoever reads the unit knows that it was thought of.
#[test]
fn what_the_service_leaves_open_is_explained_in_it() {
    let text = packaged("handover.service");
    let comments: String = text.lines().filter(|line| line.starts_with('#')).collect();
    for open in [
        "MemoryDenyWriteExecute=",
        "PrivateUsers=",
        "PrivateNetwork=",
        "IPAddressDeny=",
        "ProtectProc=",
        "ProcSubset=",
        "ProtectControlGroups=",
    ] {
        assert!(comments.contains(open), "nothing is said of {open}");
        assert!(directives(&text).iter().all(|(name, _)| format!("{name}=") != open), "{open} is set");
    }
    for capability in value(&text, "CapabilityBoundingSet").split(' ') {
        let name = capability.strip_prefix("CAP_").unwrap();
        assert!(comments.contains(name), "nothing is said of {capability}");
    }
    assert_eq!(value(&text, "Delegate"), "yes");
    assert_eq!(value(&text, "KillMode"), "mixed");
    for line in text.lines().chain(packaged("handover.socket").lines()) {
        assert!(line.chars().count() <= 140, "{line}");
    }
}

/// The server as the packaged service, with a program that runs as another user, in a systemd of its own.
struct Packaged {
    manager: Manager,
    workspace: Workspace,
    web: Port,
    app: Port,
}

impl Packaged {
    fn new(test: &str) -> Option<Self> {
        let workspace = Workspace::new();
        let manager = Manager::start(&workspace, test)?;
        let (web, app) = (Port::claim(), Port::claim());
        let packaged = Self { manager, workspace, web, app };
        packaged.inside(&["mkdir", "-p", PLACE]);
        // What files are hidden behind; the system's own manager makes these when the machine starts.
        packaged.inside(&["sh", "-c", "cp -a $XDG_RUNTIME_DIR/systemd/inaccessible /run/systemd/"]);
        packaged.install(handover!(), "handover");
        let program = any_program(handover!(), &[]);
        packaged.install(&program[0], "any_program");
        packaged.configure("one");
        packaged.manager.unit(UNIT, &packaged.service());
        Some(packaged)
    }

    /// The unit, for its place here. Its /tmp is the real one, in which the manager's own directories are.
    fn service(&self) -> String {
        packaged("handover.service")
            .replace("/usr/bin/", &format!("{PLACE}/"))
            .replace("/etc/handover/", &format!("{PLACE}/"))
            .replace("PrivateTmp=yes", "")
            .replace("WatchdogSec=30s", &format!("WatchdogSec=5s\nStandardError=append:{PLACE}/log"))
            .replace("[Install]", "")
            .replace("WantedBy=multi-user.target", "")
    }

    fn configure(&self, says: &str) {
        let text = format!(
            "[listeners.web]\naddress = \"{web}\"\n[[routes]]\npath = \"/\"\nfixed = {{ body = \"{says}\" }}\n\
             [program.app]\ncommand = [\"{PLACE}/any_program\", \"says\", \"{says}\"]\nlisten = [\"{app}\"]\n\
             user = \"nobody\"\ndirectory = \"/run\"\nready = {{ http = \"/\" }}\nsettle = \"100ms\"\n\
             limits = {{ nofile = 128, memory = \"256MB\" }}\n",
            web = self.web.address(),
            app = self.app.address()
        );
        let file = self.workspace.write("handover.toml", text);
        self.install(file.to_str().unwrap(), "handover.toml");
    }

    #[track_caller]
    fn inside(&self, words: &[&str]) -> Output {
        let output = self.manager.run(words);
        assert_eq!(output.code, 0, "{words:?}: {}\n{}", output.all(), self.manager.log());
        output
    }

    /// Puts a file into the place, as installers do: the one that is there is replaced, not written to.
    fn install(&self, file: &str, name: &str) {
        let place = format!("{PLACE}/{name}");
        self.inside(&["install", "-m", "0755", file, &format!("{place}.new")]);
        self.inside(&["mv", &format!("{place}.new"), &place]);
    }

    /// What server and manager have said, for a failure's message.
    fn said(&self) -> String {
        let log = self.manager.run(&["cat", &format!("{PLACE}/log")]);
        format!("--- server\n{}\n--- manager\n{}", log.stdout, self.manager.log())
    }

    #[track_caller]
    fn systemctl(&self, words: &[&str], code: i32) -> Output {
        let output = self.manager.systemctl(words);
        assert_eq!(output.code, code, "{words:?}: {}\n{}", output.all(), self.said());
        output
    }

    #[track_caller]
    fn cli(&self, words: &[&str], code: i32) -> Output {
        let control = self.manager.run(&["sh", "-c", "echo $XDG_RUNTIME_DIR/handover/control.sock"]);
        let binary = format!("{PLACE}/handover");
        let all = [&[binary.as_str(), "--control", control.stdout.trim()], words].concat();
        let output = self.manager.run(&all);
        assert_eq!(output.code, code, "{words:?}: {}\n{}", output.all(), self.said());
        output
    }

    fn property(&self, name: &str) -> String {
        self.manager.property(UNIT, name)
    }

    /// What the program answers: `WORD PID NUMBER`, the process as it is numbered inside.
    fn app(&self) -> (String, u32) {
        let text = http::get(self.app.address(), "/").text();
        let mut words = text.split_whitespace();
        (words.next().unwrap().to_owned(), words.next().unwrap().parse().unwrap())
    }

    fn status_of(&self, pid: u32) -> String {
        self.inside(&["cat", &format!("/proc/{pid}/status")]).stdout
    }
}

#[test]
fn under_the_packaged_service_everything_can_still_be_done() {
    let test = "under_the_packaged_service_everything_can_still_be_done";
    let Some(packaged) = Packaged::new(test) else { return };
    packaged.systemctl(&["start", UNIT], 0);
    assert_eq!(http::get(packaged.web.address(), "/").text(), "one");

    // The program runs as its user, with nothing of what the server may do.
    let app = || packaged.app();
    let (says, pid) = app();
    assert_eq!(says, "one");
    let status = packaged.status_of(pid);
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(uid.split_whitespace().skip(1).all(|uid| uid != "0"), "{uid}");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some("0000000000000000"), "{line}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    // It can be restarted: the new copy is proved by its own process, which root may not look into here without being it.
    packaged.cli(&["restart", "app"], 0);
    let (_, restarted) = app();
    assert_ne!(restarted, pid);

    // A reload that is refused fails for systemctl, too; one that is applied changes server and program.
    let text = packaged.workspace.write("nonsense.toml", "[nonsense]\n");
    packaged.install(text.to_str().unwrap(), "handover.toml");
    packaged.systemctl(&["reload", UNIT], 1);
    packaged.configure("two");
    packaged.systemctl(&["reload", UNIT], 0);
    assert_eq!(http::get(packaged.web.address(), "/").text(), "two");
    // On a socket that both share, the old copy may take a connection until it has ended.
    until("the program is the new one", || (app().0 == "two").then_some(()));
    until("the old copy has ended", || {
        let ps = packaged.cli(&["ps"], 0).stdout;
        (!ps.split_whitespace().any(|word| word == restarted.to_string())).then_some(())
    });

    // An upgrade: the binary is replaced from outside, the main process stays.
    let (main, before) = (packaged.property("MainPID"), app());
    let other = packaged.workspace.path("other");
    fs::copy(handover!(), &other).unwrap();
    let mut bytes = fs::read(&other).unwrap();
    bytes.extend_from_slice(b"another build");
    fs::write(&other, bytes).unwrap();
    packaged.install(other.to_str().unwrap(), "handover");
    packaged.cli(&["upgrade"], 0);
    assert_eq!((packaged.property("MainPID"), packaged.property("NRestarts")), (main, "0".to_owned()));
    assert_eq!(app(), before, "the program has noticed nothing");

    // It ends as a whole.
    packaged.systemctl(&["stop", UNIT], 0);
    assert_eq!(packaged.property("Result"), "success", "{}", packaged.said());
    until("nothing of it is left", || packaged.manager.processes(UNIT).is_empty().then_some(()));
    assert!(proc::listeners(packaged.app.number()).is_empty());
}

#[test]
fn the_first_connection_to_the_packaged_socket_starts_the_server_and_is_served() {
    let test = "the_first_connection_to_the_packaged_socket_starts_the_server_and_is_served";
    let Some(packaged) = Packaged::new(test) else { return };
    let mut text = packaged_socket();
    text.push_str(&format!(
        "ListenStream={}\nListenStream={}\n",
        packaged.web.address(),
        packaged.app.address()
    ));
    packaged.manager.unit("handover.socket", &text);
    packaged.systemctl(&["start", "handover.socket"], 0);
    assert_eq!(packaged.property("ActiveState"), "inactive");
    // It waits until somebody is there, as for any slow answer.
    assert_eq!(http::get(packaged.web.address(), "/").text(), "one");
    packaged.manager.wait_for(UNIT, "ActiveState", "active");
    assert_eq!(packaged.app().0, "one", "the program has got its own from the same unit");
    // Stopped, the sockets stay; and it begins anew.
    let first = packaged.property("MainPID");
    packaged.systemctl(&["stop", UNIT], 0);
    assert_eq!(http::get(packaged.web.address(), "/").text(), "one");
    assert_ne!(packaged.property("MainPID"), first);
}

/// Without the ports of the world, which are nobody's to take in a test.
fn packaged_socket() -> String {
    let text = packaged("handover.socket");
    let lines = text.lines().take_while(|line| *line != "[Install]");
    lines.filter(|line| !line.starts_with("ListenStream=")).map(|line| format!("{line}\n")).collect()
}
