//! Tests of sessions that are written down and read again.

use super::*;

fn written(session: &Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.write(&mut bytes);
    assert!(bytes.len() <= STATE_BYTES, "{} bytes", bytes.len());
    bytes
}

fn moved(session: Session) -> Session {
    let bytes = written(&session);
    let read = Session::read(&bytes).unwrap();
    assert_eq!(written(&read), bytes);
    read
}

#[test]
fn a_session_goes_on_where_it_was() {
    for number in SUITES {
        let (mut client, mut server) = pair_at(number, 77, 1 << 22);
        for round in 0..5_usize {
            let plain = pattern(round * 9_000);
            let bytes = sealed(&mut client, &plain);
            server = moved(server);
            assert!(!server.reading.is_built(), "keys are built when they are needed");
            assert_eq!(opened(&mut server, &bytes), Ok(plain));
            assert!(server.reading.is_built() || round == 0);
            assert!(!server.writing.is_built());
            client = moved(client);
            let bytes = sealed(&mut server, b"answer");
            assert_eq!(opened(&mut client, &bytes), Ok(b"answer".to_vec()));
        }
    }
}

#[test]
fn what_is_due_and_what_has_ended_moves_too() {
    let (mut client, mut server) = pair(0x1301);
    let mut bytes = Vec::new();
    client.update_key(true, &mut bytes).unwrap();
    client.close_notify(&mut bytes);
    opened(&mut server, &bytes).unwrap();
    let (mut client, mut server) = (moved(client), moved(server));
    assert!(server.has_reply() && server.peer_has_ended() && client.we_have_ended());
    let answer = reply(&mut server);
    assert_eq!(opened(&mut client, &answer), Ok(Vec::new()));
    assert_eq!(client.seal(b"data", &mut Vec::new()), Err(SealError::Ended));
}

#[test]
fn a_message_that_has_begun_moves_too() {
    for cut in 1..5 {
        let (mut client, mut server) = pair(0x1301);
        let update = [24, 0, 0, 1, 1];
        let bytes = record_of(&mut client, record::HANDSHAKE, &update[..cut]);
        opened(&mut server, &bytes).unwrap();
        server = moved(server);
        let bytes = record_of(&mut client, record::HANDSHAKE, &update[cut..]);
        opened(&mut server, &bytes).unwrap();
        assert!(server.has_reply());
    }
}

#[test]
fn an_ended_session_stays_ended() {
    let (_, mut server) = pair(0x1301);
    assert!(server.open_record(&mut [20, 3, 3, 0, 1, 1]).is_err());
    let mut server = moved(server);
    assert_eq!(server.open_record(&mut []), Err(RecordError::Over));
}

#[test]
fn state_that_is_cut_or_too_long_is_refused() {
    for number in SUITES {
        let (client, _) = pair(number);
        let bytes = written(&client);
        for length in 0..bytes.len() {
            assert!(Session::read(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
        assert_eq!(Session::read(&[&bytes[..], &[0]].concat()).unwrap_err(), StateError::Damaged);
    }
}

#[test]
fn state_of_another_format_is_named() {
    let (client, _) = pair(0x1301);
    let mut bytes = written(&client);
    bytes[0] = 9;
    assert_eq!(Session::read(&bytes).unwrap_err(), StateError::Format(9));
    assert_eq!(
        StateError::Format(9).to_string(),
        "the state of a TLS session is in format 9, which this release does not know"
    );
}

#[test]
fn the_state_of_an_ordinary_session_is_small() {
    let lengths = SUITES.map(|number| written(&pair(number).0).len());
    assert_eq!(lengths, [85, 117, 85, 77, 109, 77, 109, 109, 109]);
}

#[test]
fn no_secret_is_shown() {
    let (client, _) = pair(0x1301);
    let shown = format!("{client:?}");
    assert!(shown.contains("number: 0"), "{shown}");
    assert!(!shown.contains("1, 1, 1") && !shown.contains("2, 2, 2"), "{shown}");
}

#[test]
fn a_rested_session_goes_on() {
    let (mut client, mut server) = pair(0x1303);
    for _ in 0..3 {
        let bytes = sealed(&mut client, b"data");
        client.rest();
        assert!(!client.writing.is_built());
        assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()));
        server.rest();
    }
}
