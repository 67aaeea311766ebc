//! `wsgate schema`: the JSON Schema of the configuration, for editors.

use crate::config;

/// The schema as text, ended by a newline.
pub fn schema() -> String {
    format!("{:#}\n", config::schema())
}
