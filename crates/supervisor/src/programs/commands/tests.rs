//! Commands that really run.

use super::*;

const LIMIT: Duration = Duration::from_secs(20);

fn shell(script: &str, limit: Duration) -> CommandSpec {
    CommandSpec { command: ["sh", "-c", script].map(str::to_owned).to_vec(), limit }
}

async fn run_shell(script: &str, limit: Duration) -> Result<Finished, Failed> {
    run("web", &shell(script, limit), &Setting::default()).await
}

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn what_it_says_is_kept_in_order_whichever_stream_it_used() {
    let finished = run_shell("echo one; echo two >&2; printf three", LIMIT).await.unwrap();
    assert_eq!(finished.said, Said { text: "one\ntwo\nthree".to_owned(), left_out: 0 });
    assert_eq!(finished.said.last_line(), Some("three"));
}

#[tokio::test]
async fn a_code_and_a_signal_are_told_in_words_with_the_last_line() {
    let failed = run_shell("echo no database; exit 3", LIMIT).await.unwrap_err();
    assert_eq!(failed.in_a_line(), "'sh' exited with code 3: no database");
    let failed = run_shell("kill -TERM $$", LIMIT).await.unwrap_err();
    assert_eq!(failed.to_string(), "'sh' was ended by signal TERM");
}

#[tokio::test]
async fn of_very_much_output_the_last_whole_lines_are_kept_and_the_rest_is_counted() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let finished = run_shell(script, LIMIT).await.unwrap();
    let said = finished.said;
    assert!(said.text.len() <= MAX_OUTPUT_BYTES && said.text.len() > MAX_OUTPUT_BYTES / 2);
    assert!(said.text.starts_with("line ") && said.text.ends_with("line 2999\n"), "{}", said.text);
    let all: usize = (0..3000).map(|i| format!("line {i}\n").len()).sum();
    assert_eq!(said.left_out, (all - said.text.len()) as u64);
}

#[tokio::test]
async fn at_its_deadline_it_is_killed_with_all_that_it_has_started() {
    let script = "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; trap '' TERM; wait; sleep 1000";
    let failed = run_shell(script, Duration::from_secs(2)).await.unwrap_err();
    let Failed::TooLong { said, limit, .. } = failed else { panic!("{failed}") };
    assert_eq!(limit, Duration::from_secs(2));
    let pids: Vec<&str> = said.text.lines().collect();
    assert_eq!(pids.len(), 2, "{said:?}");
    for pid in pids {
        assert!(!lives(pid), "{pid} still runs");
    }
}

#[tokio::test]
async fn what_it_leaves_behind_is_killed_and_does_not_hold_up_the_answer() {
    let finished = run_shell("sleep 1000 & echo $!", LIMIT).await.unwrap();
    assert!(!lives(finished.said.text.trim()));
}

#[tokio::test]
async fn what_cannot_be_started_is_said_with_its_name() {
    let spec = CommandSpec { command: vec!["/nonexistent/check".to_owned()], limit: LIMIT };
    let failed = run("web", &spec, &Setting::default()).await.unwrap_err();
    let Failed::NotStarted { command, why } = &failed else { panic!("{failed}") };
    assert_eq!(command, "/nonexistent/check");
    assert!(why.contains("there is no file"), "{why}");
    let nothing = CommandSpec { command: Vec::new(), limit: LIMIT };
    assert!(matches!(run("web", &nothing, &Setting::default()).await, Err(Failed::NotStarted { .. })));
}

#[tokio::test]
async fn it_runs_where_and_with_what_it_is_told_and_gets_nothing_private() {
    let directory = tempfile::tempdir().unwrap();
    let setting = Setting {
        directory: Some(directory.path().to_owned()),
        environment: BTreeMap::from([("COLOUR".to_owned(), "blue".to_owned())]),
        clear_environment: true,
        ..Setting::default()
    };
    let script =
        "pwd; echo $COLOUR; ls /proc/self/fd | wc -l; env | grep -c -e CARGO -e LISTEN -e NOTIFY; true";
    let finished = run("web", &shell(script, LIMIT), &setting).await.unwrap();
    let directory = directory.path().canonicalize().unwrap();
    // Its three streams, and the one by which `ls` reads the list.
    assert_eq!(finished.said.text, format!("{}\nblue\n4\n0\n", directory.display()));
}

#[tokio::test]
async fn dropped_it_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    let script = format!("echo $$ >{0}.new; mv {0}.new {0}; sleep 1000", path.display());
    let pid = {
        let running = run_shell(&script, LIMIT);
        tokio::pin!(running);
        loop {
            tokio::select! {
                ended = &mut running => panic!("{ended:?}"),
                () = tokio::task::yield_now() => {}
            }
            if let Ok(pid) = std::fs::read_to_string(&path) {
                break pid.trim().to_owned();
            }
        }
    };
    let ends = async {
        while lives(&pid) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, ends).await.expect("it still runs");
}

#[test]
fn of_a_command_nothing_outlives_the_runtime_it_was_run_by() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pids");
    let script = format!("setsid sleep 1000 & echo $$ $! >{0}.new; mv {0}.new {0}; wait", path.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.spawn(async move { run_shell(&script, LIMIT).await });
    let pids = runtime.block_on(async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(pids) => break pids,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    runtime.shutdown_background();
    for pid in pids.split_whitespace() {
        handover_testkit::until("it was killed", || (!lives(pid)).then_some(()));
    }
}

/// So that whoever comes next finds it, if this process is killed meanwhile.
#[tokio::test]
async fn its_mark_is_written_down_as_long_as_it_runs() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "test");
    let setting = Setting { place: Some(place.clone()), ..Setting::default() };
    let script = format!("cat {}/test.programs/*.mark; echo \" $HANDOVER_MARK\"", directory.path().display());
    let finished = run("web", &shell(&script, LIMIT), &setting).await.unwrap();
    let (noted, own) = finished.said.text.trim().split_once(' ').unwrap();
    assert!(!noted.is_empty() && own.ends_with(noted), "{noted} {own}");
    assert!(place.marks().is_empty());
}
