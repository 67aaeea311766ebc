//! A wsgate.toml in the making: tables of keys, with comments where something differs.

use std::collections::HashSet;

use toml::{Table as Map, Value};

use super::super::reader::Text;
use super::{Note, Place};

/// Columns of a comment.
const WIDTH: usize = 100;

/// All that goes into a file, and what could not.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub head: Vec<String>,
    pub tables: Vec<Table>,
    pub notes: Vec<Note>,
}

impl Draft {
    pub fn note(&mut self, place: &Place, what: impl Into<String>, instead: impl Into<String>) {
        self.notes.push(Note {
            place: place.clone(),
            what: printable(&what.into()),
            instead: instead.into(),
        });
    }

    /// The name of a table of this kind that is like `table`, which is added if there is none.
    pub fn shared(&mut self, mut table: Table, wanted: &str) -> String {
        let same = |other: &&Table| {
            other.header == table.header && other.lines.get(1..) == Some(&table.lines)
        };
        if let Some(other) = self.tables.iter().find(same) {
            return other.name().to_owned();
        }
        let name = self.free_name(table.header, wanted);
        table.lines.insert(0, Line::of("name", name.as_str()));
        self.tables.push(table);
        name
    }

    /// `wanted`, or the first of `wanted 2`, `wanted 3` … that no table of this kind has.
    pub fn free_name(&self, header: &str, wanted: &str) -> String {
        let wanted = name(wanted);
        let alike = self.tables.iter().filter(|table| table.header == header);
        let taken: HashSet<_> = alike.map(Table::name).collect();
        let numbered = (2u32..).map(|number| format!("{wanted} {number}"));
        let mut names = std::iter::once(wanted.clone()).chain(numbered);
        names.find(|name| !taken.contains(name.as_str())).unwrap_or(wanted)
    }

    pub fn count(&self, header: &str) -> usize {
        self.tables.iter().filter(|table| table.header == header).count()
    }
}

/// A name as routes and upstreams may have one.
fn name(text: &str) -> String {
    let name: String = printable(text).chars().take(100).collect();
    let short: String = name
        .chars()
        .scan(0, |size, letter| {
            *size += letter.len_utf8();
            (*size <= 100).then_some(letter)
        })
        .collect();
    if short.is_empty() || short == "-" { "default".to_owned() } else { short }
}

/// One table of the file; its first line is its name, if it has one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    /// `[[route]]`
    pub header: &'static str,
    pub about: Vec<String>,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    key: String,
    value: Value,
    /// Above it.
    why: Vec<String>,
}

impl Line {
    pub fn is(&self, key: &str) -> bool {
        self.key == key
    }

    fn of(key: &str, value: impl Into<Value>) -> Line {
        Line { key: key.to_owned(), value: value.into(), why: Vec::new() }
    }
}

impl Table {
    pub fn new(header: &'static str) -> Table {
        Table { header, about: Vec::new(), lines: Vec::new() }
    }

    fn name(&self) -> &str {
        self.lines.first().and_then(|line| line.value.as_str()).unwrap_or_default()
    }

    pub fn say(&mut self, words: impl Into<String>) {
        let words = words.into();
        if !self.about.contains(&words) {
            self.about.push(words);
        }
    }

    /// In place of what the key had before.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.lines.retain(|line| !line.is(key));
        self.lines.push(Line::of(key, value));
    }

    /// The same, with words above it.
    pub fn set_since(&mut self, key: &str, value: impl Into<Value>, why: &str) {
        self.set(key, value);
        self.explain(why);
    }

    /// Words above the last line.
    pub fn explain(&mut self, why: &str) {
        if let Some(line) = self.lines.last_mut().filter(|_| !why.is_empty()) {
            line.why.push(why.to_owned());
        }
    }

    pub fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|line| line.is(key))
    }

    /// Whether this is its name.
    pub fn is_called(&self, name: &str) -> bool {
        self.has("name") && self.name() == name
    }
}

/// `{ key = value }`
pub(super) fn inline<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map>())
}

/// Whether a text is good where this type is read.
pub(super) fn is<T: Text>(text: &str) -> bool {
    T::parse(text).is_ok()
}

/// The file.
pub(super) fn text(head: &[String], tables: &[Table]) -> String {
    let mut text = String::new();
    head.iter().for_each(|words| comment(&mut text, words));
    for table in tables {
        text.push('\n');
        table.about.iter().for_each(|words| comment(&mut text, words));
        text += table.header;
        text.push('\n');
        for line in &table.lines {
            line.why.iter().for_each(|words| comment(&mut text, words));
            text += &format!("{} = {}\n", line.key, line.value);
        }
    }
    text
}

fn comment(text: &mut String, words: &str) {
    let mut column = 0;
    for word in printable(words).split(' ').filter(|word| !word.is_empty()) {
        if column > 0 && column + word.len() >= WIDTH {
            text.push('\n');
            column = 0;
        }
        let front = if column == 0 { "# " } else { " " };
        *text += front;
        *text += word;
        column += front.len() + word.len();
    }
    text.push('\n');
}

/// Control characters may not stand in a comment, nor reach a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
