//! As PID 1 of a PID namespace, which is what a container is: signals have no default action there, and every orphan becomes
//! its child. Hazards 33 and 35, also through upgrades.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use handover_testkit::config::{fixed, listener};
use handover_testkit::faults::through_shell;
use handover_testkit::http::{self, Connection};
use handover_testkit::{
    Control, Port, Process, Program, Signal, Workspace, command, handover, have, proc, root, run, signal,
    skip, text_at, until,
};

/// A server that is the first process of a namespace.
struct Contained {
    process: Process,
    /// Its number outside.
    first: u32,
    program: Program,
    port: Port,
    workspace: Workspace,
}

impl Contained {
    fn start(test: &str) -> Option<Self> {
        if !root(test) || !have("unshare", test) || !have("nsenter", test) {
            return None;
        }
        let able = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).status();
        if !able.is_ok_and(|status| status.success()) {
            skip(&format!("{test}: no namespaces can be made here"));
            return None;
        }
        let (workspace, port) = (Workspace::new(), Port::claim());
        let program = Program::install(&workspace, handover!());
        let file = workspace.write("handover.toml", listener("web", &port) + &fixed("/", "contained"));
        let serve = command(program.path(), &workspace);
        let mut unshare =
            through_shell(&serve, "exec unshare --pid --fork --kill-child --mount-proc \"$0\" \"$@\"");
        unshare.arg("serve").arg(file);
        let mut process = Process::start(unshare);
        until("it serves", || {
            assert!(!process.ended(), "{}", process.stderr());
            let mut client = Connection::try_open(port.address()).ok()?;
            (client.try_get("/").ok()?.text() == "contained").then_some(())
        });
        let first = proc::children(process.pid())[0].pid;
        Some(Self { process, first, program, port, workspace })
    }

    /// A process in the namespace whose parent has ended, and which ends, too.
    fn orphan(&self) {
        let mut enter = Command::new("nsenter");
        enter.args(["--pid", "--target", &self.first.to_string()]);
        enter.args(["sh", "-c", "(exec cat /dev/null) & exit 0"]);
        run(enter).expect_code(0);
    }

    /// Supervisor and worker, and nobody else, dead or alive.
    fn wait_until_alone(&self) {
        until("orphans are reaped", || {
            let tree = proc::tree(self.first);
            (tree.len() == 2 && tree.iter().all(|stat| stat.state != 'Z')).then_some(())
        });
    }

    fn upgrade(&self, version: &str) {
        self.program.replace(version);
        let mut upgrade = command(handover!().as_ref(), &self.workspace);
        upgrade.arg("upgrade");
        run(upgrade).expect_code(0);
    }
}

/// Hazards 33 and 35.
#[test]
fn as_the_first_process_it_is_upgraded_reaps_orphans_and_handles_signals() {
    let test = "as_the_first_process_it_is_upgraded_reaps_orphans_and_handles_signals";
    let Some(mut server) = Contained::start(test) else { return };
    let control = Control::at(&server.workspace.control_socket());
    let mut kept = Connection::open(server.port.address());
    assert_eq!(kept.get("/").text(), "contained");
    server.orphan();
    server.wait_until_alone();
    for version in ["2", "3"] {
        server.upgrade(version);
        // It is the first process still, and what it has become reaps those that it did not start.
        assert_eq!(text_at(&control.history()[0], "/outcome"), "applied");
        server.orphan();
        server.wait_until_alone();
        for stray in [Signal::HUP, Signal::USR1] {
            signal(server.first, stray);
        }
        assert_eq!(kept.get("/").text(), "contained");
        assert_eq!(http::get(server.port.address(), "/").text(), "contained");
        until("it is at rest", || control.status()["running"].is_null().then_some(()));
    }
    assert!(proc::alive(server.first));
    signal(server.first, Signal::TERM);
    server.process.wait().expect_code(0);
}
