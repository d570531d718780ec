//! Tests of what may come after the handshake, and of what may not.

use super::*;

const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const KEY_UPDATE_ASKED: [u8; 5] = [24, 0, 0, 1, 1];

fn refused(number: u16, content_type: u8, content: &[u8]) -> RecordError {
    let (mut client, mut server) = pair(number);
    let bytes = record_of(&mut client, content_type, content);
    opened(&mut server, &bytes).unwrap_err()
}

#[test]
fn a_key_update_that_asks_is_answered_before_data() {
    for number in [0x1301, 0x1302, 0x1303] {
        let (mut client, mut server) = pair(number);
        let mut bytes = Vec::new();
        client.update_key(true, &mut bytes).unwrap();
        bytes.extend(sealed(&mut client, b"hello"));
        assert_eq!(opened(&mut server, &bytes), Ok(b"hello".to_vec()));
        assert!(server.has_reply());
        let bytes = sealed(&mut server, b"answer");
        assert!(!server.has_reply());
        assert_eq!(server.writing.number, 1, "the data is the first record under the new key");
        assert_eq!(opened(&mut client, &bytes), Ok(b"answer".to_vec()));
        assert!(!client.has_reply(), "an answer asks for nothing");
    }
}

#[test]
fn a_key_update_that_does_not_ask_is_not_answered() {
    let (mut client, mut server) = pair(0x1301);
    let mut bytes = Vec::new();
    client.update_key(false, &mut bytes).unwrap();
    assert_eq!(opened(&mut server, &bytes), Ok(Vec::new()));
    assert!(!server.has_reply());
    assert!(reply(&mut server).is_empty());
}

#[test]
fn several_key_updates_that_ask_are_answered_once() {
    let (mut client, mut server) = pair(0x1303);
    let mut bytes = Vec::new();
    for _ in 0..3 {
        client.update_key(true, &mut bytes).unwrap();
    }
    opened(&mut server, &bytes).unwrap();
    let answer = reply(&mut server);
    assert_eq!(answer.len(), 5 + 5 + 1 + 16);
    assert_eq!(opened(&mut client, &answer), Ok(Vec::new()));
}

#[test]
fn a_key_update_may_be_cut_anywhere_by_records() {
    for cuts in 0_u8..16 {
        let (mut client, mut server) = pair(0x1301);
        let mut pieces = vec![vec![KEY_UPDATE_ASKED[0]]];
        for (at, byte) in KEY_UPDATE_ASKED.iter().enumerate().skip(1) {
            if cuts >> (at - 1) & 1 == 1 {
                pieces.push(Vec::new());
            }
            pieces.last_mut().unwrap().push(*byte);
        }
        let bytes: Vec<u8> =
            pieces.iter().flat_map(|piece| record_of(&mut client, record::HANDSHAKE, piece)).collect();
        client.writing.update(client.suite).unwrap();
        let bytes = [bytes, sealed(&mut client, b"data")].concat();
        assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()), "cuts {cuts:04b}");
        assert!(server.has_reply());
    }
}

#[test]
fn nothing_may_stand_in_the_middle_of_a_message() {
    for (content_type, content) in
        [(record::APPLICATION_DATA, &b"data"[..]), (record::APPLICATION_DATA, b""), (record::ALERT, &[1, 0])]
    {
        let (mut client, mut server) = pair(0x1301);
        let bytes = record_of(&mut client, record::HANDSHAKE, &KEY_UPDATE[..2]);
        opened(&mut server, &bytes).unwrap();
        let bytes = record_of(&mut client, content_type, content);
        let error = opened(&mut server, &bytes).unwrap_err();
        assert_eq!(error, RecordError::Unexpected("something else in the middle of a handshake message"));
    }
}

#[test]
fn messages_that_may_not_come_are_refused() {
    let unexpected = RecordError::Unexpected("a handshake message that may not come after the handshake");
    // ClientHello, NewSessionTicket to a server, CertificateRequest, Finished.
    for kind in [1, 4, 13, 20] {
        assert_eq!(refused(0x1301, record::HANDSHAKE, &[kind, 0, 0, 0]), unexpected);
    }
    assert_eq!(refused(0xc02f, record::HANDSHAKE, &KEY_UPDATE), unexpected, "TLS 1.2 has no key update");
    let behind = [KEY_UPDATE, KEY_UPDATE].concat();
    assert_eq!(
        refused(0x1301, record::HANDSHAKE, &behind),
        RecordError::Unexpected("a message behind a key update, in the same record")
    );
    assert_eq!(
        refused(0x1301, record::HANDSHAKE, &[24, 0, 0, 1, 2]),
        RecordError::Illegal("a key update that asks for what there is not")
    );
    assert_eq!(
        refused(0x1301, record::HANDSHAKE, &[24, 0, 0, 2, 0, 0]),
        RecordError::Malformed("a key update of the wrong length")
    );
    assert_eq!(refused(0x1301, record::HANDSHAKE, b""), RecordError::Unexpected("an empty handshake record"));
}

#[test]
fn records_of_other_types_are_refused() {
    let ccs = RecordError::Unexpected("an encrypted change_cipher_spec");
    assert_eq!(refused(0x1301, record::CHANGE_CIPHER_SPEC, &[1]), ccs);
    let unknown = RecordError::Unexpected("a record of a type that TLS does not have");
    assert_eq!(refused(0x1301, 24, b"heartbeat"), unknown);
    let none = RecordError::Unexpected("a record without a content type");
    assert_eq!(refused(0x1301, 0, &[0; 30]), none);
    for number in [0x1301, 0xc02f] {
        let (_, mut server) = pair(number);
        let error = server.open_record(&mut [20, 3, 3, 0, 1, 1]).unwrap_err();
        assert_eq!(error, RecordError::Unexpected("change_cipher_spec after the handshake"));
        assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE));
    }
    let (_, mut server) = pair(0x1301);
    let error = server.open_record(&mut [21, 3, 3, 0, 2, 2, 40]).unwrap_err();
    assert_eq!(error, RecordError::Unexpected("an alert that is not encrypted"));
    let (_, mut server) = pair(0x1301);
    let error = server.open_record(&mut b"GET / HTTP/1.1\r\n".to_owned()).unwrap_err();
    assert_eq!(error, RecordError::Unexpected("something that is not a TLS record"));
}

#[test]
fn padding_is_taken_off() {
    for padding in [0, 1, 15, 16_300] {
        let (mut client, mut server) = pair(0x1302);
        // The content type of the record is the first zero of the padding; the true one stands before it.
        let content = [&b"data"[..], &[record::APPLICATION_DATA], &vec![0; padding]].concat();
        let bytes = record_of(&mut client, 0, &content);
        assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()));
    }
}

#[test]
fn a_clients_session_takes_tickets_and_key_updates() {
    let (mut client, mut server) = pair(0x1301);
    let ticket = [&[4, 0, 0, 20][..], &pattern(20)].concat();
    let mut stream = [ticket.clone(), ticket.clone(), KEY_UPDATE.to_vec()].concat();
    let bytes = record_of(&mut server, record::HANDSHAKE, &stream);
    assert_eq!(opened(&mut client, &bytes), Ok(Vec::new()));
    server.writing.update(server.suite).unwrap();
    // Cut into pieces of every size.
    for size in 1..24 {
        stream = [ticket.clone(), ticket.clone()].concat();
        for piece in stream.chunks(size) {
            let bytes = record_of(&mut server, record::HANDSHAKE, piece);
            assert_eq!(opened(&mut client, &bytes), Ok(Vec::new()));
        }
        assert!(client.pending.is_none());
        let bytes = sealed(&mut server, b"data");
        assert_eq!(opened(&mut client, &bytes), Ok(b"data".to_vec()));
    }
}

#[test]
fn tickets_are_put_up_with_for_a_while() {
    let (mut client, mut server) = pair(0x1302);
    let ticket = [&[4, 0, 0, 20][..], &pattern(20)].concat();
    let mut last = Ok(Vec::new());
    for _ in 0..=WITHOUT_DATA {
        assert_eq!(last, Ok(Vec::new()));
        let bytes = record_of(&mut server, record::HANDSHAKE, &ticket);
        last = opened(&mut client, &bytes);
    }
    assert_eq!(last, Err(RecordError::Unexpected("too many session tickets without data between them")));
}

#[test]
fn alerts_end_the_session_by_name() {
    for number in [0x1301, 0xc02f] {
        let (mut client, mut server) = pair(number);
        let bytes = record_of(&mut client, record::ALERT, &[2, 42]);
        let error = opened(&mut server, &bytes).unwrap_err();
        assert_eq!(error.to_string(), "the peer ended the connection with the alert bad_certificate");
        assert_eq!(error.alert(), None, "an alert is not answered");
        let mut out = Vec::new();
        server.refuse(error, &mut out);
        assert!(out.is_empty());
        assert_eq!(server.seal(b"data", &mut out), Err(SealError::Ended));
        assert_eq!(opened(&mut server, &bytes), Err(RecordError::Over));
    }
}

#[test]
fn the_level_of_an_alert_counts_in_tls_12_only() {
    let (mut client, mut server) = pair(0x1301);
    let bytes = record_of(&mut client, record::ALERT, &[1, 80]);
    assert_eq!(opened(&mut server, &bytes), Err(RecordError::Alert(Alert::INTERNAL_ERROR)));
    let (mut client, mut server) = pair(0x1301);
    let bytes = record_of(&mut client, record::ALERT, &[1, 90]);
    assert_eq!(opened(&mut server, &bytes), Ok(Vec::new()), "user_canceled is only a word");
    let (mut client, mut server) = pair(0xcca8);
    for _ in 0..WARNINGS {
        let bytes = record_of(&mut client, record::ALERT, &[1, 112]);
        assert_eq!(opened(&mut server, &bytes), Ok(Vec::new()));
    }
    let bytes = record_of(&mut client, record::ALERT, &[1, 112]);
    assert_eq!(opened(&mut server, &bytes), Err(RecordError::Unexpected("too many warnings")));
    for content in [&[][..], &[1], &[1, 0, 0]] {
        assert_eq!(
            refused(0x1301, record::ALERT, content),
            RecordError::Malformed("an alert of the wrong length")
        );
    }
}

#[test]
fn what_comes_after_close_notify_is_passed_over() {
    let (mut client, mut server) = pair(0x1301);
    let mut bytes = sealed(&mut client, b"last");
    client.close_notify(&mut bytes);
    client.close_notify(&mut bytes);
    bytes.extend(b"rubbish");
    let mut plain = Vec::new();
    let progress = server.open(&mut bytes, &mut plain).unwrap();
    assert_eq!((progress.closed, &plain[..]), (true, &b"last"[..]));
    assert_eq!(server.open_record(&mut bytes), Ok(Opened::Closed { consumed: bytes.len() }));
    let answer = sealed(&mut server, b"still talking");
    assert_eq!(opened(&mut client, &answer), Ok(b"still talking".to_vec()));
    assert_eq!(client.seal(b"more", &mut Vec::new()), Err(SealError::Ended));
}

#[test]
fn renegotiation_is_refused_once_politely_and_then_for_good() {
    // A whole ClientHello to a server, HelloRequest to a client.
    for (from_client, message) in [(true, [&[1, 0, 0, 50][..], &[7; 50]].concat()), (false, vec![0, 0, 0, 0])]
    {
        let (client, server) = pair(0xc030);
        let (mut asking, mut asked) = if from_client { (client, server) } else { (server, client) };
        let bytes = record_of(&mut asking, record::HANDSHAKE, &message);
        assert_eq!(opened(&mut asked, &bytes), Ok(Vec::new()));
        let mut warning = reply(&mut asked);
        let (content_type, range) = record::open(asking.suite, &mut asking.reading, &mut warning).unwrap();
        assert_eq!((content_type, &warning[range]), (record::ALERT, &[1, 100][..]));
        let bytes = sealed(&mut asking, b"as before");
        assert_eq!(opened(&mut asked, &bytes), Ok(b"as before".to_vec()));
        let bytes = record_of(&mut asking, record::HANDSHAKE, &message);
        assert_eq!(
            opened(&mut asked, &bytes),
            Err(RecordError::Unexpected("another request to renegotiate, after it was told no"))
        );
    }
}

#[test]
fn the_alert_for_an_error_is_sealed_and_nothing_after_it() {
    let (mut client, mut server) = pair(0x1301);
    let mut bytes = sealed(&mut client, b"data");
    *bytes.last_mut().unwrap() ^= 1;
    let error = opened(&mut server, &bytes).unwrap_err();
    let mut out = Vec::new();
    server.refuse(error, &mut out);
    server.refuse(error, &mut out);
    assert_eq!(opened(&mut client, &out), Err(RecordError::Alert(Alert::BAD_RECORD_MAC)));
    assert_eq!(server.seal(b"data", &mut out), Err(SealError::Ended));
}
