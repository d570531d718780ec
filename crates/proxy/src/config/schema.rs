//! The JSON Schema of the configuration file, for editors and for `handover schema`.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::raw::RawConfig;

/// The keys of a route of which exactly one must be there.
const ACTIONS: [&str; 5] = ["service", "program", "fixed", "redirect", "directory"];
/// The keys of a service of which exactly one must be there.
const PLACES: [&str; 2] = ["endpoints", "program"];

/// The JSON Schema (2020-12) of the configuration file: `handover schema`.
///
/// It is made of the same declarations that the file is read by. What goes beyond single values (that names refer to
/// something, that addresses do not exclude each other) only `handover validate` can tell.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<RawConfig>();
    schema.insert("title".to_owned(), "handover configuration".into());
    let mut schema = schema.to_value();
    for (table, keys) in [("/$defs/Route", &ACTIONS[..]), ("/$defs/Service", &PLACES)] {
        if let Some(Value::Object(table)) = schema.pointer_mut(table) {
            let one_of: Vec<Value> = keys.iter().map(|key| json!({ "required": [key] })).collect();
            table.insert("oneOf".to_owned(), one_of.into());
        }
    }
    schema
}
