//! Ticket keys: rotation by a given time, what opens what, and bytes that travel.

use std::sync::Arc;
use std::time::Duration;

use handover_tls::{ImportError, Schedule, Tickets};
use proptest::prelude::*;

use crate::pki::{DAY, NOW, time};

const HOUR: i64 = 60 * 60;
const SCHEDULE: Schedule = Schedule { rotate: Duration::from_secs(3600), keep: 2 };
const HERE: [u8; 32] = [1; 32];

fn tickets(schedule: Schedule) -> Arc<Tickets> {
    Arc::new(Tickets::new(schedule, time(NOW)).unwrap())
}

#[test]
fn a_ticket_opens_to_what_was_sealed_and_each_is_another() {
    let producer = tickets(SCHEDULE).bound_to(HERE);
    assert!(producer.enabled());
    let (one, two) = (producer.encrypt(b"session").unwrap(), producer.encrypt(b"session").unwrap());
    assert_ne!(one, two);
    assert_eq!(one.len(), 7 + 16 + 12 + 16);
    assert_eq!(producer.decrypt(&one).unwrap(), b"session");
    assert_eq!(producer.decrypt(&producer.encrypt(b"").unwrap()).unwrap(), b"");
    assert!(!one.windows(7).any(|window| window == b"session"));
}

#[test]
fn a_ticket_of_one_context_opens_in_no_other() {
    let tickets = tickets(SCHEDULE);
    let ticket = tickets.bound_to(HERE).encrypt(b"session").unwrap();
    assert!(tickets.bound_to([2; 32]).decrypt(&ticket).is_none());
    assert!(tickets.bound_to(HERE).decrypt(&ticket).is_some());
}

#[test]
fn a_ticket_that_was_changed_or_cut_anywhere_does_not_open() {
    let producer = tickets(SCHEDULE).bound_to(HERE);
    let ticket = producer.encrypt(b"session").unwrap();
    for at in 0..ticket.len() {
        let mut spoilt = ticket.clone();
        spoilt[at] ^= 1;
        assert!(producer.decrypt(&spoilt).is_none(), "byte {at}");
        assert!(producer.decrypt(&ticket[..at]).is_none(), "cut at {at}");
    }
}

#[test]
fn a_key_makes_tickets_for_its_time_and_opens_them_for_the_times_it_is_kept() {
    let tickets = tickets(SCHEDULE);
    let producer = tickets.bound_to(HERE);
    let first = producer.encrypt(b"first").unwrap();
    assert!(!tickets.advance(time(NOW + HOUR - 1)));
    assert_eq!(producer.encrypt(b"x").unwrap()[..16], first[..16]);
    assert!(tickets.advance(time(NOW + HOUR)));
    assert!(!tickets.advance(time(NOW + HOUR)));
    assert_ne!(producer.encrypt(b"x").unwrap()[..16], first[..16]);
    for passed in [1, 2] {
        tickets.advance(time(NOW + passed * HOUR));
        assert_eq!(producer.decrypt(&first).unwrap(), b"first");
    }
    assert!(tickets.advance(time(NOW + 3 * HOUR)));
    assert!(producer.decrypt(&first).is_none());
}

#[test]
fn keys_end_by_their_age_also_when_nobody_rotated_for_long() {
    let tickets = tickets(SCHEDULE);
    let producer = tickets.bound_to(HERE);
    let first = producer.encrypt(b"first").unwrap();
    assert!(tickets.advance(time(NOW + 30 * DAY)));
    assert!(producer.decrypt(&first).is_none());
    assert!(producer.decrypt(&producer.encrypt(b"new").unwrap()).is_some());
}

#[test]
fn a_schedule_that_keeps_none_opens_only_tickets_of_the_present_key() {
    let tickets = tickets(Schedule { keep: 0, ..SCHEDULE });
    let producer = tickets.bound_to(HERE);
    let first = producer.encrypt(b"first").unwrap();
    assert!(producer.decrypt(&first).is_some());
    tickets.advance(time(NOW + HOUR));
    assert!(producer.decrypt(&first).is_none());
}

#[test]
fn a_new_schedule_holds_from_the_next_look_at_the_clock_on() {
    let tickets = tickets(SCHEDULE);
    let producer = tickets.bound_to(HERE);
    let first = producer.encrypt(b"first").unwrap();
    tickets.set_schedule(Schedule { rotate: Duration::from_secs(60), keep: 1 });
    assert!(tickets.advance(time(NOW + 60)));
    assert!(producer.decrypt(&first).is_some());
    assert!(tickets.advance(time(NOW + 120)));
    assert!(producer.decrypt(&first).is_none());
}

#[test]
fn clients_are_told_how_long_every_ticket_is_good_at_least_and_never_more_than_a_week() {
    let lifetime = |rotate, keep| {
        tickets(Schedule { rotate: Duration::from_secs(rotate), keep }).bound_to(HERE).lifetime()
    };
    assert_eq!(lifetime(3600, 2), 7200);
    assert_eq!(lifetime(3600, 0), 3600);
    assert_eq!(lifetime(7 * 86_400, 16), 7 * 86_400);
    assert_eq!(lifetime(u64::MAX, u32::MAX), 7 * 86_400);
}

#[test]
fn a_clock_that_was_set_back_neither_loses_tickets_nor_keeps_a_key_forever() {
    let tickets = tickets(SCHEDULE);
    let producer = tickets.bound_to(HERE);
    let first = producer.encrypt(b"first").unwrap();
    assert!(!tickets.advance(time(NOW - HOUR)));
    assert!(producer.decrypt(&first).is_some());
    assert!(tickets.advance(time(NOW - 2 * DAY)));
    assert!(producer.decrypt(&first).is_none());
    assert!(producer.decrypt(&producer.encrypt(b"new").unwrap()).is_some());
}

#[test]
fn exported_keys_open_the_same_tickets_elsewhere_and_make_their_own() {
    let here = tickets(SCHEDULE);
    let old = here.bound_to(HERE).encrypt(b"old").unwrap();
    here.advance(time(NOW + HOUR));
    let new = here.bound_to(HERE).encrypt(b"new").unwrap();
    let there = Arc::new(Tickets::from_export(SCHEDULE, &here.export(), time(NOW + HOUR)).unwrap());
    let producer = there.bound_to(HERE);
    assert_eq!(producer.decrypt(&old).unwrap(), b"old");
    assert_eq!(producer.decrypt(&new).unwrap(), b"new");
    assert_eq!(producer.encrypt(b"x").unwrap()[..16], new[..16]);
    assert_eq!(*there.export(), *here.export());
    // The age travels as well.
    assert!(there.advance(time(NOW + 3 * HOUR)));
    assert!(producer.decrypt(&old).is_none());
}

#[test]
fn keys_that_are_all_too_old_give_way_to_a_new_one() {
    let here = tickets(SCHEDULE);
    let old = here.bound_to(HERE).encrypt(b"old").unwrap();
    let there = Arc::new(Tickets::from_export(SCHEDULE, &here.export(), time(NOW + DAY)).unwrap());
    let producer = there.bound_to(HERE);
    assert!(producer.decrypt(&old).is_none());
    assert!(producer.decrypt(&producer.encrypt(b"x").unwrap()).is_some());
}

#[test]
fn imported_keys_open_tickets_and_the_newest_of_all_makes_them() {
    let here = tickets(SCHEDULE);
    let later = Arc::new(Tickets::new(SCHEDULE, time(NOW + 60)).unwrap());
    let (mine, theirs) =
        (here.bound_to(HERE).encrypt(b"a").unwrap(), later.bound_to(HERE).encrypt(b"b").unwrap());
    assert_eq!(here.import(&later.export(), time(NOW + 60)), Ok(true));
    assert_eq!(here.import(&later.export(), time(NOW + 60)), Ok(false));
    let producer = here.bound_to(HERE);
    assert!(producer.decrypt(&mine).is_some() && producer.decrypt(&theirs).is_some());
    assert_eq!(producer.encrypt(b"x").unwrap()[..16], theirs[..16]);
}

#[test]
fn a_key_that_made_no_ticket_gives_way_to_those_that_are_imported() {
    let before = tickets(SCHEDULE);
    let ticket = before.bound_to(HERE).encrypt(b"before").unwrap();
    // Three processes in a row, each of which begins with a key of its own.
    let mut exported = before.export();
    for minute in 1..=3 {
        let next = Arc::new(Tickets::new(SCHEDULE, time(NOW + 60 * minute)).unwrap());
        assert_eq!(next.import(&exported, time(NOW + 60 * minute)), Ok(true));
        assert_eq!(*next.export(), *exported);
        assert_eq!(next.bound_to(HERE).decrypt(&ticket).unwrap(), b"before");
        exported = next.export();
    }
}

#[test]
fn keys_that_are_too_old_to_be_imported_leave_the_present_one() {
    let here = Tickets::new(SCHEDULE, time(NOW + DAY)).unwrap();
    let before = here.export();
    assert_eq!(here.import(&tickets(SCHEDULE).export(), time(NOW + DAY)), Ok(false));
    assert_eq!(*here.export(), *before);
}

#[test]
fn damaged_exports_are_refused_and_change_nothing() {
    let here = tickets(SCHEDULE);
    here.advance(time(NOW + HOUR));
    let exported = here.export();
    let other = tickets(SCHEDULE);
    let before = other.export();
    for at in 0..exported.len() {
        let mut spoilt = exported.to_vec();
        spoilt[at] ^= 0x40;
        let error = other.import(&spoilt, time(NOW)).unwrap_err();
        assert_eq!(
            error,
            if at == 0 { ImportError::Version(0x41) } else { ImportError::Damaged },
            "byte {at}"
        );
        assert!(other.import(&exported[..at], time(NOW)).is_err(), "cut at {at}");
    }
    assert_eq!(*other.export(), *before);
}

#[test]
fn what_is_printed_of_ticket_keys_is_not_the_keys() {
    let here = tickets(SCHEDULE);
    let exported = here.export();
    let shown = format!("{here:?}");
    let hex: String = exported[26..34].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!shown.contains(&hex) && shown.contains("keys: 1"), "{shown}");
}

proptest! {
    #[test]
    fn whatever_is_imported_is_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let here = tickets(SCHEDULE);
        prop_assert!(here.import(&bytes, time(NOW)).is_err());
        prop_assert!(here.bound_to(HERE).decrypt(&bytes).is_none());
    }

    #[test]
    fn a_ticket_opens_exactly_as_long_as_its_key_is_kept(
        made in 0..3600_i64,
        steps in proptest::collection::vec(1..5000_i64, 1..12),
    ) {
        let tickets = tickets(SCHEDULE);
        let producer = tickets.bound_to(HERE);
        let mut now = NOW + made.min(3599);
        tickets.advance(time(now));
        let ticket = producer.encrypt(b"x").unwrap();
        for step in steps {
            now += step;
            tickets.advance(time(now));
            // Rotations come late where nobody looks: a key never outlives its time, and is never dropped earlier than
            // by as many rotations as are kept.
            if producer.decrypt(&ticket).is_some() {
                prop_assert!(now < NOW + 3 * HOUR);
            }
            if now < NOW + 2 * HOUR {
                prop_assert!(producer.decrypt(&ticket).is_some());
            }
        }
    }
}
