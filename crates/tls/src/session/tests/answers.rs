//! Known answers: the traces of RFC 8448 from the traffic secrets on.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| char::from(byte).to_digit(16))
        .map(|digit| u8::try_from(digit).unwrap())
        .collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

/// What both sides send in the traces.
fn payload() -> Vec<u8> {
    (0..50).collect()
}

/// The ends of a connection with `TLS_AES_128_GCM_SHA256`, from its application traffic secrets.
fn ends(client: &str, server: &str) -> (Session, Session) {
    let suite = suite(0x1301);
    let direction = |secret: &str| Direction::tls13(suite, 0, Secret::new(&hex(secret)).unwrap()).unwrap();
    (
        Session::new(suite, Side::Client, direction(server), direction(client)),
        Session::new(suite, Side::Server, direction(client), direction(server)),
    )
}

/// §3: the simple handshake.
const CLIENT_3: &str = "9e40646c e79a7f9d c05af888 9bce6552 875afa0b 06df0087 f792ebb7 c17504a5";
const SERVER_3: &str = "a11af9f0 5531f856 ad47116b 45a95032 8204b4f4 4bfb6b3a 4b4f1f3f cb631643";

/// §4: resumed, with data before Finished.
const CLIENT_4: &str = "2abbf2b8 e381d23d bebe1dd2 a7d16a8b f484cb49 50d23fb7 fb7fa854 7062d9a1";
const SERVER_4: &str = "cc21f1bf 8feb7dd5 fa505bd9 c4b468a9 984d554a 993dc49e 6d285598 fb672691";

#[test]
fn key_and_iv_are_those_of_rfc_8448() {
    let (mut client, mut server) = ends(CLIENT_3, SERVER_3);
    let suite = client.suite;
    assert_eq!(client.writing.ready(suite).unwrap().1.to_vec(), hex("5b78923d ee085790 33e523d9"));
    assert_eq!(server.writing.ready(suite).unwrap().1.to_vec(), hex("cf782b88 dd83549a adf1e984"));
}

#[test]
fn the_simple_trace_is_sealed_and_opened_as_in_rfc_8448() {
    let (mut client, mut server) = ends(CLIENT_3, SERVER_3);
    let ticket = hex(
        "17030300de 3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a
        015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e0
        9c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77
        f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74
        bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f",
    );
    let mut bytes = ticket.clone();
    assert_eq!(client.open_record(&mut bytes), Ok(Opened::Nothing { consumed: ticket.len() }));
    server.writing.number = 1;

    let request = hex(
        "1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b
        62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4",
    );
    assert_eq!(sealed(&mut client, &payload()), request);
    assert_eq!(opened(&mut server, &request), Ok(payload()));

    let response = hex(
        "1703030043 2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8
        fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d",
    );
    assert_eq!(sealed(&mut server, &payload()), response);
    assert_eq!(opened(&mut client, &response), Ok(payload()));
    ends_as(&mut client, &mut server, "1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3");
    ends_as(&mut server, &mut client, "1703030013 b58fd67166ebf599d24720cfbe7efa7a8864a9");
}

#[test]
fn the_resumed_trace_is_sealed_and_opened_as_in_rfc_8448() {
    let (mut client, mut server) = ends(CLIENT_4, SERVER_4);
    let request = hex(
        "1703030043 b1cebce242aa201be9ae5e1cb2a9aa4b33d4e866af1edb068919237741aa031d7a74d491c99b9d4e232b74
        206bc6fbaa04fe78be44a9b4f54320a17eb76992afac3103",
    );
    assert_eq!(sealed(&mut client, &payload()), request);
    assert_eq!(opened(&mut server, &request), Ok(payload()));
    let response = hex(
        "1703030043 275e9f20acff57bc000657d3867df039cccf79047884cf75771746f740b5a83f462a0954c3581393a203a2
        5a7dd14141ef1a37900cdb62ff62dee1ba39ab2590cbf194",
    );
    assert_eq!(sealed(&mut server, &payload()), response);
    assert_eq!(opened(&mut client, &response), Ok(payload()));
    ends_as(&mut client, &mut server, "1703030013 0facce3246bdfc6369838d6a82ae6de5d422dc");
    ends_as(&mut server, &mut client, "1703030013 5b18af444e8e1eec7158fb62d8f2577d37ba5d");
}

/// In the traces the level of close_notify is a warning.
fn ends_as(from: &mut Session, to: &mut Session, record: &str) {
    let mut bytes = Vec::new();
    from.close_notify(&mut bytes);
    assert_eq!(bytes, hex(record));
    assert_eq!(to.open_record(&mut bytes), Ok(Opened::Closed { consumed: hex(record).len() }));
    assert!(to.peer_has_ended());
}
