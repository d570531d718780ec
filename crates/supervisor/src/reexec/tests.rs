//! Saved state as earlier versions wrote it, and as they will read what this one writes.

use serde_json::{Value, json};

use super::*;

/// Format 1, as it was written first. Never changed: that is what it is for.
const FORMAT_1: &str = include_str!("../../fixtures/saved-state-1.json");

/// The same with programs, as it was written first.
const WITH_PROGRAMS: &str = include_str!("../../fixtures/saved-state-1-programs.json");

fn read(text: &str) -> Result<State, ResumeError> {
    State::read(text.as_bytes())
}

/// Everything in `old` that `new` does not say, or says otherwise: numbers of any form that are equal count as the same.
fn missing(old: &Value, new: &Value, path: &str) -> Vec<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let in_new = |key: &String| new.get(key).unwrap_or(&Value::Null);
            let all = old.iter().map(|(key, value)| missing(value, in_new(key), &format!("{path}/{key}")));
            all.flatten().collect()
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            let pairs = old.iter().zip(new).enumerate();
            pairs.flat_map(|(at, (old, new))| missing(old, new, &format!("{path}/{at}"))).collect()
        }
        (Value::Number(old), Value::Number(new)) if old.as_f64() == new.as_f64() => Vec::new(),
        (old, new) if old == new => Vec::new(),
        (old, new) => vec![format!("{path}: {old} became {new}")],
    }
}

#[test]
fn what_format_1_was_first_written_as_is_still_understood() {
    let state = read(FORMAT_1).unwrap();
    state.check().unwrap();
    assert_eq!((state.format, state.pid), (1, 4711));
    assert_eq!(state.descriptors.len(), 15);
    assert_eq!(state.control.path, std::path::Path::new("/run/handover/app.sock"));
    let serving = state.serving.as_ref().unwrap();
    assert_eq!(
        (serving.generation, serving.worker, serving.settings.history),
        (7, 1_700_000_000_003, Some(500))
    );
    assert_eq!(state.listeners.serving.len(), 2);
    assert_eq!(state.listeners.serving[0].spec.address.to_string(), "127.0.0.1:8080");
    assert_eq!(state.listeners.serving[1].spec.address.to_string(), "unix:/run/handover/app-web.sock");
    assert_eq!(state.listeners.passed[0].name, "metrics");
    let worker = &state.workers[0];
    assert_eq!((worker.number, worker.pid, worker.version.as_str()), (2, 4713, "1.1.0"));
    assert_eq!(state.operations[0].operation.kind, handover_api::Kind::Upgrade);
    assert_eq!(state.operations[0].step, Some(handover_api::StepName::Supervisor));
    assert!(state.operations[1].certs_only);
    assert_eq!(state.waiting[0].accept, ["application/json"]);
    assert_eq!(state.machine.operation.unwrap().key.0, 5);
    assert_eq!(state.metrics.operations["reload"]["applied"], 6);
    let file = memfd::sealed("test", FORMAT_1.as_bytes()).unwrap();
    rehearse(&file).unwrap();
}

#[test]
fn what_is_written_now_says_all_that_format_1_said_and_in_the_same_words() {
    let old: Value = serde_json::from_str(FORMAT_1).unwrap();
    let new: Value = serde_json::from_slice(&read(FORMAT_1).unwrap().write().unwrap()).unwrap();
    let missing = missing(&old, &new, "");
    assert!(missing.is_empty(), "a program that reads format 1 would miss:\n{}", missing.join("\n"));
}

#[test]
fn programs_as_they_were_first_written_are_still_understood() {
    let state = read(WITH_PROGRAMS).unwrap();
    state.check().unwrap();
    assert_eq!(state.hosted.descriptors, [20, 21]);
    assert_eq!(state.workers[0].protocol, 4);
    Programs::readable(&state.hosted.json).unwrap();
    rehearse(memfd::sealed("test", WITH_PROGRAMS.as_bytes()).unwrap()).unwrap();
    let old: Value = serde_json::from_str(WITH_PROGRAMS).unwrap();
    let new: Value = serde_json::from_slice(&state.write().unwrap()).unwrap();
    assert_eq!(missing(&old, &new, ""), Vec::<String>::new());
    // What an earlier version has written has none.
    assert_eq!(read(FORMAT_1).unwrap().hosted, SavedHosted::default());
}

#[test]
fn programs_that_cannot_be_gone_on_with_are_found_in_the_rehearsal() {
    let mut value: Value = serde_json::from_str(WITH_PROGRAMS).unwrap();
    value["hosted"]["json"] = json!("{\"programs\": 3}");
    let file = memfd::sealed("test", value.to_string().as_bytes()).unwrap();
    assert!(matches!(rehearse(&file), Err(ResumeError::Damaged(_))));
}

#[test]
fn what_a_later_version_adds_is_ignored_and_what_an_earlier_one_leaves_out_is_as_usual() {
    let mut value: Value = serde_json::from_str(FORMAT_1).unwrap();
    value["news"] = json!({ "of": ["any", "kind"] });
    value["workers"][0]["news"] = json!(true);
    value["machine"]["news"] = json!(1);
    value["serving"]["settings"]["news"] = json!(1);
    assert_eq!(read(&value.to_string()).unwrap(), read(FORMAT_1).unwrap());
    let object = value.as_object_mut().unwrap();
    let kept = ["format", "serving", "workers", "listeners", "control", "journal", "programs", "machine"];
    object.retain(|key, _| kept.contains(&key.as_str()));
    let state = read(&value.to_string()).unwrap();
    state.check().unwrap();
    assert!(state.operations.is_empty() && state.waiting.is_empty() && state.carried.is_none());
}

#[test]
fn another_format_is_refused_by_its_number_whatever_else_stands_there() {
    for format in [0, 2, 65_535] {
        let error = read(&json!({ "format": format, "serving": 7 }).to_string()).unwrap_err();
        assert!(matches!(error, ResumeError::Format { found } if found == format), "{error}");
        assert!(error.to_string().contains(&format!("format {format}")), "{error}");
    }
    assert!(matches!(read("{}"), Err(ResumeError::Format { found: 0 })));
}

#[test]
fn rubbish_and_half_a_state_are_damaged() {
    for text in ["", "null", "{\"format\": 1, \"workers\": 3}", &FORMAT_1[..FORMAT_1.len() / 2]] {
        assert!(matches!(read(text), Err(ResumeError::Damaged(_))), "{text}");
    }
    let mut value: Value = serde_json::from_str(FORMAT_1).unwrap();
    value["serving"]["worker"] = json!(8);
    let error = read(&value.to_string()).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("not among its workers"), "{error}");
    value["serving"] = Value::Null;
    let error = read(&value.to_string()).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("does not say what is served"), "{error}");
}

#[test]
fn a_machine_that_could_not_go_on_is_found_in_the_rehearsal() {
    let mut value: Value = serde_json::from_str(FORMAT_1).unwrap();
    value["machine"]["worker"] = Value::Null;
    let file = memfd::sealed("test", value.to_string().as_bytes()).unwrap();
    assert!(matches!(rehearse(&file), Err(ResumeError::Machine(_))));
    // Before its last step it says less, and that is no reason.
    value["machine"] = json!({});
    rehearse(memfd::sealed("test", value.to_string().as_bytes()).unwrap()).unwrap();
    let unsealed = tempfile::tempfile().unwrap();
    assert!(matches!(rehearse(&unsealed), Err(ResumeError::Memfd(_))));
}
