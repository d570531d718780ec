//! Results on stdout, everything else on stderr; colour only on a terminal.

use std::io::{self, Write as _};
use std::process::ExitCode;

use handover_api::ExitCode as Code;

use crate::args::Format;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const RED: &str = "\u{1b}[31m";
const BOLD: &str = "\u{1b}[1m";
const RESET: &str = "\u{1b}[0m";

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints a result and ends with this code.
    pub(crate) fn result(self, text: &str, code: Code) -> ExitCode {
        self.text(text);
        code.into()
    }

    /// Prints a result: its first word says how it went, and is coloured on a terminal.
    pub(crate) fn text(self, text: &str) {
        let (word, rest) = text.split_at(text.find(':').unwrap_or(0));
        let colour = match word {
            "applied" | "unchanged" | "valid" | "same" => GREEN,
            "applied with losses" | "running" | "sent, not confirmed" => YELLOW,
            "rejected" | "not ready" | "rolled back" | "unknown" | "busy" | "stale" | "not permitted" => RED,
            _ => "",
        };
        let reset = if colour.is_empty() { "" } else { RESET };
        write(&mut anstream::stdout(), &format!("{colour}{word}{reset}{}\n", rest.trim_end()));
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) {
        let mut stdout = io::stdout().lock();
        ended(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }

    /// Prints the server's JSON, with a line feed at its end.
    pub(crate) fn json(self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.bytes(&bytes);
    }

    /// Says why there is no result, and ends with this code.
    pub(crate) fn failure(self, message: &str, code: Code) -> ExitCode {
        note(&format!("{RED}{BOLD}handover:{RESET} {message}"));
        code.into()
    }
}

/// Says something that is no result.
pub(crate) fn note(message: &str) {
    write(&mut anstream::stderr(), &format!("{message}\n"));
}

fn write(stream: &mut impl io::Write, text: &str) {
    ended(stream.write_all(text.as_bytes()).and_then(|()| stream.flush()));
}

/// Whoever closed the pipe has read enough.
fn ended(result: io::Result<()>) {
    if let Err(error) = result
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(Code::Success.code().into());
    }
}
