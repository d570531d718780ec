//! Stores that answer well, badly, half, too much or not at all.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;

use handover::Bound;
use handover::watch::Source as _;
use handover_testkit::authority::Authority;
use handover_testkit::origin::{Origin, Then};
use handover_testkit::tls::origin_config;

use super::access::{Login, Patience};
use super::*;

/// What the store does with a request.
enum Say {
    Whole(&'static str, Vec<(&'static str, &'static str)>, Vec<u8>),
    /// These bytes, and then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, and then nothing.
    Hang(Vec<u8>),
}

fn ok(body: &str) -> Say {
    Say::Whole("200 OK", Vec::new(), body.as_bytes().to_vec())
}

fn status(status: &'static str) -> Say {
    Say::Whole(status, Vec::new(), b"{\"message\":\"said so\"}".to_vec())
}

fn page(tag: &'static str, body: &str) -> Say {
    Say::Whole("200 OK", vec![("ETag", tag)], body.as_bytes().to_vec())
}

/// An answer of etcd with one value.
fn range(value: &str, changed: u64, now: u64) -> Say {
    use base64::Engine as _;
    let value = base64::engine::general_purpose::STANDARD.encode(value);
    ok(&format!(
        "{{\"header\":{{\"revision\":\"{now}\"}},\"kvs\":[{{\"key\":\"c2l0ZQ==\",\"mod_revision\":\"{changed}\",\
         \"value\":\"{value}\"}}],\"count\":\"1\"}}"
    ))
}

/// A store that says these things, one for each request, and the last one again and again.
fn store(sayings: Vec<Say>) -> Origin {
    let sayings = Mutex::new(VecDeque::from(sayings));
    Origin::with(move |_, answer| {
        let mut sayings = sayings.lock().unwrap();
        let say = if sayings.len() > 1 { sayings.pop_front() } else { None };
        let last = sayings.front();
        match say.as_ref().or(last).unwrap() {
            Say::Whole(status, headers, body) => answer.whole(status, headers, body),
            Say::Raw(bytes) => {
                answer.send(bytes)?;
                Ok(Then::Close)
            }
            Say::Hang(bytes) => {
                let gate = answer.gate("hang");
                answer.send(bytes)?;
                drop(sayings);
                gate.pass();
                Ok(Then::Reset)
            }
        }
    })
}

fn short() -> Access {
    let patience = Patience {
        connect: Duration::from_secs(5),
        answer: Duration::from_millis(300),
        watch: Duration::from_millis(300),
    };
    Access { patience, ..Access::default() }
}

fn patient() -> Access {
    let long = Duration::from_secs(30);
    Access { patience: Patience { connect: long, answer: long, watch: long }, ..Access::default() }
}

fn etcd_with(origin: &Origin, access: Access) -> Store {
    Store::new(Location::parse(&format!("etcd://{}/site", origin.address())).unwrap(), access)
}

fn web_with(origin: &Origin, access: Access) -> Store {
    let url = format!("http://{}/site.toml?token=s3cret", origin.address());
    Store::new(Location::parse(&url).unwrap(), access)
}

#[test]
fn a_value_of_etcd_comes_with_its_revision() {
    let origin = store(vec![range("[listeners]", 42, 50)]);
    let fetched = etcd_with(&origin, patient()).fetch(false).unwrap();
    assert_eq!(fetched.bytes, b"[listeners]");
    assert_eq!(fetched.version.as_deref(), Some("etcd revision 42"));
    let request = &origin.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v3/kv/range"));
    assert_eq!(request.body, b"{\"key\":\"c2l0ZQ==\"}");
    assert_eq!(request.header("authorization"), None);
}

#[test]
fn a_page_comes_with_its_tag_or_its_date_or_neither() {
    let dated =
        Say::Whole("200 OK", vec![("Last-Modified", "Tue, 15 Nov 1994 12:45:26 GMT")], b"two".to_vec());
    let origin = store(vec![page("\"a1b2\"", "one"), dated, ok("three")]);
    let store = web_with(&origin, patient());
    let versions = [(); 3].map(|()| store.fetch(false).unwrap().version);
    let versions: Vec<_> = versions.iter().map(Option::as_deref).collect();
    assert_eq!(versions, [Some("ETag \"a1b2\""), Some("modified Tue, 15 Nov 1994 12:45:26 GMT"), None]);
    assert_eq!(origin.requests()[0].target, "/site.toml?token=s3cret");
}

#[test]
fn a_store_that_cannot_be_reached_is_told_from_one_that_has_nothing_for_us() {
    let unreachable = |words: &'static str| (true, words);
    let refused = |words: &'static str| (false, words);
    let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    let mut huge = head(64 * 1024 * 1024);
    huge.resize(20 * 1024 * 1024, b'x');
    let mut long_head = b"HTTP/1.1 200 OK\r\n".to_vec();
    long_head.resize(1024 * 1024, b'x');
    let cases: Vec<(Say, (bool, &str))> = vec![
        (Say::Hang(Vec::new()), unreachable("no whole answer in time")),
        (Say::Hang(head(100)), unreachable("no whole answer in time")),
        (Say::Raw(Vec::new()), unreachable("cannot be reached")),
        (Say::Raw(head(100)), unreachable("cannot be reached")),
        (Say::Raw(b"220 mail.example ESMTP\r\n".to_vec()), unreachable("cannot be reached")),
        (Say::Raw(long_head), unreachable("cannot be reached")),
        (status("500 Internal Server Error"), unreachable("status 500")),
        (status("503 Service Unavailable"), unreachable("status 503")),
        (status("429 Too Many Requests"), unreachable("status 429")),
        (status("404 Not Found"), refused("status 404")),
        (status("401 Unauthorized"), refused("HANDOVER_SOURCE_USER")),
        (status("403 Forbidden"), refused("HANDOVER_SOURCE_TOKEN")),
        (
            Say::Whole("302 Found", vec![("Location", "http://127.0.0.1:1/elsewhere")], Vec::new()),
            refused("elsewhere"),
        ),
        (Say::Raw(huge), refused("longer than 8 MiB")),
    ];
    for (say, (is_unreachable, words)) in cases {
        // Who hangs is waited for in vain; what comes may take its time on a busy machine.
        let access = || if matches!(say, Say::Hang(_)) { short() } else { patient() };
        let access = [access(), access()];
        let origin = store(vec![say]);
        let [of_web, of_etcd] = access;
        for trouble in [
            web_with(&origin, of_web).fetch(false).unwrap_err(),
            etcd_with(&origin, of_etcd).fetch(false).unwrap_err(),
        ] {
            assert_eq!(matches!(trouble, Trouble::Unreachable(_)), is_unreachable, "{trouble}");
            assert!(trouble.to_string().contains(words), "{words}: {trouble}");
            assert!(!trouble.to_string().contains("s3cret"), "{trouble}");
        }
        origin.gate("hang").open();
    }
}

#[test]
fn nobody_at_the_port_is_said_in_the_systems_words() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("etcd://{}/site", port.local_addr().unwrap());
    drop(port);
    let trouble = Store::new(Location::parse(&url).unwrap(), short()).fetch(false).unwrap_err();
    assert_eq!(trouble.to_string(), "cannot be reached: Connection refused (os error 111)");
}

#[test]
fn answers_that_are_not_etcds_are_not_taken_for_a_configuration() {
    for (body, words) in [
        ("<html>It works!</html>", "is it etcd?"),
        ("{}", "is it etcd?"),
        ("{\"header\":{}}", "no revision"),
        ("{\"header\":{\"revision\":\"1\"},\"kvs\":[{\"value\":\"%%%\",\"mod_revision\":\"1\"}]}", "base64"),
        ("{\"header\":{\"revision\":\"1\"},\"kvs\":[{\"value\":\"YQ==\"}]}", "revision of the key"),
    ] {
        let origin = store(vec![ok(body)]);
        let trouble = etcd_with(&origin, patient()).fetch(false).unwrap_err();
        assert!(matches!(trouble, Trouble::Unreachable(_)), "{trouble}");
        assert!(trouble.to_string().contains(words), "{trouble}");
    }
    let origin = store(vec![ok("{\"header\":{\"revision\":\"1\"}}")]);
    let trouble = etcd_with(&origin, patient()).fetch(false).unwrap_err();
    assert_eq!(trouble, Trouble::refused("there is no such key"));
}

#[test]
fn a_login_is_sent_as_each_store_wants_it() {
    let login = |login| Access { login: Some(login), ..patient() };
    let password = || Login::Password { user: "me".to_owned(), password: "s3cret".to_owned() };
    let origin = store(vec![ok("x")]);
    web_with(&origin, login(password())).fetch(false).unwrap();
    web_with(&origin, login(Login::Token("t0ken".to_owned()))).fetch(false).unwrap();
    let sent: Vec<_> =
        origin.requests().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Basic bWU6czNjcmV0", "Bearer t0ken"]);

    let origin = store(vec![ok("{\"token\":\"abc.1\"}"), range("x", 1, 1)]);
    etcd_with(&origin, login(password())).fetch(false).unwrap();
    let requests = origin.requests();
    assert_eq!(requests[0].target, "/v3/auth/authenticate");
    assert_eq!(requests[0].body, b"{\"name\":\"me\",\"password\":\"s3cret\"}");
    assert_eq!(requests[1].header("authorization"), Some("abc.1"));

    let wrong = "{\"error\":\"etcdserver: authentication failed, invalid user ID or password\"}";
    let origin = store(vec![Say::Whole("400 Bad Request", Vec::new(), wrong.as_bytes().to_vec())]);
    let trouble = etcd_with(&origin, login(password())).fetch(false).unwrap_err();
    assert!(matches!(trouble, Trouble::Refused(_)), "{trouble}");
    assert!(trouble.to_string().contains("invalid user ID"), "{trouble}");
}

#[test]
fn a_store_over_tls_is_checked_by_the_authorities_that_are_named() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    let origin = Origin::tls("secure", origin_config(&ours.pair(&["localhost"]), None));
    let directory = tempfile::tempdir().unwrap();
    let fetch = |name: &str, authority: Option<&Authority>, host: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, authority.map_or("nonsense", |authority| authority.pem())).unwrap();
        let url = format!("https://{host}:{}/", origin.address().port());
        let access = Access { authorities: Some(path), ..patient() };
        Store::new(Location::parse(&url).unwrap(), access).fetch(false)
    };
    assert_eq!(fetch("ours.pem", Some(&ours), "localhost").unwrap().bytes, b"secure\n");
    let trouble = fetch("others.pem", Some(&others), "localhost").unwrap_err().to_string();
    assert!(trouble.contains("cannot be reached: TLS: invalid peer certificate"), "{trouble}");
    let trouble = fetch("ours.pem", Some(&ours), "127.0.0.1").unwrap_err().to_string();
    assert!(trouble.contains("not valid for name"), "{trouble}");
    assert!(matches!(fetch("nonsense.pem", None, "localhost"), Err(Trouble::Refused(_))));
}

#[test]
fn a_page_that_changes_is_news_once_and_another_tag_alone_is_not() {
    let origin = store(vec![
        page("\"1\"", "one"),
        Say::Whole("304 Not Modified", Vec::new(), Vec::new()),
        page("\"2\"", "one"),
        page("\"3\"", "three"),
        page("\"3\"", "three"),
        Say::Whole("304 Not Modified", Vec::new(), Vec::new()),
    ]);
    let store = web_with(&origin, patient());
    store.set_poll(Duration::ZERO);
    store.fetch(false).unwrap();
    assert_eq!(store.wait(), Ok(None), "not modified");
    assert_eq!(store.wait(), Ok(None), "the same bytes");
    assert!(store.wait().unwrap().unwrap().ends_with("/site.toml?… is at ETag \"3\""));
    store.fetch(false).unwrap();
    assert_eq!(store.wait(), Ok(None));
    let asked: Vec<_> =
        origin.requests().iter().map(|request| request.header("if-none-match").map(str::to_owned)).collect();
    let one = || Some("\"1\"".to_owned());
    assert_eq!(asked, [None, one(), one(), one(), None, Some("\"3\"".to_owned())]);
}

/// What etcd says to begin a watch, in a body without an end.
fn watching(events: &str) -> Vec<u8> {
    let created = "{\"result\":{\"header\":{\"revision\":\"50\"},\"created\":true}}\n";
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{created}{events}").into_bytes()
}

#[test]
fn a_watch_of_etcd_begins_where_the_look_before_it_ended() {
    let event =
        "{\"result\":{\"header\":{\"revision\":\"51\"},\"events\":[{\"kv\":{\"mod_revision\":\"51\"}}]}}\n";
    let origin = store(vec![range("x", 42, 50), range("x", 42, 50), Say::Hang(watching(event))]);
    let store = etcd_with(&origin, patient());
    store.fetch(false).unwrap();
    assert!(store.wait().unwrap().is_some());
    let asked = String::from_utf8(origin.requests()[2].body.clone()).unwrap();
    assert_eq!(asked, "{\"create_request\":{\"key\":\"c2l0ZQ==\",\"start_revision\":\"51\"}}");
    origin.gate("hang").open();
}

#[test]
fn what_happened_between_two_watches_and_what_was_compacted_away_is_found() {
    let compacted = "{\"result\":{\"header\":{},\"canceled\":true,\"compact_revision\":\"60\"}}\n";
    let origin = store(vec![
        range("x", 42, 50),
        range("x", 42, 50),
        Say::Hang(watching(compacted)),
        range("y", 55, 70),
    ]);
    let store = etcd_with(&origin, patient());
    store.fetch(false).unwrap();
    assert_eq!(store.wait(), Ok(None));
    assert!(store.wait().unwrap().unwrap().ends_with("is at revision 55"));
    origin.gate("hang").open();
}

#[test]
fn a_silent_watch_is_no_news_and_one_that_ends_is_said() {
    let origin = store(vec![
        range("x", 42, 50),
        range("x", 42, 50),
        Say::Hang(watching("")),
        range("x", 42, 50),
        Say::Raw(watching("")),
        range("x", 42, 50),
        ok("{\"error\":{\"message\":\"etcdserver: no leader\"}}\n"),
        range("x", 42, 50),
        ok("nonsense\n"),
    ]);
    let store = etcd_with(&origin, short());
    store.fetch(false).unwrap();
    assert_eq!(store.wait(), Ok(None));
    origin.gate("hang").open();
    assert!(store.wait().unwrap_err().contains("it ended the watch"));
    assert!(store.wait().unwrap_err().contains("etcdserver: no leader"));
    assert!(store.wait().unwrap_err().contains("cannot be understood"));
}

#[test]
fn a_store_that_failed_is_news_as_soon_as_it_answers_and_one_never_read_is_not() {
    for (answers, news) in
        [(vec![status("500 No"), range("x", 42, 50)], true), (vec![range("x", 42, 50)], false)]
    {
        let origin = store(answers);
        let store = etcd_with(&origin, short());
        if news {
            store.fetch(false).unwrap_err();
        }
        assert_eq!(store.wait().is_ok_and(|what| what.is_some()), news);
    }
    let origin = store(vec![status("500 No"), ok("x")]);
    let store = web_with(&origin, short());
    store.set_poll(Duration::from_secs(3_600));
    store.fetch(false).unwrap_err();
    assert!(store.wait().unwrap().is_some());
}

#[test]
fn what_changed_while_no_worker_was_there_is_news_to_the_next_one() {
    for (serving, news) in [("x", false), ("before", true)] {
        let origin = store(vec![range("x", 42, 50), Say::Hang(watching(""))]);
        let store = etcd_with(&origin, short());
        store.continues(serving.as_bytes());
        assert_eq!(store.wait().unwrap().is_some(), news);
        origin.gate("hang").open();
        let origin = self::store(vec![page("\"1\"", "x")]);
        let store = web_with(&origin, short());
        store.continues(serving.as_bytes());
        assert_eq!(store.wait().unwrap().is_some(), news);
    }
}

#[test]
fn a_dry_run_leaves_the_watch_as_it_was() {
    let origin = store(vec![range("x", 42, 50), range("y", 51, 51)]);
    let store = etcd_with(&origin, patient());
    store.fetch(false).unwrap();
    store.fetch(true).unwrap();
    assert!(store.wait().unwrap().unwrap().ends_with("is at revision 51"));
}

#[test]
fn a_configuration_from_a_store_has_its_url_for_a_name_and_paths_from_the_base() {
    let origin = store(vec![ok("[listeners]")]);
    let url = format!("http://{}/site.toml?token=s3cret", origin.address());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.pem"), "a").unwrap();
    let source = ConfigSource::Store(Location::parse(&url).unwrap());
    let reader = Reader::with(source, directory.path().to_owned(), patient());
    let mut cx = Prepare::stand_alone(1, false, Path::new("/"), |specs| {
        specs.iter().map(|_| Ok(Bound::OnlyChecked)).collect()
    });
    let text = reader.read(&mut cx).unwrap();
    assert_eq!(
        (text.name, &*text.bytes),
        (format!("http://{}/site.toml?…", origin.address()), &b"[listeners]"[..])
    );
    assert_eq!(text.warnings.len(), 1, "it is read without TLS");
    assert_eq!(&*cx.read(Path::new("a.pem")).unwrap(), b"a");
    assert_eq!(cx.given_top(), None);
}
