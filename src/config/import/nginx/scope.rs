//! What holds at a place: a directive counts from its own block inwards, until an inner block says
//! it anew. Of directives that make a list, an inner block's list replaces the outer one.

use std::collections::BTreeMap;

use super::syntax::Directive;

/// A block and those around it, the outermost first.
#[derive(Clone, Debug)]
pub(super) struct Scope<'a> {
    levels: Vec<&'a [Directive]>,
}

impl<'a> Scope<'a> {
    pub fn of(outermost: &'a [Directive]) -> Scope<'a> {
        Scope { levels: vec![outermost] }
    }

    pub fn within(&self, block: &'a [Directive]) -> Scope<'a> {
        let mut levels = self.levels.clone();
        levels.push(block);
        Scope { levels }
    }

    /// What the block itself says.
    pub fn own(&self) -> &'a [Directive] {
        self.levels.last().copied().unwrap_or_default()
    }

    /// The one that holds here.
    pub fn one(&self, name: &str) -> Option<&'a Directive> {
        self.levels.iter().rev().find_map(|level| level.iter().rev().find(|line| line.is(name)))
    }

    /// What the one that holds here says.
    pub fn word(&self, name: &str) -> Option<&'a str> {
        self.one(name).map(|directive| directive.argument(0))
    }

    pub fn is_on(&self, name: &str) -> bool {
        self.word(name) == Some("on")
    }

    /// The list that holds here, of directives with one of these names.
    pub fn all(&self, names: &[&str]) -> Vec<&'a Directive> {
        let fits = |line: &&Directive| names.contains(&line.name.as_str());
        let own = |level: &&'a [Directive]| level.iter().filter(fits).collect::<Vec<_>>();
        self.levels.iter().rev().map(own).find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// A text with the variables in it that `set` gave a fixed value here. What is left with a `$`
    /// is known only when a request comes.
    pub fn expanded(&self, text: &str) -> String {
        let mut known: BTreeMap<&str, String> = BTreeMap::new();
        for line in self.levels.iter().copied().flatten().filter(|line| line.is("set")) {
            let value = substituted(line.argument(1), &known);
            known.insert(line.argument(0).trim_start_matches('$'), value);
        }
        substituted(text, &known)
    }
}

/// The longest text that variables may make.
const LONGEST: usize = 8192;

fn substituted(text: &str, known: &BTreeMap<&str, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        let (name, after) = variable(behind);
        out += before;
        match known.get(name) {
            Some(value) if out.len() < LONGEST => out += value,
            _ => {
                out.push('$');
                out += name;
            }
        }
        rest = after;
    }
    out + rest
}

/// The name of a variable behind its `$`, and what follows it.
fn variable(text: &str) -> (&str, &str) {
    if let Some((name, after)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return (name, after);
    }
    let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    text.split_at(end.unwrap_or(text.len()))
}
