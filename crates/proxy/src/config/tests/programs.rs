//! Programs: what is made of their tables, what the disk is looked at for, what differs, and the order in which they start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handover::Address;
use handover::program::{
    Accept, CommandSpec, Pass, Private, ProgramSocket, ProgramSpec, Ready, Reload, ResourceLimits, Restart,
    RestartPolicy, Slot, Stop, Swap, User,
};
use handover_api::Problem;
use proptest::prelude::*;

use super::super::{Action, Config, Standing, diff};
use super::{BASE, World, bad, good, said};

fn program(lines: &str) -> ProgramSpec {
    spec(&format!("[program.web]\n{lines}\n"))
}

fn spec(text: &str) -> ProgramSpec {
    let checked = good(text);
    assert!(checked.warnings.is_empty(), "{}", said(&checked.warnings));
    checked.config.programs[0].spec.clone()
}

fn tcp(text: &str) -> Address {
    Address::Tcp(text.parse().unwrap())
}

#[test]
fn a_command_alone_has_the_usual_for_all_else() {
    let expected = ProgramSpec {
        name: "web".to_owned(),
        command: vec!["worker".to_owned()],
        directory: Some(PathBuf::from(BASE)),
        environment: BTreeMap::new(),
        clear_environment: false,
        user: None,
        limits: ResourceLimits::default(),
        sockets: Vec::new(),
        pass: Pass::default(),
        private: None,
        copies: 1,
        swap: Swap::Overlap,
        slots: Vec::new(),
        hook: None,
        ready: Ready::After(Duration::from_secs(1)),
        ready_limit: Duration::from_secs(30),
        settle: Duration::from_secs(1),
        reload: None,
        reload_check: None,
        stop: Stop { signal: 15, limit: Duration::from_secs(10) },
        restart: Restart {
            policy: RestartPolicy::Always,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(30),
            reset: Duration::from_secs(10),
        },
        after: Vec::new(),
        accept: Accept::Program,
        on_demand: false,
        idle: None,
        warm: Duration::from_secs(600),
        batch: 1,
        max_unhealthy: 0,
        max_held: 10_000,
        pause_limit: Duration::from_secs(30),
    };
    assert_eq!(program("command = \"worker\""), expected);
    assert_eq!(good("[program.web]\ncommand = \"worker\"\n").config.programs[0].backlog, 4096);
}

/// A program with almost every key.
const WHOLE: &str = r#"
[program.web]
command = ["gunicorn", "app:app"]
directory = "app"
environment = { A = "1", B = "2" }
clear_environment = true
user = "alice"
group = "ops"
limits = { nofile = 4096, memory = "512 MB", cpu = "150%", processes = 7 }
listen = { http = "127.0.0.1:8000", admin = "unix:admin.sock" }
mode = "0600"
fd_env = "FDS"
fd = 7
slots = ["releases/a", { name = "green", directory = "/srv/b", command = ["podman", "run", "b"], environment = { C = "3" } }]
hook = ["make", "install"]
ready = { http = "/health", host = "shop", status = 204, address = "127.0.0.1:9000" }
ready_timeout = "5s"
settle = "0s"
reload = { command = ["ctl", "reload"], timeout = "3s" }
reload_check = { command = "check", timeout = "4s" }
stop = "SIGINT"
restart = "on-failure"
on_demand = true
idle = "5m"
batch = 1
max_held = 5
"#;

#[test]
fn everything_that_is_written_arrives() {
    let spec = spec(WHOLE);
    let words = |text: &[&str]| text.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let command =
        |text: &[&str], seconds| CommandSpec { command: words(text), limit: Duration::from_secs(seconds) };
    assert_eq!(spec.directory.as_deref(), Some(Path::new("/etc/handover/app")));
    assert_eq!(
        spec.environment.into_iter().map(|(name, value)| name + &value).collect::<Vec<_>>(),
        ["A1", "B2"]
    );
    assert!(spec.clear_environment && spec.on_demand);
    let user = User {
        name: Some("alice".to_owned()),
        uid: 1000,
        gid: 2000,
        groups: vec![3000, 2000],
        home: Some("/home/alice".into()),
    };
    assert_eq!(spec.user, Some(user));
    let limits =
        ResourceLimits { nofile: Some(4096), memory: Some(512_000_000), cpu: Some(1500), processes: Some(7) };
    assert_eq!(spec.limits, limits);
    let admin = Address::Unix { path: "/etc/handover/admin.sock".into(), mode: 0o600 };
    assert_eq!(
        spec.sockets,
        [
            ProgramSocket { address: tcp("127.0.0.1:8000"), name: "http".to_owned() },
            ProgramSocket { address: admin, name: "admin".to_owned() },
        ]
    );
    assert_eq!(
        spec.pass,
        Pass { listen_fds: false, fd_env: Some("FDS".to_owned()), first_fd: 7, ..Pass::default() }
    );
    let [a, green] = spec.slots.as_slice() else { panic!("{:?}", spec.slots) };
    let expected =
        Slot { name: "a".to_owned(), directory: Some("/etc/handover/releases/a".into()), ..Slot::default() };
    assert_eq!(*a, expected);
    let expected = Slot {
        name: "green".to_owned(),
        directory: Some("/srv/b".into()),
        command: Some(words(&["podman", "run", "b"])),
        environment: [("C".to_owned(), "3".to_owned())].into(),
    };
    assert_eq!(*green, expected);
    assert_eq!(spec.hook, Some(command(&["make", "install"], 60)));
    let ready = Ready::Http {
        path: "/health".to_owned(),
        host: "shop".to_owned(),
        status: Some(204),
        address: Some(tcp("127.0.0.1:9000")),
    };
    assert_eq!((spec.ready, spec.ready_limit, spec.settle), (ready, Duration::from_secs(5), Duration::ZERO));
    assert_eq!(spec.reload, Some(Reload::Command(command(&["ctl", "reload"], 3))));
    assert_eq!(spec.reload_check, Some(command(&["check"], 4)));
    assert_eq!((spec.stop.signal, spec.restart.policy), (2, RestartPolicy::OnFailure));
    assert_eq!((spec.idle, spec.max_held), (Some(Duration::from_secs(300)), 5));
}

#[test]
fn what_a_word_stands_for_is_what_the_table_says() {
    let listen = "command = \"x\"\nlisten = \"127.0.0.1:1\"\n";
    for (lines, expected) in [
        ("", Ready::Tcp { address: None }),
        ("ready = \"tcp\"", Ready::Tcp { address: None }),
        ("ready = { tcp = true }", Ready::Tcp { address: None }),
        ("ready = \"notify\"", Ready::Notify),
        ("ready = { after = \"2s\" }", Ready::After(Duration::from_secs(2))),
        (
            "ready = { command = [\"x\"] }",
            Ready::Command(CommandSpec { command: vec!["x".to_owned()], limit: Duration::from_secs(10) }),
        ),
    ] {
        assert_eq!(program(&format!("{listen}{lines}")).ready, expected, "{lines}");
    }
    for (lines, expected) in [
        ("reload = \"notify\"", Reload::Notify { signal: 1 }),
        ("reload = { notify = \"USR2\" }", Reload::Notify { signal: 12 }),
        ("reload = { signal = \"hup\" }", Reload::Signal { signal: 1 }),
        (
            "reload = { http = \"/reload\" }",
            Reload::Http {
                path: "/reload".to_owned(),
                host: "localhost".to_owned(),
                limit: Duration::from_secs(30),
            },
        ),
    ] {
        assert_eq!(program(&format!("{listen}{lines}")).reload, Some(expected), "{lines}");
    }
    assert_eq!(
        program(&format!("{listen}accept = \"each\"\nmax_per_second = 9")).accept,
        Accept::Each { processes: 64, per_second: 9 }
    );
    let wait = program(&format!("{listen}accept = \"wait\""));
    assert_eq!((wait.accept, wait.ready), (Accept::Wait, Ready::After(Duration::ZERO)));
    let shared = program("command = \"x\"\nlisten = \"unix:/run/x.sock\"");
    assert_eq!(shared.ready, Ready::Tcp { address: None });
}

/// A listener, a route to the program, and the program.
fn routed(lines: &str) -> ProgramSpec {
    spec(&format!(
        "listeners.l.address = \"127.0.0.1:80\"\n[[routes]]\nprogram = \"web\"\n[program.web]\n{lines}\n"
    ))
}

#[test]
fn what_a_route_leads_to_has_an_address_of_its_own_as_the_command_says() {
    for (lines, expected) in [
        ("command = \"x\"", Private::Socket),
        ("command = [\"x\", \"--port={port}\"]", Private::Port),
        ("command = \"x\"\nenvironment = { PORT = \"{port}\" }", Private::Port),
        ("command = [\"x\", \"{socket}\"]", Private::Path),
        ("command = [\"x\", \"fd://{fd}\"]", Private::Socket),
        ("command = [\"x\", \"{{port}}\"]", Private::Socket),
        ("command = [\"x\", \"{port}\"]\nlisten = \"127.0.0.1:1\"", Private::Socket),
        ("command = [\"x\", \"{socket}\"]\nprivate = \"path\"", Private::Path),
        ("command = \"x\"\nslots = [{ name = \"a\", command = [\"y\", \"{port}\"] }, \"b\"]", Private::Port),
    ] {
        assert_eq!(routed(lines).private, Some(expected), "{lines}");
    }
    assert_eq!(routed("command = \"x\"").ready, Ready::Tcp { address: None });
}

#[test]
fn a_route_to_a_program_has_a_service_of_its_own_or_the_one_of_that_name() {
    let text = "listeners.l.address = \"127.0.0.1:80\"\nservices.other.endpoints = \"127.0.0.1:1\"\n\
                [[routes]]\npath = \"/other\"\nservice = \"other\"\n[[routes]]\nprogram = \"web\"\nhealth = true\n\
                [[routes]]\npath = \"/job\"\nprogram = \"job\"\n[[routes]]\npath = \"/web\"\nprogram = \"web\"\n\
                [program.job]\ncommand = \"x\"\n[program.web]\ncommand = \"x\"\n";
    let config = good(text).config;
    let to = |config: &Config| -> Vec<(String, Option<String>, bool)> {
        let service = |route: &super::super::Route| match route.action {
            Action::Service(at) => {
                let service = &config.services[at];
                (service.name.to_string(), service.program.as_deref().map(str::to_owned), route.health)
            }
            ref other => panic!("{other:?}"),
        };
        config.routes.iter().map(service).collect()
    };
    let web = |health| ("web".to_owned(), Some("web".to_owned()), health);
    let job = ("job".to_owned(), Some("job".to_owned()), false);
    assert_eq!(to(&config), [("other".to_owned(), None, false), web(true), job.clone(), web(false)]);
    assert_eq!(config.services.len(), 3);
    let own = format!("services.web = {{ program = \"web\", balance = \"least-connections\" }}\n{text}");
    let config = good(&own).config;
    assert_eq!(to(&config), [("other".to_owned(), None, false), web(true), job, web(false)]);
    assert_eq!((config.services.len(), config.services[0].endpoints.len()), (3, 0));
}

/// What is said about a program on a disk with these things, and only these.
fn on_disk(lines: &str, disk: &[(&str, Standing)]) -> (Vec<Problem>, Vec<Problem>) {
    let disk = disk.iter().map(|(path, standing)| (PathBuf::from(path), *standing)).collect();
    let mut world = World { disk: Some(disk), ..World::default() };
    match world.parse(format!("[program.web]\n{lines}\n")) {
        Ok(checked) => (Vec::new(), checked.warnings),
        Err(problems) => (problems, Vec::new()),
    }
}

#[test]
fn a_command_that_could_not_be_started_is_refused_by_name() {
    use Standing::{Directory, Executable, Other};
    let all = [
        ("/usr/bin/node", Executable),
        ("/etc/handover", Directory),
        ("/etc/handover/run.sh", Executable),
        ("/etc/handover/text", Other),
        ("/etc/handover/app", Directory),
        ("/etc/handover/app/run", Executable),
        ("/bin/data", Other),
    ];
    for (lines, expected) in [
        ("command = \"node\"", None),
        ("command = \"./run.sh\"", None),
        ("command = \"/usr/bin/node\"", None),
        ("command = \"./run\"\ndirectory = \"app\"", None),
        ("command = \"{directory}/anything\"", None),
        ("command = \"nodejs\"", Some("there is no command \"nodejs\" in PATH")),
        ("command = \"data\"", Some("/bin/data cannot be executed by anybody")),
        ("command = \"./run\"", Some("there is no command /etc/handover/run")),
        ("command = \"./text\"", Some("/etc/handover/text cannot be executed by anybody")),
        ("command = \"./app\"", Some("/etc/handover/app is a directory, not a command")),
        (
            "command = \"node\"\nenvironment = { PATH = \"/opt\" }",
            Some("there is no command \"node\" in PATH"),
        ),
        ("command = \"node\"\ndirectory = \"gone\"", Some("/etc/handover/gone does not exist")),
        ("command = \"node\"\ndirectory = \"text\"", Some("/etc/handover/text is not a directory")),
    ] {
        let (problems, _) = on_disk(lines, &all);
        let details: Vec<&str> = problems.iter().map(|problem| problem.detail.as_str()).collect();
        assert_eq!(details, expected.as_slice(), "{lines}");
        assert!(problems.iter().all(|problem| problem.line.is_some()), "{lines}");
    }
}

#[test]
fn the_first_slot_must_be_there_and_the_next_one_may_come_later() {
    use Standing::{Directory, Executable};
    let slots = "command = \"./run\"\nslots = [\"a\", \"b\"]";
    let (a, b) = ("/etc/handover/a", "/etc/handover/b");
    let (problems, warnings) = on_disk(slots, &[(a, Directory), ("/etc/handover/a/run", Executable)]);
    assert!(problems.is_empty(), "{}", said(&problems));
    let [warning] = warnings.as_slice() else { panic!("{}", said(&warnings)) };
    assert_eq!(warning.detail, "/etc/handover/b does not exist: it must before it is deployed");
    let (problems, _) = on_disk(slots, &[(b, Directory)]);
    let details: Vec<&str> = problems.iter().map(|problem| problem.detail.as_str()).collect();
    // One mistake: no command could be there.
    assert_eq!(details, ["/etc/handover/a does not exist"]);
}

#[test]
fn a_word_in_braces_that_is_nearly_one_of_ours_is_a_warning() {
    for (word, near) in
        [("{fdd}", Some("{fd}")), ("x:{prot}", Some("{port}")), ("{print}", None), ("{{fdd}}", None)]
    {
        let checked =
            good(&format!("[program.web]\ncommand = [\"x\", \"{word}\"]\nlisten = \"127.0.0.1:80\"\n"));
        let details: Vec<&str> = checked.warnings.iter().map(|warning| warning.detail.as_str()).collect();
        match near {
            Some(near) => {
                assert!(details[0].ends_with(&format!("as it is (did you mean {near}?)")), "{details:?}")
            }
            None => assert!(details.is_empty(), "{details:?}"),
        }
    }
}

#[test]
fn a_socket_of_a_program_is_told_apart_from_all_other_addresses() {
    for other in [
        "listeners.l.address = \"127.0.0.1:80\"",
        "listeners.l.address = \"0.0.0.0:80\"",
        "metrics.address = \"127.0.0.1:80\"",
        "program.other = { command = \"y\", listen = \"127.0.0.1:80\" }",
    ] {
        let problems =
            bad(&format!("{other}\n[program.web]\ncommand = \"x\"\nlisten = [\"127.0.0.1:80\"]\n"));
        let [problem] = problems.as_slice() else { panic!("{other}: {}", said(&problems)) };
        assert!(problem.detail.contains("cannot be bound beside another address"), "{problem}");
    }
}

#[test]
fn a_word_that_is_none_is_answered_with_the_words_and_with_the_tables_that_there_are() {
    for (line, help) in [
        ("ready = \"http\"", "there are \"notify\" and \"tcp\", or a table: { http = \"/health\" }, "),
        ("reload = \"HUP\"", "there is only \"notify\", or a table: { signal = \"HUP\" }, "),
    ] {
        let problems = bad(&format!("[program.web]\ncommand = \"x\"\nlisten = \"127.0.0.1:80\"\n{line}\n"));
        let [problem] = problems.as_slice() else { panic!("{line}: {}", said(&problems)) };
        assert!(problem.help.as_deref().is_some_and(|said| said.starts_with(help)), "{problem:?}");
    }
}

#[test]
fn values_of_variables_are_never_told() {
    let text = |value: &str, more: &str| {
        format!("[program.web]\ncommand = \"x\"\nenvironment = {{ KEY = \"{value}\"{more} }}\n")
    };
    let lines = |old: &str, new: &str| -> Vec<String> {
        diff(&good(old).config, &good(new).config).iter().map(handover_api::Change::line).collect()
    };
    let told = lines(&text("s3cret", ""), &text("other", ", B = \"hidden\""));
    assert_eq!(told, ["changed program web: environment +B, environment KEY changed"]);
    let slot = |value: &str| {
        let slots = format!("[{{ name = \"a\", environment = {{ KEY = \"{value}\" }} }}, \"b\"]");
        format!("[program.web]\ncommand = \"x\"\nslots = {slots}\n")
    };
    assert_eq!(
        lines(&slot("s3cret"), &slot("other")),
        ["changed program web: slots.a.environment KEY changed"]
    );
    let problems = World::default().parse(text("s3cret", ", HANDOVER_X = \"1\"")).unwrap_err();
    assert_eq!(problems.len(), 1);
}

/// A program with other values than the usual for every key, as far as they go together.
const UNUSUAL: &str = r#"
listeners.l.address = "127.0.0.1:80"
[[routes]]
program = "web"
[program.web]
command = ["web", "c", "{port}"]
directory = "/srv"
clear_environment = true
user = "alice"
limits = { nofile = 100, memory = "1 GiB", cpu = "50%", processes = 9 }
listen = "unix:/run/web.sock"
mode = "0600"
backlog = 5
listen_fds = false
fd_env = "FDS"
fd = 4
private = "port"
copies = 3
slots = ["a", "b"]
hook = "make"
ready = { command = "check" }
ready_timeout = "1m"
settle = "2s"
reload = { signal = "HUP" }
reload_check = "check"
stop = { signal = "INT", timeout = "1m" }
restart = { policy = "never", first = "1s", longest = "1m", reset = "1m" }
after = "db"
on_demand = true
idle = "5m"
warm = "1m"
batch = 2
max_unhealthy = 1
max_held = 7
[program.db]
command = "db"
"#;

#[test]
fn every_difference_of_a_program_is_told_in_the_words_of_the_file() {
    let before = "[program.gone]\ncommand = \"x\"\n[program.web]\ncommand = [\"web\", \"a b\"]\n";
    let both = (good(before).config, good(UNUSUAL).config);
    let lines: Vec<String> = diff(&both.0, &both.1).iter().map(handover_api::Change::line).collect();
    assert_eq!(lines[0], "added listener l");
    let [changed, added, removed] = &lines[lines.len() - 3..] else { panic!("{lines:?}") };
    assert_eq!((added.as_str(), removed.as_str()), ("added program db", "removed program gone"));
    for part in [
        "changed program web: command web \"a b\" → web c {port}",
        "directory /etc/handover → /srv",
        "clear_environment false → true",
        "user none → alice (1000:3000, groups 3000, /home/alice)",
        "limits.nofile none → 100",
        "limits.memory none → 1 GiB",
        "limits.cpu none → 50%",
        "limits.processes none → 9",
        "listen +unix:/run/web.sock (mode 0600, web)",
        "backlog 4096 → 5",
        "listen_fds true → false",
        "fd_env none → FDS",
        "fd 3 → 4",
        "private none → port",
        "copies 1 → 3",
        "slots +a +b",
        "hook none → make (within 1m)",
        "ready after 1s → command check (within 10s)",
        "ready_timeout 30s → 1m",
        "settle 1s → 2s",
        "reload none → signal HUP",
        "reload_check none → check (within 1m)",
        "stop.signal TERM → INT",
        "stop.timeout 10s → 1m",
        "restart.policy always → never",
        "restart.first 100ms → 1s",
        "restart.longest 30s → 1m",
        "restart.reset 10s → 1m",
        "after +db",
        "on_demand false → true",
        "idle none → 5m",
        "warm 10m → 1m",
        "batch 1 → 2",
        "max_unhealthy 0 → 1",
        "max_held 10000 → 7",
    ] {
        assert!(changed.contains(part), "{part} in {changed}");
    }
    // The service that the route implies goes without saying.
    assert!(!lines.iter().any(|line| line.contains("service")), "{lines:?}");
    assert!(diff(&both.1, &both.1).is_empty());
}

#[test]
fn a_row_of_a_thousand_programs_is_no_circle_and_its_end_makes_it_one() {
    let row = |last: &str| {
        let mut text: String =
            (1..1000).map(|n| format!("[program.p{n}]\ncommand = \"x\"\nafter = \"p{}\"\n", n - 1)).collect();
        text.push_str(&format!("[program.p0]\ncommand = \"x\"\n{last}"));
        text
    };
    assert_eq!(good(&row("")).config.programs.len(), 1000);
    let problems = bad(&row("after = \"p999\"\n"));
    let [problem] = problems.as_slice() else { panic!("{}", said(&problems)) };
    assert!(problem.detail.starts_with("programs wait for each other: "), "{problem}");
    assert!(problem.detail.len() < 200, "{problem}");
}

/// Whether the programs can be started one after the other.
fn can_be_ordered(after: &[Vec<usize>]) -> bool {
    let mut started = vec![false; after.len()];
    loop {
        let next =
            (0..after.len()).find(|at| !started[*at] && after[*at].iter().all(|first| started[*first]));
        match next {
            Some(at) => started[at] = true,
            None => return started.iter().all(|started| *started),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn programs_are_refused_if_and_only_if_they_cannot_be_started_one_after_the_other(
        edges in proptest::collection::vec((0..7_usize, 0..7_usize), 0..12)
    ) {
        let mut after = vec![Vec::new(); 7];
        for (from, to) in edges {
            if from != to && !after[from].contains(&to) {
                after[from].push(to);
            }
        }
        let mut text = String::new();
        for (at, firsts) in after.iter().enumerate() {
            text.push_str(&format!("[program.p{at}]\ncommand = \"x\"\n"));
            if !firsts.is_empty() {
                let names: Vec<String> = firsts.iter().map(|first| format!("\"p{first}\"")).collect();
                text.push_str(&format!("after = [{}]\n", names.join(", ")));
            }
        }
        prop_assert_eq!(World::default().parse(&text).is_ok(), can_be_ordered(&after), "{}", text);
    }

    #[test]
    fn a_program_that_is_accepted_can_be_told_to_the_supervisor_and_back(
        keys in proptest::sample::subsequence(KEYS.to_vec(), 0..KEYS.len())
    ) {
        let text = format!("[program.web]\ncommand = [\"x\", \"y\"]\n{}\n", keys.join("\n"));
        match World::default().parse(&text) {
            Ok(checked) => {
                let spec = &checked.config.programs[0].spec;
                let json = serde_json::to_string(spec).unwrap();
                prop_assert_eq!(&serde_json::from_str::<ProgramSpec>(&json).unwrap(), spec);
                prop_assert!(diff(&checked.config, &checked.config).is_empty());
                prop_assert!(spec.idle.is_none() || spec.on_demand);
                prop_assert!(spec.swap == Swap::Overlap || spec.copies == 1);
                prop_assert!(spec.accept == Accept::Program || !spec.sockets.is_empty());
                prop_assert!(spec.max_unhealthy == 0 || spec.max_unhealthy < spec.copies);
            }
            Err(problems) => prop_assert!(problems.iter().all(|problem| problem.line.is_some())),
        }
    }
}

/// Lines that may stand beside each other, or may not.
const KEYS: [&str; 16] = [
    "listen = \"127.0.0.1:1\"",
    "copies = 2",
    "swap = \"stop-first\"",
    "on_demand = true",
    "idle = \"1m\"",
    "accept = \"each\"",
    "ready = \"notify\"",
    "reload = { http = \"/\" }",
    "max_unhealthy = 1",
    "private = \"socket\"",
    "environment = { A = \"{port}\" }",
    "slots = [\"a\", \"b\"]",
    "user = \"alice\"",
    "limits = { memory = \"1 GiB\" }",
    "stop = \"INT\"",
    "fd = 9",
];
