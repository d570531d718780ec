//! Formats 1 and 2, frozen: their bytes stand in files that never change.
//!
//! A later release has to read what an earlier one has written, and to write what it can read. If something must be written
//! down that no format has, it is time for another format, with a file of its own.

use super::super::{Section, StateError, read};
use super::made::Maker;

const FORMAT_1: &[u8] = include_bytes!("../../../../fixtures/connections-1.bin");
const FORMAT_2: &[u8] = include_bytes!("../../../../fixtures/connections-2.bin");

fn show(section: &Section<'_>) -> String {
    format!("{section:#?}")
}

#[test]
fn format_1_is_written_as_it_was_when_it_was_new() {
    assert_eq!(Maker::new(true, true).section().write(1), FORMAT_1);
}

#[test]
fn format_1_is_read_as_it_was_when_it_was_new() {
    let section = read(1, FORMAT_1).unwrap();
    assert_eq!(show(&section), show(&Maker::new(false, true).section()));
    assert_eq!(section.write(1), FORMAT_1);
}

#[test]
fn format_2_is_written_and_read_as_it_was_when_it_was_new() {
    let made = Maker::new(true, true).section();
    assert_eq!(made.write(2), FORMAT_2);
    let section = read(2, FORMAT_2).unwrap();
    assert_eq!(show(&section), show(&made));
    assert_eq!(section.write(2), FORMAT_2);
}

#[test]
fn format_3_leaves_nothing_out() {
    let made = Maker::newest(true).section();
    let bytes = made.write(3);
    let section = read(3, &bytes).unwrap();
    assert_eq!(show(&section), show(&made));
    assert_eq!(section.write(3), bytes);
}

#[test]
fn there_and_back_through_format_2_only_routes_are_lost() {
    let bytes = Maker::new(true, true).section().write(3);
    let back = read(3, &bytes).unwrap().write(2);
    assert_eq!(back, FORMAT_2);
    assert_eq!(read(2, &back).unwrap().write(3), bytes);
}

#[test]
fn there_and_back_through_format_1_only_ages_and_patience_are_lost() {
    let bytes = Maker::new(true, true).section().write(2);
    let back = read(2, &bytes).unwrap().write(1);
    let bytes = read(1, &back).unwrap().write(2);
    assert_eq!(bytes, Maker::new(false, true).section().write(2));
}

#[test]
fn a_format_of_tomorrow_is_refused_and_none_is_taken_for_another() {
    assert_eq!(read(4, FORMAT_1).unwrap_err(), StateError::Format(4));
    assert_eq!(read(0, FORMAT_1).unwrap_err(), StateError::Format(0));
    assert!(read(2, FORMAT_1).is_err());
    assert!(read(3, FORMAT_2).is_err());
}
