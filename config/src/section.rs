//! Hands out the contents of one block, each with its place, and accounts for every line of it.
//!
//! A key is asked for by name and type; what nobody asked for is reported at the end. Never decides
//! what a value means. Invariant: after [`Section::close`] every attribute and block was either
//! handed out or is an error, so no key is ever silently ignored.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use hcl_edit::Span;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Attribute, Block, Body, Structure};

use crate::quantity;
use crate::report::{Notes, Problem};
use crate::secret::Secret;
use crate::vocabulary;

/// A value with its place in the text.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

impl<T> At<T> {
    pub(crate) fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At { value: f(self.value), span: self.span }
    }
}

/// One block, or the whole file.
pub(crate) struct Section<'t> {
    /// Dotted path, such as `replication.ha`; empty for the file itself.
    path: String,
    /// The block's own name: where a missing key is reported.
    pub(crate) head: Range<usize>,
    attributes: Vec<(&'t Attribute, bool)>,
    blocks: Vec<(&'t Block, bool)>,
    asked_attributes: Vec<&'static str>,
    asked_blocks: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// The file itself.
    pub(crate) fn root(body: &'t Body) -> Section<'t> {
        Section::new(String::new(), 0..0, body)
    }

    fn new(path: String, head: Range<usize>, body: &'t Body) -> Section<'t> {
        let mut section = Section {
            path,
            head,
            attributes: Vec::new(),
            blocks: Vec::new(),
            asked_attributes: Vec::new(),
            asked_blocks: Vec::new(),
        };
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => section.attributes.push((attribute, false)),
                Structure::Block(block) => section.blocks.push((block, false)),
            }
        }
        section
    }

    fn inner(&self, block: &'t Block) -> Section<'t> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(block.ident.as_str());
        Section::new(path, block_span(block), &block.body)
    }

    /// How messages call this section.
    pub(crate) fn called(&self) -> String {
        if self.path.is_empty() { "the file".to_owned() } else { format!("block `{}`", self.path) }
    }

    fn expression(&mut self, key: &'static str) -> Option<&'t Expression> {
        self.asked_attributes.push(key);
        let found = self.attributes.iter_mut().find(|(attribute, _)| attribute.key.as_str() == key)?;
        found.1 = true;
        Some(&found.0.value)
    }

    /// Where an attribute's key stands, whatever its value.
    pub(crate) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        let (attribute, _) = self.attributes.iter().find(|(attribute, _)| attribute.key.as_str() == key)?;
        Some(attribute_span(attribute))
    }

    /// A block that may stand once at most.
    pub(crate) fn block(&mut self, notes: &mut Notes, name: &'static str) -> Option<Section<'t>> {
        let mut found = self.blocks(notes, name).into_iter();
        let first = found.next();
        for second in found {
            notes.error(
                &second.head,
                format!("block `{}` is given twice", second.path),
                format!("move its lines into the first `{name}` block and remove this one"),
            );
        }
        first
    }

    /// Blocks without a name of their own that may stand several times.
    pub(crate) fn blocks(&mut self, notes: &mut Notes, name: &'static str) -> Vec<Section<'t>> {
        let blocks = self.take_blocks(name);
        for block in &blocks {
            if let Some(label) = block.labels.first() {
                let message = format!("block `{name}` takes no name, found {:?}", label.as_str());
                notes.error(&block_span(block), message, format!("write `{name} {{`"));
            }
        }
        blocks.into_iter().map(|block| self.inner(block)).collect()
    }

    /// Blocks such as `check "name" {`, each with its name.
    pub(crate) fn named_blocks(
        &mut self,
        notes: &mut Notes,
        name: &'static str,
    ) -> Vec<(At<String>, Section<'t>)> {
        let mut found: Vec<(At<String>, Section<'t>)> = Vec::new();
        for block in self.take_blocks(name) {
            let span = block_span(block);
            let [label] = block.labels.as_slice() else {
                let count = block.labels.len();
                let message = format!("block `{name}` takes exactly one name, found {count}");
                notes.error(&span, message, format!("write `{name} \"a-name\" {{`"));
                continue;
            };
            let label = At { value: label.as_str().to_owned(), span };
            if found.iter().any(|(other, _)| other.value == label.value) {
                let message = format!("two `{name}` blocks have the name {:?}", label.value);
                notes.error(&label.span, message, "give one of them another name");
                continue;
            }
            found.push((label, self.inner(block)));
        }
        found
    }

    fn take_blocks(&mut self, name: &'static str) -> Vec<&'t Block> {
        self.asked_blocks.push(name);
        let mut taken = Vec::new();
        for (block, used) in &mut self.blocks {
            if block.ident.as_str() == name {
                *used = true;
                taken.push(*block);
            }
        }
        taken
    }

    /// Reports what nobody asked for.
    pub(crate) fn close(self, notes: &mut Notes) {
        for (attribute, _) in self.attributes.iter().filter(|(_, used)| !used) {
            let key = attribute.key.as_str();
            let span = attribute_span(attribute);
            let (message, mend) = if self.asked_blocks.contains(&key) {
                (
                    format!("`{key}` is a block, not an attribute"),
                    format!("write `{key} {{` … `}}` without `=`"),
                )
            } else {
                self.unknown(key)
            };
            // Nobody knows what an unknown key holds: a text may be a secret under a misspelt name.
            let harmless = matches!(attribute.value, Expression::Number(_) | Expression::Bool(_))
                || self.asked_blocks.contains(&key);
            let hide = attribute.value.span().filter(|_| !harmless);
            notes.error_hiding(Problem { span, message, mend, hide });
        }
        for (block, _) in self.blocks.iter().filter(|(_, used)| !used) {
            let key = block.ident.as_str();
            let (message, mend) = if self.asked_attributes.contains(&key) {
                (format!("`{key}` is an attribute, not a block"), format!("write `{key} = …`"))
            } else {
                self.unknown(key)
            };
            notes.error(&block_span(block), message, mend);
        }
    }

    fn unknown(&self, key: &str) -> (String, String) {
        let known: Vec<&str> = self.asked_attributes.iter().chain(&self.asked_blocks).copied().collect();
        let message = format!("unknown key `{key}` in {}", self.called());
        let mend = if let Some(place) = vocabulary::elsewhere(key, &self.path) {
            format!("move `{key}` to {place}, where it belongs")
        } else if let Some(near) = vocabulary::nearest(key, &known) {
            format!("did you mean `{near}`? write `{near}` instead")
        } else if let Some((near, place)) = vocabulary::nearest_elsewhere(key, &self.path) {
            format!("did you mean `{near}`? it belongs in {place}")
        } else {
            format!("remove it; {} knows {}", self.called(), listed(&known))
        };
        (message, mend)
    }

    /// The keys of its attributes, in the order of the file: for a block whose keys belong to somebody else.
    pub(crate) fn keys(&self) -> Vec<&'t str> {
        self.attributes.iter().map(|(attribute, _)| attribute.key.as_str()).collect()
    }

    /// Accounts for an attribute whose value is not wanted.
    pub(crate) fn accept(&mut self, key: &str) {
        for (_, used) in self.attributes.iter_mut().filter(|(attribute, _)| attribute.key.as_str() == key) {
            *used = true;
        }
    }

    /// A text, a number, or a flag, as programs write them: `1` for true, `0` for false.
    pub(crate) fn plain(&mut self, notes: &mut Notes, key: &str) -> Option<At<String>> {
        self.accept(key);
        let (attribute, _) = self.attributes.iter().find(|(attribute, _)| attribute.key.as_str() == key)?;
        let expression = &attribute.value;
        let value = match unwrapped(expression) {
            Expression::Number(number) => number.value().to_string(),
            Expression::Bool(flag) => u8::from(**flag).to_string(),
            _ => match as_text(expression) {
                Some(text) => text.value,
                None => return wrong(notes, key, expression, "a text", &format!("{key} = \"…\"")),
            },
        };
        Some(At { value, span: span_of(expression) })
    }

    // ---- typed attributes -------------------------------------------------------------------

    pub(crate) fn text(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<String>> {
        let expression = self.expression(key)?;
        as_text(expression).or_else(|| {
            let example = if crate::mask::is_telltale(key) { "…".to_owned() } else { quoted(expression) };
            wrong(notes, key, expression, "a text", &format!("{key} = \"{example}\""))
        })
    }

    pub(crate) fn secret(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<Secret>> {
        Some(self.text(notes, key)?.map(Secret::new))
    }

    pub(crate) fn flag(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<bool>> {
        let expression = self.expression(key)?;
        match unwrapped(expression) {
            Expression::Bool(value) => Some(At { value: **value, span: span_of(expression) }),
            _ => wrong(notes, key, expression, "true or false", &format!("{key} = true")),
        }
    }

    /// A whole number within `range`.
    pub(crate) fn integer(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let expression = self.expression(key)?;
        let span = span_of(expression);
        let Expression::Number(number) = unwrapped(expression) else {
            return wrong(notes, key, expression, "a whole number", &format!("{key} = {}", range.start()));
        };
        match number.as_u64() {
            Some(value) if range.contains(&value) => Some(At { value, span }),
            _ => {
                let message = format!("`{key}` is out of range");
                let mend = format!("write a whole number from {} to {}", range.start(), range.end());
                notes.error(&span, message, mend);
                None
            }
        }
    }

    /// A number of seconds, or a text with a unit.
    pub(crate) fn duration(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<Duration>> {
        const SHAPE: &str =
            "write seconds (`1`, `0.25`) or a text with a unit (`\"250ms\"`, `\"5m\"`, `\"1h\"`)";
        let expression = self.expression(key)?;
        let span = span_of(expression);
        let read = match unwrapped(expression) {
            Expression::Number(number) => quantity::seconds(number.as_f64().unwrap_or(f64::NAN)),
            _ => match as_text(expression) {
                Some(text) => quantity::duration(&text.value),
                None => return wrong(notes, key, expression, "a duration", &format!("{key} = \"1s\"")),
            },
        };
        match read {
            Ok(value) => Some(At { value, span }),
            Err(why) => {
                notes.error(&span, format!("`{key}` is not a duration: {why}"), SHAPE);
                None
            }
        }
    }

    /// A number of bytes, or a text with a unit.
    pub(crate) fn size_bytes(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let expression = self.expression(key)?;
        let span = span_of(expression);
        let read = match unwrapped(expression) {
            Expression::Number(number) => number.as_u64(),
            _ => as_text(expression).and_then(|text| quantity::size_bytes(&text.value).ok()),
        };
        if let Some(value) = read.filter(|value| range.contains(value)) {
            return Some(At { value, span });
        }
        let (low, high) = (quantity::show_size(*range.start()), quantity::show_size(*range.end()));
        notes.error(
            &span,
            format!("`{key}` is not a size that can be used"),
            format!("write bytes or a text with a unit, from \"{low}\" to \"{high}\""),
        );
        None
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<At<T>> {
        let expression = self.expression(key)?;
        let span = span_of(expression);
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let Some(text) = as_text(expression) else {
            return wrong(notes, key, expression, "a word in quotes", &format!("{key} = \"{}\"", words[0]));
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, span });
        }
        let mend = match vocabulary::nearest(&text.value, &words) {
            Some(near) => format!("did you mean \"{near}\"? write `{key} = \"{near}\"`"),
            None => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("write one of {}", quoted.join(", "))
            }
        };
        notes.error(&span, format!("`{key}` cannot be {:?}", text.value), mend);
        None
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let expression = self.expression(key)?;
        let span = span_of(expression);
        let shape = format!("{key} = [\"…\", \"…\"]");
        let Expression::Array(array) = unwrapped(expression) else {
            if as_text(expression).is_some() {
                let mend = if crate::mask::is_telltale(key) {
                    shape
                } else {
                    format!("{key} = [\"{}\"]", quoted(expression))
                };
                return wrong(notes, key, expression, "a list", &mend);
            }
            return wrong(notes, key, expression, "a list of texts", &shape);
        };
        let mut texts = Vec::with_capacity(array.len());
        for element in array {
            match as_text(element) {
                Some(text) => texts.push(text),
                None => wrong(notes, key, element, "a list of texts", &shape)?,
            }
        }
        Some(At { value: texts, span })
    }

    /// A list of texts, or one text that stands for a list of it alone.
    pub(crate) fn text_or_texts(
        &mut self,
        notes: &mut Notes,
        key: &'static str,
    ) -> Option<At<Vec<At<String>>>> {
        match as_text(self.expression(key)?) {
            Some(text) => Some(At { span: text.span.clone(), value: vec![text] }),
            None => self.texts(notes, key),
        }
    }

    /// A path that does not depend on where the agent was started.
    pub(crate) fn absolute_path(&mut self, notes: &mut Notes, key: &'static str) -> Option<At<PathBuf>> {
        let text = self.text(notes, key)?;
        if text.value.starts_with('/') && !text.value.contains('\0') {
            return Some(text.map(PathBuf::from));
        }
        let mend = format!("write the whole path, such as `{key} = \"/var/lib/holdfast\"`");
        notes.error(&text.span, format!("`{key}` must be an absolute path"), mend);
        None
    }
}

fn listed(keys: &[&str]) -> String {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.join(", ")
}

fn unwrapped(expression: &Expression) -> &Expression {
    match expression {
        Expression::Parenthesis(inner) => unwrapped(inner.inner()),
        other => other,
    }
}

fn as_text(expression: &Expression) -> Option<At<String>> {
    match unwrapped(expression) {
        Expression::String(text) => Some(At { value: text.as_str().to_owned(), span: span_of(expression) }),
        _ => None,
    }
}

/// What a value would look like between quotes, for the mend.
fn quoted(expression: &Expression) -> String {
    match unwrapped(expression) {
        Expression::Number(number) => number.value().to_string(),
        Expression::Bool(value) => value.to_string(),
        Expression::String(text) => text.as_str().escape_default().to_string(),
        _ => "…".to_owned(),
    }
}

fn span_of(expression: &Expression) -> Range<usize> {
    expression.span().unwrap_or(0..0)
}

fn attribute_span(attribute: &Attribute) -> Range<usize> {
    attribute.key.span().or_else(|| attribute.value.span()).unwrap_or(0..0)
}

fn block_span(block: &Block) -> Range<usize> {
    block.ident.span().unwrap_or(0..0)
}

/// Notes that a value is of the wrong kind; always `None`, for a caller to return.
fn wrong<T>(notes: &mut Notes, key: &str, expression: &Expression, wanted: &str, example: &str) -> Option<T> {
    let (found, mend) = match unwrapped(expression) {
        Expression::Null(_) => ("null", format!("write `{example}`, or remove the line for the default")),
        Expression::Bool(_) => ("true or false", format!("write `{example}`")),
        Expression::Number(_) => ("a number", format!("write `{example}`")),
        Expression::String(_) => ("a text", format!("write `{example}`")),
        Expression::Array(_) => ("a list", format!("write `{example}`")),
        Expression::Object(_) => ("an object", format!("write `{example}`")),
        Expression::StringTemplate(_) => {
            ("a template", "write `$${` for `${` and `%%{` for `%{` where they are meant as such".to_owned())
        }
        _ => ("an expression", format!("write the plain value: `{example}`")),
    };
    notes.error(&span_of(expression), format!("`{key}` takes {wanted}, found {found}"), mend);
    None
}
