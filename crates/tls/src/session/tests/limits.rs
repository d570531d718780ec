//! Tests of what is worn out, too long, or too often.

use super::*;

#[test]
fn a_worn_out_key_is_changed_before_the_next_record() {
    for number in [0x1301, 0x1302] {
        let (mut client, mut server) = pair_at(number, RECORDS_PER_KEY - 1, 0);
        let plain = pattern(3 * PLAINTEXT_BYTES);
        let bytes = sealed(&mut client, &plain);
        assert_eq!(client.writing.number, 2, "one record before the key update, two behind it");
        assert_eq!(opened(&mut server, &bytes), Ok(plain));
        assert_eq!(server.reading.number, 2);
    }
}

#[test]
fn a_key_update_that_finds_no_room_waits_and_so_does_the_data() {
    let (mut client, mut server) = pair_at(0x1301, RECORDS_PER_KEY, 0);
    let mut out = [0; KEY_UPDATE_BYTES + 21];
    assert_eq!(client.seal_into(&[b"data"], &mut out), Ok(Sealed { taken: 0, written: 0 }));
    let mut out = [0; 200];
    let fitted = client.seal_into(&[b"data"], &mut out).unwrap();
    assert_eq!(fitted.taken, 4);
    assert_eq!(opened(&mut server, &out[..fitted.written]), Ok(b"data".to_vec()));
}

#[test]
fn chacha_does_not_wear_out() {
    let (mut client, mut server) = pair_at(0x1303, 1 << 40, 0);
    let bytes = sealed(&mut client, b"data");
    assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()));
    assert_eq!(client.writing.number, (1 << 40) + 1);
}

#[test]
fn tls_12_says_when_its_key_is_worn_out_and_can_still_end_in_order() {
    let (mut client, mut server) = pair_at(0xc02f, RECORDS_PER_KEY - 1, 0);
    let mut bytes = Vec::new();
    assert_eq!(client.seal(&pattern(PLAINTEXT_BYTES + 1), &mut bytes), Err(SealError::Exhausted));
    assert_eq!(opened(&mut server, &bytes), Ok(pattern(PLAINTEXT_BYTES)), "what was safe went out");
    let mut bytes = Vec::new();
    client.close_notify(&mut bytes);
    assert_eq!(opened(&mut server, &bytes), Ok(Vec::new()));
    assert!(server.peer_has_ended());
}

#[test]
fn a_peer_with_a_worn_out_key_is_asked_for_another() {
    let (mut client, mut server) = pair_at(0x1302, RECORDS_PER_KEY - 1, 0);
    let bytes = record_of(&mut client, record::APPLICATION_DATA, b"one too many");
    opened(&mut server, &bytes).unwrap();
    assert!(server.has_reply());
    let asking = reply(&mut server);
    assert!(!server.has_reply());
    assert_eq!(opened(&mut client, &asking), Ok(Vec::new()));
    let bytes = sealed(&mut client, b"under another key");
    assert_eq!(client.writing.number, 1);
    assert_eq!(opened(&mut server, &bytes), Ok(b"under another key".to_vec()));
    assert!(!server.has_reply());
}

#[test]
fn the_last_number_is_never_passed() {
    let (mut client, _) = pair_at(0x1303, u64::MAX, 0);
    assert_eq!(client.seal(b"data", &mut Vec::new()), Err(SealError::Key));
    let (mut client, mut server) = pair_at(0x1303, u64::MAX - 1, 0);
    let bytes = sealed(&mut client, b"data");
    assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()));
    let (_, mut server) = pair_at(0x1303, u64::MAX, 0);
    assert!(opened(&mut server, &bytes).is_err());
}

#[test]
fn lengths_up_to_the_limits_are_taken_and_beyond_them_refused() {
    for number in SUITES {
        let (mut client, mut server) = pair(number);
        let full = record_of(&mut client, record::APPLICATION_DATA, &pattern(PLAINTEXT_BYTES));
        assert_eq!(opened(&mut server, &full), Ok(pattern(PLAINTEXT_BYTES)));
        let over = record_of(&mut client, record::APPLICATION_DATA, &pattern(PLAINTEXT_BYTES + 1));
        assert_eq!(opened(&mut server, &over), Err(RecordError::TooLong));
    }
}

#[test]
fn a_length_that_no_record_has_is_refused_before_its_bytes_come() {
    for (number, most) in [(0x1301, PLAINTEXT_BYTES + 256), (0xc02f, PLAINTEXT_BYTES + 2_048)] {
        for (length, expected) in [(most, None), (most + 1, Some(RecordError::TooLong))] {
            let (_, mut server) = pair(number);
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            let result = server.open_record(&mut [23, 3, 3, high, low]);
            assert_eq!(result, expected.map_or(Ok(Opened::Partial { missing: length }), Err));
        }
    }
}

#[test]
fn a_record_of_the_greatest_length_fits_into_the_published_size() {
    for number in SUITES {
        let overhead = record::overhead_bytes(suite(number));
        assert!(overhead <= OVERHEAD_BYTES);
        let (mut client, _) = pair(number);
        for length in [0, 1, PLAINTEXT_BYTES, PLAINTEXT_BYTES + 1, 100_000] {
            client.due.answer = suite(number).version() == Version::Tls13;
            assert!(sealed(&mut client, &pattern(length)).len() <= Session::sealed_bytes(length));
        }
    }
}

#[test]
fn empty_records_are_put_up_with_for_a_while() {
    let (mut client, mut server) = pair(0x1301);
    for round in 0..3 {
        for _ in 0..WITHOUT_DATA {
            let empty = record_of(&mut client, record::APPLICATION_DATA, b"");
            assert_eq!(opened(&mut server, &empty), Ok(Vec::new()), "round {round}");
        }
        let data = sealed(&mut client, b"data");
        assert_eq!(opened(&mut server, &data), Ok(b"data".to_vec()));
    }
    for _ in 0..WITHOUT_DATA {
        let empty = record_of(&mut client, record::APPLICATION_DATA, b"");
        assert_eq!(opened(&mut server, &empty), Ok(Vec::new()));
    }
    let empty = record_of(&mut client, record::APPLICATION_DATA, b"");
    assert_eq!(opened(&mut server, &empty), Err(RecordError::Unexpected("too many empty records")));
}

#[test]
fn key_updates_are_put_up_with_for_a_while() {
    let (mut client, mut server) = pair(0x1301);
    let mut update = |client: &mut Session| {
        let mut bytes = Vec::new();
        client.update_key(true, &mut bytes).unwrap();
        opened(&mut server, &bytes)
    };
    for _ in 0..WITHOUT_DATA {
        assert_eq!(update(&mut client), Ok(Vec::new()));
    }
    let error = update(&mut client).unwrap_err();
    assert_eq!(error, RecordError::Unexpected("too many key updates without data between them"));
}
