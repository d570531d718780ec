//! What is written about the configuration is true.

use serde_json::Value;

use super::{World, golden, said, source};

#[test]
fn the_schema_in_docs_is_the_one_that_the_code_makes() {
    let mut schema = serde_json::to_string_pretty(&super::super::schema()).unwrap();
    schema.push('\n');
    golden(&source("../../docs/schema.json"), &schema);
}

fn reference() -> String {
    std::fs::read_to_string(source("../../docs/configuration.md")).unwrap()
}

#[test]
fn every_example_of_the_reference_is_accepted_without_a_warning() {
    let text = reference();
    let mut examples = 0;
    for block in text.split("```toml\n").skip(1) {
        let (example, _) = block.split_once("```").unwrap();
        let mut world = World { generous: true, ..World::default() };
        match world.parse(example) {
            Ok(checked) => assert!(checked.warnings.is_empty(), "{example}\n{}", said(&checked.warnings)),
            Err(problems) => panic!("{example}\n{}", said(&problems)),
        }
        examples += 1;
    }
    assert!(examples >= 4, "the examples are gone");
}

/// The line of the reference that explains a key: `| \`key\` | …`, in the section of its table.
fn row<'t>(text: &'t str, section: &str, key: &str) -> Option<&'t str> {
    let begin = text.find(&format!("<!-- {section} -->"))?;
    let rest = &text[begin..];
    let end = [rest.find("\n## "), rest.find("\n### ")].into_iter().flatten().min();
    let section = &rest[..end.unwrap_or(rest.len())];
    section.lines().find(|line| line.starts_with(&format!("| `{key}`")))
}

/// A default as the reference shows it.
fn shown(default: &Value) -> String {
    match default {
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[test]
fn the_reference_explains_every_key_with_its_default_and_its_bounds() {
    let text = reference();
    let schema = super::super::schema();
    let mut missing = Vec::new();
    let whole = "Config".to_owned();
    for (name, table) in schema["$defs"].as_object().unwrap().iter().chain([(&whole, &schema)]) {
        let properties = table.get("properties").unwrap_or(&table["anyOf"][1]["properties"]);
        for (key, property) in properties.as_object().unwrap() {
            let Some(row) = row(&text, name, key) else {
                missing.push(format!("{name}.{key} is not explained"));
                continue;
            };
            if let Some(default) = property.get("default")
                && !row.contains(&format!("`{}`", shown(default)))
            {
                missing.push(format!("{name}.{key}: default {}", shown(default)));
            }
            let title = property.get("title").or_else(|| property["anyOf"][0].get("title"));
            if let Some(bounds) = title.and_then(Value::as_str).and_then(|title| title.split("from ").nth(1))
            {
                let (least, greatest) = bounds.split_once(" to ").unwrap();
                if !(row.contains(least) && row.contains(greatest)) {
                    missing.push(format!("{name}.{key}: from {bounds}"));
                }
            }
            if let (Some(least), Some(greatest)) = (property.get("minimum"), property.get("maximum"))
                && !(row.contains(&least.to_string()) && row.replace(' ', "").contains(&greatest.to_string()))
            {
                missing.push(format!("{name}.{key}: from {least} to {greatest}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/configuration.md lacks:\n{}", missing.join("\n"));
}

/// Does a value fit the part of JSON Schema that ours is made of?
fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return fits(value, root.pointer(reference.trim_start_matches('#')).unwrap(), root);
    }
    let all_of = |key: &str| schema.get(key).and_then(Value::as_array);
    let any = all_of("anyOf").is_none_or(|options| options.iter().any(|option| fits(value, option, root)));
    let one = all_of("oneOf")
        .is_none_or(|options| options.iter().filter(|option| fits(value, option, root)).count() == 1);
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    let is_type = |name: &str| match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    let typed = match schema.get("type") {
        Some(Value::String(name)) => is_type(name),
        Some(Value::Array(names)) => names.iter().any(|name| is_type(name.as_str().unwrap())),
        _ => true,
    };
    let bounded = value.as_u64().is_none_or(|number| {
        schema.get("minimum").and_then(Value::as_u64).is_none_or(|least| number >= least)
            && schema.get("maximum").and_then(Value::as_u64).is_none_or(|greatest| number <= greatest)
    });
    let items = match (value, schema.get("items")) {
        (Value::Array(values), Some(items)) => values.iter().all(|value| fits(value, items, root)),
        _ => true,
    };
    let keys = match value {
        Value::Object(entries) => {
            let known = |key: &str| schema.pointer(&format!("/properties/{key}"));
            entries.iter().all(|(key, value)| match (known(key), schema.get("additionalProperties")) {
                (Some(property), _) => fits(value, property, root),
                (None, Some(Value::Bool(false))) => false,
                (None, Some(others)) => fits(value, others, root),
                (None, None) => true,
            }) && all_of("required")
                .is_none_or(|keys| keys.iter().all(|key| entries.contains_key(key.as_str().unwrap())))
        }
        _ => true,
    };
    any && one && constant && typed && bounded && items && keys
}

#[test]
fn the_schema_accepts_what_the_reference_shows() {
    let schema = super::super::schema();
    let text = reference();
    for block in text.split("```toml\n").skip(1) {
        let (example, _) = block.split_once("```").unwrap();
        let value: Value = serde_json::to_value(toml::from_str::<toml::Value>(example).unwrap()).unwrap();
        assert!(fits(&value, &schema, &schema), "{example}");
    }
    let wrong = serde_json::json!({ "listeners": { "web": { "adress": "127.0.0.1:1" } } });
    assert!(!fits(&wrong, &schema, &schema));
}
