//! A share of the whole, written in percent.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::decode::{Decode, Node, string_of};
use super::model::Share;
use super::sink::Sink;

/// `"5%"`, `"0.25%"`: from 0.01% to 100%.
#[derive(Debug, Clone, Copy)]
pub(super) struct Percent(pub(super) Share);

/// Hundredths of a percent in the whole.
const WHOLE: u32 = 10_000;

impl Percent {
    /// So many percent.
    pub(super) const fn of(percent: u32) -> Self {
        Self(Share(percent * 100))
    }
}

/// Hundredths of a percent of `5%` or `0.25 %`.
fn parse(text: &str) -> Option<u32> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return None;
    }
    let hundredths = part.parse::<u32>().ok()? * if part.len() == 1 { 10 } else { 1 };
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)
}

impl Decode for Percent {
    const EXPECTS: &'static str = "a share such as \"5%\"";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let with_unit = |number: &str| format!("write it with its unit: \"{number}%\"");
        let text = string_of(node, Self::EXPECTS, sink, with_unit)?;
        match parse(text) {
            Some(hundredths @ 1..=WHOLE) => Some(Self(Share(hundredths))),
            Some(_) => {
                sink.error(node.span().into(), format!("{text:?} is no such share"))
                    .help("from 0.01% to 100%");
                None
            }
            None => {
                sink.error(node.span().into(), format!("{text:?} is not a share"))
                    .help("write it as \"5%\", \"0.5%\" or \"0.25%\"");
                None
            }
        }
    }

    fn show(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "title": "a share, from 0.01% to 100%",
            "pattern": r"^\s*[0-9]+(\.[0-9]{1,2})?\s*%\s*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_percents_or_hundredths_of_them() {
        for (text, hundredths) in
            [("5%", 500), ("0.5 %", 50), ("0.25%", 25), ("0.05%", 5), (" 100% ", 10_000)]
        {
            assert_eq!(parse(text), Some(hundredths), "{text}");
        }
        for text in ["5", "%", "5%%", "-5%", "5.%", ".5%", "0.123%", "1e2%", "5,5%", "99999999999%", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_is_shown_as_it_would_be_written() {
        for text in ["5%", "0.5%", "0.25%", "0.05%", "100%"] {
            assert_eq!(Share(parse(text).unwrap()).to_string(), text);
        }
    }
}
