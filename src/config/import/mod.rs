//! Configurations of other programs, made into one of wsgate.
//!
//! The result does what the original did, faults and all: what nginx does not limit is written as
//! `any` or `off`, so that the change of program changes nothing else. What differs in meaning is a
//! comment where it stands. What cannot be carried is a [`Note`], with its place and what to do
//! instead. Nothing here reads a file: the files are handed in.

mod draft;
mod ingress;
mod nginx;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::ingress::ingress;
pub use self::nginx::nginx;
use super::Config;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file, self.line)
    }
}

/// Something that could not be carried, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub place: Place,
    pub what: String,
    pub instead: String,
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: not carried: {}; {}", self.place, self.what, self.instead)
    }
}

/// What came of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// A whole wsgate.toml.
    pub text: String,
    /// In the order of the original; empty: all was carried.
    pub notes: Vec<Note>,
}

/// Why a file came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportFault {
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{place}: {fault}")]
    Syntax { place: Place, fault: String },
    #[error("{}: {fault}", path.display())]
    NothingToImport { path: PathBuf, fault: String },
}

/// Where the files of a configuration come from.
pub trait Files {
    /// The content of a file, or why it cannot be read.
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, String>;

    /// The files that fit a pattern with stars, in the order of their names.
    fn matching(&mut self, pattern: &Path) -> Vec<PathBuf>;
}

/// A draft as a text that `wsgate check` takes. What it would still refuse becomes a note.
fn finished(draft: draft::Draft, place: &Place) -> Imported {
    let draft::Draft { mut notes, .. } = draft;
    let text = draft::text(&draft.head, &draft.tables);
    if let Err(faults) = Config::parse(&text, Path::new("wsgate.toml")) {
        for fault in faults {
            notes.push(Note {
                place: place.clone(),
                what: format!("`wsgate check` will refuse the result: {}", fault.message),
                instead: "mend it by hand, as `wsgate check` says".to_owned(),
            });
        }
    }
    notes.sort();
    notes.dedup();
    Imported { text, notes }
}

/// Whether a name fits a pattern as a shell has it: `*`, `?`, `[a-z]`, `[!a]`.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut letter) = (0, 0);
    // Where the last star stands, and which letter it took up to.
    let mut star: Option<(usize, usize)> = None;
    while letter < name.len() {
        let one = pattern.get(at).filter(|sign| **sign != '*');
        if let Some(end) = one.and_then(|_| one_fits(&pattern[at..], name[letter])) {
            (at, letter) = (at + end, letter + 1);
        } else if pattern.get(at) == Some(&'*') {
            star = Some((at, letter));
            at += 1;
        } else if let Some((stood, took)) = star {
            star = Some((stood, took + 1));
            (at, letter) = (stood + 1, took + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|sign| *sign == '*')
}

/// How many signs of the pattern this letter took.
fn one_fits(pattern: &[char], letter: char) -> Option<usize> {
    let (first, rest) = pattern.split_first()?;
    match first {
        '?' => Some(1),
        '[' => {
            let end = rest.iter().skip(1).position(|sign| *sign == ']')? + 1;
            let (set, negated) = match rest[..end].split_first() {
                Some(('!' | '^', set)) => (set, true),
                _ => (&rest[..end], false),
            };
            (in_set(set, letter) != negated).then_some(end + 2)
        }
        sign => (*sign == letter).then_some(1),
    }
}

fn in_set(mut set: &[char], letter: char) -> bool {
    loop {
        let (found, rest) = match set {
            [low, '-', high, rest @ ..] => ((*low..=*high).contains(&letter), rest),
            [one, rest @ ..] => (*one == letter, rest),
            [] => return false,
        };
        if found {
            return true;
        }
        set = rest;
    }
}
