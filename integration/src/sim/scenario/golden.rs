//! The golden lines: what a run says below each step, held against what the file says.

use std::fmt::Write;

use super::script::Script;

/// What a golden line begins with.
pub const MARK: &str = ">";

/// Unchanged lines that are shown around a difference.
const AROUND: usize = 2;

/// The text of the script with these lines below its steps, in the order of the steps.
pub fn rewritten(script: &Script, golden: &[Vec<String>]) -> String {
    let mut out = String::new();
    let mut steps = script.steps.iter().zip(golden).peekable();
    for (number, line) in (1..).zip(script.text.lines()) {
        if line.starts_with(MARK) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if let Some((_, lines)) = steps.next_if(|(step, _)| step.number == number) {
            for line in lines {
                let _ = writeln!(out, "{MARK} {line}");
            }
        }
    }
    out
}

/// Where `new` differs from `old`, line by line; nothing where it does not.
pub fn difference(old: &str, new: &str) -> Option<String> {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if a == b {
        return None;
    }
    // The longest common subsequence: scenarios have a hundred lines, so the square of that is nothing.
    let mut longest = vec![vec![0u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = match a[i] == b[j] {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines: Vec<(char, &str)> = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || i < a.len() && longest[i + 1][j] >= longest[i][j + 1] {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let mut text = String::new();
    for (at, (sign, line)) in lines.iter().enumerate() {
        let near = &lines[at.saturating_sub(AROUND)..(at + AROUND + 1).min(lines.len())];
        if near.iter().any(|(sign, _)| *sign != ' ') {
            let _ = writeln!(text, "  {sign} {line}");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_shows_what_went_and_what_came() {
        let shown = difference("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nX\ne\nf\n").expect("they differ");
        assert_eq!(shown, "    b\n    c\n  - d\n  + X\n    e\n    f\n");
        assert_eq!(difference("a\n", "a\n"), None);
    }
}
