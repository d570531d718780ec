//! Rules of the house that a machine can check: see CONTRIBUTING.md.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest file, in lines.
const FILE_LINES: usize = 600;
/// The longest function, in lines between its first line and its closing brace.
const FUNCTION_LINES: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every Rust file of the repository, with its path relative to the root.
fn rust_files() -> Vec<(String, String)> {
    let root = root();
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["crates", "tests", "examples", "fuzz"].iter().map(|name| root.join(name)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 50, "only {} Rust files found: is the root right?", files.len());
    files
}

fn report(what: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/")
        || name.contains("/tests/")
        || name.contains("/testkit/")
        || name.ends_with("tests.rs")
}

#[test]
fn every_file_is_one_room() {
    let offences: Vec<String> = rust_files()
        .iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES)
        .map(|(name, lines)| format!("{name}: {lines} lines, at most {FILE_LINES}"))
        .collect();
    report("files that should be several", &offences);
}

/// Functions of formatted code, with their lengths: from the line with `fn` to the brace at the same depth.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let starts = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "async fn ",
            "pub async fn ",
            "const fn ",
            "pub const fn ",
        ];
        if !starts.iter().any(|start| code.starts_with(start)) || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        if let Some(length) = lines[at..].iter().position(|line| *line == close) {
            let name = code.split('(').next().unwrap_or(code);
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn every_function_fits_on_a_page() {
    let mut offences = Vec::new();
    for (name, text) in rust_files() {
        for (function, lines) in functions(&text) {
            if lines > FUNCTION_LINES {
                offences.push(format!("{name}: {function}: {lines} lines, at most {FUNCTION_LINES}"));
            }
        }
    }
    report("functions that do too much", &offences);
}

#[test]
fn no_test_sleeps() {
    let call = concat!("sle", "ep(");
    let mut offences = Vec::new();
    for (name, text) in rust_files().into_iter().filter(|(name, _)| is_test(name)) {
        for (at, line) in text.lines().enumerate() {
            if line.contains(call) && !line.trim_start().starts_with("//") {
                offences.push(format!("{name}:{}: wait for an event instead", at + 1));
            }
        }
    }
    report("tests that sleep", &offences);
}

#[test]
fn nothing_is_left_unfinished_or_skipped() {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("#[ign", "ore")];
    let mut offences = Vec::new();
    for (name, text) in rust_files() {
        for (at, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                offences.push(format!("{name}:{}: {mark}", at + 1));
            }
        }
    }
    report("unfinished", &offences);
}

#[test]
fn every_module_says_what_it_is_for() {
    let offences: Vec<String> = rust_files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!["))
        .map(|(name, _)| name)
        .collect();
    report("files without a module comment on top", &offences);
}

#[test]
fn unsafe_stays_in_handoff() {
    let word = concat!("uns", "afe ");
    let mut offences = Vec::new();
    for (name, text) in rust_files() {
        for (at, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if !code.starts_with("//") && code.contains(word) && code.contains('{') {
                let justified = text.lines().take(at).collect::<Vec<_>>();
                let justified = justified.iter().rev().take(12).any(|line| line.contains("SAFETY:"));
                if !name.starts_with("crates/handoff/") || !justified {
                    offences.push(format!("{name}:{}", at + 1));
                }
            }
        }
    }
    report("unsafe outside handoff, or without its SAFETY comment", &offences);
}

#[test]
fn every_dependency_has_its_line() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let reasons = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let offences: Vec<&str> = section
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("handover") && !name.starts_with('#'))
        .filter(|name| !reasons.contains(*name))
        .collect();
    report(
        "dependencies without a line in docs/dependencies.md",
        &offences.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
    );
}
