//! Both sides real.

use super::*;

/// Hands everything over, and waits until both have said so.
fn hand_over(from: &Side, to: &Side, call: u64) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
    let (a, b) = sockets();
    to.take_over(call, &b, &from.stand);
    from.hand_over(call, &a, &to.stand);
    drop((a, b));
    let ToSupervisor::TookOver { call: took, moved: taken, losses, .. } = to.hear() else { panic!() };
    let ToSupervisor::HandedOver { call: gave, moved: given, .. } = from.hear() else { panic!() };
    assert_eq!((took, gave, losses.total()), (call, call, 0));
    (given, taken)
}

fn counted(count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("counted".to_owned(), count)])
}

#[test]
fn connections_move_with_their_state_and_go_on_in_the_new_worker() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    assert!(!new.service.table().accepting && new.service.table().stands_by);
    // More than one batch.
    let mut clients: Vec<UnixStream> = (0..250).map(|number| old.service.connect(number)).collect();
    old.service.speak(17);
    assert_eq!(reads(&mut clients[17]), 1);

    assert_eq!(hand_over(&old, &new, 4), (counted(250), counted(250)));
    let ToSupervisor::Drained { call: 4, losses, ended: 0, .. } = old.hear() else { panic!() };
    assert!(losses.is_empty());
    assert_eq!(old.did(), ["precopy", "freeze", "release", "drain", "totals"]);
    let did = new.service.wait("the totals", |table| (table.words == 1 + 3).then(|| table.did.clone()));
    assert_eq!(did[did.len() - 3..], ["adopt", "serve", "add totals"]);

    for number in [0, 17, 249] {
        new.service.speak(number);
    }
    assert_eq!((reads(&mut clients[0]), reads(&mut clients[17]), reads(&mut clients[249])), (1, 2, 1));
    assert!(old.service.table().open.is_empty() && !old.service.table().accepting);
    assert!(new.service.table().accepting);
    // The sockets are closed in the old worker: the new one's end is the end for the client.
    new.service.table().open.clear();
    assert_eq!(clients[3].read(&mut [0]).unwrap(), 0);
    old.stop();
    new.stop();
}

#[test]
fn what_is_busy_at_the_freeze_comes_late_and_what_ends_meanwhile_is_counted() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let mut clients: Vec<UnixStream> = (0..3).map(|number| old.service.connect(number)).collect();
    old.service.make_busy(1);
    old.service.make_busy(2);
    assert_eq!(hand_over(&old, &new, 4).0, counted(1));
    old.service.end_step(1).unwrap();
    new.service.wait("the late one", |table| table.open.contains_key(&1).then_some(()));
    new.service.speak(1);
    assert_eq!(reads(&mut clients[1]), 1);
    old.service.table().busy.clear();
    let ToSupervisor::Drained { call: 4, losses, late, ended: 1 } = old.hear() else { panic!() };
    assert_eq!((losses.total(), late.get("connection")), (0, Some(&1)));
    old.stop();
    new.stop();
}

#[test]
fn the_same_two_workers_hand_over_to_and_fro_any_number_of_times() {
    let (one, other) = (Side::start(false, true), Side::start(true, true));
    let mut client = one.service.connect(9);
    let (mut from, mut to) = (&one, &other);
    for call in 1..=10 {
        assert_eq!(hand_over(from, to, call).1, counted(1));
        assert!(matches!(from.hear(), ToSupervisor::Drained { .. }));
        to.service.speak(9);
        assert_eq!(u64::from(reads(&mut client)), call);
        std::mem::swap(&mut from, &mut to);
    }
    one.stop();
    other.stop();
}

#[test]
fn what_is_taken_back_while_the_old_worker_still_drains_takes_its_own_connections_along() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let mut clients: Vec<UnixStream> = (0..2).map(|number| old.service.connect(number)).collect();
    old.service.make_busy(1);
    hand_over(&old, &new, 1);
    old.service.wait("its drain", |table| table.did.contains(&"drain").then_some(()));
    // The drain is not over, and is not answered.
    let (moved, _) = hand_over(&new, &old, 2);
    assert_eq!(moved, counted(1));
    old.service.speak(0);
    assert_eq!(reads(&mut clients[0]), 1);
    assert!(old.service.table().busy.contains_key(&1), "it was never given away");
    assert!(old.service.end_step(1).is_err(), "the way to the other worker is closed");
    old.service.speak(1);
    assert_eq!(reads(&mut clients[1]), 1);
    assert!(matches!(new.hear(), ToSupervisor::Drained { call: 2, .. }));
    old.stop();
    new.stop();
}

#[test]
fn a_service_that_cannot_move_accepts_in_the_new_worker_and_drains_in_the_old_one() {
    let (old, new) = (Side::start(false, false), Side::start(true, false));
    let _client = old.service.connect(1);
    assert!(!*new.committed.lock().unwrap(), "what cannot stand by is committed when it serves");
    assert_eq!(hand_over(&old, &new, 4), Default::default());
    assert!(*new.committed.lock().unwrap());
    old.service.wait("its drain", |table| table.did.contains(&"drain").then_some(()));
    old.service.table().open.clear();
    assert!(matches!(old.hear(), ToSupervisor::Drained { ended: 1, .. }));
    // And back.
    hand_over(&new, &old, 5);
    assert!(old.service.table().accepting);
    old.stop();
    new.stop();
}

#[test]
fn a_candidate_that_cannot_read_the_states_is_dead_before_the_old_worker_goes_on() {
    let (old, mut new) = (Side::start(false, true), Side::start(true, true));
    let mut client = old.service.connect(1);
    new.service.table().fault = Fault::Adopt;
    let (a, b) = sockets();
    new.take_over(4, &b, &old.stand);
    old.hand_over(4, &a, &new.stand);
    drop((a, b));
    let ToSupervisor::HandoffFailed { call: 4, why } = old.hear() else { panic!() };
    assert_eq!(why, "the new worker cannot take over: state 3 makes no sense");
    assert!(!new.stand.is_alive());
    assert_eq!(old.did(), ["precopy", "freeze", "thaw"]);
    old.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    let ToSupervisor::HandoffFailed { call: 4, why } = new.hear() else { panic!() };
    assert_eq!(why, "state 3 makes no sense");
    assert_eq!(new.thread.join().unwrap(), ExitCode::from(70));

    // The next one is not the worse for it.
    let next = Side::start(true, true);
    assert_eq!(hand_over(&old, &next, 5).0, counted(1));
    next.service.speak(1);
    assert_eq!(reads(&mut client), 2);
    old.stop();
    next.stop();
}

#[test]
fn a_service_that_cannot_stand_still_goes_on_by_itself_and_one_that_panics_is_told_to() {
    let faults =
        [(Fault::Freeze, "written down: it moves too fast", false), (Fault::Panic, "panicked", true)];
    for (fault, word, thawed) in faults {
        let (old, mut new) = (Side::start(false, true), Side::start(true, true));
        let mut client = old.service.connect(1);
        old.service.table().fault = fault;
        let (a, b) = sockets();
        new.take_over(4, &b, &old.stand);
        old.hand_over(4, &a, &new.stand);
        drop((a, b));
        let ToSupervisor::HandoffFailed { call: 4, why } = old.hear() else { panic!() };
        assert!(why.contains(word), "{why}");
        assert!(!new.stand.is_alive());
        assert_eq!(old.did().contains(&"thaw"), thawed);
        old.service.speak(1);
        assert_eq!(reads(&mut client), 1);
        old.stop();
    }
}

#[test]
fn a_warm_worker_is_told_to_serve_again_when_the_new_one_has_died() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let _client = old.service.connect(1);
    hand_over(&old, &new, 4);
    assert!(matches!(old.hear(), ToSupervisor::Drained { .. }));
    old.say(&ToWorker::Resume { call: 6 });
    assert_eq!(old.hear(), ToSupervisor::Resumed { call: 6 });
    assert!(old.service.table().accepting);
    // It is found again, if the supervisor dies now.
    assert!(knock(&old.directory.path().join("door")).is_ok());
    old.stop();
}

#[test]
fn a_worker_that_still_drains_is_told_to_serve_again() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let _client = old.service.connect(1);
    old.service.make_busy(1);
    hand_over(&old, &new, 4);
    old.say(&ToWorker::Resume { call: 6 });
    assert_eq!(old.hear(), ToSupervisor::Resumed { call: 6 });
    assert!(old.service.table().busy.contains_key(&1) && old.service.table().accepting);
    // And hands over again, to another one.
    let next = Side::start(true, true);
    hand_over(&old, &next, 7);
    old.stop();
    new.stop();
    next.stop();
}

#[test]
fn the_guard_compares_with_what_the_old_worker_saw() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let mut client = old.service.connect(1);
    old.service.table().words = 40;
    hand_over(&old, &new, 4);
    new.service.speak(1);
    assert_eq!(reads(&mut client), 1);
    let limits = crate::types::GuardLimits { watch: Duration::ZERO, ..crate::types::GuardLimits::DEFAULT };
    assert!(matches!(old.hear(), ToSupervisor::Drained { .. }));
    new.say(&ToWorker::Guard { call: 9, limits });
    let ToSupervisor::GuardEnded { call: 9, passed: true, figures, .. } = new.hear() else { panic!() };
    assert!((1..=1 + 3).contains(&figures.after.requests), "{figures:?}");
    old.stop();
    new.stop();
}

#[test]
fn a_drain_asked_for_after_a_handoff_is_answered_under_its_own_number() {
    let (old, new) = (Side::start(false, true), Side::start(true, true));
    let _client = old.service.connect(1);
    old.service.make_busy(1);
    hand_over(&old, &new, 4);
    old.say(&ToWorker::Drain { call: 5, limit: Duration::ZERO });
    let ToSupervisor::Drained { call: 5, losses, .. } = old.hear() else { panic!() };
    assert_eq!(losses.total(), 1);
    old.say(&ToWorker::Drain { call: 6, limit: Duration::ZERO });
    assert!(matches!(old.hear(), ToSupervisor::Drained { call: 6, .. }));
    old.stop();
    new.stop();
}

#[test]
fn a_worker_that_drains_after_a_handoff_ends_when_it_has_although_its_supervisor_is_gone() {
    let (mut old, new) = (Side::start(false, true), Side::start(true, true));
    let _client = old.service.connect(1);
    old.service.make_busy(1);
    hand_over(&old, &new, 4);
    old.orphan();
    old.service.end_step(1).unwrap();
    assert_eq!(old.thread.join().unwrap(), ExitCode::SUCCESS);
    new.service.wait("the late one and the totals", |table| {
        (table.open.contains_key(&1) && table.did.contains(&"add totals")).then_some(())
    });
    new.stop();
}
