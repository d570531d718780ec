//! Single values of programs: signals, shares of a processor, and a word that stands for a whole table.

use std::borrow::Cow;

use rustix::process::Signal as Number;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use toml::de::DeValue;

use super::decode::{Decode, Node, string, string_of, wrong_type};
use super::sink::{Sink, suggestion};

/// A signal, by name: `"TERM"`, `"SIGTERM"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Signal(i32);

impl Signal {
    /// Asks a process to end.
    pub(super) const TERM: Self = Self(Number::TERM.as_raw());
    /// Asks a process to read its configuration anew, mostly.
    pub(super) const HUP: Self = Self(Number::HUP.as_raw());

    /// Its number, as kill(2) has it.
    pub(super) fn number(self) -> i32 {
        self.0
    }

    /// Whether no process can do anything about it.
    pub(super) fn is_kill(self) -> bool {
        self.0 == Number::KILL.as_raw()
    }
}

/// Those that make sense for asking something of a process (signal(7)).
const SIGNALS: [(&str, Number); 11] = [
    ("TERM", Number::TERM),
    ("HUP", Number::HUP),
    ("INT", Number::INT),
    ("QUIT", Number::QUIT),
    ("USR1", Number::USR1),
    ("USR2", Number::USR2),
    ("WINCH", Number::WINCH),
    ("CONT", Number::CONT),
    ("ALRM", Number::ALARM),
    ("ABRT", Number::ABORT),
    ("KILL", Number::KILL),
];

/// The name of a signal, its number if it has none here.
pub(super) fn show_signal(number: i32) -> String {
    let known = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

impl Decode for Signal {
    const EXPECTS: &'static str = "the name of a signal such as \"TERM\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let text = string(node, Self::EXPECTS, sink)?;
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let known = SIGNALS.iter().find(|(known, _)| *known == name);
        if known.is_none() {
            let report =
                sink.error(node.span().into(), format!("{text:?} is no signal that can be asked for"));
            if let Some(help) = suggestion(name, SIGNALS.iter().map(|(known, _)| *known)) {
                report.help(help);
            }
        }
        known.map(|(_, signal)| Self(signal.as_raw()))
    }

    fn show(&self) -> Value {
        Value::String(show_signal(self.0))
    }
}

impl JsonSchema for Signal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Signal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = SIGNALS.iter().map(|(name, _)| *name).collect();
        json_schema!({ "type": "string", "title": "a signal", "examples": names })
    }
}

/// A share of processors: `"50%"`, `"200%"`, in thousandths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpu(pub(super) u64);

/// Thousandths in one percent.
const THOUSANDTHS: u64 = 10;
/// The least and the most, in percent: the kernel knows no less than 1 ms in 100 ms, and no machine has more.
const LEAST_PERCENT: u64 = 1;
const MOST_PERCENT: u64 = 1_000_000;

/// `150%`.
pub(super) fn show_cpu(thousandths: u64) -> String {
    format!("{}%", thousandths / THOUSANDTHS)
}

impl Decode for Cpu {
    const EXPECTS: &'static str = "a share of a processor such as \"50%\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let with_unit = |number: &str| format!("write it with its unit: \"{number}%\"");
        let text = string_of(node, Self::EXPECTS, sink, with_unit)?;
        let digits = text.trim().strip_suffix('%').map(str::trim_end);
        let digits = digits.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(percent) = digits.map(|text| text.parse::<u64>().unwrap_or(u64::MAX)) else {
            sink.error(node.span().into(), format!("{text:?} is no share of a processor"))
                .help("write it in whole percent: \"50%\" for half of one, \"200%\" for two");
            return None;
        };
        if !(LEAST_PERCENT..=MOST_PERCENT).contains(&percent) {
            let side = if percent < LEAST_PERCENT { "small" } else { "large" };
            sink.error(node.span().into(), format!("{text:?} is too {side}"))
                .help(format!("from {LEAST_PERCENT}% to {MOST_PERCENT}%"));
            return None;
        }
        Some(Self(percent * THOUSANDTHS))
    }

    fn show(&self) -> Value {
        Value::String(show_cpu(self.0))
    }
}

impl JsonSchema for Cpu {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cpu".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let title = format!("a share of a processor, from {LEAST_PERCENT}% to {MOST_PERCENT}%");
        json_schema!({ "type": "string", "title": title, "pattern": r"^\s*[0-9]+\s*%\s*$" })
    }
}

/// A word, or a table that says more.
#[derive(Debug, Clone)]
pub(super) enum WordOr<W, T> {
    Word(W),
    Table(T),
}

impl<W: Decode, T: Decode> Decode for WordOr<W, T> {
    const EXPECTS: &'static str = "a string or a table";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(_) => W::decode(node, sink).map(Self::Word),
            DeValue::Table(_) => T::decode(node, sink).map(Self::Table),
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                None
            }
        }
    }
}

impl<W: Decode, T: Decode> JsonSchema for WordOr<W, T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("WordOr_{}_{}", W::schema_name(), T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [generator.subschema_for::<W>(), generator.subschema_for::<T>()] })
    }
}
