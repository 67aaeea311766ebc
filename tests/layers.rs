//! The layers of the crate, held by reading what each source file names.
//!
//! A file may name its own top-level module and those on lower rows of [`ROWS`]; modules of one
//! row do not know each other. [`BANS`] says who may name what from outside the crate. The source
//! is read as tokens, so comments and strings do not count and the inside of a macro does.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// The top-level modules, from the bottom up.
const ROWS: &[&[&str]] = &[
    &["ws", "rate"],
    &["ending"],
    &["plan"],
    &["metrics"],
    &["route"],
    &["config"],
    &["net"],
    &["control"],
    &["tunnel", "policy"],
    &["upstream"],
    &["snapshot"],
    &["proxy"],
    &["server", "admin"],
    &["cli"],
    &["main"],
];

/// Modules that touch no socket and no clock: `now` and what was read are arguments.
const PURE: &[&str] = &[
    "ws",
    "ending",
    "rate",
    "plan",
    "route",
    "config",
    "policy",
    "tunnel::meter",
    "tunnel::closing",
    "tunnel::deadlines",
    "upstream::hashing",
    "upstream::health",
    "upstream::resolve",
];

/// A name that only some modules may use. It counts wherever these segments follow one another in
/// a path; `.elapsed` is a method.
struct Ban {
    names: &'static [&'static str],
    scope: Scope,
    /// Why, and what to do instead.
    reason: &'static str,
}

enum Scope {
    /// Allowed in these modules alone.
    Except(&'static [&'static str]),
    /// Forbidden in the pure modules, their tests too.
    Pure,
    /// Forbidden in the pure modules, allowed in their tests, which have to begin somewhere.
    PureOutsideTests,
}

const BANS: &[Ban] = &[
    Ban {
        names: &[
            "rustls",
            "tokio_rustls",
            "rustls_native_certs",
            "rustls_pemfile",
            "rustls_pki_types",
        ],
        scope: Scope::Except(&["net::tls"]),
        reason: "src/net/tls.rs is the one file that knows the TLS library; \
                 give it a type of its own for this and use that",
    },
    Ban {
        names: &["anyhow"],
        scope: Scope::Except(&["cli", "main"]),
        reason: "below src/cli/ each module owns a small closed error enum; add a variant to it",
    },
    Ban {
        names: &["tokio", "tokio_util", "hyper_util", "socket2", "rustix", "mio"],
        scope: Scope::Pure,
        reason: "this module is pure and is tested without a runtime; \
                 move the I/O to the shell around it",
    },
    Ban {
        names: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
            "ToSocketAddrs",
        ],
        scope: Scope::Pure,
        reason: "this module is pure: no sockets and no name look-ups; \
                 hand in what was read from them",
    },
    Ban {
        names: &["Instant::now", "SystemTime::now", "thread::sleep", ".elapsed"],
        scope: Scope::PureOutsideTests,
        reason: "this module is pure and is told the time; take `now` as an argument",
    },
];

#[test]
fn every_source_file_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = source_files(&root.join("src"));
    assert!(files.len() >= 3, "read only {} files; is src/ elsewhere?", files.len());
    let faults: Vec<Fault> = files
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).expect("a file that was just listed");
            faults_in(path.strip_prefix(root).expect("it lies below the root"), &text)
        })
        .collect();
    let list: String = faults.iter().map(|fault| format!("\n{fault}\n")).collect();
    assert!(faults.is_empty(), "{} faults\n{list}", faults.len());
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// One name that does not belong where it stands.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Fault {
    file: PathBuf,
    line: usize,
    what: String,
    why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { file, line, what, why } = self;
        write!(f, "{}:{line}: {what}\n    {why}", file.display())
    }
}

/// Everything in one file that breaks a rule; `path` begins with `src`.
fn faults_in(path: &Path, text: &str) -> Vec<Fault> {
    let fault = |line, what: String, why: String| Fault { file: path.into(), line, what, why };
    let module = module_of(path);
    // lib.rs only declares the modules, whose own files are judged.
    let Some(top) = module.first() else { return Vec::new() };
    let Some(row) = row_of(top) else {
        let what = format!("`{top}` has no layer");
        return vec![fault(1, what, unknown_module(top))];
    };
    let tokens: TokenStream = match text.parse() {
        Ok(tokens) => tokens,
        Err(error) => return vec![fault(1, "this is no Rust".into(), error.to_string())],
    };
    let mut reader = Reader { names: Vec::new() };
    reader.read(tokens, &Place { module: module.clone(), test: is_test_file(&module) });

    let mut faults = BTreeSet::new();
    for name in &reader.names {
        let what = format!("`{top}` names `{}`", name.segments.join("::"));
        for why in [layer_fault(top, row, name), ban_fault(&module, name)].into_iter().flatten() {
            faults.insert(fault(name.line, what.clone(), why));
        }
    }
    faults.into_iter().collect()
}

/// `src/net/tls.rs` is `net::tls`, `src/net/mod.rs` and `src/net.rs` are `net`, `src/lib.rs` is
/// nothing.
fn module_of(path: &Path) -> Vec<String> {
    let mut segments: Vec<String> = path
        .with_extension("")
        .components()
        .skip(1)
        .map(|component| component.as_os_str().to_string_lossy().into_owned())
        .collect();
    if segments.last().is_some_and(|last| last == "mod") || segments == ["lib"] {
        segments.pop();
    }
    segments
}

/// By custom a module `tests` in a file of its own is declared under `#[cfg(test)]`.
fn is_test_file(module: &[String]) -> bool {
    module.iter().skip(1).any(|segment| segment == "tests")
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn layer_fault(top: &str, row: usize, name: &Name) -> Option<String> {
    let target = match &name.root {
        Root::Outside => return None,
        Root::Crate(path) => path.first().map_or("*", String::as_str),
    };
    if target == top {
        return None;
    }
    if target == "*" {
        return Some("This names the whole crate; name the module that is meant.".into());
    }
    match row_of(target) {
        None => Some(unknown_module(target)),
        Some(below) if below < row => None,
        Some(beside) if beside == row => Some(format!(
            "`{target}` is a sibling of `{top}`. Move what both need to a lower module, or let a \
             higher one hand it from one to the other."
        )),
        Some(_) => Some(format!(
            "`{target}` lies above `{top}`: nothing lower calls upwards. Take the value as an \
             argument, or move what is shared to `{top}` or below it."
        )),
    }
}

fn unknown_module(name: &str) -> String {
    format!(
        "No module `{name}` is known here. If it is new, give it a row in ROWS of tests/layers.rs \
         and in the table of src/lib.rs: under everything that uses it, over everything it uses."
    )
}

fn ban_fault(module: &[String], name: &Name) -> Option<String> {
    let pure = PURE.iter().any(|within| is_within(module, within));
    BANS.iter().find_map(|ban| {
        let applies = match ban.scope {
            Scope::Except(allowed) => !allowed.iter().any(|within| is_within(module, within)),
            Scope::Pure => pure,
            Scope::PureOutsideTests => pure && !name.test,
        };
        let banned = ban.names.iter().find(|banned| applies && name.mentions(banned))?;
        Some(format!("`{banned}` does not belong here: {}.", ban.reason))
    })
}

/// Whether a module is `outer` or lies in it.
fn is_within(module: &[String], outer: &str) -> bool {
    let outer: Vec<&str> = outer.split("::").collect();
    module.len() >= outer.len() && module.iter().zip(outer).all(|(inner, outer)| inner == outer)
}

/// A path as some file writes it, or a method as `.name`.
struct Name {
    segments: Vec<String>,
    root: Root,
    line: usize,
    /// It stands in code that only tests compile.
    test: bool,
}

/// Where a path begins.
enum Root {
    /// In this crate: the path from the crate's root, which for a glob of the root is empty.
    Crate(Vec<String>),
    /// Elsewhere, or with something in scope that was imported under its full name.
    Outside,
}

impl Name {
    fn mentions(&self, banned: &str) -> bool {
        let banned: Vec<&str> = banned.split("::").collect();
        self.segments.windows(banned.len()).any(|window| window == banned)
    }
}

/// The module that some tokens stand in.
#[derive(Clone)]
struct Place {
    module: Vec<String>,
    test: bool,
}

impl Place {
    fn name(&self, segments: Vec<String>, line: usize) -> Name {
        let root = self.root(&segments);
        Name { segments, root, line, test: self.test }
    }

    fn root(&self, segments: &[String]) -> Root {
        let rest = |skip: usize| segments[skip..].iter().cloned();
        match segments[0].as_str() {
            "crate" | "wsgate" => Root::Crate(rest(1).collect()),
            "self" => Root::Crate(self.module.iter().cloned().chain(rest(1)).collect()),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let kept = self.module.len().saturating_sub(ups);
                Root::Crate(self.module[..kept].iter().cloned().chain(rest(ups)).collect())
            }
            _ => Root::Outside,
        }
    }
}

/// What stood before a word.
enum After {
    Dot,
    Nothing,
}

/// Collects the names in a stream of tokens.
struct Reader {
    names: Vec<Name>,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream, place: &Place) {
        let mut cursor = Cursor::new(tokens);
        // What the next braces belong to: `mod NAME`, and whether an attribute made it a test.
        let mut opened: Option<String> = None;
        let mut test = false;
        while let Some(token) = cursor.next() {
            match token {
                TokenTree::Ident(word) if word == "use" && !cursor.at_angle() => {
                    self.read_use(&mut cursor, Vec::new(), place);
                }
                TokenTree::Ident(word) if word == "mod" => opened = cursor.ident(),
                TokenTree::Ident(word) => self.read_word(&word, After::Nothing, &mut cursor, place),
                TokenTree::Punct(dot) if dot.as_char() == '.' => {
                    if let Some(TokenTree::Ident(word)) = cursor.peek().cloned() {
                        cursor.next();
                        self.read_word(&word, After::Dot, &mut cursor, place);
                    }
                }
                TokenTree::Punct(end) if end.as_char() == ';' => (opened, test) = (None, false),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let mut inner = place.clone();
                    inner.module.extend(opened.take());
                    inner.test |= test;
                    test = false;
                    self.read(group.stream(), &inner);
                }
                TokenTree::Group(group) => {
                    if group.delimiter() == Delimiter::Bracket {
                        test |= is_test_attribute(group.stream());
                    }
                    self.read(group.stream(), place);
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// A path, which may follow the dots of a range or a struct update, or else a method.
    fn read_word(&mut self, word: &Ident, after: After, cursor: &mut Cursor, place: &Place) {
        let line = word.span().start().line;
        let segments = cursor.path(plain(word));
        if segments.len() > 1 {
            self.names.push(place.name(segments, line));
        } else if matches!(after, After::Dot) {
            self.names.push(place.name(vec![format!(".{}", segments[0])], line));
        }
    }

    /// One branch of a use tree: what follows `use`, or stands between two commas.
    fn read_use(&mut self, cursor: &mut Cursor, mut segments: Vec<String>, place: &Place) {
        let line = cursor.line();
        while let Some(token) = cursor.peek() {
            match token {
                TokenTree::Ident(word) if *word == "as" => {
                    cursor.next();
                    cursor.next();
                }
                TokenTree::Ident(_) => segments.extend(cursor.ident()),
                TokenTree::Punct(punct) if matches!(punct.as_char(), ',' | ';') => break,
                TokenTree::Punct(punct) => {
                    if punct.as_char() == '*' {
                        segments.push("*".into());
                    }
                    cursor.next();
                }
                TokenTree::Group(group) => {
                    let mut inner = Cursor::new(group.stream());
                    cursor.next();
                    while inner.peek().is_some() {
                        self.read_use(&mut inner, segments.clone(), place);
                        inner.next();
                    }
                    return;
                }
                TokenTree::Literal(_) => break,
            }
        }
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        if !segments.is_empty() {
            self.names.push(place.name(segments, line));
        }
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`; not `#[cfg(not(test))]`.
fn is_test_attribute(attribute: TokenStream) -> bool {
    let mut words = Cursor::new(attribute);
    match words.ident().as_deref() {
        Some("test") => true,
        Some("cfg") => match words.next() {
            Some(TokenTree::Group(condition)) => {
                let condition = condition.stream().to_string();
                let mut words = condition.split(|c: char| !c.is_alphanumeric() && c != '_');
                words.any(|word| word == "test") && !condition.contains("not")
            }
            _ => false,
        },
        _ => false,
    }
}

fn plain(word: &Ident) -> String {
    word.to_string().trim_start_matches("r#").to_owned()
}

/// A place in a list of tokens.
struct Cursor {
    tokens: Vec<TokenTree>,
    at: usize,
}

impl Cursor {
    fn new(tokens: TokenStream) -> Cursor {
        Cursor { tokens: tokens.into_iter().collect(), at: 0 }
    }

    fn peek(&self) -> Option<&TokenTree> {
        self.tokens.get(self.at)
    }

    fn line(&self) -> usize {
        self.peek().map_or(0, |token| token.span().start().line)
    }

    /// The next token if it is a word, which is then passed.
    fn ident(&mut self) -> Option<String> {
        let TokenTree::Ident(word) = self.peek()? else { return None };
        let word = plain(word);
        self.at += 1;
        Some(word)
    }

    /// The rest of a path of which `first` was read; a turbofish or a glob ends it.
    fn path(&mut self, first: String) -> Vec<String> {
        let mut segments = vec![first];
        while self.is_punct(0, ':') && self.is_punct(1, ':') {
            let Some(TokenTree::Ident(word)) = self.tokens.get(self.at + 2) else { break };
            segments.push(plain(word));
            self.at += 3;
        }
        segments
    }

    /// `use<'a>`, which captures lifetimes and imports nothing.
    fn at_angle(&self) -> bool {
        self.is_punct(0, '<')
    }

    fn is_punct(&self, ahead: usize, wanted: char) -> bool {
        matches!(self.tokens.get(self.at + ahead), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
    }
}

impl Iterator for Cursor {
    type Item = TokenTree;

    fn next(&mut self) -> Option<TokenTree> {
        let token = self.peek().cloned()?;
        self.at += 1;
        Some(token)
    }
}

/// What is wrong with a made-up file, one line each.
fn judge(path: &str, text: &str) -> Vec<String> {
    faults_in(Path::new(path), text).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_fault(path: &str, text: &str, start: &str, reason: &str) {
    let faults = judge(path, text);
    let [fault] = faults.as_slice() else {
        panic!("wanted one fault in {text:?}, got {faults:#?}")
    };
    assert!(fault.starts_with(start), "wanted {start:?}, got {fault:?}");
    assert!(fault.contains(reason), "wanted {reason:?}, got {fault:?}");
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(judge(path, text), Vec::<String>::new(), "{path}: {text}");
}

#[test]
fn a_path_to_a_higher_layer_is_a_fault_however_it_is_written() {
    for text in [
        "use crate::proxy::Proxy;",
        "use {crate::{plan::Plan, proxy::{self, Proxy as P}}};",
        "use super::super::proxy::Proxy;",
        "fn f(p: &crate::proxy::Proxy) {}",
        "fn f() -> A { A { a: 1, ..crate::proxy::A::new() } }",
        "pub use crate::proxy as other;",
        "macro_rules! m { () => { $crate::proxy::run() } }",
        "fn f() { tokio::select! { x = crate::proxy::run() => {} } }",
        "#[cfg(test)] mod tests { use super::*; use super::super::super::proxy; }",
    ] {
        let faults = judge("src/tunnel/pump.rs", text);
        assert!(!faults.is_empty(), "{text}");
        for fault in faults {
            assert!(fault.starts_with("src/tunnel/pump.rs:1: `tunnel` names `"), "{fault}");
            assert!(fault.contains("`proxy` lies above `tunnel`"), "{fault}");
        }
    }
}

#[test]
fn a_fault_tells_its_line() {
    let text = "//! crate::cli is only talked of here.\n\nuse std::fmt;\nuse crate::cli::run;\n";
    assert_fault(
        "src/net/mod.rs",
        text,
        "src/net/mod.rs:4: `net` names `crate::cli::run`",
        "above",
    );
}

#[test]
fn siblings_unknown_modules_and_the_bare_crate_are_faults() {
    let sibling = "`policy` is a sibling of `tunnel`";
    assert_fault("src/tunnel/mod.rs", "use crate::policy::Admission;", "src/", sibling);
    assert_fault("src/admin/mod.rs", "use crate::server::Worker;", "src/", "sibling of `admin`");
    assert_fault("src/cli/mod.rs", "use crate::utils::x;", "src/", "No module `utils` is known");
    assert_fault("src/utils.rs", "", "src/utils.rs:1: `utils` has no layer", "ROWS");
    assert_fault("src/plan.rs", "use super::*;", "src/", "names the whole crate");
    assert_fault("src/cli/mod.rs", "use crate::*;", "src/", "names the whole crate");
}

#[test]
fn lower_layers_and_the_own_folder_are_free() {
    assert_clean("src/tunnel/pump.rs", "use crate::{ws, ending::Ending}; use super::meter::Meter;");
    assert_clean("src/tunnel/pump.rs", "mod tests { use super::*; use super::super::meter; }");
    assert_clean("src/plan.rs", "#[cfg(test)] mod tests { use super::*; }");
    assert_clean("src/plan.rs", "pub(crate) fn f() -> impl Sized + use<> {} pub(super) fn g() {}");
    assert_clean("src/main.rs", "use anyhow::Result; fn main() { wsgate::cli::main() }");
    assert_clean("src/lib.rs", "pub mod plan; pub mod anything;");
    assert_clean("src/plan.rs", "/// See [`crate::proxy`].\nconst A: &str = \"crate::proxy::x\";");
}

#[test]
fn the_tls_library_and_anyhow_stay_where_they_are_allowed() {
    assert_clean("src/net/tls.rs", "use tokio_rustls::rustls::ServerConfig; use rustls_pemfile;");
    assert_fault("src/net/leg.rs", "use tokio_rustls::TlsStream;", "src/", "one file that knows");
    assert_fault("src/cli/demo.rs", "fn f(_: rustls::Error) {}", "src/", "one file that knows");
    assert_fault("src/net/pem.rs", "use rustls_pemfile;", "src/", "one file that knows");
    assert_clean("src/cli/run.rs", "use anyhow::Context;");
    assert_fault("src/config/mod.rs", "use anyhow::Context;", "src/", "closed error enum");
}

#[test]
fn pure_modules_touch_no_socket_and_no_clock() {
    let pure =
        ["src/ws/frame.rs", "src/tunnel/meter.rs", "src/tunnel/closing/mod.rs", "src/plan.rs"];
    for path in pure {
        assert_fault(path, "use tokio::time::sleep;", path, "tested without a runtime");
        assert_fault(path, "#[cfg(test)] mod t { #[tokio::test] fn f() {} }", path, "runtime");
        assert_fault(path, "fn f() { std::time::Instant::now(); }", path, "take `now`");
        assert_fault(path, "fn f(i: Instant) { i.elapsed(); }", path, "take `now`");
        assert_fault(path, "use std::net::{IpAddr, TcpStream};", path, "no sockets");
        assert_fault(path, "#[cfg(not(test))] fn f() { SystemTime::now(); }", path, "take `now`");
        assert_clean(path, "use std::{net::IpAddr, time::{Duration, Instant}};");
    }
    assert_clean("src/tunnel/pump.rs", "use tokio::time::Instant; fn f() { Instant::now(); }");
}

#[test]
fn tests_of_pure_modules_may_read_the_clock_to_begin_with() {
    assert_clean("src/ending.rs", "#[cfg(test)] mod tests { fn f() { Instant::now(); } }");
    assert_clean("src/ending.rs", "#[test] fn f() { Instant::now(); }");
    assert_clean("src/tunnel/meter/tests.rs", "fn f() { Instant::now(); }");
    let after = "#[cfg(test)] use a::b; fn f() { Instant::now(); }";
    assert_fault("src/ending.rs", after, "src/ending.rs:1", "take `now`");
}
