//! Single values: times, sizes, numbers, permission bits. Each knows its bounds, and says them in the schema.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use toml::de::{DeInteger, DeValue};

use super::decode::{Decode, Node, string_of, wrong_type};
use super::sink::Sink;

/// Milliseconds of a second, and so on.
pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;

/// Bytes of a KiB, and so on.
pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;
pub(super) const TIB: u64 = 1024 * GIB;

const TIME_UNITS: [(&str, u64); 5] = [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// A time limit: whole numbers with units, `"10s"`, `"1m 30s"`. The bounds are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time<const MIN: u64, const MAX: u64>(pub(super) Duration);

impl<const MIN: u64, const MAX: u64> Time<MIN, MAX> {
    /// So many milliseconds.
    pub(super) const fn ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
}

/// `90s`, `1h`: in the largest unit that divides it.
pub(super) fn show_time(time: Duration) -> String {
    let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (unit, size) =
        TIME_UNITS.into_iter().find(|(_, size)| ms != 0 && ms.is_multiple_of(*size)).unwrap_or(("s", 1));
    format!("{}{unit}", ms / size)
}

/// `16 KiB`: in the largest power of 1024 that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, size) = SIZE_UNITS
        .into_iter()
        .take(4)
        .find(|(_, size)| bytes != 0 && bytes.is_multiple_of(*size))
        .unwrap_or(("B", 1));
    format!("{} {unit}", bytes / size)
}

/// Why a number with a unit is none.
#[derive(Debug, PartialEq, Eq)]
enum Unparsed {
    /// Not of the form at all.
    Form,
    /// A number without a unit.
    NoUnit,
    /// A number with a fraction.
    Fraction,
    /// A unit that there is not.
    Unit(String),
    /// The number is too large to be computed with.
    Overflow,
}

/// Milliseconds of `"1m 30s"`: whole numbers with units, each smaller than the one before.
fn parse_time(text: &str) -> Result<u64, Unparsed> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    if rest.is_empty() {
        return Err(Unparsed::Form);
    }
    while !rest.is_empty() {
        let (number, unit, after) = number_and_unit(rest)?;
        let (_, size) = TIME_UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| Unparsed::Unit(unit.to_owned()))?;
        if size >= last {
            return Err(Unparsed::Form);
        }
        last = size;
        total = number.checked_mul(size).and_then(|ms| total.checked_add(ms)).ok_or(Unparsed::Overflow)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// Bytes of `"16 KiB"`: one whole number with a unit.
fn parse_size(text: &str) -> Result<u64, Unparsed> {
    let (number, unit, after) = number_and_unit(text.trim())?;
    if !after.trim().is_empty() {
        return Err(Unparsed::Form);
    }
    let (_, size) = SIZE_UNITS
        .into_iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| Unparsed::Unit(unit.to_owned()))?;
    number.checked_mul(size).ok_or(Unparsed::Overflow)
}

/// The number at the start, the unit after it, and what follows. `_` may separate digits, as in TOML.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), Unparsed> {
    let digits_end = text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (digits, rest) = text.split_at(digits_end);
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') {
        return Err(Unparsed::Form);
    }
    if rest.starts_with(['.', ',']) {
        return Err(Unparsed::Fraction);
    }
    let number = digits.replace('_', "").parse().map_err(|_| Unparsed::Overflow)?;
    let rest = rest.trim_start();
    let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(unit_end);
    if unit.is_empty() {
        return Err(if after.is_empty() { Unparsed::NoUnit } else { Unparsed::Form });
    }
    Ok((number, unit, after))
}

/// The unit that was probably meant.
fn meant_unit(unit: &str, units: &[(&'static str, u64)]) -> Option<&'static str> {
    let lower = unit.to_lowercase();
    let alias = match lower.as_str() {
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        "t" | "tb" | "tib" => "TiB",
        "byte" | "bytes" | "b" => "B",
        _ => "",
    };
    let time = match lower.as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hr" | "hrs" | "hour" | "hours" => "h",
        "d" | "day" | "days" => "d",
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => "ms",
        _ => "",
    };
    units.iter().map(|(name, _)| *name).find(|name| *name == alias || *name == time)
}

fn explain(
    unparsed: Unparsed,
    text: &str,
    what: &str,
    form: &str,
    units: &[(&'static str, u64)],
) -> (String, String) {
    let all: Vec<&str> = units.iter().rev().map(|(name, _)| *name).collect();
    match unparsed {
        Unparsed::Form => (format!("{text:?} is not {what}"), form.to_owned()),
        Unparsed::NoUnit => (format!("{text:?} has no unit"), form.to_owned()),
        Unparsed::Fraction => {
            (format!("{text:?} has a fraction"), "write a whole number of a smaller unit".to_owned())
        }
        Unparsed::Overflow => (format!("{text:?} is too large"), form.to_owned()),
        Unparsed::Unit(unit) => (
            format!("unknown unit {unit:?} in {text:?}"),
            match meant_unit(&unit, units) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("the units are {}", all.join(", ")),
            },
        ),
    }
}

impl<const MIN: u64, const MAX: u64> Decode for Time<MIN, MAX> {
    const EXPECTS: &'static str = "a time such as \"10s\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let span = node.span().into();
        let with_unit = |number: &str| format!("write it with its unit: \"{number}s\" or \"{number}ms\"");
        let text = string_of(node, Self::EXPECTS, sink, with_unit)?;
        let ms = match parse_time(text) {
            Ok(ms) => ms,
            Err(unparsed) => {
                let form = "write it as \"500ms\", \"10s\", \"1m 30s\", \"2h\" or \"1d\"";
                let (detail, help) = explain(unparsed, text, "a time", form, &TIME_UNITS);
                sink.error(span, detail).help(help);
                return None;
            }
        };
        if !(MIN..=MAX).contains(&ms) {
            let side = if ms < MIN { "short" } else { "long" };
            sink.error(span, format!("{text:?} is too {side}")).help(Self::bounds());
            return None;
        }
        Some(Self::ms(ms))
    }

    fn show(&self) -> Value {
        Value::String(show_time(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> Time<MIN, MAX> {
    fn bounds() -> String {
        let show = |ms| show_time(Duration::from_millis(ms));
        format!("from {} to {}", show(MIN), show(MAX))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Time<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Time_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": format!("a time, {}", Self::bounds()),
            "pattern": r"^\s*([0-9_]+\s*(d|h|ms|m|s)\s*)+$",
        })
    }
}

/// A size in bytes: `"16 KiB"`, or a plain number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size<const MIN: u64, const MAX: u64>(pub(super) u64);

impl<const MIN: u64, const MAX: u64> Decode for Size<MIN, MAX> {
    const EXPECTS: &'static str = "a size such as \"16 KiB\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let span = node.span().into();
        let (shown, bytes) = match node.get_ref() {
            DeValue::Integer(number) => (number.to_string(), unsigned(number)),
            DeValue::String(text) => match parse_size(text) {
                Ok(bytes) => (format!("{text:?}"), Some(bytes)),
                Err(unparsed) => {
                    let form = "write it as \"16 KiB\", \"10 MiB\", \"1 GiB\" or, in bytes, as a number";
                    let (detail, help) = explain(unparsed, text, "a size", form, &SIZE_UNITS);
                    sink.error(span, detail).help(help);
                    return None;
                }
            },
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                return None;
            }
        };
        match bytes {
            Some(bytes) if (MIN..=MAX).contains(&bytes) => Some(Self(bytes)),
            _ => {
                let side = if bytes.is_some_and(|bytes| bytes < MIN) { "small" } else { "large" };
                let side = if shown.starts_with('-') { "small" } else { side };
                sink.error(span, format!("{shown} is too {side}")).help(Self::bounds());
                None
            }
        }
    }

    fn show(&self) -> Value {
        Value::String(show_size(self.0))
    }
}

impl<const MIN: u64, const MAX: u64> Size<MIN, MAX> {
    fn bounds() -> String {
        format!("from {} to {}", show_size(MIN), show_size(MAX))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Size<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Size_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": format!("a size, {}", Self::bounds()),
            "anyOf": [
                { "type": "string", "pattern": r"^\s*[0-9_]+\s*(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)\s*$" },
                { "type": "integer", "minimum": MIN, "maximum": MAX },
            ],
        })
    }
}

/// A size, or `"unlimited"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeOrUnlimited<const MIN: u64, const MAX: u64>(pub(super) Option<u64>);

const UNLIMITED: &str = "unlimited";

impl<const MIN: u64, const MAX: u64> Decode for SizeOrUnlimited<MIN, MAX> {
    const EXPECTS: &'static str = "a size such as \"16 KiB\", or \"unlimited\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(text) if text == UNLIMITED => Some(Self(None)),
            _ => Size::<MIN, MAX>::decode(node, sink).map(|size| Self(Some(size.0))),
        }
    }

    fn show(&self) -> Value {
        Value::String(self.0.map_or_else(|| UNLIMITED.to_owned(), show_size))
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for SizeOrUnlimited<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("SizeOrUnlimited_{MIN}_{MAX}").into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [Size::<MIN, MAX>::json_schema(generator), { "const": UNLIMITED }] })
    }
}

/// A whole number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count<const MIN: u32, const MAX: u32>(pub(super) u32);

impl<const MIN: u32, const MAX: u32> Decode for Count<MIN, MAX> {
    const EXPECTS: &'static str = "a whole number";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let DeValue::Integer(number) = node.get_ref() else {
            let report = wrong_type(node, Self::EXPECTS, sink);
            if matches!(node.get_ref(), DeValue::String(text) if text.parse::<u32>().is_ok()) {
                report.help("write it without quotes");
            }
            return None;
        };
        let value = unsigned(number).and_then(|value| u32::try_from(value).ok());
        match value {
            Some(value) if (MIN..=MAX).contains(&value) => Some(Self(value)),
            _ => {
                let small = number.as_str().starts_with('-') || value.is_some_and(|value| value < MIN);
                let side = if small { "small" } else { "large" };
                sink.error(node.span().into(), format!("{number} is too {side}"))
                    .help(format!("from {MIN} to {MAX}"));
                None
            }
        }
    }

    fn show(&self) -> Value {
        self.0.into()
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Count<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Count_{MIN}_{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Permission bits of a socket: `"0660"`, or `0o660`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mode(pub(super) u32);

/// The bits that say who may read, write and execute.
const PERMISSION_BITS: u32 = 0o777;

impl Decode for Mode {
    const EXPECTS: &'static str = "permission bits such as \"0660\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let (shown, bits) = match node.get_ref() {
            DeValue::Integer(number) if number.radix() == 8 => {
                (number.to_string(), u32::from_str_radix(number.as_str(), 8).ok())
            }
            DeValue::Integer(number) => {
                sink.error(node.span().into(), format!("{number} is not octal"))
                    .help(format!("write \"0{number}\" or 0o{number}"));
                return None;
            }
            DeValue::String(text) => {
                let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
                (format!("{text:?}"), octal.then(|| u32::from_str_radix(text, 8).ok()).flatten())
            }
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                return None;
            }
        };
        let mode = bits.filter(|bits| *bits <= PERMISSION_BITS).map(Self);
        if mode.is_none() {
            sink.error(node.span().into(), format!("{shown} is not permission bits"))
                .help("write three octal digits, such as \"0660\": owner, group, others");
        }
        mode
    }

    fn show(&self) -> Value {
        Value::String(show_mode(self.0))
    }
}

/// `0660`.
pub(super) fn show_mode(mode: u32) -> String {
    format!("{mode:04o}")
}

impl JsonSchema for Mode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "permission bits, in octal",
            "anyOf": [
                { "type": "string", "pattern": "^0*[0-7]{1,3}$" },
                { "type": "integer", "minimum": 0, "maximum": PERMISSION_BITS },
            ],
        })
    }
}

/// A user or a group: its name, or its number.
#[derive(Debug, Clone)]
pub(super) enum Principal {
    /// By name.
    Name(String),
    /// By number.
    Number(u32),
}

impl Decode for Principal {
    const EXPECTS: &'static str = "a name or a number";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::String(name) => Some(Self::Name(name.clone().into_owned())),
            DeValue::Integer(number) => {
                // The highest number is "no user" to the system calls: chown(2).
                let id = unsigned(number).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
                if id.is_none() {
                    sink.error(
                        node.span().into(),
                        format!("{number} is not the number of a user or a group"),
                    );
                }
                id.map(Self::Number)
            }
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                None
            }
        }
    }
}

impl JsonSchema for Principal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Principal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 }] })
    }
}

fn unsigned(number: &DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(number.as_str().trim_start_matches('+'), number.radix()).ok()
}
