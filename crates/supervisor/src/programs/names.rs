//! Which thing a name means: programs, services, routes, listeners and endpoints may have the same.
//!
//! ```text
//!   "web" ── among programs, services, routes, listeners ─▶ one: it · none: unknown · several: say which
//!   "route:web" ─▶ the route, or unknown
//! ```

use std::collections::BTreeSet;

use thiserror::Error;

use crate::protocol::{Names, Target};

/// Why a name means nothing, or too much.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Unclear {
    /// Nothing is called so.
    #[error("there is no {what} {name:?}{known}", known = known_names(.known))]
    Unknown { what: &'static str, name: String, known: Vec<String> },
    /// Several things are.
    #[error("{name:?} is the name of {}: say which, with {}", kinds(.found), prefixed(.found))]
    Ambiguous { name: String, found: Vec<Target> },
    /// A copy was meant to which no request is passed.
    #[error(
        "{program} accepts its connections itself, on sockets that all its copies share, so none of them can be taken out: only \
         copies that routes or services lead to are endpoints; 'handover stop {program}' ends all of it, and connections wait"
    )]
    Shared { program: String },
}

fn known_names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names if names.len() > 20 => format!("; there are {}", names.len()),
        names => format!("; there are: {}", names.join(", ")),
    }
}

fn kinds(found: &[Target]) -> String {
    let kinds: Vec<_> = found.iter().map(|target| format!("a {}", kind(target))).collect();
    kinds.join(" and of ")
}

fn prefixed(found: &[Target]) -> String {
    let names: Vec<_> = found.iter().map(written).collect();
    names.join(" or ")
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Program(_) => "program",
        Target::Service(_) => "service",
        Target::Route(_) => "route",
        Target::Listener(_) => "listener",
        Target::Endpoint(_) => "endpoint",
    }
}

/// `route:api`: what always means just that.
pub(super) fn written(target: &Target) -> String {
    let (Target::Program(name)
    | Target::Service(name)
    | Target::Route(name)
    | Target::Listener(name)
    | Target::Endpoint(name)) = target;
    format!("{}:{name}", kind(target))
}

/// A kind of things, their names, and what such a name means.
type List = (&'static str, Vec<String>, fn(String) -> Target);

/// What `name` means, of the things that can be paused.
pub(super) fn pausable(name: &str, programs: &BTreeSet<String>, names: &Names) -> Result<Target, Unclear> {
    let lists: [List; 4] = [
        ("program", programs.iter().cloned().collect(), Target::Program),
        ("service", names.services.keys().cloned().collect(), Target::Service),
        ("route", names.routes.clone(), Target::Route),
        ("listener", names.listeners.clone(), Target::Listener),
    ];
    if let Some((prefix, rest)) = name.split_once(':')
        && let Some((what, list, target)) = lists.iter().find(|(what, ..)| *what == prefix)
    {
        return match list.iter().any(|listed| listed == rest) {
            true => Ok(target(rest.to_owned())),
            false => Err(Unclear::Unknown { what, name: rest.to_owned(), known: list.clone() }),
        };
    }
    let mut found: Vec<Target> = Vec::new();
    for (_, list, target) in &lists {
        if list.iter().any(|listed| listed == name) {
            found.push(target(name.to_owned()));
        }
    }
    // A service that has nothing but this program behind it, under its name, is the same thing.
    let led_to = names.services.get(name).and_then(Option::as_deref);
    if led_to == Some(name) && programs.contains(name) {
        found.retain(|target| !matches!(target, Target::Service(_)));
    }
    match <[Target; 1]>::try_from(found) {
        Ok([target]) => Ok(target),
        Err(found) if found.is_empty() => {
            let known = lists
                .iter()
                .flat_map(|(_, list, target)| list.iter().cloned().map(target))
                .map(|target| written(&target));
            let what = "program, service, route or listener";
            Err(Unclear::Unknown { what, name: name.to_owned(), known: known.collect() })
        }
        Err(found) => Err(Unclear::Ambiguous { name: name.to_owned(), found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            services: [("api".to_owned(), None), ("web".to_owned(), Some("web".to_owned()))].into(),
            routes: vec!["/".to_owned(), "api".to_owned()],
            listeners: vec!["public".to_owned()],
            endpoints: vec!["127.0.0.1:9001".to_owned()],
        }
    }

    fn look_up(name: &str) -> Result<Target, Unclear> {
        pausable(name, &["web".to_owned()].into(), &names())
    }

    #[test]
    fn a_name_that_only_one_thing_has_means_that() {
        assert_eq!(look_up("public"), Ok(Target::Listener("public".to_owned())));
        assert_eq!(look_up("/"), Ok(Target::Route("/".to_owned())));
        assert_eq!(look_up("web"), Ok(Target::Program("web".to_owned())));
        assert_eq!(look_up("service:web"), Ok(Target::Service("web".to_owned())));
    }

    #[test]
    fn a_name_of_two_things_is_refused_with_what_to_say_instead() {
        let sentence = look_up("api").unwrap_err().to_string();
        assert_eq!(
            sentence,
            r#""api" is the name of a service and of a route: say which, with service:api or route:api"#
        );
        assert_eq!(look_up("route:api"), Ok(Target::Route("api".to_owned())));
    }

    #[test]
    fn a_name_that_nothing_has_is_refused_with_the_names_that_there_are() {
        let sentence = look_up("wbe").unwrap_err().to_string();
        assert!(sentence.contains("no program, service, route or listener \"wbe\""), "{sentence}");
        assert!(sentence.contains("listener:public"), "{sentence}");
        let sentence = look_up("route:web").unwrap_err().to_string();
        assert_eq!(sentence, r#"there is no route "web"; there are: /, api"#);
    }
}
