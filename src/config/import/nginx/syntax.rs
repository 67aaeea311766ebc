//! nginx's own syntax: words, quotes, escapes, comments, blocks and includes.
//!
//! A directive is words up to a `;`, or up to a `{` with directives in it up to `}`. A `#` begins a
//! comment only where a word could begin, and the brace of `${name}` begins no block. Everything
//! has a bound, since an include may name anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{Files, ImportFault, Note, Place};

/// Blocks in blocks.
const DEEPEST: usize = 32;
/// Includes in includes.
const INCLUDES: usize = 16;
const MOST_DIRECTIVES: usize = 100_000;
const MOST_FILES: usize = 2_000;

/// One directive: its words, and what stands in its braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub arguments: Vec<String>,
    pub block: Option<Vec<Directive>>,
    pub place: Place,
}

impl Directive {
    pub fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    pub fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// A file and all it includes, and the includes that could not be read.
pub fn parse(
    path: &Path,
    files: &mut dyn Files,
) -> Result<(Vec<Directive>, Vec<Note>), ImportFault> {
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut reading =
        Reading { files, folder, notes: Vec::new(), directives: 0, opened: 0, open: Vec::new() };
    let unreadable = |reason| ImportFault::Unreadable { path: path.to_owned(), reason };
    let text = reading.files.read(path).map_err(unreadable)?;
    let directives = reading.file(path, &text)?;
    Ok((directives, reading.notes))
}

struct Reading<'a> {
    files: &'a mut dyn Files,
    /// Where relative names of includes begin.
    folder: PathBuf,
    notes: Vec<Note>,
    directives: usize,
    opened: usize,
    /// The files that are being read, the innermost last.
    open: Vec<PathBuf>,
}

impl Reading<'_> {
    fn file(&mut self, path: &Path, text: &[u8]) -> Result<Vec<Directive>, ImportFault> {
        let file: Arc<str> = path.display().to_string().into();
        self.open.push(path.to_owned());
        let text = String::from_utf8_lossy(text);
        let mut words = Words { rest: text.chars().peekable(), line: 1, file };
        let directives = self.block(&mut words, 0)?;
        self.open.pop();
        Ok(directives)
    }

    /// Directives up to the end of the block, or at depth 0 of the file.
    fn block(
        &mut self,
        words: &mut Words<'_>,
        depth: usize,
    ) -> Result<Vec<Directive>, ImportFault> {
        let mut directives = Vec::new();
        let mut line: Vec<String> = Vec::new();
        let mut place = words.place();
        loop {
            let token = words.next()?;
            if line.is_empty() {
                place = words.place();
            }
            match token {
                Token::Word(word) => line.push(word),
                Token::End if depth == 0 && line.is_empty() => return Ok(directives),
                Token::Close if depth > 0 && line.is_empty() => return Ok(directives),
                Token::End if line.is_empty() => {
                    return Err(words.fault("the file ends within a block: a } is missing"));
                }
                Token::Close if line.is_empty() => {
                    return Err(words.fault("a } without its {"));
                }
                Token::End | Token::Close => {
                    return Err(words.fault(&format!("`{}` has no ; at its end", shown(&line))));
                }
                Token::Semicolon | Token::Open if line.is_empty() => {
                    return Err(words.fault("a directive without a name"));
                }
                Token::Semicolon => {
                    let directive = self.directive(&mut line, None, &place)?;
                    match directive.is("include") {
                        true => directives.extend(self.include(&directive)?),
                        false => directives.push(directive),
                    }
                }
                Token::Open if depth >= DEEPEST => {
                    return Err(words.fault("blocks are nested too deeply"));
                }
                Token::Open if line.first().is_some_and(|name| name.ends_with("_by_lua_block")) => {
                    words.skip_foreign_block()?;
                    directives.push(self.directive(&mut line, Some(Vec::new()), &place)?);
                }
                Token::Open => {
                    let inner = self.block(words, depth + 1)?;
                    directives.push(self.directive(&mut line, Some(inner), &place)?);
                }
            }
        }
    }

    fn directive(
        &mut self,
        line: &mut Vec<String>,
        block: Option<Vec<Directive>>,
        place: &Place,
    ) -> Result<Directive, ImportFault> {
        self.directives += 1;
        if self.directives > MOST_DIRECTIVES {
            let fault = format!("more than {MOST_DIRECTIVES} directives");
            return Err(ImportFault::Syntax { place: place.clone(), fault });
        }
        let name = line.remove(0);
        Ok(Directive { name, arguments: std::mem::take(line), block, place: place.clone() })
    }

    /// What an include brings: of a name with stars any number of files.
    fn include(&mut self, directive: &Directive) -> Result<Vec<Directive>, ImportFault> {
        let pattern = self.folder.join(directive.argument(0));
        let fault = |fault: &str| ImportFault::Syntax {
            place: directive.place.clone(),
            fault: format!("include {}: {fault}", pattern.display()),
        };
        if self.open.len() >= INCLUDES {
            return Err(fault("files include each other too deeply"));
        }
        let paths = match directive.argument(0).contains(['*', '?', '[']) {
            true => self.files.matching(&pattern),
            false => vec![pattern.clone()],
        };
        let mut directives = Vec::new();
        for path in paths {
            self.opened += 1;
            if self.opened > MOST_FILES {
                return Err(fault("too many files"));
            }
            if self.open.contains(&path) {
                return Err(fault("the file includes itself"));
            }
            match self.files.read(&path) {
                Ok(text) => directives.extend(self.file(&path, &text)?),
                // The types of files that nginx serves mean nothing here.
                Err(_) if path.ends_with("mime.types") => {}
                Err(reason) => self.notes.push(Note {
                    place: directive.place.clone(),
                    what: format!("include {}: {reason}", path.display()),
                    instead: "run the import where the file is, or add what it says by hand"
                        .to_owned(),
                }),
            }
        }
        Ok(directives)
    }
}

fn shown(line: &[String]) -> String {
    line.join(" ").chars().filter(|letter| !letter.is_control()).take(60).collect()
}

enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Words<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
    file: Arc<str>,
}

impl Words<'_> {
    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line }
    }

    fn fault(&self, fault: &str) -> ImportFault {
        ImportFault::Syntax { place: self.place(), fault: fault.to_owned() }
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.rest.next();
        self.line += usize::from(letter == Some('\n'));
        letter
    }

    fn next(&mut self) -> Result<Token, ImportFault> {
        loop {
            let Some(&letter) = self.rest.peek() else { return Ok(Token::End) };
            match letter {
                letter if letter.is_ascii_whitespace() || letter == '\u{feff}' => {
                    self.take();
                }
                '#' => while self.take().is_some_and(|letter| letter != '\n') {},
                ';' => return Ok(self.taken(Token::Semicolon)),
                '{' => return Ok(self.taken(Token::Open)),
                '}' => return Ok(self.taken(Token::Close)),
                '"' | '\'' => return self.quoted(letter),
                _ => return Ok(Token::Word(self.bare())),
            }
        }
    }

    fn taken(&mut self, token: Token) -> Token {
        self.take();
        token
    }

    fn quoted(&mut self, quote: char) -> Result<Token, ImportFault> {
        let opened = self.fault("a quote without its end");
        self.take();
        let mut word = String::new();
        loop {
            match self.take() {
                None => return Err(opened),
                Some(letter) if letter == quote => break,
                Some('\\') => self.escaped(&mut word),
                Some(letter) => word.push(letter),
            }
        }
        match self.rest.peek() {
            Some(';' | '{' | ')') | None => Ok(Token::Word(word)),
            Some(letter) if letter.is_ascii_whitespace() => Ok(Token::Word(word)),
            Some(_) => Err(self.fault("a quote ends in the middle of a word")),
        }
    }

    /// What a backslash makes of the letter behind it; most keep both.
    fn escaped(&mut self, word: &mut String) {
        match self.take() {
            Some(plain @ ('"' | '\'' | '\\')) => word.push(plain),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(other) => word.extend(['\\', other]),
            None => word.push('\\'),
        }
    }

    fn bare(&mut self) -> String {
        let mut word = String::new();
        while let Some(&letter) = self.rest.peek() {
            let of_variable = letter == '{' && word.ends_with('$');
            if letter.is_ascii_whitespace() || letter == ';' || (letter == '{' && !of_variable) {
                break;
            }
            self.take();
            match letter {
                '\\' => self.escaped(&mut word),
                letter => word.push(letter),
            }
        }
        word
    }

    /// To the closing brace of a block in another language.
    fn skip_foreign_block(&mut self) -> Result<(), ImportFault> {
        let opened = self.fault("a block without its end");
        let mut depth = 1;
        while depth > 0 {
            match self.take() {
                None => return Err(opened),
                Some('{') => depth += 1,
                Some('}') => depth -= 1,
                Some(_) => {}
            }
        }
        Ok(())
    }
}
