//! How deep a text nests, found out before the parser sees it.
//!
//! The parser of HCL goes back at each opening bracket whose inside does not parse and tries the next reading, so
//! what it takes grows exponentially with the depth of a text that is wrong deep inside: less than a kilobyte is
//! enough for minutes. Decides nothing about meaning; it may take a text of a kind that no setting has (a heredoc)
//! for a deeper one than it is.

use std::ops::Range;

/// Deepest nesting of braces, brackets and parentheses that is parsed. The deepest setting stands in three blocks
/// and a list.
pub(crate) const MAX_DEPTH: usize = 8;

/// What the scan is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// A bracket of any kind, or a template in a string: expressions and blocks stand here.
    Bracket,
    /// A string; it ends at the end of its line at the latest.
    String,
}

/// The bracket that is deeper than [`MAX_DEPTH`], if there is one.
pub(crate) fn too_deep(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut inside: Vec<Inside> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let mut width = 1;
        let mut opens = false;
        if inside.last() == Some(&Inside::String) {
            match byte {
                b'\\' if next != Some(b'\n') => width = 2,
                b'"' | b'\n' => drop(inside.pop()),
                b'$' | b'%' if next == Some(byte) => width = 2,
                b'$' | b'%' if next == Some(b'{') => (opens, width) = (true, 2),
                _ => {}
            }
        } else {
            match byte {
                b'#' => width = to_line_end(&bytes[at..]),
                b'/' if next == Some(b'/') => width = to_line_end(&bytes[at..]),
                b'/' if next == Some(b'*') => {
                    width = text[at + 2..].find("*/").map_or(bytes.len() - at, |end| end + 4)
                }
                b'"' => inside.push(Inside::String),
                b'{' | b'[' | b'(' => opens = true,
                b'}' | b']' | b')' if inside.last() == Some(&Inside::Bracket) => {
                    inside.pop();
                    depth -= 1;
                }
                _ => {}
            }
        }
        if opens {
            inside.push(Inside::Bracket);
            depth += 1;
            if depth > MAX_DEPTH {
                return Some(at..at + width);
            }
        }
        at += width;
    }
    None
}

fn to_line_end(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_where_it_nests_and_nowhere_else() {
        let deep = |open: &str, times: usize| too_deep(&open.repeat(times)).is_some();
        for open in ["{", "[", "(", "a {\n", "[\"${", "\"%{"] {
            assert!(!deep(open, 3) && deep(open, MAX_DEPTH + 1), "{open}");
        }
        for flat in [
            "{}",
            "[]",
            "# {[(\n",
            "// {\n",
            "/* ( */",
            "\"{[(\" ",
            "\"\\\"{\" ",
            "\"$${ %%{\" ",
            "\"{\n",
            "}",
            "a {\n}\n",
        ] {
            assert!(!deep(flat, 100), "{flat}");
        }
        assert_eq!(too_deep(&"[".repeat(100)), Some(MAX_DEPTH..MAX_DEPTH + 1));
    }
}
