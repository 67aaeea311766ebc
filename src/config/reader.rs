//! A small typed reader of TOML that goes on after a fault, so that all are found at once.
//!
//! serde stops at the first error. Here each table is declared once, by [`table!`], and that one
//! declaration is the struct the values land in, the list of known keys, the defaults, and the
//! JSON Schema. A value that is wrong leaves a diagnostic and an empty [`Field`]; whoever reads
//! fields afterwards takes an empty one as "already complained of".

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::diagnostics::{Diagnostic, Span};
use super::file::File;

pub(super) type Node<'a> = Spanned<DeValue<'a>>;
pub(super) type Faults = Vec<Diagnostic>;

/// The whole text, read as a file. Faults of syntax come alone: what they left unread would only
/// cause others.
pub(super) fn document(text: &str) -> Result<(File, Faults), Faults> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().map(syntax_fault).collect());
    }
    if table.get_ref().is_empty() {
        let help = "begin with a copy of conf/wsgate.toml, or see `wsgate schema` for all keys";
        return Err(vec![Diagnostic::of_the_file("the file is empty").help(help)]);
    }
    let mut faults = Vec::new();
    let node = Spanned::new(0..0, DeValue::Table(table.into_inner()));
    match File::read(&node, &mut faults) {
        Some(file) => Ok((file, faults)),
        None => Err(faults),
    }
}

fn syntax_fault(error: &toml::de::Error) -> Diagnostic {
    let message = format!("this is not TOML: {}", error.message());
    match error.span() {
        Some(span) => Diagnostic::fault(span, message),
        None => Diagnostic::of_the_file(message),
    }
}

/// A type that can stand behind a key.
pub(super) trait Read: Sized {
    /// The value, or `None` after a fault was added.
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Self>;

    /// Its JSON Schema.
    fn schema() -> Json;

    /// What an absent key without a default means; `None`: the key is required.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether a file without it can be good.
    fn optional() -> bool {
        Self::absent().is_some()
    }
}

/// A type written as a string.
pub(super) trait Text: Sized {
    /// With its article: "a duration".
    const NAME: &'static str;
    /// As it is written in a file, without quotes.
    const EXAMPLE: &'static str;

    fn parse(text: &str) -> Result<Self, Complaint>;

    fn schema() -> Json {
        json!({ "type": "string", "examples": [Self::EXAMPLE] })
    }
}

/// What is wrong with a text, before anyone knows where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// Follows the text in the message; `None`: "is not" and the type's name.
    verdict: Option<&'static str>,
    /// Goes beneath the underline.
    label: String,
    help: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.label, self.help)
    }
}

impl Complaint {
    /// The text is none of this type.
    pub fn malformed(label: impl Into<String>, help: impl Into<String>) -> Complaint {
        Complaint { verdict: None, label: label.into(), help: help.into() }
    }

    /// The text is of this type, but must not stand here.
    pub fn unfit(
        verdict: &'static str,
        label: impl Into<String>,
        help: impl Into<String>,
    ) -> Complaint {
        Complaint { verdict: Some(verdict), label: label.into(), help: help.into() }
    }

    /// The same, with one more thing that could be written.
    #[must_use]
    pub fn or(mut self, other: &str) -> Complaint {
        self.help = format!("{}; or {other:?}", self.help);
        self
    }

    /// The same fault, mended another way: this was part of a larger text.
    #[must_use]
    pub fn with_help(mut self, help: &str) -> Complaint {
        help.clone_into(&mut self.help);
        self
    }

    fn diagnostic(self, text: &str, name: &str, span: Span) -> Diagnostic {
        let message = match self.verdict {
            Some(verdict) => format!("{text:?} {verdict}"),
            None => format!("{text:?} is not {name}"),
        };
        Diagnostic::fault(span, message).label(self.label).help(self.help)
    }
}

impl<T: Text> Read for T {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<T> {
        let DeValue::String(text) = node.get_ref() else {
            faults.push(wrong_type(
                node,
                T::NAME,
                &format!("write it in quotes, such as {:?}", T::EXAMPLE),
            ));
            return None;
        };
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(complaint) => {
                faults.push(complaint.diagnostic(text, T::NAME, node.span()));
                None
            }
        }
    }

    fn schema() -> Json {
        T::schema()
    }
}

impl Read for bool {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<bool> {
        if let DeValue::Boolean(value) = node.get_ref() {
            return Some(*value);
        }
        faults.push(wrong_type(node, "true or false", "write true or false, without quotes"));
        None
    }

    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

/// Absent is `None`: the key is optional and has no default.
impl<T: Read> Read for Option<T> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Option<T>> {
        T::read(node, faults).map(Some)
    }

    fn schema() -> Json {
        T::schema()
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

/// Elements at fault are left out, each with its diagnostic.
impl<T: Read> Read for Vec<T> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Vec<T>> {
        let DeValue::Array(elements) = node.get_ref() else {
            faults.push(wrong_type(node, "a list", "put it in brackets: [ … ]"));
            return None;
        };
        Some(elements.iter().filter_map(|element| T::read(element, faults)).collect())
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Read> Read for Spanned<T> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Spanned<T>> {
        T::read(node, faults).map(|value| Spanned::new(node.span(), value))
    }

    fn schema() -> Json {
        T::schema()
    }
}

/// `[[name]]`: a list of tables of which at least one must be there.
#[derive(Debug)]
pub(super) struct Tables<T>(pub Vec<T>);

impl<T: Read> Read for Tables<T> {
    fn read(node: &Node<'_>, faults: &mut Faults) -> Option<Tables<T>> {
        if !matches!(node.get_ref(), DeValue::Array(_)) {
            let title = T::schema()["title"].as_str().unwrap_or("[[…]]").to_owned();
            let help = format!("write its header in double brackets: {title}");
            faults.push(wrong_type(node, "a list of tables", &help));
            return None;
        }
        Vec::read(node, faults).map(Tables)
    }

    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema(), "minItems": 1 })
    }

    /// None at all; `validate` says so with more words than the reader has.
    fn absent() -> Option<Tables<T>> {
        Some(Tables(Vec::new()))
    }

    fn optional() -> bool {
        false
    }
}

/// What stood behind a key.
#[derive(Debug)]
pub(super) struct Field<T> {
    /// `None`: there was a fault, and it is reported already.
    pub value: Option<T>,
    /// The value's text; where the key is absent, its table's header.
    pub span: Span,
    /// Whether the file says it, or it is the default.
    pub written: bool,
}

impl<T> Field<T> {
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

/// A default as a declaration writes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Literal {
    Text(&'static str),
    /// A whole number, as TOML writes it.
    Whole(&'static str),
    Bool(bool),
    EmptyList,
    /// A list of texts.
    Texts(&'static [&'static str]),
    /// A table in which every key has its own default.
    EmptyTable,
}

impl From<&'static str> for Literal {
    fn from(text: &'static str) -> Literal {
        Literal::Text(text)
    }
}

impl From<bool> for Literal {
    fn from(value: bool) -> Literal {
        Literal::Bool(value)
    }
}

impl Literal {
    /// The node a file would have for it, so that a default goes the way of every other value.
    fn node(self, span: Span) -> Node<'static> {
        let value = match self {
            Literal::Text(text) => DeValue::String(DeString::Borrowed(text)),
            Literal::Whole(number) => whole(number),
            Literal::Bool(value) => DeValue::Boolean(value),
            Literal::EmptyList => DeValue::Array(DeArray::new()),
            Literal::Texts(texts) => DeValue::Array(list(texts, &span)),
            Literal::EmptyTable => DeValue::Table(DeTable::new()),
        };
        Spanned::new(span, value)
    }

    fn json(self) -> Json {
        match self {
            Literal::Text(text) => text.into(),
            Literal::Whole(number) => number.parse::<u32>().ok().into(),
            Literal::Bool(value) => value.into(),
            Literal::EmptyList => json!([]),
            Literal::Texts(texts) => json!(texts),
            Literal::EmptyTable => json!({}),
        }
    }
}

fn list(texts: &'static [&'static str], span: &Span) -> DeArray<'static> {
    let mut list = DeArray::new();
    for text in texts {
        list.push(Spanned::new(span.clone(), DeValue::String(DeString::Borrowed(text))));
    }
    list
}

/// toml makes an integer only by parsing one.
fn whole(number: &'static str) -> DeValue<'static> {
    DeValue::parse(number).map_or(DeValue::Boolean(false), Spanned::into_inner)
}

/// What a table is called and which keys it has.
pub(super) struct Shape {
    /// As a file writes its header.
    pub title: &'static str,
    pub keys: &'static [&'static str],
}

/// A table being read, field by field.
pub(super) struct TableReader<'a> {
    table: &'a DeTable<'a>,
    span: Span,
    shape: &'static Shape,
}

impl<'a> TableReader<'a> {
    /// `None` after a fault when the value is no table; unknown keys are reported.
    pub fn open(
        node: &'a Node<'a>,
        shape: &'static Shape,
        faults: &mut Faults,
    ) -> Option<TableReader<'a>> {
        let DeValue::Table(table) = node.get_ref() else {
            let help = match shape.keys.first() {
                Some(key) => format!("write a table: {{ {key} = … }}"),
                None => "write a table: { … }".to_owned(),
            };
            faults.push(wrong_type(node, "a table", &help));
            return None;
        };
        let known = |key: &Spanned<DeString<'_>>| shape.keys.contains(&key.get_ref().as_ref());
        let unknown = table.keys().filter(|key| !known(key));
        faults.extend(unknown.map(|key| unknown_key(key, shape)));
        Some(TableReader { table, span: node.span(), shape })
    }

    /// Reads one key; `about` says what it is, should it be missing.
    pub fn field<T: Read>(
        &self,
        key: &str,
        about: &str,
        default: Option<Literal>,
        faults: &mut Faults,
    ) -> Field<T> {
        if let Some(node) = self.table.get(key) {
            return Field { value: T::read(node, faults), span: node.span(), written: true };
        }
        let span = self.span.clone();
        let value = match default {
            Some(literal) => T::read(&literal.node(span.clone()), faults),
            None => T::absent(),
        };
        if value.is_none() {
            faults.push(self.missing(key, about, &example(&T::schema())));
        }
        Field { value, span, written: false }
    }

    fn missing(&self, key: &str, about: &str, example: &str) -> Diagnostic {
        let message = format!("{} has no `{key}`", self.shape.title);
        Diagnostic::fault(self.span.clone(), message)
            .label(format!("`{key}` is missing here"))
            .help(format!("add {key} = {example}\n{}", about.trim()))
    }
}

/// A value that a schema would take, as a file writes it.
fn example(schema: &Json) -> String {
    if let Some(text) = schema["examples"][0].as_str() {
        return format!("{text:?}");
    }
    if let Some(first) = schema["anyOf"].get(0) {
        return example(first);
    }
    if let Some(items) = schema.get("items") {
        return format!("[{}]", example(items));
    }
    let required = schema["required"].as_array().into_iter().flatten();
    let keys = required.filter_map(Json::as_str);
    let entries: Vec<String> =
        keys.map(|key| format!("{key} = {}", example(&schema["properties"][key]))).collect();
    format!("{{ {} }}", entries.join(", "))
}

fn unknown_key(key: &Spanned<DeString<'_>>, shape: &Shape) -> Diagnostic {
    let name = key.get_ref().as_ref();
    Diagnostic::fault(key.span(), format!("unknown key `{name}`"))
        .label(format!("not a key of {}", shape.title))
        .help(way_to_a_key(name, shape))
}

/// The nearest key of this table and the tables that have this key; without either, all keys.
fn way_to_a_key(name: &str, shape: &Shape) -> String {
    let near = nearest(name, shape.keys.iter().copied());
    let homes: Vec<String> =
        super::schema::tables_with(name).iter().map(|title| format!("`{title}`")).collect();
    let homes = homes.join(" or ");
    match near {
        Some(near) if homes.is_empty() => format!("did you mean `{near}`?"),
        Some(near) => format!("did you mean `{near}`? `{name}` itself belongs to {homes}"),
        None if homes.is_empty() => {
            let keys: Vec<String> = shape.keys.iter().map(|key| format!("`{key}`")).collect();
            format!("{} has {}", shape.title, keys.join(", "))
        }
        None => format!("`{name}` belongs to {homes}"),
    }
}

pub(super) fn wrong_type(node: &Node<'_>, wanted: &str, help: &str) -> Diagnostic {
    let found = match node.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    Diagnostic::fault(node.span(), format!("expected {wanted}, found {found}"))
        .label(format!("this is {found}"))
        .help(help)
}

/// The known name that a person most likely meant, if any is near: at most a third of the letters
/// wrong.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| {
        let allowed = candidate.chars().count().max(name.chars().count()).div_ceil(3);
        distance(name, candidate) <= allowed
    };
    known.into_iter().filter(near).min_by_key(|candidate| distance(name, candidate))
}

/// Levenshtein's distance, where two letters swapped count as one fault. Names that no person
/// would confuse for their length are not compared.
fn distance(left: &str, right: &str) -> usize {
    const LONGEST: usize = 64;
    let left: Vec<char> = left.chars().take(LONGEST).collect();
    let right: Vec<char> = right.chars().take(LONGEST).collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

/// One key of a table's schema.
pub(super) struct Property {
    pub key: &'static str,
    pub about: String,
    pub default: Option<Literal>,
    pub required: bool,
    pub schema: Json,
}

/// The schema of a table that knows these keys and no others.
pub(super) fn object(title: &str, about: &str, properties: Vec<Property>) -> Json {
    let required: Vec<&str> =
        properties.iter().filter(|property| property.required).map(|p| p.key).collect();
    let mut object = json!({
        "title": title,
        "description": about,
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": {},
    });
    for property in properties {
        let key = property.key;
        object["properties"][key] = described(property);
    }
    object
}

fn described(property: Property) -> Json {
    let mut schema = property.schema;
    schema["description"] = property.about.into();
    if let Some(default) = property.default {
        schema["default"] = default.json();
    }
    schema
}

/// The values of an enum, by the word a file uses.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Complaint> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    let help = match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => format!("did you mean {near:?}? It may be {}", all.join(" or ")),
        None => format!("it may be {}", all.join(" or ")),
    };
    Err(Complaint::malformed("no such choice", help))
}

/// Complains of whatever is written twice; the first of them stands.
pub(super) fn refuse_twins<T: Ord>(
    items: impl IntoIterator<Item = (T, Span)>,
    faults: &mut Faults,
    message: impl Fn(&T) -> (String, String),
) {
    let mut first: BTreeMap<T, Span> = BTreeMap::new();
    for (item, span) in items {
        match first.entry(item) {
            Entry::Vacant(place) => {
                place.insert(span);
            }
            Entry::Occupied(place) => {
                let (message, help) = message(place.key());
                let fault = Diagnostic::fault(span, message).label("again here").help(help);
                faults.push(fault.related(place.get().clone(), "first here"));
            }
        }
    }
}

/// Declares a table of the file: its struct, its keys, their defaults and their meaning.
///
/// `key: Type` is required, unless the type is an `Option`; `key: Type = default` is what its
/// absence means. The comment above each key is its description in the schema.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $title:literal: $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident : $type:ty $(= $default:expr)? , )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug)]
        pub(in crate::config) struct $name {
            $( $(#[doc = $doc])+ pub $key: $crate::config::reader::Field<$type>, )*
        }

        impl $name {
            const SHAPE: $crate::config::reader::Shape = $crate::config::reader::Shape {
                title: $title,
                keys: &[$(stringify!($key)),*],
            };
        }

        impl $crate::config::reader::Read for $name {
            fn read(
                node: &$crate::config::reader::Node<'_>,
                faults: &mut $crate::config::reader::Faults,
            ) -> Option<Self> {
                let table =
                    $crate::config::reader::TableReader::open(node, &Self::SHAPE, faults)?;
                Some($name {
                    $( $key: table.field(
                        stringify!($key),
                        concat!($($doc),+),
                        $crate::config::reader::default!($($default)?),
                        faults,
                    ), )*
                })
            }

            fn schema() -> serde_json::Value {
                let about = concat!($($about),+);
                $crate::config::reader::object($title, about.trim(), vec![
                    $( $crate::config::reader::Property {
                        key: stringify!($key),
                        about: concat!($($doc),+).trim().to_owned(),
                        default: $crate::config::reader::default!($($default)?),
                        required: $crate::config::reader::required::<$type>(
                            $crate::config::reader::default!($($default)?),
                        ),
                        schema: <$type as $crate::config::reader::Read>::schema(),
                    }, )*
                ])
            }
        }
    };
}

macro_rules! default {
    () => {
        None
    };
    ($default:expr) => {
        Some($crate::config::reader::Literal::from($default))
    };
}

/// Whether a key must be written: it has no default, and its absence means nothing.
pub(super) fn required<T: Read>(default: Option<Literal>) -> bool {
    default.is_none() && !T::optional()
}

pub(super) use {default, table};
