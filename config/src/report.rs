//! Turns a complaint about the text into something a person can act on.
//!
//! Each fault shows the file, the line, the column, the line itself with a caret, and the mend.
//! Nothing here decides what is wrong. Invariant: source reaches a reader only after [`mask`], so no
//! rendered fault or warning, and no `Debug` of one, holds a secret.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use crate::mask::{mask, mask_span};

/// Most faults rendered for one file: beyond it a reader mends the first ones and runs again.
pub const MAX_FAULTS_SHOWN: usize = 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, and what it says must be changed.
    #[error("{}", render_all(.0))]
    Invalid(Vec<Fault>),
}

impl ConfigError {
    /// The faults in the order of the file; empty where the file could not be read.
    pub fn faults(&self) -> &[Fault] {
        match self {
            ConfigError::Unreadable { .. } => &[],
            ConfigError::Invalid(faults) => faults,
        }
    }
}

/// A place in the file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One thing that must be changed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Where.
    pub position: Position,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub mend: String,
    rendered: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Something that loads, and that the operator should know all the same.
#[derive(Clone, Debug)]
pub struct Warning {
    /// The file's name as given.
    pub file: String,
    /// Where.
    pub position: Position,
    /// What the reader should know.
    pub message: String,
    /// What to do about it; empty where nothing need be done.
    pub mend: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.position.line, self.position.column, self.message)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "; {}", self.mend) }
    }
}

/// A complaint that still points into the text.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) mend: String,
    /// Hide this part of the source as well: the value of a key that nobody knows.
    pub(crate) hide: Option<Range<usize>>,
}

/// What was found so far. Reading goes on after a fault, so that one run shows all of them.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Where the first secret stands in the file itself: others had better not read the file.
    pub(crate) secret_within: Option<Range<usize>>,
    /// The file itself and those of secrets, where they are on this host.
    pub(crate) own_files: Vec<PathBuf>,
}

impl Notes {
    pub(crate) fn error(&mut self, span: &Range<usize>, message: impl Into<String>, mend: impl Into<String>) {
        self.errors.push(Problem {
            span: span.clone(),
            message: message.into(),
            mend: mend.into(),
            hide: None,
        });
    }

    pub(crate) fn error_hiding(&mut self, problem: Problem) {
        self.errors.push(problem);
    }

    pub(crate) fn warn(&mut self, span: &Range<usize>, message: impl Into<String>, mend: impl Into<String>) {
        self.warnings.push(Problem {
            span: span.clone(),
            message: message.into(),
            mend: mend.into(),
            hide: None,
        });
    }

    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The error that holds every fault found, in the order of the file.
    pub(crate) fn into_error(mut self, name: &str, text: &str) -> ConfigError {
        assert!(self.has_errors(), "a configuration is refused only with a reason");
        self.errors.sort_by_key(|problem| problem.span.start);
        let masked = mask(text);
        ConfigError::Invalid(self.errors.into_iter().map(|p| fault(name, text, &masked, p)).collect())
    }

    /// The warnings, in the order of the file.
    pub(crate) fn into_warnings(mut self, name: &str, text: &str) -> Vec<Warning> {
        self.warnings.sort_by_key(|problem| problem.span.start);
        let warning = |p: Problem| Warning {
            file: name.to_owned(),
            position: position(text, p.span.start),
            message: p.message,
            mend: p.mend,
        };
        self.warnings.into_iter().map(warning).collect()
    }
}

fn fault(name: &str, text: &str, masked: &str, problem: Problem) -> Fault {
    let hidden;
    let source = match problem.hide {
        Some(span) => {
            hidden = mask_span(masked, span);
            &hidden
        }
        None => masked,
    };
    let span = one_line(source, problem.span.clone());
    let snippet = Snippet::source(source).path(name).annotation(AnnotationKind::Primary.span(span.clone()));
    let group = Level::ERROR.primary_title(problem.message.as_str()).element(snippet);
    // Each line of the mend goes below by hand: the renderer would indent an example's lines unevenly.
    let mut rendered = Renderer::plain().render(&[group]);
    for (number, line) in problem.mend.lines().enumerate() {
        rendered.push_str(if number == 0 { "\n  = help: " } else { "\n          " });
        rendered.push_str(line);
    }
    Fault { position: position(text, span.start), message: problem.message, mend: problem.mend, rendered }
}

/// A span that lies inside the text, starts and ends between characters, and stays on its first line.
fn one_line(text: &str, span: Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end.min(line_end).max(start)
}

/// Line and column of a byte of the text.
pub(crate) fn position(text: &str, at: usize) -> Position {
    let before = &text[..text.floor_char_boundary(at.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

fn render_all(faults: &[Fault]) -> String {
    let mut out = String::new();
    for fault in faults.iter().take(MAX_FAULTS_SHOWN) {
        out.push_str(&fault.rendered);
        out.push_str("\n\n");
    }
    match faults.len() {
        0 | 1 => out.push_str("one thing to change; nothing was started or altered"),
        n if n <= MAX_FAULTS_SHOWN => {
            out.push_str(&format!("{n} things to change; nothing was started or altered"));
        }
        n => out.push_str(&format!(
            "{n} things to change, the first {MAX_FAULTS_SHOWN} of them shown; nothing was started or altered"
        )),
    }
    out
}
