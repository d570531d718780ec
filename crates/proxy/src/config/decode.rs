//! From TOML values to raw types, without stopping at the first mistake.
//!
//! serde stops at the first error, and a person would then mend a file one run at a time. So the raw types decode
//! themselves: a value that cannot be understood is reported and leaves a [`Field::Bad`] behind, and decoding goes on
//! with the next one. The same declaration ([`table!`], [`choice!`]) yields the JSON Schema, so that what is accepted
//! and what is documented cannot differ.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::sink::{Located, Report, Sink, nearest, suggestion};

/// A value of the TOML document.
pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// A type that knows how it is written in TOML.
pub(super) trait Decode: JsonSchema + Sized {
    /// What is expected, with its article: `a string`.
    const EXPECTS: &'static str;

    /// Reads the value, or reports why it cannot be read.
    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self>;

    /// The value as it would be written, to show a default in the schema.
    fn show(&self) -> Value {
        Value::Null
    }
}

/// A key of a table.
#[derive(Debug, Clone, Default)]
pub(super) enum Field<T> {
    /// It is not there.
    #[default]
    Missing,
    /// It is there, its value is wrong, and that was reported.
    Bad,
    /// It is there.
    Set(Located<T>),
}

impl<T> Field<T> {
    /// The value, if there is one that could be understood.
    pub(super) fn get(&self) -> Option<&Located<T>> {
        match self {
            Self::Set(located) => Some(located),
            Self::Missing | Self::Bad => None,
        }
    }

    /// The same, taking it.
    pub(super) fn take(self) -> Option<Located<T>> {
        match self {
            Self::Set(located) => Some(located),
            Self::Missing | Self::Bad => None,
        }
    }

    /// Is the key there, whatever its value?
    pub(super) fn is_present(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

impl<T: Default> Field<T> {
    /// The table, or an empty one.
    pub(super) fn or_default(self) -> T {
        self.take().map(|located| located.value).unwrap_or_default()
    }
}

impl<T: Decode> Field<T> {
    pub(super) fn read(node: &Node<'_>, sink: &mut Sink) -> Self {
        T::decode(node, sink)
            .map_or(Self::Bad, |value| Self::Set(Located { value, span: node.span().into() }))
    }
}

/// Reports that a value is of the wrong type.
pub(super) fn wrong_type<'s>(node: &Node<'_>, expected: &str, sink: &'s mut Sink) -> &'s mut Report {
    let found = match node.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    sink.error(node.span().into(), format!("expected {expected}, found {found}"))
}

/// The string in a node, or a report.
pub(super) fn string<'n>(node: &'n Node<'_>, expected: &str, sink: &mut Sink) -> Option<&'n str> {
    match node.get_ref() {
        DeValue::String(text) => Some(text),
        _ => {
            wrong_type(node, expected, sink);
            None
        }
    }
}

/// The same; whoever wrote a bare number is told how it is `written` instead.
pub(super) fn string_of<'n>(
    node: &'n Node<'_>,
    expected: &str,
    sink: &mut Sink,
    written: impl FnOnce(&str) -> String,
) -> Option<&'n str> {
    if let DeValue::Integer(number) = node.get_ref() {
        wrong_type(node, expected, sink).help(written(&number.to_string()));
        return None;
    }
    string(node, expected, sink)
}

/// A table of any names, in the order of the file; `value` reads what a name stands for.
pub(super) fn by_name(
    node: &Node<'_>,
    expected: &str,
    sink: &mut Sink,
    value: impl Fn(&Node<'_>, &mut Sink) -> Option<String>,
) -> Option<Vec<(Located<String>, Located<String>)>> {
    let table = as_table(node, expected, sink)?;
    let mut decoded: Vec<_> = table
        .iter()
        .filter_map(|(key, node)| {
            let value = Located { value: value(node, sink)?, span: node.span().into() };
            Some((Located { value: key.get_ref().clone().into_owned(), span: key.span().into() }, value))
        })
        .collect();
    decoded.sort_by_key(|(name, _)| name.span.start);
    Some(decoded)
}

/// The table in a node, or a report.
pub(super) fn as_table<'n, 'i>(
    node: &'n Node<'i>,
    expected: &str,
    sink: &mut Sink,
) -> Option<&'n DeTable<'i>> {
    match node.get_ref() {
        DeValue::Table(table) => Some(table),
        DeValue::Array(nodes) if nodes.iter().any(|node| matches!(node.get_ref(), DeValue::Table(_))) => {
            wrong_type(node, expected, sink).help("there is one only: write its header in single brackets");
            None
        }
        _ => {
            wrong_type(node, expected, sink);
            None
        }
    }
}

impl Decode for String {
    const EXPECTS: &'static str = "a string";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        string(node, Self::EXPECTS, sink).map(str::to_owned)
    }

    fn show(&self) -> Value {
        Value::String(self.clone())
    }
}

impl Decode for bool {
    const EXPECTS: &'static str = "true or false";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        match node.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                wrong_type(node, Self::EXPECTS, sink);
                None
            }
        }
    }

    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

/// One value, or an array of them.
#[derive(Debug, Clone)]
pub(super) enum OneOrMany<T> {
    /// It stands alone.
    One(Located<T>),
    /// They stand in an array.
    Many(Vec<Located<T>>),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[Located<T>] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T: Decode> Decode for OneOrMany<T> {
    const EXPECTS: &'static str = T::EXPECTS;

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let one = |node: &Node<'_>, sink: &mut Sink| {
            T::decode(node, sink).map(|value| Located { value, span: node.span().into() })
        };
        match node.get_ref() {
            DeValue::Array(nodes) if nodes.is_empty() => {
                sink.error(node.span().into(), "an empty list: nothing would ever match or happen")
                    .help(format!("write {}, or a list of at least one, or leave the key out", T::EXPECTS));
                None
            }
            DeValue::Array(nodes) => {
                Some(Self::Many(nodes.iter().filter_map(|node| one(node, sink)).collect()))
            }
            DeValue::String(_) | DeValue::Integer(_) => one(node, sink).map(Self::One),
            _ => {
                wrong_type(node, &format!("{} or a list", T::EXPECTS), sink);
                None
            }
        }
    }

    fn show(&self) -> Value {
        self.as_slice().iter().map(|located| located.value.show()).collect()
    }
}

impl<T: Decode> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// An array of at most `MAX` tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Many<T, const MAX: usize>(pub(super) Vec<Located<T>>);

impl<T: Decode, const MAX: usize> Decode for Many<T, MAX> {
    const EXPECTS: &'static str = "a list";

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let DeValue::Array(nodes) = node.get_ref() else {
            wrong_type(node, "a list of tables", sink)
                .help("write its header in double brackets, as in [[routes]]");
            return None;
        };
        if let Some(beyond) = nodes.get(MAX) {
            sink.error(
                beyond.span().into(),
                format!("there are {}, and at most {MAX} are read", nodes.len()),
            );
        }
        let decode =
            |node: &Node<'_>| T::decode(node, sink).map(|value| Located { value, span: node.span().into() });
        Some(Self(nodes.iter().take(MAX).filter_map(decode).collect()))
    }
}

impl<T: Decode, const MAX: usize> JsonSchema for Many<T, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Many_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>(), "maxItems": MAX })
    }
}

/// A table whose keys are at most `MAX` names of the operator's choice, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Named<T, const MAX: usize>(pub(super) Vec<(Located<String>, Field<T>)>);

impl<T: Decode, const MAX: usize> Decode for Named<T, MAX> {
    const EXPECTS: &'static str = T::EXPECTS;

    fn decode(node: &Node<'_>, sink: &mut Sink) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            let report = wrong_type(node, "tables by name", sink);
            if matches!(node.get_ref(), DeValue::Array(_)) {
                report.help("write the name into the header, in single brackets, as in [listeners.web]");
            }
            return None;
        };
        if table.len() > MAX {
            sink.error(node.span().into(), format!("there are {}, and at most {MAX} are read", table.len()));
        }
        let mut entries: Vec<(Located<String>, Field<T>)> = table
            .iter()
            .take(MAX)
            .map(|(key, node)| {
                let name = Located { value: key.get_ref().clone().into_owned(), span: key.span().into() };
                (name, Field::read(node, sink))
            })
            .collect();
        entries.sort_by_key(|(name, _)| name.span.start);
        Some(Self(entries))
    }
}

impl<T: Decode, const MAX: usize> JsonSchema for Named<T, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
            "maxProperties": MAX,
        })
    }
}

/// Reports a key that a table does not have.
pub(super) fn unknown_key(
    key: &Spanned<Cow<'_, str>>,
    table: &Node<'_>,
    what: &str,
    known: &[&'static str],
    sink: &mut Sink,
) {
    let name: &str = key.get_ref();
    let report = sink.error(key.span().into(), format!("unknown key {name:?} in {what}"));
    report.misspelt = nearest(name, known).map(|meant| (table.span().into(), meant));
    if let Some(help) = suggestion(name, known.iter().copied()) {
        report.help(help);
    }
}

/// Joins the lines of a doc comment: a single line break is a space, an empty line a paragraph.
pub(super) fn prose(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        let line = line.trim();
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !(text.is_empty() || text.ends_with('\n')) {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text
}

/// Declares a table: a struct with a [`Field`] for each key, how it is decoded, and its schema.
///
/// `"what it is"`, then the keys that must be there, then (optionally) the key that a bare string stands for, then each
/// key with its type and, after `=`, its default. A key with a default gets a method of the same name, which gives
/// the value that counts.
macro_rules! table {
    (
        $(#[doc = $doc:literal])*
        $name:ident: $what:literal, requires [$($required:literal),*] $(, short for $short:ident)?;
        $($(#[doc = $field_doc:literal])* $field:ident: $ty:ty $(= $default:expr)?;)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Default)]
        pub(super) struct $name {
            $($(#[doc = $field_doc])* pub(super) $field: $crate::config::decode::Field<$ty>,)*
        }

        impl $name {
            $($(
                /// The value that counts: the one given, or the default.
                pub(super) fn $field(&self) -> $ty {
                    match self.$field.get() {
                        Some(located) => located.value.clone(),
                        None => $default,
                    }
                }
            )?)*
        }

        impl $crate::config::decode::Decode for $name {
            const EXPECTS: &'static str = {
                let short: &[&str] = &[$(stringify!($short))?];
                if short.is_empty() { "a table" } else { "a table or a string" }
            };

            fn decode(
                node: &$crate::config::decode::Node<'_>,
                sink: &mut $crate::config::sink::Sink,
            ) -> Option<Self> {
                use $crate::config::decode;
                let mut decoded = <Self as Default>::default();
                $(
                    if matches!(node.get_ref(), ::toml::de::DeValue::String(_)) {
                        decoded.$short = decode::Field::read(node, sink);
                        return Some(decoded);
                    }
                )?
                let table = decode::as_table(node, Self::EXPECTS, sink)?;
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        $(stringify!($field) => decoded.$field = decode::Field::read(value, sink),)*
                        _ => decode::unknown_key(key, node, $what, &[$(stringify!($field)),*], sink),
                    }
                }
                $(
                    if !table.contains_key($required) {
                        sink.error(node.span().into(), concat!($what, " needs the key \"", $required, "\"")).lacks(&[$required]);
                    }
                )*
                Some(decoded)
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($name).trim_start_matches("Raw").into()
            }

            fn json_schema(generator: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                let mut properties = ::serde_json::Map::new();
                $({
                    #[allow(unused_mut, reason = "only keys with a default change it")]
                    let mut property = generator.subschema_for::<$ty>();
                    property.insert(
                        "description".to_owned(),
                        $crate::config::decode::prose(&[$($field_doc),*]).into(),
                    );
                    $(property.insert(
                        "default".to_owned(),
                        $crate::config::decode::Decode::show(&{ let default: $ty = $default; default }),
                    );)?
                    properties.insert(stringify!($field).to_owned(), property.to_value());
                })*
                let required: &[&str] = &[$($required),*];
                let table = ::schemars::json_schema!({
                    "type": "object",
                    "description": $crate::config::decode::prose(&[$($doc),*]),
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                });
                $(
                    let _ = stringify!($short);
                    return ::schemars::json_schema!({ "anyOf": [{ "type": "string" }, table] });
                )?
                #[allow(unreachable_code, reason = "tables with a short form return above")]
                table
            }
        }
    };
}

/// Declares a choice between words.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $target:ty: $what:literal $(, or $or:literal)?;
        $($(#[doc = $word_doc:literal])* $word:literal => $value:expr;)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) $target);

        impl $crate::config::decode::Decode for $name {
            const EXPECTS: &'static str = "a string";

            fn decode(
                node: &$crate::config::decode::Node<'_>,
                sink: &mut $crate::config::sink::Sink,
            ) -> Option<Self> {
                let words = [$($word),*];
                let expected = format!("one of {}", $crate::config::sink::quoted_list(&words));
                match $crate::config::decode::string(node, &expected, sink)? {
                    $($word => Some(Self($value)),)*
                    other => {
                        let report = sink.error(node.span().into(), format!(concat!("unknown ", $what, " {:?}"), other));
                        let or = concat!($($or)?);
                        if let Some(help) = $crate::config::sink::suggestion_or(other, words, or) {
                            report.help(help);
                        }
                        None
                    }
                }
            }

            fn show(&self) -> ::serde_json::Value {
                $(if self.0 == $value { return $word.into(); })*
                ::serde_json::Value::Null
            }
        }

        impl ::schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> ::std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut ::schemars::SchemaGenerator) -> ::schemars::Schema {
                ::schemars::json_schema!({ "oneOf": [$({
                    "const": $word,
                    "description": $crate::config::decode::prose(&[$($word_doc),*]),
                }),*] })
            }
        }
    };
}

pub(super) use {choice, table};
