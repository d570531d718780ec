//! What must hold of route lookup; and that it finds what looking at every route would.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::config::{Action, Config, Matcher, Resolve, Route};

struct NoNames;

impl Resolve for NoNames {
    fn host(&mut self, _: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        Ok(Vec::new())
    }

    fn user(&mut self, _: &str) -> std::io::Result<Option<u32>> {
        Ok(None)
    }

    fn group(&mut self, _: &str) -> std::io::Result<Option<u32>> {
        Ok(None)
    }
}

/// The tables of the given routes, each written as its conditions.
fn routes(conditions: &[&str]) -> Routes {
    let mut text =
        "listeners.a.address = \"127.0.0.1:1\"\nlisteners.b.address = \"127.0.0.1:2\"\n".to_owned();
    for conditions in conditions {
        text.push_str(&format!("[[routes]]\n{conditions}\nfixed = \"x\"\n"));
    }
    let mut read = |_: &std::path::Path| Err(std::io::Error::from_raw_os_error(2));
    match crate::config::parse("test", "/".as_ref(), text.as_bytes(), &mut read, &mut NoNames) {
        Ok(checked) => checked.routes,
        Err(problems) => panic!("{}", problems[0].report()),
    }
}

/// The number of the route that takes a request, -405 or -404.
fn taken(routes: &Routes, host: &str, path: &str, method: &str) -> i64 {
    match routes.table(0).unwrap().lookup(host.as_bytes(), path.as_bytes(), method.as_bytes()) {
        Lookup::Found(found) => found.route.into(),
        Lookup::MethodNotAllowed => -405,
        Lookup::NotFound => -404,
    }
}

#[test]
fn an_exact_host_goes_before_a_longer_pattern_before_a_shorter_one_before_none() {
    let routes = routes(&[
        "path = \"/\"",
        "host = \"*.org\"",
        "host = \"*.example.org\"",
        "host = \"www.example.org\"",
        "host = [\"[::1]\", \"192.0.2.1\"]",
    ]);
    let get = |host| taken(&routes, host, "/", "GET");
    assert_eq!(get("www.example.org"), 3);
    assert_eq!(get("ftp.example.org"), 2);
    assert_eq!(get("a.b.www.example.org"), 2);
    assert_eq!(get("example.org"), 1);
    assert_eq!(get("org"), 0);
    assert_eq!(get("notexample.org"), 1);
    assert_eq!(get("example.com"), 0);
    assert_eq!(get(""), 0);
    assert_eq!(get("[::1]"), 4);
    assert_eq!(get("[::1]:8080"), 4);
    assert_eq!(get("192.0.2.1:80"), 4);
    assert_eq!(taken(&routes, "example.com", "/x", "GET"), -404);
}

#[test]
fn hosts_are_compared_without_case_port_and_final_dot() {
    let routes = routes(&["host = \"WWW.Example.ORG\""]);
    for host in [
        "www.example.org",
        "WWW.EXAMPLE.ORG",
        "www.example.org:8080",
        "www.example.org.",
        "wWw.example.org.:80",
    ] {
        assert_eq!(taken(&routes, host, "/", "GET"), 0, "{host}");
    }
    let long = "a".repeat(300);
    for host in
        ["www.example.org..", "www.example.or", ".www.example.org", "", &long, "[", "[www.example.org", ":80"]
    {
        assert_eq!(taken(&routes, host, "/", "GET"), -404, "{host}");
    }
}

#[test]
fn an_exact_path_goes_before_the_longest_prefix_before_none() {
    let routes = routes(&[
        "name = \"all\"",
        "path_prefix = \"/api\"",
        "path_prefix = \"/api/v2/\"",
        "path = \"/api/v2/exact\"",
        "path_prefix = \"/api/\"",
        "path = \"/api\"",
    ]);
    let get = |path| taken(&routes, "x", path, "GET");
    assert_eq!(get("/"), 0);
    assert_eq!(get("/apix"), 0);
    assert_eq!(get("/API"), 0);
    assert_eq!(get("/api"), 5);
    assert_eq!(get("/api/"), 4);
    assert_eq!(get("/api/x"), 4);
    assert_eq!(get("/api/v2"), 4);
    assert_eq!(get("/api/v2/"), 2);
    assert_eq!(get("/api/v2/x/y"), 2);
    assert_eq!(get("/api/v2/exact"), 3);
    assert_eq!(get("/api/v2/exact/"), 2);
    assert_eq!(get("/api//v2"), 4);
    assert_eq!(get("*"), 0);
    assert_eq!(get(""), 0);
}

#[test]
fn a_prefix_takes_whole_segments_only() {
    let routes = routes(&["path_prefix = \"/api\"", "path_prefix = \"/files/\""]);
    let get = |path| taken(&routes, "x", path, "GET");
    assert_eq!((get("/api"), get("/api/"), get("/api/x"), get("/apix"), get("/ap")), (0, 0, 0, -404, -404));
    assert_eq!((get("/files"), get("/files/"), get("/files/x"), get("/filesx")), (-404, 1, 1, -404));
}

#[test]
fn what_follows_the_prefix_is_empty_or_begins_with_a_slash() {
    let routes =
        routes(&["path_prefix = \"/api\"", "path_prefix = \"/files/\"", "path = \"/exact\"", "host = \"x\""]);
    let rest = |path: &'static str| match routes.table(0).unwrap().lookup(b"", path.as_bytes(), b"GET") {
        Lookup::Found(found) => &path[usize::try_from(found.prefix).unwrap()..],
        other => panic!("{other:?}"),
    };
    assert_eq!((rest("/api"), rest("/api/a"), rest("/files/"), rest("/files/a/b")), ("", "/a", "/", "/a/b"));
    assert_eq!(rest("/exact"), "/exact");
}

#[test]
fn a_listed_method_goes_before_head_under_get_before_any() {
    let routes = routes(&[
        "path = \"/a\"\nmethod = \"GET\"",
        "path = \"/a\"\nmethod = [\"POST\", \"PUT\"]",
        "path = \"/b\"\nmethod = \"GET\"",
        "path = \"/b\"\nmethod = \"HEAD\"",
        "path = \"/c\"\nmethod = \"GET\"",
        "path = \"/c\"",
    ]);
    let get = |path, method| taken(&routes, "x", path, method);
    assert_eq!((get("/a", "GET"), get("/a", "HEAD"), get("/a", "PUT")), (0, 0, 1));
    assert_eq!((get("/a", "DELETE"), get("/a", "get")), (-405, -405));
    assert_eq!((get("/b", "GET"), get("/b", "HEAD")), (2, 3));
    assert_eq!((get("/c", "GET"), get("/c", "HEAD"), get("/c", "POST")), (4, 4, 5));
}

#[test]
fn a_method_that_the_most_specific_route_refuses_goes_on_to_the_next_one() {
    let routes = routes(&[
        "host = \"h\"\npath = \"/a\"\nmethod = \"POST\"",
        "path_prefix = \"/a\"\nmethod = \"GET\"",
        "host = \"*.h\"",
    ]);
    assert_eq!(taken(&routes, "h", "/a", "POST"), 0);
    assert_eq!(taken(&routes, "h", "/a", "GET"), 1);
    assert_eq!(taken(&routes, "h", "/a", "PUT"), -405);
    assert_eq!(taken(&routes, "h", "/b", "PUT"), -404);
    assert_eq!(routes.table(0).unwrap().allowed(b"h", b"/a"), "GET, HEAD, POST");
    assert_eq!(routes.table(0).unwrap().allowed(b"x", b"/a/b"), "GET, HEAD");
    assert_eq!(routes.table(0).unwrap().allowed(b"x", b"/b"), "");
}

#[test]
fn a_listener_has_its_own_routes_and_shares_the_table_of_those_that_have_the_same() {
    let one =
        routes(&["path = \"/a\"\nlisteners = \"a\"", "path = \"/b\"\nlisteners = \"b\"", "path = \"/c\""]);
    assert_eq!(
        (taken(&one, "", "/a", "GET"), taken(&one, "", "/b", "GET"), taken(&one, "", "/c", "GET")),
        (0, -404, 2)
    );
    assert!(!Arc::ptr_eq(one.table(0).unwrap(), one.table(1).unwrap()));
    let same = routes(&["path = \"/a\"", "path = \"/b\"\nlisteners = [\"b\", \"a\"]"]);
    assert!(Arc::ptr_eq(same.table(0).unwrap(), same.table(1).unwrap()));
    assert!(same.table(2).is_none());
}

/// Which of two routes is more specific for a request is decided by this, part by part. `None`: it does not match.
/// The last part is `None` where only the method does not.
type Specificity = ((u8, usize), (u8, usize), Option<u8>);

/// How specific a route is for a request, straight from the words of the documentation.
fn specificity(matcher: &Matcher, host: &str, path: &str, method: &str) -> Option<Specificity> {
    let of_host = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(exact) => (**exact == *host).then_some((2, 0)),
        HostPattern::Below(below) => host.ends_with(&format!(".{below}")).then_some((1, below.len())),
    };
    let of_path = |pattern: &PathPattern| match pattern {
        PathPattern::Exact(exact) => (**exact == *path).then_some((2, 0)),
        PathPattern::Prefix(prefix) if &**prefix == "/" => Some((0, 0)),
        PathPattern::Prefix(prefix) => {
            let below = if prefix.ends_with('/') { prefix.to_string() } else { format!("{prefix}/") };
            (**prefix == *path || path.starts_with(&below)).then_some((1, prefix.len()))
        }
    };
    let none = Some((0, 0));
    let host = if matcher.hosts.is_empty() { none } else { matcher.hosts.iter().filter_map(of_host).max() };
    let path = if matcher.paths.is_empty() { none } else { matcher.paths.iter().filter_map(of_path).max() };
    let lists = |wanted: &str| matcher.methods.iter().any(|method| **method == *wanted);
    let method = match method {
        _ if matcher.methods.is_empty() => Some(0),
        method if lists(method) => Some(2),
        "HEAD" if lists("GET") => Some(1),
        _ => None,
    };
    Some((host?, path?, method))
}

fn scan(config: &Config, host: &str, path: &str, method: &str) -> Result<usize, bool> {
    let matching = config.routes.iter().enumerate().filter_map(|(at, route)| {
        let (host, path, method) = specificity(&route.matcher, host, path, method)?;
        Some(((host, path, method), at))
    });
    let (right, wrong): (Vec<_>, Vec<_>) = matching.partition(|((_, _, method), _)| method.is_some());
    right.into_iter().max_by_key(|(specificity, _)| *specificity).map(|(_, at)| at).ok_or(!wrong.is_empty())
}

fn host_patterns() -> impl Strategy<Value = Vec<HostPattern>> {
    let pattern = prop_oneof![
        "(a|b|c)(\\.(a|b)){0,2}".prop_map(|host| HostPattern::Exact(host.into())),
        "(a|b)(\\.(a|b)){0,2}".prop_map(|host| HostPattern::Below(host.into())),
    ];
    proptest::collection::vec(pattern, 0..3)
}

fn path_patterns() -> impl Strategy<Value = Vec<PathPattern>> {
    let pattern = prop_oneof![
        "(/(a|b|ab)?){1,3}".prop_map(|path| PathPattern::Exact(path.into())),
        "(/(a|b|ab)?){1,3}".prop_map(|path| PathPattern::Prefix(path.into())),
    ];
    proptest::collection::vec(pattern, 0..3)
}

fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let methods = proptest::sample::subsequence(vec!["GET", "HEAD", "POST"], 0..=3);
    let matcher = (host_patterns(), path_patterns(), methods).prop_map(|(hosts, paths, methods)| Matcher {
        hosts,
        paths,
        methods: methods.into_iter().map(Arc::from).collect(),
        listeners: Arc::from([0]),
    });
    proptest::collection::vec(matcher, 0..12)
}

/// A configuration with these routes, without those that meet others.
fn without_conflicts(matchers: Vec<Matcher>) -> (Config, Routes) {
    let mut read = |_: &std::path::Path| Err(std::io::Error::from_raw_os_error(2));
    let default = crate::config::DEFAULT.as_bytes();
    let checked = crate::config::parse("default", "/".as_ref(), default, &mut read, &mut NoNames).unwrap();
    let mut config = Config { routes: Vec::new(), ..checked.config };
    for matcher in matchers {
        config.routes.push(Route { name: "x".into(), matcher, action: Action::Service(0), health: false });
        if !Routes::build_checked(&config).1.is_empty() {
            config.routes.pop();
        }
    }
    let routes = Routes::build(&config);
    (config, routes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn lookup_finds_what_looking_at_every_route_would(
        matchers in matchers(),
        requests in proptest::collection::vec(
            ("((a|b|c)(\\.(a|b)){0,3})?", "(/(a|b|ab)?){1,4}", prop_oneof![Just("GET"), Just("HEAD"), Just("POST"), Just("PUT")]),
            1..60,
        ),
    ) {
        let (config, routes) = without_conflicts(matchers);
        for (host, path, method) in requests {
            let expected = match scan(&config, &host, &path, method) {
                Ok(route) => i64::try_from(route).unwrap(),
                Err(true) => -405,
                Err(false) => -404,
            };
            prop_assert_eq!(taken(&routes, &host, &path, method), expected, "{} {} {}", method, host, path);
        }
    }

    #[test]
    fn any_bytes_can_be_looked_up(
        host in proptest::collection::vec(any::<u8>(), 0..300),
        path in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let routes = routes(&["host = \"*.a\"\npath_prefix = \"/a\"", "path_prefix = \"/b/\""]);
        let found = routes.table(0).unwrap().lookup(&host, &path, b"GET");
        prop_assert_ne!(found, Lookup::MethodNotAllowed);
    }
}

#[test]
fn two_routes_that_claim_the_same_requests_are_a_conflict() {
    let matcher = |hosts: &[HostPattern], methods: &[&str]| Matcher {
        hosts: hosts.to_vec(),
        paths: vec![PathPattern::Prefix("/api".into())],
        methods: methods.iter().map(|method| Arc::from(*method)).collect(),
        listeners: Arc::from([0]),
    };
    let exact = [HostPattern::Exact("a".into())];
    let conflicts = |second: Matcher| {
        let (mut config, _) = without_conflicts(vec![matcher(&exact, &["GET"])]);
        config.routes.push(Route {
            name: "y".into(),
            matcher: second,
            action: Action::Service(0),
            health: false,
        });
        Routes::build_checked(&config).1
    };
    let met = conflicts(matcher(&[HostPattern::Exact("b".into()), exact[0].clone()], &["POST", "GET"]));
    assert_eq!(met, [Conflict { first: 0, second: 1, listener: 0, what: "GET a/api[/*]".to_owned() }]);
    assert_eq!(conflicts(matcher(&exact, &["HEAD"])), []);
    assert_eq!(conflicts(matcher(&exact, &[])), []);
    assert_eq!(conflicts(matcher(&[HostPattern::Below("a".into())], &["GET"])), []);
}
