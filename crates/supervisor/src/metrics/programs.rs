//! Metrics about programs, made of their status when they are asked for.
//!
//! | name | what |
//! |---|---|
//! | `handover_program_up{program}` | 1 while a copy of the program serves |
//! | `handover_program_copies{program,role}` | copies that run |
//! | `handover_program_restarts_total{program}` | copies that ended and were started again |
//! | `handover_program_memory_bytes{program}` | memory of all its copies, where it is known |
//! | `handover_program_connections{program}` | connections of all its copies, where they are known |
//! | `handover_program_pending_deploy{program}` | 1 while a deploy awaits confirmation |
//! | `handover_program_paused{program}` | 1 while new requests for it are held |

use handover_api::{CopyRole, CopyState, ProgramStatus};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::END;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    program: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    program: String,
    role: &'static str,
}

const ROLES: [CopyRole; 4] = [CopyRole::Serving, CopyRole::Candidate, CopyRole::Draining, CopyRole::Warm];

/// As text without its end; nothing without programs.
pub(crate) fn text_of_programs(programs: &[ProgramStatus]) -> String {
    if programs.is_empty() {
        return String::new();
    }
    let (up, pending, paused): (Family<Of, Gauge>, Family<Of, Gauge>, Family<Of, Gauge>) = Default::default();
    let (memory, connections): (Family<Of, Gauge>, Family<Of, Gauge>) = Default::default();
    let copies: Family<OfRole, Gauge> = Family::default();
    let restarts: Family<Of, Counter> = Family::default();
    for program in programs {
        let of = Of { program: program.name.clone() };
        let serves = program.copies.iter().any(|copy| {
            copy.role == CopyRole::Serving && matches!(copy.state, CopyState::Ready | CopyState::Reloading)
        });
        up.get_or_create(&of).set(i64::from(serves));
        pending.get_or_create(&of).set(i64::from(program.pending.is_some()));
        paused.get_or_create(&of).set(i64::from(program.paused.is_some()));
        restarts.get_or_create(&of).inc_by(program.restarts);
        let known: Vec<u64> = program.copies.iter().filter_map(|copy| copy.memory_bytes).collect();
        if !known.is_empty() {
            memory.get_or_create(&of).set(i64::try_from(known.iter().sum::<u64>()).unwrap_or(i64::MAX));
        }
        if let Some(open) = program.connections {
            connections.get_or_create(&of).set(i64::try_from(open).unwrap_or(i64::MAX));
        }
        for role in ROLES {
            let count = program.copies.iter().filter(|copy| copy.role == role).count();
            let of = OfRole { program: program.name.clone(), role: role.as_str() };
            copies.get_or_create(&of).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    let mut registry = Registry::with_prefix("handover_program");
    registry.register("up", "Whether a copy of the program serves", up);
    registry.register("copies", "Copies of the program that run", copies);
    registry.register("restarts", "Copies of the program that ended and were started again", restarts);
    registry.register("memory_bytes", "Memory of all copies of the program", memory);
    registry.register("connections", "Connections of all copies of the program", connections);
    registry.register("pending_deploy", "Whether a deploy awaits confirmation", pending);
    registry.register("paused", "Whether new requests for the program are held", paused);
    let mut out = String::new();
    if let Err(error) = text::encode(&mut out, &registry) {
        tracing::warn!("cannot write the metrics of programs: {error}");
    }
    out.truncate(out.strip_suffix(END).map_or(out.len(), str::len));
    out
}

#[cfg(test)]
mod tests {
    use handover_api::CopyStatus;

    use super::*;

    #[test]
    fn the_text_says_how_programs_are() {
        let copy =
            |role, state| CopyStatus { role, state, memory_bytes: Some(1024), ..CopyStatus::default() };
        let web = ProgramStatus {
            name: "web".to_owned(),
            copies: vec![copy(CopyRole::Serving, CopyState::Ready), copy(CopyRole::Warm, CopyState::Ready)],
            restarts: 3,
            ..ProgramStatus::default()
        };
        let down = ProgramStatus { name: "down".to_owned(), ..ProgramStatus::default() };
        let text = text_of_programs(&[web, down]);
        for line in [
            "handover_program_up{program=\"web\"} 1",
            "handover_program_up{program=\"down\"} 0",
            "handover_program_copies{program=\"web\",role=\"warm\"} 1",
            "handover_program_restarts_total{program=\"web\"} 3",
            "handover_program_memory_bytes{program=\"web\"} 2048",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("memory_bytes{program=\"down\"}"), "{text}");
        assert_eq!(text_of_programs(&[]), "");
    }
}
