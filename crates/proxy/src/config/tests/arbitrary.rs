//! Whatever the bytes are, the answer is an answer.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{Config, World};

/// A configuration with a bit of everything, to be spoilt.
const RICH: &str = include_str!("rich.toml");

/// Parses, and checks what must hold of every answer.
fn answer(text: &[u8]) {
    // Certificates of what serves need not be parsed again and again.
    static SERVING: LazyLock<Config> = LazyLock::new(|| {
        World { generous: true, ..World::default() }.parse(RICH).map(|checked| checked.config).unwrap()
    });
    let mut world = World { generous: true, ..World::default() };
    let problems = match world.parse_beside(text, Some(&SERVING)) {
        Ok(checked) => checked.warnings,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems
        }
    };
    let lines = text.split(|byte| *byte == b'\n').count();
    for problem in problems {
        assert_eq!(problem.file.as_deref(), Some("handover.toml"));
        assert!(!problem.detail.is_empty() && !problem.detail.contains('\n'), "{:?}", problem.detail);
        if let Some(line) = problem.line {
            assert!((1..=lines).contains(&usize::try_from(line).unwrap()), "line {line} of {lines}");
            assert!(problem.column.is_some());
        }
    }
}

#[test]
fn the_configuration_that_is_spoilt_here_is_right() {
    let mut world = World { generous: true, ..World::default() };
    let checked = world.parse(RICH).unwrap_or_else(|problems| panic!("{}", super::said(&problems)));
    assert!(checked.warnings.is_empty(), "{}", super::said(&checked.warnings));
}

#[test]
fn every_prefix_of_a_configuration_is_answered() {
    for end in 0..RICH.len() {
        answer(&RICH.as_bytes()[..end]);
    }
}

#[test]
fn every_configuration_without_one_byte_is_answered() {
    for at in 0..RICH.len() {
        let mut text = RICH.as_bytes().to_vec();
        text.remove(at);
        answer(&text);
    }
}

#[test]
fn a_header_that_is_replaced_may_be_in_any_script() {
    for header in ["['hosté", "[[ééééééé", "[\u{1f600}\u{1f600}\u{1f600}]]", "[é", "  [listeners.wéb\r"]
    {
        answer(format!("{header}\na = 1\n").as_bytes());
    }
}

#[test]
fn tables_within_tables_without_end_are_answered() {
    for text in [
        "a.".repeat(50_000),
        "[".repeat(50_000),
        "a=".to_owned() + &"{a=".repeat(50_000),
        "a=".to_owned() + &"[".repeat(50_000),
    ] {
        answer(text.as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        answer(&text);
    }

    #[test]
    fn any_text_made_of_toml_is_answered(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("[listeners.web]\n"), Just("[[routes]]\n"), Just("[services.app]\n"), Just("address"), Just("endpoints"),
                Just(" = "), Just("\"127.0.0.1:80\""), Just("\"unix:"), Just("\n"), Just("["), Just("]"), Just("{"), Just("}"),
                Just(","), Just("fixed"), Just("host"), Just("\"*.ex\""), Just("\"\"\""), Just("'"), Just("\\"), Just("#"), Just("."),
                Just("limits"), Just("connections"), Just("99999999999999999999"), Just("1979-05-27"), Just("inf"), Just("é"),
                Just("\u{feff}"), Just("\r\n"), Just("\0"), Just("redirect"), Just("\"https://{host"), Just("service"), Just("true"),
            ],
            0..30,
        )
    ) {
        answer(pieces.concat().as_bytes());
    }

    #[test]
    fn a_spoilt_configuration_is_answered(
        edits in proptest::collection::vec((0..RICH.len(), 0..30_usize, "[\\[\\]{}=\",.#a-z0-9 \n\\\\]{0,8}"), 1..6)
    ) {
        let mut text = RICH.to_owned();
        for (at, remove, insert) in edits {
            let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            let end = (at..=(at + remove).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            text.replace_range(at..end, &insert);
        }
        answer(text.as_bytes());
    }
}
