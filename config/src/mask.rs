//! Blots out secrets in the source before any of it is shown.
//!
//! Works on the text and not on the parsed tree, because it must also work where the text does not
//! parse. It would rather hide too much than too little. Invariant: the result has the same length in
//! bytes and the same line ends, so every span of the original points at the same place.

/// Words that mark a key as one whose value is not to be shown, wherever in the key they stand.
const TELLTALES: [&str; 6] = ["secret", "token", "passw", "passphrase", "credential", "key"];

/// Key endings whose values are worth showing and no secret: paths, and the name of a user.
const HARMLESS: [&str; 3] = ["_file", "_files", "_access_key"];

/// Whether the value of `key` must not be shown.
pub(crate) fn is_telltale(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !HARMLESS.iter().any(|end| key.ends_with(end)) && TELLTALES.iter().any(|word| key.contains(word))
}

/// The text with every value of a telltale key starred.
pub(crate) fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word_start = None;
    let mut chars = text.char_indices().peekable();
    let mut value: Option<Value> = None;
    while let Some((at, c)) = chars.next() {
        if let Some(state) = &mut value {
            let shown = state.shows(c);
            push(&mut out, c, shown);
            if state.ended {
                value = None;
                word_start = None;
            }
            continue;
        }
        out.push(c);
        if is_word(c) {
            let start = *word_start.get_or_insert(at);
            let ends = chars.peek().is_none_or(|&(_, next)| !is_word(next));
            if ends {
                word_start = None;
                if is_telltale(&text[start..at + c.len_utf8()]) {
                    value = Some(Value::default());
                }
            }
        }
    }
    out
}

/// Stars the bytes of `span`, whatever they say. Used for the values of keys nobody knows.
pub(crate) fn mask_span(text: &str, span: std::ops::Range<usize>) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        push(&mut out, c, !span.contains(&at) || c.is_whitespace() || "\"[],".contains(c));
    }
    out
}

fn push(out: &mut String, c: char, shown: bool) {
    if shown {
        out.push(c);
    } else {
        // One star a byte keeps spans of the original valid.
        out.extend(std::iter::repeat_n('*', c.len_utf8()));
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// Where in a secret value the scan stands.
#[derive(Default)]
struct Value {
    in_string: bool,
    escaped: bool,
    depth: u32,
    heredoc: bool,
    last: char,
    ended: bool,
}

impl Value {
    /// Whether `c` may be shown; advances, and notes when the value is over.
    fn shows(&mut self, c: char) -> bool {
        let last = std::mem::replace(&mut self.last, c);
        if c == '\n' {
            // A string never spans lines; an open bracket and a heredoc do.
            self.in_string = false;
            self.ended = self.depth == 0 && !self.heredoc;
            return true;
        }
        if self.in_string {
            let closes = c == '"' && !self.escaped;
            self.escaped = c == '\\' && !self.escaped;
            self.in_string = !closes;
            return closes || c == '\r';
        }
        match c {
            '"' => {
                self.in_string = true;
                self.escaped = false;
            }
            '[' | '(' => self.depth += 1,
            ']' | ')' => self.depth = self.depth.saturating_sub(1),
            // Where a heredoc ends is not worth finding out: the rest of the file is hidden.
            '<' if last == '<' => self.heredoc = true,
            _ => {}
        }
        matches!(c, '"' | '[' | ']' | '=' | ',' | '{' | '}') || c.is_whitespace()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_telltale_keys_are_starred_and_nothing_moves() {
        let text = "mode = \"primary\"\nsecret_key = \"hünter2\"\nport = 1\n";
        let masked = mask(text);
        assert_eq!(masked, "mode = \"primary\"\nsecret_key = \"********\"\nport = 1\n");
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn lists_broken_strings_and_misspelt_keys_are_starred_too() {
        for text in [
            "previous_secret_keys = [\n  \"hunter2\",\n  \"hunter2\"\n]",
            "secret_key = \"hunter2",
            "secret_key \"hunter2\"",
            "secret_key: hunter2",
            "sercet_key = \"hunter2\"",
            "secret_key = \"a\\\"hunter2\"",
            "secret_key = <<EOF\nhunter2\nEOF\n",
            "api { token = \"hunter2\" }",
            "root_secret_key = hunter2[\nhunter2",
        ] {
            assert!(!mask(text).contains("hunter2"), "{}", mask(text));
        }
    }

    #[test]
    fn paths_of_secret_files_stay_readable() {
        let text = "secret_key_file = \"/etc/holdfast/secret\"";
        assert_eq!(mask(text), text);
    }
}
