//! Verbs that need no server.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory as _;
use handover_api::{ExitCode as Code, Problem};
use handover_proxy::config::{self, Checked, SystemResolver};

use crate::args::{Arguments, Completions, Man};
use crate::completing;
use crate::output::Output;

/// The largest file that a configuration may name.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Checks a file as `serve` would, except for what only the system can tell (whether ports are free). Writes nothing.
pub(crate) fn validate(file: &Path, output: Output) -> ExitCode {
    let name = file.display().to_string();
    if name.contains("://") {
        let reason = "only files are checked here; 'handover validate' without one asks the server that runs about its own configuration, wherever that comes from";
        return output.failure(reason, Code::Usage);
    }
    let checked = match read(file) {
        Ok(text) => {
            let base = std::path::absolute(file)
                .ok()
                .and_then(|path| path.parent().map(Path::to_owned))
                .unwrap_or_default();
            config::parse(&name, &base, &text, &mut Disk, &mut SystemResolver::default())
        }
        Err(error) => Err(vec![Problem::new(format!("cannot be read: {error}")).in_file(&name)]),
    };
    let (errors, warnings, sentence) = match checked {
        Ok(checked) => (Vec::new(), checked.warnings.clone(), valid(&name, &checked)),
        Err(errors) => {
            let sentence = match errors.len() {
                1 => format!("rejected: 1 mistake in {name}"),
                n => format!("rejected: {n} mistakes in {name}"),
            };
            (errors, Vec::new(), sentence)
        }
    };
    let code = if errors.is_empty() { Code::Success } else { Code::Rejected };
    if output.is_json() {
        let json = serde_json::json!({ "valid": errors.is_empty(), "errors": errors, "warnings": warnings });
        output.json(json.to_string().as_bytes());
        return code.into();
    }
    let mut text: Vec<String> = errors.iter().map(Problem::report).collect();
    text.extend(warnings.iter().map(|warning| format!("warning: {}", warning.report())));
    text.push(sentence);
    output.result(&text.join("\n\n"), code)
}

fn valid(name: &str, checked: &Checked) -> String {
    let count = |n: usize, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
    let config = &checked.config;
    let mut has = vec![
        count(config.listeners.len(), "listener"),
        count(config.routes.len(), "route"),
        count(config.services.len(), "service"),
    ];
    if !config.programs.is_empty() {
        has.push(count(config.programs.len(), "program"));
    }
    let last = has.pop().unwrap_or_default();
    format!("valid: {name} has {} and {last}", has.join(", "))
}

/// The files that a configuration names.
struct Disk;

impl config::Files for Disk {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        read(path)
    }

    fn stands(&mut self, path: &Path) -> Option<config::Standing> {
        Some(config::Standing::on_disk(path))
    }
}

fn read(path: &Path) -> io::Result<Arc<[u8]>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::from(io::ErrorKind::IsADirectory));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes.into())
}

pub(crate) fn schema(output: Output) -> ExitCode {
    let schema = serde_json::to_string_pretty(&config::schema()).unwrap_or_default();
    output.json(schema.as_bytes());
    Code::Success.into()
}

pub(crate) fn example(output: Output) -> ExitCode {
    output.bytes(config::DEFAULT.as_bytes());
    Code::Success.into()
}

pub(crate) fn completions(completions: &Completions, output: Output) -> ExitCode {
    output.bytes(completing::script(completions.shell).as_bytes());
    Code::Success.into()
}

pub(crate) fn man(man: &Man, output: Output) -> ExitCode {
    let mut program = Arguments::command();
    program.build();
    let written = std::fs::create_dir_all(&man.directory).and_then(|()| pages(program, &man.directory));
    match written {
        Ok(()) => output.result(&format!("man pages are in {}", man.directory.display()), Code::Success),
        Err(error) => {
            let directory = man.directory.display();
            output.failure(&format!("cannot write man pages into {directory}: {error}"), Code::Differs)
        }
    }
}

/// Writes the page of a command and those of its own commands.
fn pages(command: clap::Command, directory: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below.clone(), directory)?;
    }
    let page = clap_mangen::Man::new(command);
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(directory.join(page.get_filename()), with_lines_kept(&String::from_utf8_lossy(&text)))
}

/// The examples stand line by line, as in `--help`: formatted like a text they would run into each other.
fn with_lines_kept(page: &str) -> String {
    match page.split_once("\n.SH EXTRA\n") {
        None => page.to_owned(),
        Some((before, after)) => {
            let (examples, rest) = after.split_once("\n.SH ").unwrap_or((after, "VERSION"));
            format!("{before}\n.SH NOTES\n.nf\n{examples}\n.fi\n.SH {rest}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::with_lines_kept;

    #[test]
    fn examples_in_man_pages_stand_line_by_line() {
        let page = ".SH NAME\nx\n.SH EXTRA\nExamples:\n  x y\nMore.\n.SH VERSION\nv1\n";
        let kept = ".SH NAME\nx\n.SH NOTES\n.nf\nExamples:\n  x y\nMore.\n.fi\n.SH VERSION\nv1\n";
        assert_eq!(with_lines_kept(page), kept);
        assert_eq!(with_lines_kept(".SH NAME\nx\n"), ".SH NAME\nx\n");
    }
}
