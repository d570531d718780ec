//! Programs, as the supervisor is told of them: what is to run, which sockets are held for it, what can be named.
//!
//! ```text
//!   Config.programs ─┬─▶ Settings: definitions and names
//!                    ├─▶ Need: the shared sockets, held by the supervisor; the proxy itself never accepts from them
//!                    └─▶ the banner: 127.0.0.1:8080 → program web
//! ```

use handover::program::{Names, ProgramSpec};
use handover::{BindError, Bound, ListenerSpec, Problem};

use crate::config::{self, Config, Program};

/// The definitions of all programs.
pub(super) fn definitions(config: &Config) -> Vec<ProgramSpec> {
    config.programs.iter().map(|program| program.spec.clone()).collect()
}

/// What can be named where traffic is asked for.
pub(super) fn names(config: &Config) -> Names {
    let program = |service: &config::Service| service.program.as_deref().map(str::to_owned);
    let mut endpoints: Vec<String> = config
        .services
        .iter()
        .flat_map(|service| &service.endpoints)
        .map(|endpoint| endpoint.name.to_string())
        .collect();
    endpoints.sort_unstable();
    endpoints.dedup();
    Names {
        services: config
            .services
            .iter()
            .map(|service| (service.name.to_string(), program(service)))
            .collect(),
        routes: config.routes.iter().map(|route| route.name.to_string()).collect(),
        listeners: config.listeners.iter().map(|listener| listener.name.to_string()).collect(),
        endpoints,
    }
}

/// The sockets that are held for programs, all programs one after the other.
pub(super) fn needed(config: &Config) -> Vec<ListenerSpec> {
    let of = |program: &Program| -> Vec<ListenerSpec> {
        let sockets = program.spec.sockets.iter();
        let need = |socket: &handover::program::ProgramSocket| ListenerSpec {
            name: program.spec.name.clone(),
            address: socket.address.clone(),
            backlog: program.backlog,
        };
        sockets.map(need).collect()
    };
    config.programs.iter().flat_map(of).collect()
}

/// What came of [`needed`]: where each socket listens, in the same order. This process lets go of the sockets: its control
/// thread keeps copies of its own for the next supervisor.
pub(super) fn bound(
    config: &Config,
    mut results: impl Iterator<Item = Result<Bound, BindError>>,
    spans: &config::Spans,
    problems: &mut Vec<Problem>,
) -> Vec<String> {
    let mut places = Vec::new();
    for program in &config.programs {
        for (index, socket) in program.spec.sockets.iter().enumerate() {
            match results.next() {
                Some(Ok(Bound::Socket(fd))) => {
                    let actual = rustix::net::getsockname(&fd).ok();
                    let actual = actual.and_then(|actual| std::net::SocketAddr::try_from(actual).ok());
                    places
                        .push(actual.map_or_else(|| socket.address.to_string(), |actual| actual.to_string()));
                }
                Some(Ok(Bound::OnlyChecked)) => places.push(socket.address.to_string()),
                Some(Err(BindError::Refused { detail, .. })) => {
                    problems.push(spans.problem_for_program(&program.spec.name, index, &detail));
                }
                // Said once, for all listeners.
                Some(Err(BindError::Cancelled)) | None => {}
            }
        }
    }
    places
}

/// The lines of the banner.
pub(super) fn summary(config: &Config, places: &[String]) -> Vec<String> {
    let mut places = places.iter();
    let mut lines = Vec::new();
    for program in &config.programs {
        let spec = &program.spec;
        let copies = match spec.copies {
            1 => String::new(),
            copies => format!(" ({copies} copies)"),
        };
        let what = format!("program {}{copies}", spec.name);
        if spec.sockets.is_empty() {
            lines.push(what);
            continue;
        }
        lines.extend(places.by_ref().take(spec.sockets.len()).map(|place| format!("{place} → {what}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (Config, config::Spans) {
        let base = std::path::Path::new("/etc/handover");
        let mut files = |_: &std::path::Path| Err(std::io::Error::from_raw_os_error(2));
        let mut resolve = config::SystemResolver::default();
        match config::parse("a.toml", base, text.as_bytes(), &mut files, &mut resolve) {
            Ok(checked) => (checked.config, checked.spans),
            Err(problems) => panic!("{problems:?}"),
        }
    }

    const TEXT: &str = r#"
listeners.front.address = "127.0.0.1:80"
services.app = { program = "web" }
services.old = { endpoints = ["127.0.0.1:9", "127.0.0.1:8"] }
[[routes]]
name = "all"
path_prefix = "/"
service = "app"
[[routes]]
name = "old"
path_prefix = "/old/"
service = "old"
[program.web]
command = "true"
listen = ["127.0.0.1:1", "unix:/run/web.sock"]
backlog = 7
copies = 2
[program.clock]
command = "true"
"#;

    #[test]
    fn the_supervisor_is_told_what_to_hold_and_what_can_be_named() {
        let (config, _) = config(TEXT);
        let names = names(&config);
        assert_eq!(
            names.services.into_iter().collect::<Vec<_>>(),
            [("app".to_owned(), Some("web".to_owned())), ("old".to_owned(), None)]
        );
        assert_eq!((names.routes, names.listeners), (vec!["all".into(), "old".into()], vec!["front".into()]));
        assert_eq!(names.endpoints, ["127.0.0.1:8", "127.0.0.1:9"]);
        let needed = needed(&config);
        let told: Vec<_> =
            needed.iter().map(|need| (need.name.as_str(), need.address.to_string(), need.backlog)).collect();
        assert_eq!(told, [("web", "127.0.0.1:1".to_owned(), 7), ("web", "unix:/run/web.sock".to_owned(), 7)]);
        let definitions = definitions(&config);
        assert_eq!(definitions.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["web", "clock"]);
    }

    #[test]
    fn the_banner_says_where_programs_are_and_a_socket_that_cannot_be_had_is_a_problem_at_its_address() {
        let (config, spans) = config(TEXT);
        let mut problems = Vec::new();
        let results = [Ok(Bound::OnlyChecked), Ok(Bound::OnlyChecked)];
        let places = bound(&config, results.into_iter(), &spans, &mut problems);
        assert_eq!(
            (summary(&config, &places), problems.len()),
            (
                vec![
                    "127.0.0.1:1 → program web (2 copies)".to_owned(),
                    "unix:/run/web.sock → program web (2 copies)".to_owned(),
                    "program clock".to_owned(),
                ],
                0
            )
        );
        let refused = BindError::Refused { errno: 98, detail: "in use by nginx".to_owned() };
        bound(&config, [Ok(Bound::OnlyChecked), Err(refused)].into_iter(), &spans, &mut problems);
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!(problem.pointer.as_deref(), Some("/program/web/listen/1"));
        assert_eq!((problem.line, problem.detail.as_str()), (Some(15), "in use by nginx"));
    }
}
