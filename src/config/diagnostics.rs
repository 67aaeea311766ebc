//! What a person reads when a file is wrong: what is at fault, where, and what to do.
//!
//! A [`Diagnostic`] knows its place as bytes of the file; a [`Report`] holds the file's text beside
//! its diagnostics and draws them as a compiler does, each with its line, column and the offending
//! text underlined.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};

/// A stretch of the file, in bytes.
pub type Span = Range<usize>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The file is refused.
    Fault,
    /// The file is good, but probably not what was meant.
    Warning,
}

/// One thing that is wrong, or probably wrong, in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub message: String,
    /// The text at fault; `None` where something is missing from the file as a whole.
    pub span: Option<Span>,
    /// What is said beneath the underline; may be empty.
    pub label: String,
    /// Other places that have a part in it.
    pub related: Vec<(Span, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn fault(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { span: Some(span), ..Diagnostic::of_the_file(message) }
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::fault(span, message) }
    }

    /// A fault of the whole file, which has no one place.
    pub fn of_the_file(message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Fault,
            message: message.into(),
            span: None,
            label: String::new(),
            related: Vec::new(),
            help: None,
        }
    }

    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = label.into();
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn related(mut self, span: Span, label: impl Into<String>) -> Diagnostic {
        self.related.push((span, label.into()));
        self
    }

    fn level(&self) -> Level<'static> {
        match self.severity {
            Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        }
    }
}

/// Diagnostics with the file they speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub origin: PathBuf,
    pub text: String,
    pub diagnostics: Vec<Diagnostic>,
}

/// Whether a report is drawn with terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Coloured,
}

impl Report {
    /// Diagnostics in the order of the file.
    pub fn new(origin: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Report {
        diagnostics.sort_by_key(|found| found.span.as_ref().map(|span| span.start));
        Report { origin: origin.to_owned(), text: text.to_owned(), diagnostics }
    }

    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// How many of them are faults.
    pub fn faults(&self) -> usize {
        self.diagnostics.iter().filter(|found| found.severity == Severity::Fault).count()
    }

    /// All diagnostics, each ended by an empty line.
    pub fn render(&self, paint: Paint) -> String {
        let renderer = match paint {
            Paint::Plain => Renderer::plain(),
            Paint::Coloured => Renderer::styled(),
        };
        let draw = |found: &Diagnostic| renderer.render(&[self.group(found)]) + "\n\n";
        self.diagnostics.iter().map(draw).collect()
    }

    fn group<'a>(&'a self, found: &'a Diagnostic) -> Group<'a> {
        let group = found.level().primary_title(&*found.message).element(self.place(found));
        match &found.help {
            Some(help) => group.element(Level::HELP.message(&**help)),
            None => group,
        }
    }

    fn place<'a>(&'a self, found: &'a Diagnostic) -> Element<'a> {
        let origin = self.origin.to_string_lossy();
        let Some(span) = &found.span else {
            return Origin::path(origin).into();
        };
        let related = found.related.iter().map(|(span, label)| {
            AnnotationKind::Context.span(self.within(span)).label(spoken(label))
        });
        let primary = AnnotationKind::Primary.span(self.within(span)).label(spoken(&found.label));
        Snippet::source(&*self.text).path(origin).annotation(primary).annotations(related).into()
    }

    /// The span, held inside the text: a parser may point one past its end.
    fn within(&self, span: &Span) -> Span {
        let end = span.end.min(self.text.len());
        span.start.min(end)..end
    }
}

/// An empty label is none.
fn spoken(label: &str) -> Option<&str> {
    (!label.is_empty()).then_some(label)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::Plain))
    }
}
