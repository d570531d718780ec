//! States made by hand: one of each kind, with something in every field.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use handover_http1::{BodyKind, BodyReader};
use handover_tls::Facts;

use crate::clock::Ticks;
use crate::config::LogFormat;
use crate::conn::TunnelKind;
use crate::conn::flow::Flow;
use crate::conn::state::codec::Guard;
use crate::conn::state::names::{Address, EndpointName, ListenerName, Names};
use crate::conn::state::socket::IdleState;
use crate::conn::state::*;
use crate::moving::bytes::{Input, put_bytes};
use crate::reactor::Secure;

/// Where the states' listeners and endpoints are, apart from those over TLS.
pub(super) const CONFIG: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n\
     [listeners.raw]\naddress = \"unix:@raw\"\nprotocol = \"tcp\"\nservice = \"app\"\n\
     [services.app]\nendpoints = [\"127.0.0.1:9\", \"unix:/nonexistent/endpoint\"]\nbalance = \"least-connections\"\n\
     [[routes]]\nservice = \"app\"\n";

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Everything that there is; without `full`, what format 1 leaves out is as it is when it begins.
pub(super) struct Maker {
    pub(super) full: bool,
    /// Some of it is over TLS.
    pub(super) tls: bool,
    /// With what no format before the third has.
    newest: bool,
    next: u64,
}

/// What protects a connection: a session of TLS 1.3, at its third record in one direction.
pub(super) fn secure(suite: [u8; 2], secret_bytes: usize, sealed: &[u8]) -> Secure {
    let secret = vec![0x5a; secret_bytes];
    let session = [&[1][..], &suite, &[0, 0], &3_u64.to_be_bytes(), &secret, &0_u64.to_be_bytes(), &secret];
    let facts = [&[1][..], &suite, &[0]].concat();
    let mut bytes = vec![if sealed.is_empty() { 0 } else { 8 }, 0];
    put_bytes(&mut bytes, &session.concat());
    if !sealed.is_empty() {
        put_bytes(&mut bytes, sealed);
        bytes.push(0);
    }
    let facts = Arc::new(Facts::read(&facts).unwrap());
    Secure::read(&mut Input::new(&bytes), |_| Some(facts)).unwrap()
}

impl Maker {
    pub(super) fn new(full: bool, tls: bool) -> Self {
        Self { full, tls, newest: false, next: 0 }
    }

    /// Everything that format 3 has.
    pub(super) fn newest(tls: bool) -> Self {
        Self { newest: true, ..Self::new(true, tls) }
    }

    /// Everything that this format has.
    pub(super) fn of(format: u16, tls: bool) -> Self {
        Self { newest: format > 2, ..Self::new(true, tls) }
    }

    /// With numbers of one, two and three bytes.
    pub(super) fn socket(&mut self, guard: Option<Secure>) -> SocketState<'static> {
        self.next = (self.next * 3 + 1) % 1_000_000;
        SocketState { number: self.next, guard: guard.map(|secure| Guard::Read(Box::new(secure))) }
    }

    pub(super) fn client(
        &mut self,
        listener: u64,
        peer: Option<IpAddr>,
        guard: Option<Secure>,
    ) -> ClientState<'static> {
        let age_us = if self.full { 3_600_000_000 } else { 0 };
        let route = self.newest.then_some(1);
        ClientState { listener, peer, socket: self.socket(guard), age_us, route }
    }

    fn kept(&mut self, listener: u64, peer: Option<IpAddr>, guard: Option<Secure>) -> KeptState<'static> {
        let unsaid = guard.is_some();
        let client = self.client(listener, peer, guard);
        KeptState { client, unsaid, placed: true, keep_alive: true, counted_in: 1_234, counted_out: 56_789 }
    }

    fn dial(&mut self, endpoint: u64, guard: Option<Secure>) -> DialState<'static> {
        let goal = GoalState::Reached(self.socket(guard));
        DialState { endpoint, goal, reused: true, fresh_only: false, attempts: 2 }
    }

    fn waiting(&mut self) -> Vec<Item<'static>> {
        let idle = WaitingState { left: 600, inbuf: b"", seen: 0, bytes_in: 0, since_us: 0 };
        let begun = WaitingState {
            left: 99,
            inbuf: b"GET / HTTP/1.1\r\nHo",
            seen: 16,
            bytes_in: 18,
            since_us: 1_500,
        };
        [(Some(V4), idle), (None, begun)]
            .map(|(peer, waiting)| {
                Item::Http(HttpState { kept: self.kept(0, peer, None), phase: PhaseState::Waiting(waiting) })
            })
            .into()
    }

    fn passing(
        &mut self,
        endpoint: u64,
        sending: SendingState,
        receiving: ReceivingState,
    ) -> ProxyState<'static> {
        let whole = matches!(sending, SendingState::Whole);
        ProxyState {
            http10: whole,
            head_only: false,
            line: whole.then_some((LogFormat::Json, br#"{"time":"1994-11-06T08:49:37Z""#)),
            upgrade_asked: true,
            idempotent: true,
            replayable: whole,
            connect_timed_out: whole,
            since_us: 70_000,
            bytes_in: 300,
            bytes_out: 0,
            client_in: b"5;x=y\r\nhel",
            client_out: b"HTTP/1.1 103 Early Hints\r\n\r\n",
            dial: self.dial(endpoint, None),
            inbuf: b"HTTP/1.1 2",
            out: b"GET / HTTP/1.1\r\n\r\n",
            out_sent: if whole { 4 } else { 0 },
            began: true,
            interim: 1,
            sending,
            receiving,
            left: 300,
            patience: if self.full {
                PatienceState { held: Some(65_536), left: 40 }
            } else {
                PatienceState::default()
            },
        }
    }

    fn requests(&mut self) -> Vec<Item<'static>> {
        let mut reader = BodyReader::request(BodyKind::Chunked, 1_000).unwrap();
        reader.next(b"5;x").unwrap();
        let up = Flow::new(reader, BodyKind::Chunked, BodyKind::Chunked).without_trailers(true);
        let length = BodyKind::Length(1 << 40);
        let down = Flow::new(BodyReader::response(length), length, length);
        let close =
            Flow::new(BodyReader::response(BodyKind::UntilClose), BodyKind::UntilClose, BodyKind::Chunked);
        let body =
            |flow| ReceivingState::Body { status: 200, flow, upstream_keeps: true, client_keeps: false };
        let states = [
            (0, SendingState::Whole, ReceivingState::Head { seen: 10 }),
            (1, SendingState::Streaming(up), ReceivingState::Head { seen: 0 }),
            (0, SendingState::Sent, body(down)),
            (1, SendingState::Stopped, body(close)),
        ];
        states
            .map(|(endpoint, sending, receiving)| {
                let kept = self.kept(0, Some(V6), None);
                let proxy = Box::new(self.passing(endpoint, sending, receiving));
                Item::Http(HttpState { kept, phase: PhaseState::Passing(proxy) })
            })
            .into()
    }

    /// A request that waits for an endpoint, and a connection that is held.
    fn held(&mut self) -> Vec<Item<'static>> {
        let kept = self.kept(0, Some(V4), None);
        let dial = DialState {
            endpoint: 0,
            goal: GoalState::Awaited(77),
            reused: false,
            fresh_only: true,
            attempts: 0,
        };
        let proxy = ProxyState {
            dial,
            inbuf: b"",
            out_sent: 0,
            began: false,
            interim: 0,
            client_out: b"",
            ..self.passing(0, SendingState::Whole, ReceivingState::Head { seen: 0 })
        };
        let request = HttpState { kept, phase: PhaseState::Passing(Box::new(proxy)) };
        vec![Item::Http(request), Item::Held(self.client(1, Some(V4), None))]
    }

    fn tunnel(&mut self, kind: TunnelKind) -> Item<'static> {
        let mut ended = BodyReader::response(BodyKind::UntilClose);
        ended.end_of_input().unwrap();
        let read = Flow::new(ended, BodyKind::UntilClose, BodyKind::UntilClose);
        let mut bytes = Vec::new();
        read.write(&mut bytes);
        // As it is read back, it knows that it is at its end.
        let read = Flow::read(&mut Input::new(&bytes)).unwrap();
        Item::Tunnel(Box::new(TunnelState {
            kind,
            client: self.client(u64::from(kind == TunnelKind::Tcp), Some(V4), None),
            dial: self.dial(1, None),
            bytes_in: 5,
            bytes_out: 1 << 33,
            idle: Ticks(36_000).0,
            left: 35_999,
            up: HalfState { flow: Flow::endless(), finished: false },
            down: HalfState { flow: read, finished: kind == TunnelKind::Tcp },
            client_in: b"from the client",
            client_out: b"",
            inbuf: b"",
            out: b"to the endpoint",
        }))
    }

    fn over_tls(&mut self) -> Vec<Item<'static>> {
        let waiting = WaitingState { left: 600, inbuf: b"", seen: 0, bytes_in: 0, since_us: 0 };
        let small = secure([0x13, 0x01], 32, b"");
        let kept = self.kept(2, Some(V4), Some(small));
        let idle = IdleState {
            endpoint: 2,
            socket: self.socket(Some(secure([0x13, 0x02], 48, b"a ticket"))),
            left: 10,
        };
        vec![Item::Http(HttpState { kept, phase: PhaseState::Waiting(waiting) }), Item::Idle(idle)]
    }

    pub(super) fn section(mut self) -> Section<'static> {
        let mut names = Names {
            listeners: vec![listener("web", true), listener("raw", false)],
            endpoints: vec![
                endpoint(Address::Tcp("127.0.0.1:9".parse().unwrap())),
                endpoint(Address::Unix("/nonexistent/endpoint".as_ref())),
            ],
            routes: Vec::new(),
        };
        let mut items = self.waiting();
        items.extend(self.requests());
        items.push(self.tunnel(TunnelKind::Tcp));
        items.push(self.tunnel(TunnelKind::Websocket));
        items.push(Item::Idle(IdleState { endpoint: 0, socket: self.socket(None), left: 600 }));
        if self.newest {
            names.routes = vec!["not there", "every request"];
            items.extend(self.held());
        }
        if self.tls {
            names.listeners.push(ListenerName { tls: true, ..listener("safe", true) });
            let address = Address::Tcp("[2001:db8::7]:443".parse().unwrap());
            names.endpoints.push(EndpointName { kept: false, tls: true, ..endpoint(address) });
            items.extend(self.over_tls());
        }
        let mut section = Section { names, conns: Vec::new(), idle: Vec::new() };
        for item in items {
            match item {
                Item::Idle(idle) => section.idle.push(ParsedIdle::new(idle)),
                item => section.conns.push(Parsed(item)),
            }
        }
        section
    }
}

fn listener(name: &str, http: bool) -> ListenerName<'_> {
    let tcp = Address::Tcp("127.0.0.1:0".parse().unwrap());
    ListenerName { name, address: if http { tcp } else { Address::Abstract("raw") }, http, tls: false }
}

fn endpoint(address: Address<'_>) -> EndpointName<'_> {
    EndpointName { service: "app", address, kept: true, tls: false }
}
