//! The lifecycle's own words, and how the API's description (OpenAPI) shows them.
//!
//! The lifecycle crate knows nothing of OpenAPI. Each type here stands for one of its enums there, and describes all its words.

use std::borrow::Cow;

pub use handover_lifecycle::{Cause, Kind, Outcome, Phase, StepName};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Describes `$original` under its own name.
macro_rules! described {
    ($schema:ident, $original:ident, $about:literal) => {
        pub(crate) struct $schema;

        impl PartialSchema for $schema {
            fn schema() -> RefOr<Schema> {
                words($about, &$original::ALL)
            }
        }

        impl ToSchema for $schema {
            fn name() -> Cow<'static, str> {
                stringify!($original).into()
            }
        }
    };
}

described!(KindSchema, Kind, "What was asked for.");
described!(
    OutcomeSchema,
    Outcome,
    "How an operation ended: exactly one of these, in the journal before anybody is told."
);
described!(CauseSchema, Cause, "Why it ended so.");
described!(PhaseSchema, Phase, "What the server as a whole is doing.");

fn words(about: &str, all: &[impl serde::Serialize]) -> RefOr<Schema> {
    // As they are sent. Serialising them cannot fail.
    let words = all.iter().map(|word| serde_json::to_value(word).unwrap_or_default());
    let schema = ObjectBuilder::new().schema_type(Type::String).description(Some(about));
    schema.enum_values(Some(words)).into()
}
