//! Sentences about programs, as they are read by people.

use crate::{
    Actor, Cause, CopyRole, CopyState, CopyStatus, ExitCode, Kind, LogLine, Operation, Outcome, PauseStatus,
    Problem, ProgramGoesBack, ProgramPending, ProgramResult, ProgramState, ProgramStatus, Refused, ServesNow,
    human_age, human_bytes,
};

fn finished(
    kind: Kind,
    outcome: Outcome,
    cause: Cause,
    with: impl FnOnce(&mut Operation, &mut ProgramResult),
) -> Operation {
    let mut operation =
        Operation::running("p-1", kind, Actor::peer(0, 0, None, None), "2026-11-22T03:01:35.000Z");
    operation.serving_generation = Some(3);
    operation.target = Some("web".to_owned());
    let mut result = ProgramResult::default();
    with(&mut operation, &mut result);
    operation.program = Some(Box::new(result));
    operation.finish(outcome, cause, 2_310.0);
    operation
}

fn ended(
    kind: Kind,
    outcome: Outcome,
    cause: Cause,
    with: impl FnOnce(&mut Operation, &mut ProgramResult),
) -> String {
    finished(kind, outcome, cause, with).message
}

fn from_a_to_b(result: &mut ProgramResult) {
    result.from = Some("a".to_owned());
    result.to = Some("b".to_owned());
}

#[test]
fn every_outcome_of_every_verb_has_a_sentence_that_begins_with_its_word_and_names_the_program() {
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_carried()) {
        for outcome in Outcome::ALL {
            let sentence = ended(kind, outcome, Cause::Done, |_, _| {});
            let word = match outcome {
                Outcome::Sent => "sent, not confirmed".to_owned(),
                _ => outcome.as_str().replace('_', " "),
            };
            assert!(sentence.starts_with(&format!("{word}: ")), "{kind:?}: {sentence}");
            assert!(sentence.contains("web"), "{kind:?}: {sentence}");
            assert!(!sentence.contains("generation"), "what programs do makes no generation: {sentence}");
        }
    }
}

#[test]
fn a_restart_says_what_proved_the_new_copies_and_what_was_cut() {
    let restart = |outcome, with: fn(&mut Operation, &mut ProgramResult)| {
        ended(Kind::ProgramRestart, outcome, Cause::Done, with)
    };
    assert_eq!(
        restart(Outcome::Applied, |_, result| {
            result.started = 2;
            result.proof = Some("GET /health answered 200".to_owned());
        }),
        "applied: web restarted, 2 new copies serve (GET /health answered 200), no connection cut, in 2.31 s"
    );
    assert_eq!(
        restart(Outcome::AppliedWithLosses, |operation, result| {
            result.started = 1;
            result.proof = Some("alive for 2 s; nothing else was checked".to_owned());
            result.killed_processes = 1;
            result.left_processes = 3;
            result.closed_by_program = Some(1_200);
            operation.losses.add("tcp", 2);
        }),
        "applied with losses: web restarted, the new copy serves (alive for 2 s; nothing else was checked), 1 process did not end in time and was killed, 3 processes that were left behind were ended, the program itself closed 1,200 connections, 2 connections cut (2 tcp), in 2.31 s"
    );
    assert_eq!(
        restart(Outcome::Applied, |_, result| {
            result.started = 1;
            result.held = Some(14);
            result.longest_wait_ms = Some(2_130);
        }),
        "applied: web restarted, the new copy serves, 14 requests were held, the longest for 2.13 s, no connection cut, in 2.31 s"
    );
}

#[test]
fn what_was_in_flight_at_a_copy_that_was_asked_to_end_is_not_said_to_go_on_or_to_be_uncut() {
    let left = |kind, with: fn(&mut Operation, &mut ProgramResult)| {
        ended(kind, Outcome::AppliedWithLosses, Cause::NotQuiet, with)
    };
    assert_eq!(
        left(Kind::ProgramRestart, |_, result| {
            result.started = 1;
            result.in_flight_left = 1;
        }),
        "applied with losses: web restarted, the new copy serves, 1 was still in flight at a copy when that was asked to end, in 2.31 s"
    );
    assert_eq!(
        left(Kind::ProgramRestart, |operation, result| {
            result.started = 2;
            result.in_flight_left = 1_200;
            operation.losses.add("program", 2);
        }),
        "applied with losses: web restarted, 2 new copies serve, 1,200 were still in flight at copies when those were asked to end, 2 connections cut (2 program), in 2.31 s"
    );
    let warm = ended(Kind::ProgramDeploy, Outcome::Applied, Cause::Done, |_, result| {
        from_a_to_b(result);
        result.in_flight_left = 1;
        result.warm_until = Some("2026-11-22T03:11:35.000Z".to_owned());
    });
    assert_eq!(
        warm,
        "applied: web: slot b serves, 1 is still in flight, no connection cut, in 2.31 s; slot a is kept warm until 03:11:35 UTC: 'handover rollback web' goes back to it at once"
    );
}

#[test]
fn what_is_not_ready_says_why_what_serves_and_shows_its_last_lines() {
    let operation = finished(Kind::ProgramRestart, Outcome::NotReady, Cause::ProgramEnded, |_, result| {
        result.exit = Some("exited with code 1".to_owned());
        result.last_lines = vec!["Traceback:".to_owned(), "\u{1b}[31mKeyError\u{1b}[0m: 'DB'".to_owned()];
    });
    assert_eq!(
        operation.report(),
        "not ready: web: the new copy ended before it was ready (exited with code 1); what ran before still serves, untouched\n\nthe last lines that it wrote:\n  | Traceback:\n  |  [31mKeyError [0m: 'DB'"
    );
    let late = ended(Kind::ProgramDeploy, Outcome::NotReady, Cause::ProgramNotReady, |operation, result| {
        from_a_to_b(result);
        operation.errors = vec![Problem::new("GET /health answered 500 for 30 s")];
    });
    assert_eq!(late, "not ready: web: GET /health answered 500 for 30 s; slot a still serves, untouched");
    let swapped = ended(Kind::ProgramDeploy, Outcome::RolledBack, Cause::ProgramNotReady, |_, result| {
        from_a_to_b(result);
        result.serves = ServesNow::OldAgain;
        result.held = Some(1);
        result.longest_wait_ms = Some(4_000);
    });
    assert_eq!(
        swapped,
        "rolled back: web: the new copy was not ready in time; slot a was started again and serves, 1 request was held for 4.00 s, no connection cut, in 2.31 s"
    );
    let down = ended(Kind::ProgramRestart, Outcome::NotReady, Cause::ProgramDown, |_, result| {
        result.serves = ServesNow::Nothing;
    });
    assert_eq!(
        down,
        "not ready: web: the new copy failed, and the one before could not be started again; nothing of it serves now: 'handover ps' and 'handover logs web' say more"
    );
}

#[test]
fn a_way_back_of_what_is_stopped_is_not_said_to_serve() {
    let stopped = |kind| {
        ended(kind, Outcome::Applied, Cause::Done, |_, result| {
            result.from = Some("b".to_owned());
            result.to = Some("a".to_owned());
            result.serves = ServesNow::Nothing;
        })
    };
    assert_eq!(
        stopped(Kind::ProgramRollback),
        "applied: web: nothing of it serves now, and slot a is what a start begins with, no connection cut, in 2.31 s; 'handover start web' starts it"
    );
    assert_eq!(
        stopped(Kind::ProgramCancel),
        "applied: web: slot b was taken back, slot a is what a start begins with, no connection cut, in 2.31 s; 'handover start web' starts it"
    );
}

#[test]
fn a_pause_whose_time_was_over_before_what_was_in_flight_had_ended_is_over() {
    let pause = |cause, left| {
        finished(Kind::Pause, Outcome::Applied, cause, |_, result| {
            result.in_flight_ended = Some(0);
            result.in_flight_left = left;
            result.held = Some(0);
            result.paused_until = Some("2026-11-22T03:11:35.000Z".to_owned());
        })
        .message
    };
    assert_eq!(
        pause(Cause::Done, 0),
        "applied: web is paused, nothing was in flight, nothing is held yet, in 2.31 s; it goes on at 03:11:35 UTC, or with 'handover resume web'"
    );
    assert_eq!(
        pause(Cause::NotQuiet, 2),
        "applied: web was paused, nothing in flight has ended, 2 are still in flight, nothing was held, in 2.31 s; it goes on now"
    );
}

#[test]
fn a_deploy_says_what_serves_and_how_to_go_back() {
    let deploy = |with: fn(&mut ProgramResult)| {
        ended(Kind::ProgramDeploy, Outcome::Applied, Cause::Done, |_, result| {
            from_a_to_b(result);
            with(result);
        })
    };
    assert_eq!(
        deploy(|_| {}),
        "applied: web: slot b serves, no connection cut, in 2.31 s; 'handover rollback web' starts slot a again"
    );
    assert_eq!(
        deploy(|result| result.warm_until = Some("2026-11-22T03:11:35.000Z".to_owned())),
        "applied: web: slot b serves, no connection cut, in 2.31 s; slot a is kept warm until 03:11:35 UTC: 'handover rollback web' goes back to it at once"
    );
    assert_eq!(
        deploy(|result| {
            result.proof = Some("it said READY=1".to_owned());
            result.goes_back = Some(ProgramGoesBack {
                to: "a".to_owned(),
                at: "2026-11-22T03:11:35.000Z".to_owned(),
                within_ms: 600_000,
            });
        }),
        "applied: web: slot b serves (it said READY=1), no connection cut, in 2.31 s; it goes back to slot a at 03:11:35 UTC (in 10 min) unless 'handover confirm web' comes"
    );
    let stops = ended(Kind::ProgramDeploy, Outcome::Applied, Cause::ShuttingDown, |operation, result| {
        from_a_to_b(result);
        operation.steps.push(crate::Step { name: "guard".to_owned(), ms: 100.0 });
        result.warm_until = Some("2026-11-22T03:11:35.000Z".to_owned());
    });
    assert_eq!(
        stops,
        "applied: web: slot b serves, no connection cut, the guard was cut short, in 2.31 s; 'handover rollback web' starts slot a again"
    );
    let directory = ended(Kind::ProgramDeploy, Outcome::Applied, Cause::Done, |_, result| {
        result.to = Some("/srv/releases/42".to_owned());
    });
    assert_eq!(directory, "applied: web: /srv/releases/42 serves, no connection cut, in 2.31 s");
}

#[test]
fn what_is_taken_back_says_what_and_why() {
    let guarded = ended(Kind::ProgramDeploy, Outcome::RolledBack, Cause::GuardFailed, |operation, result| {
        from_a_to_b(result);
        result.serves = ServesNow::Old;
        operation.errors = vec![Problem::new("web/1 exited with code 3")];
    });
    assert_eq!(
        guarded,
        "rolled back: slot b did not pass the guard: web/1 exited with code 3; slot a serves again, no connection cut, in 2.31 s"
    );
    let by_itself = finished(Kind::ProgramRollback, Outcome::Applied, Cause::NotConfirmed, |_, result| {
        result.from = Some("b".to_owned());
        result.to = Some("a".to_owned());
    });
    assert_eq!(by_itself.message, "applied: web: slot a serves again, no connection cut, in 2.31 s");
    assert_eq!(by_itself.title(), "rollback web");
    let cancelled = ended(Kind::ProgramCancel, Outcome::Applied, Cause::Cancelled, |_, result| {
        result.from = Some("b".to_owned());
        result.to = Some("a".to_owned());
    });
    assert_eq!(
        cancelled,
        "applied: web: slot b was taken back, slot a serves again, no connection cut, in 2.31 s"
    );
    let confirmed =
        ended(Kind::ProgramConfirm, Outcome::Applied, Cause::Done, |_, result| from_a_to_b(result));
    assert_eq!(confirmed, "applied: web: slot b is confirmed and stays, in 2.31 s");
    let hook = finished(Kind::ProgramDeploy, Outcome::Rejected, Cause::HookFailed, |_, result| {
        from_a_to_b(result);
        result.exit = Some("exited with code 2".to_owned());
        result.last_lines = vec!["no space left".to_owned()];
    });
    assert_eq!(
        hook.report(),
        "rejected: web: the hook failed (exited with code 2); slot a still serves, untouched\n\nthe last lines of the hook:\n  | no space left"
    );
}

#[test]
fn a_program_without_slots_goes_back_to_what_ran_before() {
    let back = ended(Kind::ProgramRollback, Outcome::Applied, Cause::Done, |_, result| {
        result.from = Some("/srv/releases/42".to_owned());
    });
    assert_eq!(back, "applied: web: what ran before serves again, no connection cut, in 2.31 s");
}

#[test]
fn to_confirm_or_cancel_what_is_not_there_comes_at_the_wrong_time() {
    for kind in [Kind::ProgramConfirm, Kind::ProgramCancel] {
        let none = finished(kind, Outcome::Rejected, Cause::Unfit, |_, _| {});
        assert_eq!((ExitCode::from(&none).code(), none.http_status()), (13, 409));
        assert_eq!(none.problem_details().title, "Nothing awaits confirmation");
    }
    let back = finished(Kind::ProgramRollback, Outcome::Rejected, Cause::Unfit, |_, _| {});
    assert_eq!((ExitCode::from(&back).code(), back.http_status()), (10, 422));
}

#[test]
fn a_reason_that_only_begins_like_the_name_still_gets_the_name() {
    let failed = |name: &str| {
        ended(Kind::ProgramReload, Outcome::Rejected, Cause::ReloadRefused, |operation, _| {
            operation.target = Some(name.to_owned());
            operation.errors = vec![Problem::new("copy 1 has not reloaded")];
        })
    };
    assert_eq!(failed("c"), "rejected: c: copy 1 has not reloaded; it runs on as it was");
    assert_eq!(failed("copy"), "rejected: copy 1 has not reloaded; it runs on as it was");
}

#[test]
fn a_signal_that_nothing_confirms_is_no_success_and_says_how_it_could_be_proved() {
    let sent = finished(Kind::ProgramReload, Outcome::Sent, Cause::Unproved, |_, result| {
        result.proof = Some("SIGHUP".to_owned());
    });
    assert_eq!(
        sent.message,
        "sent, not confirmed: web got SIGHUP, and nothing says what it made of it; a reload_check in [program.web] would prove it"
    );
    assert_eq!((ExitCode::from(&sent).code(), sent.http_status()), (15, 200));
    let applied = finished(Kind::ProgramReload, Outcome::Applied, Cause::Done, |operation, result| {
        result.proof = Some("POST /reload answered 200".to_owned());
        operation.answer = Some("12 rules read\n".to_owned());
    });
    assert_eq!(
        applied.report(),
        "applied: web has reloaded (POST /reload answered 200), in 2.31 s\n\nit answered:\n  | 12 rules read"
    );
    let refused = finished(Kind::ProgramReload, Outcome::Rejected, Cause::ReloadRefused, |_, result| {
        result.exit = Some("exited with code 1".to_owned());
        result.last_lines = vec!["nginx: [emerg] unknown directive \"lisen\"".to_owned()];
    });
    assert_eq!(
        refused.report(),
        "rejected: web: the program refused to reload (exited with code 1); it runs on as it was\n\nwhat it answered:\n  | nginx: [emerg] unknown directive \"lisen\""
    );
    let died = ended(Kind::ProgramReload, Outcome::Rejected, Cause::ReloadRefused, |operation, result| {
        operation.errors = vec![Problem::new("web/1 was ended by signal HUP instead of reloading")];
        result.serves = ServesNow::Nothing;
    });
    assert_eq!(died, "rejected: web/1 was ended by signal HUP instead of reloading");
}

#[test]
fn a_pause_says_what_ended_what_is_held_and_when_it_goes_on() {
    assert_eq!(
        ended(Kind::Pause, Outcome::Applied, Cause::Done, |_, result| {
            result.in_flight_ended = Some(12);
            result.held = Some(3);
            result.paused_until = Some("2026-11-22T03:02:05.000Z".to_owned());
        }),
        "applied: web is paused, 12 requests in flight have ended, 3 requests are held so far, in 2.31 s; it goes on at 03:02:05 UTC, or with 'handover resume web'"
    );
    assert_eq!(
        ended(Kind::Pause, Outcome::Applied, Cause::NotQuiet, |_, result| {
            result.in_flight_left = 1;
            result.held = Some(0);
        }),
        "applied: web was paused, 1 is still in flight, nothing was held, in 2.31 s; it goes on now"
    );
    assert_eq!(
        ended(Kind::ResumeTraffic, Outcome::Applied, Cause::Done, |_, result| {
            result.held = Some(412);
            result.longest_wait_ms = Some(2_100);
        }),
        "applied: web goes on, 412 requests were let go, the longest held for 2.10 s, in 2.31 s"
    );
    let all = |outcome, with: fn(&mut ProgramResult)| {
        ended(Kind::ResumeTraffic, outcome, Cause::Done, |operation, result| {
            operation.target = None;
            with(result);
        })
    };
    assert_eq!(all(Outcome::Unchanged, |_| {}), "unchanged: nothing is paused");
    assert_eq!(
        all(Outcome::Applied, |result| result.held = Some(1)),
        "applied: everything that was paused goes on, 1 request was let go, in 2.31 s"
    );
}

#[test]
fn endpoints_starts_and_stops_say_how_to_go_on() {
    let endpoint = |operation: &mut Operation| operation.target = Some("web/1".to_owned());
    assert_eq!(
        ended(Kind::DrainEndpoint, Outcome::Applied, Cause::Done, |operation, result| {
            endpoint(operation);
            result.in_flight_ended = Some(0);
        }),
        "applied: web/1 gets nothing new, nothing was in flight, in 2.31 s; 'handover enable web/1' gives it requests again"
    );
    assert_eq!(
        ended(Kind::EnableEndpoint, Outcome::Unchanged, Cause::AlreadySo, |operation, _| endpoint(operation)),
        "unchanged: web/1 gets requests already"
    );
    assert_eq!(
        ended(Kind::ProgramStop, Outcome::Applied, Cause::Done, |_, result| {
            result.stopped = 2;
            result.serves = ServesNow::Nothing;
        }),
        "applied: web stopped, its 2 copies have ended, no connection cut, in 2.31 s; 'handover start web' starts it again"
    );
    assert_eq!(
        ended(Kind::ProgramStart, Outcome::Unchanged, Cause::AlreadySo, |_, _| {}),
        "unchanged: web runs already"
    );
    assert_eq!(
        ended(Kind::ProgramStart, Outcome::NotReady, Cause::ProgramNotStarted, |operation, result| {
            operation.errors = vec![Problem::new("/srv/web: no such file or directory (ENOENT)")];
            result.serves = ServesNow::Nothing;
        }),
        "not ready: web: /srv/web: no such file or directory (ENOENT); nothing of it serves now: 'handover ps' and 'handover logs web' say more"
    );
}

#[test]
fn a_name_that_is_not_there_is_answered_with_those_that_are() {
    let known = vec!["api".to_owned(), "web".to_owned()];
    let no = Refused::NoSuchProgram { name: "wbe".to_owned(), known };
    assert_eq!(no.to_string(), "there is no program \"wbe\"; there are: api, web");
    assert_eq!((no.http_status(), no.word()), (404, "no_such_program"));
    let none = Refused::NoSuchTarget { what: "endpoint", name: "web/9".to_owned(), known: Vec::new() };
    assert_eq!(none.to_string(), "there is no endpoint \"web/9\"; there are none");
}

fn program() -> ProgramStatus {
    let copy = CopyStatus {
        number: 1,
        pid: Some(4711),
        slot: Some("b".to_owned()),
        state: CopyState::Ready,
        started_at: "2026-11-22T03:00:00Z".to_owned(),
        memory_bytes: Some(43_000_000),
        connections: Some(12),
        ..CopyStatus::default()
    };
    let warm = CopyStatus {
        pid: Some(460),
        slot: Some("a".to_owned()),
        role: CopyRole::Warm,
        started_at: "2026-11-22T00:52:12Z".to_owned(),
        connections: Some(1),
        ..copy.clone()
    };
    ProgramStatus {
        name: "web".to_owned(),
        state: ProgramState::Running,
        slot: Some("b".to_owned()),
        wanted: 1,
        copies: vec![copy, warm],
        restarts: 1,
        ..ProgramStatus::default()
    }
}

#[test]
fn a_status_shows_each_program_with_its_copies_in_columns() {
    let now = "2026-11-22T03:03:12Z".parse().unwrap();
    let mut program = program();
    assert_eq!(
        program.report(now),
        "web: running, slot b, 1 copy, restarted once\n  web/1  pid 4711  ready              3m12s  41 MiB  12 connections\n  web/1  pid 460   kept warm  slot a  2h11m  41 MiB  1 connection"
    );
    program.copies.clear();
    program.state = ProgramState::BackOff;
    program.detail = Some("exited with code 1; started again in 4 s".to_owned());
    program.restarts = 1_204;
    program.warnings = vec!["memory is not limited".to_owned()];
    program.pending = Some(ProgramPending {
        operation_id: "p-7".to_owned(),
        slot: "b".to_owned(),
        back_to: "a".to_owned(),
        actor: Actor::peer(0, 0, None, None),
        comment: None,
        until: "2026-11-22T03:10:00Z".to_owned(),
        left_ms: 408_000,
    });
    assert_eq!(
        program.report(now),
        "web: back-off, exited with code 1; started again in 4 s, slot b, restarted 1,204 times\n  slot b awaits confirmation: it goes back to slot a at 03:10:00 UTC (in 6 min 48 s) unless 'handover confirm web' comes; asked for by root in p-7\n  warning: memory is not limited"
    );
    let paused = PauseStatus {
        target: "route api".to_owned(),
        held: Some(3),
        until: "2026-11-22T03:03:30Z".to_owned(),
        left_ms: 17_200,
        ..PauseStatus::default()
    };
    assert_eq!(
        paused.sentence(),
        "route api is paused: 3 requests are held, it goes on at 03:03:30 UTC (in 18 s), or with 'handover resume route:api'"
    );
}

#[test]
fn ages_sizes_and_lines_read_well() {
    let age = |seconds| human_age(std::time::Duration::from_secs(seconds));
    assert_eq!(
        [age(0), age(59), age(192), age(7_860), age(356_400)],
        ["0s", "59s", "3m12s", "2h11m", "4d3h"]
    );
    for (bytes, text) in [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1 KiB"),
        (4_300, "4.2 KiB"),
        (43_000_000, "41 MiB"),
        (1_048_575, "1 MiB"),
        (1_400_000_000, "1.3 GiB"),
        (u64::MAX, "16777216 TiB"),
    ] {
        assert_eq!(human_bytes(bytes), text);
    }
    let line = LogLine {
        program: "web".to_owned(),
        copy: 2,
        line: "GET /\t200 \u{1b}[2J".to_owned(),
        left_out: 1_000,
        ..LogLine::default()
    };
    assert_eq!(line.text(), "web/2  (1,000 lines are left out)\nweb/2  GET /\t200  [2J");
}

#[test]
fn where_nothing_was_started_it_is_said_that_the_next_connection_starts_it() {
    let said = |kind, with: fn(&mut ProgramResult)| {
        ended(kind, Outcome::Applied, Cause::Done, |_, result| {
            result.next_connection = true;
            with(result);
        })
    };
    assert_eq!(
        said(Kind::ProgramRestart, |_| {}),
        "applied: web restarted, the next connection starts it, no connection cut, in 2.31 s"
    );
    assert_eq!(
        said(Kind::ProgramStart, |_| {}),
        "applied: web started, the next connection starts it, in 2.31 s"
    );
    assert_eq!(
        said(Kind::ProgramDeploy, from_a_to_b),
        "applied: web: the next connection starts slot b, no connection cut, in 2.31 s; 'handover rollback web' goes back to \
         slot a"
    );
    assert_eq!(
        said(Kind::ProgramRollback, from_a_to_b),
        "applied: web: the next connection starts slot b again, no connection cut, in 2.31 s"
    );
    assert_eq!(
        said(Kind::ProgramCancel, from_a_to_b),
        "applied: web: slot a was taken back, the next connection starts slot b again, no connection cut, in 2.31 s"
    );
    let back = ended(Kind::ProgramDeploy, Outcome::RolledBack, Cause::GuardFailed, |_, result| {
        from_a_to_b(result);
        (result.next_connection, result.serves) = (true, ServesNow::OldAgain);
    });
    assert!(
        back.contains("slot b did not pass the guard; the next connection starts slot a again"),
        "{back}"
    );
    let stopped = ended(Kind::ProgramDeploy, Outcome::Applied, Cause::Done, |_, result| {
        from_a_to_b(result);
        result.serves = ServesNow::Nothing;
    });
    assert!(
        stopped.contains("nothing of it serves now, and slot b is what a start begins with"),
        "{stopped}"
    );
}
