//! Binaries that answer, and all the ways not to.

use std::path::Path;
use std::time::{Duration, Instant};

use handover_handoff::process::Executable;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn good() -> String {
    let name = Some("server".to_owned());
    let stated = Stated { name, version: "9.9".to_owned(), protocol: [1, 99], saved: [1, 99], cannot: None };
    serde_json::to_string(&stated).unwrap()
}

/// Runs a shell in the place of a binary.
fn shell(script: &str, limit: Duration) -> Result<Stated, NotUsable> {
    let executable = Executable::open(Path::new("/bin/sh")).unwrap();
    let arguments = ["sh", "-c", script].map(std::ffi::OsString::from);
    let (name, environment, saved) = ("server", &[], None);
    Preflight { executable: &executable, name, arguments: &arguments, environment, saved, limit }.run()
}

fn why(script: &str) -> String {
    shell(script, LIMIT).unwrap_err().why
}

#[test]
fn a_binary_that_answers_is_understood() {
    let script = format!("test \"$HANDOVER_PREFLIGHT\" = 1 && echo '{}'", good());
    assert_eq!(shell(&script, LIMIT).unwrap().version, "9.9");
}

#[test]
fn a_later_version_may_say_more() {
    let more = good().replacen('{', "{\"news\": [1, 2], ", 1);
    shell(&format!("echo '{more}'; echo more"), LIMIT).unwrap();
}

#[test]
fn another_server_is_refused_by_its_name_and_who_says_none_is_not() {
    let other = good().replace("\"server\"", "\"other\"");
    let said = why(&format!("echo '{other}'"));
    assert_eq!(said, "it is 'other', and this server is 'server': it serves something else");
    let none = good().replace("\"name\":\"server\",", "");
    assert_ne!(none, good());
    shell(&format!("echo '{none}'"), LIMIT).unwrap();
}

#[test]
fn whoever_fails_is_not_usable_and_its_last_lines_are_told() {
    let failed = shell("echo first >&2; echo last >&2; exit 3", LIMIT).unwrap_err();
    assert_eq!(failed.why, "asked for its versions, it exited with code 3");
    assert_eq!(failed.said, ["first", "last"]);
    let killed = why(&format!("echo '{}'; kill -9 $$", good()));
    assert_eq!(killed, "asked for its versions, it was ended by signal KILL");
}

#[test]
fn rubbish_and_silence_are_told_apart() {
    assert!(why("echo hello").ends_with("it says something else: hello"));
    assert!(why("true").contains("does not say which versions"));
    assert_eq!(why("exec yes"), "it says more than an answer has");
}

#[test]
fn versions_without_overlap_are_refused_with_both() {
    let with = |protocol: [u16; 2], saved: [u16; 2]| {
        let stated = Stated { name: None, version: "9".to_owned(), protocol, saved, cannot: None };
        why(&format!("echo '{}'", serde_json::to_string(&stated).unwrap()))
    };
    assert!(with([98, 99], [1, 1]).contains("versions 98 to 99 of the protocol"));
    assert!(with([0, 1], [1, 1]).contains("versions 0 to 1 of the protocol"));
    assert!(with([1, 99], [98, 99]).contains("formats 98 to 99"));
}

#[test]
fn one_that_cannot_go_on_is_refused_with_its_own_reason() {
    let stated = Stated { cannot: Some("too new".to_owned()), ..serde_json::from_str(&good()).unwrap() };
    let said = why(&format!("echo '{}'", serde_json::to_string(&stated).unwrap()));
    assert_eq!(said, "it cannot go on with the state of this supervisor: too new");
}

#[test]
fn one_that_hangs_is_killed_with_all_that_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pids = directory.path().join("pids");
    let script = format!("sleep 1000 & echo $! $$ >'{}'; echo hanging >&2; wait", pids.display());
    // Longer and longer, until it was long enough for the script to begin.
    let begun = Instant::now();
    let limits = (0..).map(|round| Duration::from_millis(50 << round));
    let failed = limits.take_while(|_| begun.elapsed() < LIMIT).find_map(|limit| {
        let failed = shell(&script, limit).unwrap_err();
        (failed.said == ["hanging"]).then_some(failed)
    });
    let failed = failed.expect("it never began");
    assert!(failed.why.contains("did not answer within"), "{}", failed.why);
    let pids = std::fs::read_to_string(pids).unwrap();
    for pid in pids.split_whitespace() {
        let pid = pid.parse().unwrap();
        // Who was its child is an orphan, and another's to wait for.
        handover_testkit::until("it has ended", || (!handover_testkit::proc::alive(pid)).then_some(()));
    }
}

#[test]
fn one_whose_child_keeps_the_pipes_open_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! >'{}'; echo '{}'", pid.display(), good());
    let begun = Instant::now();
    shell(&script, LIMIT).unwrap();
    assert!(begun.elapsed() < LIMIT);
    let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    handover_handoff::process::Child::of(pid).unwrap().kill().unwrap();
}

#[test]
fn what_cannot_be_executed_is_not_usable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "text").unwrap();
    let executable = Executable::open(&path).unwrap();
    let (name, saved) = ("server", None);
    let asked =
        Preflight { executable: &executable, name, arguments: &[], environment: &[], saved, limit: LIMIT };
    assert!(asked.run().unwrap_err().why.starts_with("it cannot be started: "));
}
