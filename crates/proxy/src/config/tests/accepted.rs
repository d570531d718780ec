//! What is right is understood as documented.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::*;
use super::{LISTENER, World, good, said, with_route};

fn only_action(text: &str) -> Action {
    let mut routes = good(text).config.routes;
    assert_eq!(routes.len(), 1);
    routes.remove(0).action
}

#[test]
fn the_default_serves_hello_world_on_port_8080() {
    let checked = good(DEFAULT);
    assert!(checked.warnings.is_empty(), "{}", said(&checked.warnings));
    let [listener] = checked.config.listeners.as_slice() else { panic!("one listener") };
    assert_eq!(listener.addresses, [ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))]);
    let Action::Fixed(fixed) = &checked.config.routes[0].action else { panic!("fixed") };
    assert_eq!((&*fixed.body, fixed.status), (b"Hello, World!\n".as_slice(), 200));
    assert_eq!(fixed.content_type.as_deref(), Some("text/plain; charset=utf-8"));
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let config = good(&with_route("service = \"app\"")).config;
    let listener = &config.listeners[0];
    assert_eq!((listener.protocol, listener.backlog), (Protocol::Http, 4096));
    assert_eq!(
        listener.limits,
        Limits {
            connections: 10_000,
            header_bytes: 16 * 1024,
            headers: 100,
            target_bytes: 8 * 1024,
            body_bytes: Some(1024 * 1024 * 1024),
        }
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        listener.timeouts,
        Timeouts { header: seconds(10), idle: seconds(60), body: seconds(30), tunnel: seconds(3600) }
    );
    let service = &config.services[0];
    assert_eq!(service.balance, Balance::RoundRobin);
    assert_eq!((service.connect_timeout, service.response_timeout), (seconds(5), seconds(60)));
    assert_eq!(service.keep_alive, KeepAlive { idle: 64, idle_timeout: seconds(60) });
    assert_eq!(service.request_headers, HeaderEdits::default());
    assert_eq!(
        service.forwarded,
        Forwarded { x_forwarded: true, forwarded: false, via: false, incoming: Incoming::Replace }
    );
    assert_eq!(config.control.socket, None);
    assert_eq!((config.control.mode, config.control.history), (0o660, 1000));
    assert_eq!(
        config.log,
        Log { format: LogFormat::Text, to: LogTarget::Stderr, level: LogLevel::Info, access: None }
    );
    assert_eq!((config.metrics, config.drain), (None, Drain { timeout: seconds(30) }));
}

#[test]
fn every_kind_of_address_can_be_listened_on() {
    let text = "[listeners.all]\naddress = [\"0.0.0.0:80\", \"[::]:80\", \"[fe80::1%3]:81\", \"unix:/run/a.sock\", \"unix:b.sock\", \
                \"unix:@name\", \"unix:///run/c.sock\", \"127.0.0.1:0\", \"127.0.0.2:0\"]\nmode = 0o600\n[[routes]]\nfixed = \"x\"\n";
    let addresses = good(text).config.listeners.remove(0).addresses;
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "0.0.0.0:80",
            "[::]:80",
            "[fe80::1%3]:81",
            "unix:/run/a.sock",
            "unix:/etc/handover/b.sock",
            "unix:@name",
            "unix:/run/c.sock",
            "127.0.0.1:0",
            "127.0.0.2:0"
        ]
    );
    assert_eq!(addresses[3], ListenAddress::Unix { path: "/run/a.sock".into(), mode: 0o600 });
}

#[test]
fn a_name_stands_for_all_its_addresses_once_each_in_the_resolvers_order() {
    let text = with_route("service = \"app\"")
        .replace("\"127.0.0.1:3000\"", "[\"localhost:3000\", \"twice.example:1\"]");
    let endpoints = good(&text).config.services.remove(0).endpoints;
    let shown: Vec<Vec<String>> =
        endpoints.iter().map(|e| e.addresses.iter().map(ToString::to_string).collect()).collect();
    assert_eq!(shown, [vec!["[::1]:3000", "127.0.0.1:3000"], vec!["192.0.2.1:1", "192.0.2.2:1"]]);
    assert_eq!(&*endpoints[0].name, "localhost:3000");
}

#[test]
fn a_name_used_by_many_services_is_resolved_once() {
    struct Counting(usize);
    impl Resolve for Counting {
        fn host(&mut self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            self.0 += 1;
            Ok(vec![([127, 0, 0, 1], port).into()])
        }
        fn user(&mut self, _: &str) -> io::Result<Option<u32>> {
            Ok(None)
        }
        fn group(&mut self, _: &str) -> io::Result<Option<u32>> {
            Ok(None)
        }
    }
    let mut text = LISTENER.to_owned();
    for n in 0..10 {
        text.push_str(&format!(
            "[services.s{n}]\nendpoints = \"app.internal:80\"\n[[routes]]\npath = \"/{n}\"\nservice = \"s{n}\"\n"
        ));
    }
    let mut names = Counting(0);
    let mut read = |_: &Path| Err(io::Error::from_raw_os_error(2));
    assert!(parse("x", Path::new("/"), text.as_bytes(), &mut read, &mut names).is_ok());
    assert_eq!(names.0, 1);
}

#[test]
fn short_forms_mean_what_their_long_forms_do() {
    for (short, long) in [
        ("fixed = \"x\"", "fixed = { body = \"x\" }"),
        ("redirect = \"/new\"", "redirect = { to = \"/new\" }"),
        ("directory = \"/srv\"", "directory = { root = \"/srv\" }"),
    ] {
        assert_eq!(only_action(&with_route(short)), only_action(&with_route(long)));
    }
}

#[test]
fn a_redirect_is_split_into_its_pieces() {
    let Action::Redirect(redirect) =
        only_action(&with_route("redirect = { to = \"https://{host}:8443{path}{query}\", status = 301 }"))
    else {
        panic!("redirect");
    };
    assert_eq!(redirect.status, 301);
    let literal = |text: &str| Piece::Literal(text.into());
    assert_eq!(redirect.to, [literal("https://"), Piece::Host, literal(":8443"), Piece::Path, Piece::Query]);
}

#[test]
fn hosts_are_kept_in_lower_case_without_a_dot_at_the_end() {
    let matcher = |host: &str| {
        good(&with_route(&format!("service = \"app\"\nhost = \"{host}\""))).config.routes.remove(0).matcher
    };
    assert_eq!(matcher("Example.ORG.").hosts, [HostPattern::Exact("example.org".into())]);
    assert_eq!(matcher("*.Example.org").hosts, [HostPattern::Below("example.org".into())]);
    assert_eq!(matcher("[0:0::1]").hosts, [HostPattern::Exact("[::1]".into())]);
    assert_eq!(matcher("192.0.2.1").hosts, [HostPattern::Exact("192.0.2.1".into())]);
}

#[test]
fn a_route_without_a_name_gets_one_that_says_what_it_matches() {
    let name =
        |lines: &str| good(&with_route(&format!("service = \"app\"\n{lines}"))).config.routes.remove(0).name;
    assert_eq!(&*name(""), "*");
    assert_eq!(&*name("host = \"example.org\""), "example.org/*");
    assert_eq!(&*name("host = \"*.example.org\"\npath_prefix = \"/api/\""), "*.example.org/api/*");
    assert_eq!(&*name("path_prefix = \"/api\"\nmethod = [\"GET\", \"POST\"]"), "GET,POST /api[/*]");
    assert_eq!(&*name("path = [\"/a\", \"/b\"]\nlisteners = \"web\""), "/a,/b on web");
    assert_eq!(&*name("name = \"hello\""), "hello");
}

#[test]
fn routes_on_different_listeners_do_not_meet() {
    let text = "[listeners.a]\naddress = \"127.0.0.1:1\"\n[listeners.b]\naddress = \"127.0.0.1:2\"\n[listeners.t]\naddress = \"127.0.0.1:3\"\n\
                protocol = \"tcp\"\nservice = \"s\"\n[services.s]\nendpoints = \"127.0.0.1:9\"\n\
                [[routes]]\nlisteners = \"a\"\nfixed = \"a\"\n[[routes]]\nlisteners = [\"b\"]\nfixed = \"b\"\n[[routes]]\npath = \"/x\"\nfixed = \"x\"\n";
    let checked = good(text);
    assert!(checked.warnings.is_empty(), "{}", said(&checked.warnings));
    let on: Vec<&[usize]> = checked.config.routes.iter().map(|route| &*route.matcher.listeners).collect();
    assert_eq!(on, [&[0][..], &[1], &[0, 1]]);
    assert_eq!(checked.config.listeners[2].protocol, Protocol::Tcp { service: 0 });
    assert!(checked.routes.table(2).is_none());
}

#[test]
fn users_and_groups_are_given_by_name_or_number() {
    let text = format!(
        "{LISTENER}[[routes]]\nfixed = \"x\"\n[control]\nsocket = \"run/c.sock\"\nmode = \"0600\"\ngroup = \"ops\"\nstate = \"/var/lib/x\"\n\
         [control.roles]\nadmin = {{ users = [\"alice\", 5, 5], groups = \"ops\" }}\nread.groups = [7]\n"
    );
    let control = good(&text).config.control;
    assert_eq!(control.socket.as_deref(), Some(Path::new("/etc/handover/run/c.sock")));
    assert_eq!((control.mode, control.group), (0o600, Some(2000)));
    assert_eq!(control.roles.admin, Grant { users: vec![5, 1000], groups: vec![2000] });
    assert_eq!(control.roles.read, Grant { users: vec![], groups: vec![7] });
    assert_eq!(control.roles.operate, Grant::default());
}

#[test]
fn logs_go_where_they_are_sent() {
    let log = |lines: &str| good(&format!("{LISTENER}[[routes]]\nfixed = \"x\"\n[log]\n{lines}")).config.log;
    let file = |path: &str| LogTarget::File(path.into());
    assert_eq!(log("to = \"a.log\"\naccess = true").access, Some(file("/etc/handover/a.log")));
    assert_eq!(log("to = \"stdout\"\naccess = \"/var/log/b\"").access, Some(file("/var/log/b")));
    assert_eq!(log("access = false").access, None);
    assert_eq!(
        log("access = \"stdout\"\nformat = \"json\"\nlevel = \"debug\"").access,
        Some(LogTarget::Stdout)
    );
}

#[test]
fn the_same_bytes_give_the_same_configuration_whatever_is_on_disk_by_then() {
    let text = with_route("fixed = { body_file = \"a.html\" }");
    let mut world = World { generous: true, ..World::default() };
    let first = world.parse(&text).unwrap();
    let second = world.parse(&text).unwrap();
    assert_eq!(first.config, second.config);
    assert!(diff(&first.config, &second.config).is_empty());
}
