//! What is wrong is refused, all of it at once, at its place.

use super::{BASE, World, bad, golden, good, said, source, with_route};

/// Runs every configuration of a directory, and compares what is said about it.
fn each(directory: &str, say: impl Fn(&str) -> String) {
    let directory = source("src/config/tests").join(directory);
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    names.sort();
    assert!(names.len() >= 3, "the configurations are gone");
    for path in names {
        let text = std::fs::read_to_string(&path).unwrap();
        golden(&path.with_extension("txt"), &say(&text));
    }
}

#[test]
fn every_mistake_of_a_file_is_reported_at_once_with_its_place() {
    each("broken", |text| said(&bad(text)));
}

#[test]
fn what_is_odd_is_accepted_with_a_warning_at_its_place() {
    each("odd", |text| {
        let warnings = good(text).warnings;
        assert!(!warnings.is_empty(), "nothing is odd about {text}");
        said(&warnings)
    });
}

#[test]
fn a_body_file_that_is_missing_is_refused_like_a_syntax_error_with_its_errno() {
    let problems = bad(&with_route("fixed = { body_file = \"pages/gone.html\" }"));
    let [problem] = problems.as_slice() else { panic!("{}", said(&problems)) };
    assert_eq!(problem.place().as_deref(), Some("handover.toml:6:23"));
    assert_eq!(problem.pointer.as_deref(), Some("/routes/0/fixed/body_file"));
    assert_eq!(
        problem.detail,
        format!("cannot read {BASE}/pages/gone.html: No such file or directory (os error 2)")
    );
}

#[test]
fn a_port_found_in_use_after_parsing_is_reported_at_its_address() {
    let text = "[listeners.web]\naddress = [\n  \"127.0.0.1:80\",\n  \"[::1]:80\",\n]\nservice = \"x\"\nprotocol = \"tcp\"\n\
                [services.x]\nendpoints = \"127.0.0.1:1\"\n[metrics]\naddress = \"127.0.0.1:9\"\n";
    let spans = good(text).spans;
    let problem = spans.problem_for_listener("web", 1, "address already in use by nginx (pid 123)");
    assert_eq!(problem.place().as_deref(), Some("handover.toml:4:3"));
    assert_eq!(problem.pointer.as_deref(), Some("/listeners/web/address/1"));
    assert!(problem.excerpt.is_some_and(|excerpt| excerpt.contains("^^^^^^^^^^")));
    // A single address stands for the list that it would be.
    let problem = spans.problem_for_metrics(0, "address already in use");
    assert_eq!(problem.place().as_deref(), Some("handover.toml:11:11"));
    // What the file does not have is pointed at as nearly as can be.
    let problem = spans.problem("/services/x/connect_timeout", "too short");
    assert_eq!(problem.place().as_deref(), Some("handover.toml:8:1"));
    assert_eq!(spans.problem("/nothing/here", "lost").place().as_deref(), Some("handover.toml"));
}

#[test]
fn a_file_that_is_not_text_is_refused_at_the_first_wrong_byte() {
    let problems = World::default().parse(b"[drain]\n# caf\xe9\n").unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].place().as_deref(), Some("handover.toml:2:6"));
}

#[test]
fn a_file_beyond_the_size_limit_is_refused_unread() {
    let problems = World::default().parse(vec![b'#'; super::super::MAX_CONFIG_BYTES + 1]).unwrap_err();
    assert!(problems[0].detail.contains("at most 33554432 are read"), "{}", problems[0]);
}

#[test]
fn many_mistakes_are_counted_and_the_first_ones_shown() {
    for count in [1000, 30_000] {
        let text = with_route("service = \"app\"") + &"[[routes]]\nservice = \"ap\"\n".repeat(count);
        let problems = bad(&text);
        let shown = super::super::MAX_PROBLEMS;
        assert_eq!(problems.len(), shown + 1);
        assert_eq!(problems[0].line, Some(8));
        assert_eq!(problems[shown].detail, format!("{} more problems are not shown", count - shown));
    }
}

#[test]
fn a_flood_of_warnings_hides_no_mistake() {
    let star = |n: usize| format!("[[routes]]\npath = \"/{n}/*\"\nservice = \"app\"\n");
    let text = with_route("service = \"app\"") + &(0..12_000).map(star).collect::<String>();
    assert_eq!(good(&text).warnings.len(), super::super::MAX_PROBLEMS + 1);
    assert_eq!(bad(&(text + "[drain]\ntimeout = 5\n")).len(), 1);
}

#[test]
fn more_routes_than_can_be_served_are_refused() {
    let route = |n: usize| format!("[[routes]]\npath = \"/{n}\"\nservice = \"app\"\n");
    let problems = bad(&(with_route("service = \"app\"") + &(0..100_000).map(route).collect::<String>()));
    let [problem] = problems.as_slice() else { panic!("{}", said(&problems)) };
    assert_eq!(problem.detail, "there are 100001, and at most 100000 are read");
    assert_eq!(problem.pointer.as_deref(), Some("/routes/100000"));
}

#[test]
fn a_line_of_a_megabyte_is_shown_in_part() {
    let text = with_route(&format!(
        "service = \"app\"\nhost = [{}\"bad host\"]",
        (0..80_000).map(|n| format!("\"h{n}.example\", ")).collect::<String>()
    ));
    let problems = bad(&text);
    let last = problems.last().unwrap();
    assert!(last.excerpt.as_ref().unwrap().len() < 2000, "{}", last.excerpt.as_ref().unwrap().len());
    assert!(last.excerpt.as_ref().unwrap().contains("\"bad host\""));
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let problems = bad(&with_route("service = \"app\"\nhost = \"\\u001b[2J\"\n# \u{1b}[2J"));
    assert!(!problems.is_empty());
    for problem in problems {
        assert!(!problem.report().chars().any(|c| c.is_control() && c != '\n'), "{:?}", problem.report());
    }
}

#[test]
fn route_tables_that_would_not_fit_into_memory_are_refused() {
    let list = |what: &str| (0..1500).map(|n| format!("\"{what}{n}\"")).collect::<Vec<_>>().join(",");
    let problems =
        bad(&with_route(&format!("service = \"app\"\nhost = [{}]\npath = [{}]", list("h"), list("/p"))));
    assert!(problems[0].detail.contains("2250000 entries"), "{}", said(&problems));
}

#[test]
fn files_are_read_through_the_given_function_only_and_relative_to_the_configuration() {
    let mut world = World::default();
    world.files.insert("/etc/handover/pages/a.html".into(), b"<p>a");
    world.files.insert("/srv/b.json".into(), b"{}");
    let checked = world
        .parse(with_route(
            "path = \"/a\"\nfixed = { body_file = \"pages/a.html\" }\n[[routes]]\nfixed = { body_file = \"/srv/b.json\" }\n\
             [[routes]]\npath = \"/d\"\ndirectory = \"www\"",
        ))
        .unwrap_or_else(|problems| panic!("{}", said(&problems)));
    assert_eq!(world.reads, [std::path::Path::new("/etc/handover/pages/a.html"), "/srv/b.json".as_ref()]);
    let types: Vec<_> = checked
        .config
        .routes
        .iter()
        .map(|route| match &route.action {
            super::super::Action::Fixed(fixed) => fixed.content_type.clone().unwrap().to_string(),
            super::super::Action::Directory(directory) => directory.root.display().to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(types, ["text/html; charset=utf-8", "application/json", "/etc/handover/www"]);
}
