//! The JSON Schema of the file, for editors and for `wsgate schema`.
//!
//! It is made from the same declarations as the reader, so the two cannot drift apart.

use serde_json::{Value as Json, json};

use super::file::File;
use super::reader::Read;

/// The schema (draft 2020-12) as one JSON value.
pub fn schema() -> Json {
    let mut schema = File::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("wsgate configuration");
    // `validate` says the same: a route goes somewhere.
    schema["properties"]["route"]["items"]["anyOf"] =
        json!([{ "required": ["upstream"] }, { "required": ["redirect"] }]);
    schema
}

/// The headers of the tables that have this key.
pub(super) fn tables_with(key: &str) -> Vec<String> {
    let mut found = Vec::new();
    collect(&File::schema(), key, &mut found);
    found.dedup();
    found
}

fn collect(schema: &Json, key: &str, found: &mut Vec<String>) {
    let properties = schema["properties"].as_object();
    if properties.is_some_and(|properties| properties.contains_key(key)) {
        found.extend(schema["title"].as_str().map(str::to_owned));
    }
    let below = properties.into_iter().flat_map(|properties| properties.values());
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    for next in below.chain(choices).chain(schema.get("items")) {
        collect(next, key, found);
    }
}
