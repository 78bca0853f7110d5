//! Reads the text into a tree that knows where everything stands, and explains what does not parse.
//!
//! Decides nothing about meaning. The parser stops at its first fault, so there is one fault here at
//! most. Invariant: nothing of the source is shown but through [`mask`].

use hcl_edit::structure::Body;

use crate::mask::{is_telltale, mask};
use crate::nesting::{MAX_DEPTH, too_deep};
use crate::report::Notes;

/// Parses `text`; where it does not parse, notes one fault with the mend.
pub(crate) fn parse(text: &str, notes: &mut Notes) -> Option<Body> {
    if let Some(place) = too_deep(text) {
        notes.error(
            &place,
            format!("this is nested more than {MAX_DEPTH} deep"),
            "close what is open: a `{`, `[`, `(` or `\"` above has no partner; no setting stands as deep as this",
        );
        return None;
    }
    let fault = match hcl_edit::parser::parse_body(text) {
        Ok(body) => return Some(body),
        Err(fault) => fault,
    };
    let at = text.floor_char_boundary(fault.location().offset().min(text.len()));
    let said = fault.message();
    if said.contains("redefined attribute") {
        let key = word_at(text, at);
        notes.error(
            &(at..at + key.len()),
            format!("`{key}` is given twice in the same block"),
            format!("keep one of the two lines that set `{key}` and remove the other"),
        );
    } else if let Some((open, broken_up)) = crowded_block(text, at) {
        notes.error(
            &(open..at.max(open + 1)),
            "a block written on one line takes one attribute at most, and no block",
            format!("write one attribute a line:\n{broken_up}"),
        );
    } else if let Some(quote) = open_quote(text, at) {
        notes.error(
            &(quote..text.len()),
            "the quotes opened here are not closed on this line",
            "write the closing `\"` at the end of the value",
        );
    } else {
        let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
        notes.error(&(at..end), format!("this is not HCL: {said}"), mend(text, at, said));
    }
    None
}

/// What to write where the parser stumbled over one of the common mistakes.
fn mend(text: &str, at: usize, said: &str) -> String {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or("");
    let (key, value) = line.split_once([':', '=']).unwrap_or((line, ""));
    let key = key.trim();
    let is_set = text[line_start..at].contains('=');
    if text[at..].starts_with(':') && !is_set && key == word_at(text, line_start + indent(line)) {
        return format!("write `{key} = …`: HCL sets an attribute with `=`");
    }
    if said.contains("newline") && at > line_start && text[at..].starts_with([',', ';']) {
        return "remove it: attributes stand on lines of their own, with nothing at the end".to_owned();
    }
    let bare = value.trim();
    let quotable = bare.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '[' || c == ':');
    if quotable && !bare.contains('"') && !is_telltale(key) && line.contains('=') && !bare.starts_with('[') {
        return format!("put the value in quotes: write `{key} = \"{bare}\"`");
    }
    if at >= text.trim_end().len() {
        return "close what is open: a `{`, `[` or `\"` above has no partner".to_owned();
    }
    "write attributes as `key = value`, one a line, and blocks as `name {` … `}`".to_owned()
}

/// Where the line of the fault opens quotes that it does not close.
fn open_quote(text: &str, at: usize) -> Option<usize> {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let mut open = None;
    let mut escaped = false;
    for (offset, c) in text[line_start..].lines().next()?.char_indices() {
        match c {
            '"' if !escaped => open = if open.is_some() { None } else { Some(line_start + offset) },
            '#' if open.is_none() => break,
            _ => {}
        }
        escaped = c == '\\' && !escaped && open.is_some();
    }
    open
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn word_at(text: &str, at: usize) -> &str {
    let rest = &text[at..];
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
    &rest[..end]
}

/// Whether the fault at `at` lies in a block that opened on the same line and already holds something:
/// where its `{` is, and the block written out over several lines.
fn crowded_block(text: &str, at: usize) -> Option<(usize, String)> {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let masked = mask(text);
    let line = masked[line_start..].lines().next()?;
    let braces = block_braces(line);
    let open = braces.iter().rev().copied().find(|&open| line_start + open < at)?;
    // Something must already stand in the block, or a block begin in it, else the fault is another one.
    let crowded = line[open + 1..(at - line_start).min(line.len())].contains(['=', '{']);
    if !crowded && !text[at..].starts_with(['{', '"']) {
        return None;
    }
    Some((line_start + open, broken_up(line)))
}

/// Where in the line a `{` opens a block (rather than stands in a text, or begins an object).
fn block_braces(line: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut in_string = false;
    let mut before = None;
    for (at, c) in line.char_indices() {
        match c {
            '"' => in_string = !in_string,
            '#' if !in_string => break,
            '{' if !in_string
                && before.is_some_and(|b: char| b.is_alphanumeric() || b == '_' || b == '"') =>
            {
                found.push(at);
            }
            _ => {}
        }
        if !c.is_whitespace() {
            before = Some(c);
        }
    }
    found
}

/// The line with a break after each `{`, before each `}` and before each further key.
fn broken_up(line: &str) -> String {
    let mut out = String::new();
    let mut depth = 0usize;
    let mut in_string = false;
    let mut brackets = 0usize;
    let mut current = String::new();
    let mut flush = |current: &mut String, depth: usize| {
        let written = current.trim().trim_end_matches([',', ';']).trim_end();
        if !written.is_empty() {
            out.push_str(&"  ".repeat(depth));
            out.push_str(written);
            out.push('\n');
        }
        current.clear();
    };
    for (at, c) in line.char_indices() {
        if c == '"' {
            in_string = !in_string;
        }
        if in_string {
            current.push(c);
            continue;
        }
        match c {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            '{' => {
                current.push(c);
                flush(&mut current, depth);
                depth += 1;
                continue;
            }
            '}' => {
                flush(&mut current, depth);
                depth = depth.saturating_sub(1);
                current.push(c);
                flush(&mut current, depth);
                continue;
            }
            _ if brackets == 0 && current.contains('=') && starts_key(line, at) => flush(&mut current, depth),
            _ => {}
        }
        current.push(c);
    }
    flush(&mut current, depth);
    out.trim_end().to_owned()
}

/// Whether a new word that is followed by `=` or opens a block starts here.
fn starts_key(line: &str, at: usize) -> bool {
    let fresh = line[..at].ends_with([' ', '\t', ',', ';']);
    let word = word_at(line, at);
    let after = line[at + word.len()..].trim_start();
    fresh
        && !word.is_empty()
        && (after.starts_with('=') && !after.starts_with("==") || after.starts_with('{'))
}
