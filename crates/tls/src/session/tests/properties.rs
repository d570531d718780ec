//! Properties: what must hold for all bytes.

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;

proptest! {
    #[test]
    fn what_is_sealed_is_opened(number in select(&SUITES[..]), parts: Vec<Vec<u8>>, room in 0_usize..40_000) {
        let (mut client, mut server) = pair(number);
        let whole = parts.concat();
        let mut out = vec![0; room];
        let (mut rest, mut received) = (&whole[..], Vec::new());
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let first = client.seal_into(&parts, &mut out).unwrap();
        received.extend(opened(&mut server, &out[..first.written]).unwrap());
        rest = &rest[first.taken..];
        received.extend(opened(&mut server, &sealed(&mut client, rest)).unwrap());
        prop_assert_eq!(received, whole);
    }

    #[test]
    fn a_flipped_bit_is_refused(number in select(&SUITES[..]), length in 0_usize..400, at: Index, bit in 0_u32..8) {
        let (mut client, mut server) = pair(number);
        let mut bytes = sealed(&mut client, &pattern(length + 1));
        let whole = bytes.len();
        *at.get_mut(&mut bytes[..]) ^= 1 << bit;
        match server.open_record(&mut bytes) {
            Err(_) => {}
            // A longer length: the rest of the record is waited for, in vain.
            Ok(Opened::Partial { missing }) => prop_assert!(missing > 0 && whole > 0),
            Ok(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_record_out_of_its_order_is_refused(number in select(&SUITES[..]), ours in 0_u64..6, theirs in 0_u64..6) {
        let (mut client, _) = pair_at(number, ours, 0);
        let (_, mut server) = pair_at(number, theirs, 0);
        let result = opened(&mut server, &sealed(&mut client, b"data"));
        if ours == theirs {
            prop_assert_eq!(result, Ok(b"data".to_vec()));
        } else {
            prop_assert_eq!(result, Err(RecordError::Damaged));
        }
    }

    #[test]
    fn a_repeated_record_is_refused(number in select(&SUITES[..])) {
        let (mut client, mut server) = pair(number);
        let bytes = sealed(&mut client, b"data");
        prop_assert_eq!(opened(&mut server, &bytes), Ok(b"data".to_vec()));
        prop_assert_eq!(opened(&mut server, &bytes), Err(RecordError::Damaged));
    }

    #[test]
    fn a_record_sent_back_is_refused(number in select(&SUITES[..])) {
        let (mut client, _) = pair(number);
        let bytes = sealed(&mut client, b"data");
        prop_assert_eq!(opened(&mut client, &bytes), Err(RecordError::Damaged));
    }

    #[test]
    fn any_bytes_are_opened_without_harm(number in select(&SUITES[..]), mut bytes: Vec<u8>, header: bool) {
        let (_, mut server) = pair(number);
        if header {
            let length = u16::try_from(bytes.len().min(18_000)).unwrap().to_be_bytes();
            bytes.splice(0..0, [23, 3, 3, length[0], length[1]]);
        }
        let mut plain = Vec::new();
        let _ = server.open(&mut bytes, &mut plain);
        prop_assert!(plain.is_empty());
    }

    #[test]
    fn any_authentic_content_is_taken_without_harm(
        number in select(&SUITES[..]),
        records: Vec<(u8, Vec<u8>)>,
        from_client: bool,
    ) {
        let (client, server) = pair(number);
        let (mut from, mut to) = if from_client { (client, server) } else { (server, client) };
        for (content_type, content) in records {
            let content_type = 20 + content_type % 5;
            let mut bytes = record_of(&mut from, content_type, &content);
            if to.open(&mut bytes, &mut Vec::new()).is_err() {
                break;
            }
            to.take_reply(&mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn any_state_is_read_without_harm(mut bytes: Vec<u8>, number in select(&SUITES[..]), framed: bool) {
        if framed {
            let [high, low] = number.to_be_bytes();
            bytes.splice(0..0, [1, high, low]);
        }
        if let Ok(mut session) = Session::read(&bytes) {
            let mut written = Vec::new();
            session.write(&mut written);
            prop_assert_eq!(&written, &bytes);
            let _ = session.open(&mut written, &mut Vec::new());
            let _ = session.seal(b"data", &mut Vec::new());
        }
    }

    #[test]
    fn records_may_arrive_in_any_pieces(number in select(&SUITES[..]), lengths in prop::collection::vec(0_usize..3_000, 1..8), cut: Index) {
        let (mut client, mut server) = pair(number);
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        for length in lengths {
            client.seal(&pattern(length), &mut bytes).unwrap();
            sent.extend(pattern(length));
        }
        let cut = cut.index(bytes.len() + 1);
        let mut received = Vec::new();
        let first = server.open(&mut bytes[..cut], &mut received).unwrap();
        let rest = server.open(&mut bytes[first.consumed..], &mut received).unwrap();
        prop_assert_eq!(first.consumed + rest.consumed, bytes.len());
        prop_assert_eq!(received, sent);
    }
}
