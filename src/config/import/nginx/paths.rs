//! Locations, rewrites and the paths of `proxy_pass`, as far as wsgate has their like.

/// What requests a location takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Matching {
    Exact(String),
    /// A prefix by letters, not by segments.
    Prefix(String),
    Regex {
        pattern: String,
        caseless: bool,
    },
    /// `@name`: for `try_files` and the like.
    Named(String),
}

impl Matching {
    pub fn of(arguments: &[String]) -> Matching {
        let word = |index: usize| arguments.get(index).map_or("", String::as_str).to_owned();
        match word(0).as_str() {
            "=" => Matching::Exact(word(1)),
            "^~" => Matching::Prefix(word(1)),
            "~" => Matching::Regex { pattern: word(1), caseless: false },
            "~*" => Matching::Regex { pattern: word(1), caseless: true },
            name if name.starts_with('@') => Matching::Named(name.to_owned()),
            path => Matching::Prefix(path.to_owned()),
        }
    }

    /// As nginx writes it.
    pub fn shown(&self) -> String {
        match self {
            Matching::Exact(path) => format!("= {path}"),
            Matching::Prefix(path) => path.clone(),
            Matching::Regex { pattern, caseless: false } => format!("~ {pattern}"),
            Matching::Regex { pattern, caseless: true } => format!("~* {pattern}"),
            Matching::Named(name) => name.clone(),
        }
    }
}

/// The paths that a simple regular expression stands for: `^/a`, `^/a$`, `^/(a|b)/`.
pub(super) fn simple(pattern: &str) -> Option<Vec<Matching>> {
    let body = pattern.strip_prefix('^')?;
    let (body, exact) = match body.strip_suffix('$') {
        Some(body) => (body, true),
        None => (body, false),
    };
    let any = ["(/.*)?", "/?(.*)", "(/.*|)", "/.*", "/(.*)", ".*", "(.*)"];
    let open = any.iter().find_map(|tail| body.strip_suffix(tail).map(|rest| (rest, *tail)));
    let (body, exact) = match open {
        Some((rest, tail)) if tail.starts_with("/.*") || tail.starts_with("/(.*)") => {
            (format!("{rest}/"), false)
        }
        Some((rest, _)) => (rest.to_owned(), false),
        None => (body.to_owned(), exact),
    };
    let paths = alternatives(&body)?;
    let path = |path: String| match exact {
        true => Matching::Exact(path),
        false => Matching::Prefix(if path.is_empty() { "/".to_owned() } else { path }),
    };
    Some(paths.into_iter().map(path).collect())
}

/// `/(a|b)/c` is `/a/c` and `/b/c`; `None` where anything else than letters stands for something.
fn alternatives(body: &str) -> Option<Vec<String>> {
    const MOST: usize = 32;
    let Some((before, rest)) = body.split_once('(') else {
        return literal(body).map(|path| vec![path]);
    };
    let (choices, after) = rest.split_once(')')?;
    let before = literal(before)?;
    let after = literal(after)?;
    let choices = choices.strip_prefix("?:").unwrap_or(choices);
    let all: Option<Vec<String>> = choices
        .split('|')
        .take(MOST)
        .map(|choice| literal(choice).map(|choice| format!("{before}{choice}{after}")))
        .collect();
    all.filter(|all| all.len() < MOST)
}

fn literal(pattern: &str) -> Option<String> {
    let mut plain = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.push(letters.next().filter(|next| !next.is_ascii_alphanumeric())?),
            '.' | '*' | '+' | '?' | '[' | ']' | '(' | ')' | '|' | '^' | '$' | '{' | '}' => {
                return None;
            }
            letter => plain.push(letter),
        }
    }
    Some(plain)
}

/// How a path changes on its way: `strip` goes off its front, `add` before the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub strip: Option<String>,
    pub add: Option<String>,
    /// Where the two programs part.
    pub differs: Option<&'static str>,
}

/// What `proxy_pass` with a path does in a location: the location's own letters are replaced.
pub(super) fn replaced(location: &Matching, path: &str) -> Change {
    let from = match location {
        Matching::Exact(from) | Matching::Prefix(from) => from.as_str(),
        Matching::Regex { .. } | Matching::Named(_) => return Change::default(),
    };
    let exact = matches!(location, Matching::Exact(_));
    let strip = (from != "/").then(|| from.to_owned());
    let bare = path == "/";
    if strip.is_none() && bare {
        return Change::default();
    }
    let slashes = (from.ends_with('/'), path.ends_with('/'));
    let differs = match slashes {
        _ if exact => None,
        (true, false) => Some(
            "nginx puts the rest of the path behind the last letters of proxy_pass without a slash; \
             wsgate puts one between",
        ),
        (false, true) => Some(
            "nginx leaves two slashes at the joint, since proxy_pass ends with one and the location \
             does not; wsgate leaves one",
        ),
        _ => None,
    };
    Change { strip, add: (!bare || exact).then(|| path.to_owned()).filter(|_| !bare), differs }
}

/// `rewrite ^/ws/(.*)$ /$1 break`: the same by prefixes, where it is so simple.
pub(super) fn rewrite(pattern: &str, replacement: &str) -> Option<Change> {
    let body = pattern.strip_prefix('^')?;
    let body = body.strip_suffix('$').unwrap_or(body);
    let (front, slash) = [("/(.*)", true), ("/?(.*)", true), ("(/.*)", false), ("(/.*)?", false)]
        .into_iter()
        .find_map(|(tail, slash)| body.strip_suffix(tail).map(|front| (front, slash)))?;
    let front = literal(front).filter(|front| front.is_empty() || front.starts_with('/'))?;
    let base = replacement.strip_suffix("$1").filter(|base| !base.contains('$'))?;
    let base = match slash {
        true => base.strip_suffix('/')?,
        false => base,
    };
    if !base.is_empty() && !base.starts_with('/') {
        return None;
    }
    let some = |text: String| (!text.is_empty()).then_some(text);
    Some(Change { strip: some(front), add: some(base.to_owned()), differs: None })
}
