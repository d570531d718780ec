//! Differences are told by name, in the words of the file.

use super::super::diff;
use super::{World, good};

fn lines(old: &str, new: &str) -> Vec<String> {
    diff(&good(old).config, &good(new).config).iter().map(handover_api::Change::line).collect()
}

const BEFORE: &str = r#"
listeners.web.address = "127.0.0.1:80"
listeners.tcp = { address = "127.0.0.1:81", protocol = "tcp", service = "app" }
services.app.endpoints = ["127.0.0.1:1", "127.0.0.1:2"]
services.old.endpoints = "127.0.0.1:3"
[[routes]]
name = "hello"
path = "/hello"
fixed = "hello"
[[routes]]
path_prefix = "/old/"
service = "old"
[[routes]]
name = "moved"
path = "/moved"
redirect = "/new"
"#;

const AFTER: &str = r#"
drain.timeout = "1m"
log = { access = true, level = "warn" }
metrics.address = "unix:/run/m.sock"
control = { mode = "0600", roles.read.users = [7] }
listeners.new.address = "127.0.0.1:82"
listeners.web = { address = ["127.0.0.1:80", "unix:/run/web.sock"], mode = "0666", limits.body_bytes = "unlimited", timeouts.idle = "2m" }
services.new.endpoints = "127.0.0.1:4"
services.app = { endpoints = ["127.0.0.1:2", "localhost:5"], balance = "least-connections", request_headers.set.X-A = "1", forwarded.via = true }
[[routes]]
name = "moved"
path = "/moved"
method = "GET"
listeners = "new"
directory = "/srv"
[[routes]]
name = "hello"
path = ["/hello", "/hi"]
fixed = { body = "hello, world", status = 201 }
[[routes]]
path_prefix = "/new/"
service = "new"
[[routes]]
path_prefix = "/app"
service = "app"
"#;

#[test]
fn every_change_is_told_once_in_the_words_of_the_file() {
    assert_eq!(
        lines(BEFORE, AFTER),
        [
            "added listener new",
            "changed listener web: address +unix:/run/web.sock (mode 0666), limits.body_bytes 1 GiB → unlimited, timeouts.idle 1m → 2m",
            "removed listener tcp",
            "changed route moved: method +GET, listeners +new −web, a directory instead of a redirect",
            "changed route hello: path +/hi, status 200 → 201, body 5 → 12 bytes",
            "added route /new/*",
            "added route /app[/*]",
            "removed route /old/*",
            "added service new",
            "changed service app: balance round-robin → least-connections, request_headers.set +X-A: 1, forwarded.via false → true",
            "removed service old",
            "added endpoint localhost:5 of app",
            "removed endpoint 127.0.0.1:1 of app",
            "changed setting control.mode: 0660 → 0600",
            "changed setting control.roles.read.users: none → 7",
            "changed setting log.level: info → warn",
            "changed setting log.access: off → stderr",
            "changed setting metrics.address: none → unix:/run/m.sock (mode 0660)",
            "changed setting drain.timeout: 30s → 1m",
        ]
    );
}

#[test]
fn the_other_way_round_what_was_added_is_removed() {
    let (there, back) = (lines(BEFORE, AFTER), lines(AFTER, BEFORE));
    assert_eq!(there.len(), back.len());
    let count = |lines: &[String], word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!(count(&there, "added"), count(&back, "removed"));
    assert_eq!(count(&there, "removed"), count(&back, "added"));
}

#[test]
fn nothing_changes_if_only_the_order_or_the_spelling_does() {
    let same = r#"
[services]
old = { endpoints = ["127.0.0.1:3"] }
app = { endpoints = ["127.0.0.1:1", "127.0.0.1:2"], balance = "round-robin", connect_timeout = "5000ms" }
[[routes]]
redirect = { to = "/new", status = 308 }
name = "moved"
path = ["/moved"]
[[routes]]
path_prefix = "/old/"
service = "old"
[[routes]]
fixed = { body = "hello" }
path = "/hello"
name = "hello"
[listeners.tcp]
service = "app"
protocol = "tcp"
address = ["127.0.0.1:81"]
[listeners.web]
address = "127.0.0.1:80"
limits.header_bytes = 16384
"#;
    assert_eq!(lines(BEFORE, same), Vec::<String>::new());
    assert_eq!(lines(AFTER, AFTER), Vec::<String>::new());
}

#[test]
fn a_body_file_with_other_bytes_is_a_change_of_its_route() {
    let text = "listeners.web.address = \"127.0.0.1:80\"\n[[routes]]\nname = \"page\"\nfixed.body_file = \"page.html\"\n";
    let with = |bytes: &'static [u8]| {
        let mut world = World::default();
        world.files.insert("/etc/handover/page.html".into(), bytes);
        world.parse(text).unwrap().config
    };
    let changes = diff(&with(b"one"), &with(b"three"));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].line(), "changed route page: body 3 → 5 bytes");
}

#[test]
fn endpoints_in_another_order_are_a_change_of_their_service() {
    let text = |endpoints: &str| {
        format!(
            "listeners.t = {{ address = \"127.0.0.1:80\", protocol = \"tcp\", service = \"s\" }}\nservices.s.endpoints = [{endpoints}]\n"
        )
    };
    let changes = lines(&text("\"127.0.0.1:1\", \"127.0.0.1:2\""), &text("\"127.0.0.1:2\", \"127.0.0.1:1\""));
    assert_eq!(changes, ["changed service s: endpoints in another order"]);
}

#[test]
fn a_tcp_listener_that_goes_to_another_service_changed() {
    let text = |service: &str| {
        format!(
            "listeners.t = {{ address = \"127.0.0.1:80\", protocol = \"tcp\", service = \"{service}\" }}\n\
             services.a.endpoints = \"127.0.0.1:1\"\nservices.b.endpoints = \"127.0.0.1:2\"\n"
        )
    };
    assert_eq!(lines(&text("a"), &text("b")), ["changed listener t: protocol tcp to a → tcp to b"]);
}
