//! `holdfast ha history`: one line per entry, the reason in words at its end.

use super::paint::Paint;
use super::status_view::spoken;
use super::words::{printable, table};
use crate::runtime::history::Entry;

/// The whole view, with its line end.
pub(super) fn render(entries: &[Entry], paint: Paint) -> String {
    if entries.is_empty() {
        return "nothing happened to this member yet\n".to_owned();
    }
    let rows: Vec<_> = entries.iter().map(|entry| row(entry, paint)).collect();
    let lines = table(&rows, "");
    // What hooks said stands below their lines, which would otherwise no longer be lines.
    let mut out = String::with_capacity(lines.len());
    for (line, entry) in lines.lines().zip(entries) {
        out.push_str(line);
        out.push('\n');
        for said in entry.output.iter().flat_map(|output| output.lines()) {
            out.push_str(&format!("    {} {}\n", paint.dim("|"), printable(said)));
        }
    }
    out
}

fn row(entry: &Entry, paint: Paint) -> Vec<String> {
    let change = match (&entry.from, &entry.to) {
        (Some(from), Some(to)) => {
            let change = format!("{} -> {}", spoken(from), spoken(to));
            if to == "primary" { paint.good(&change) } else { change }
        }
        _ if entry.cause == "warning" => paint.warn("warning"),
        _ if entry.cause == "hook_failed" => paint.warn("hook failed"),
        _ => printable(&entry.cause),
    };
    let peer = entry.peer.as_ref().map_or_else(String::new, |peer| format!(" ({peer})"));
    vec![
        paint.dim(&printable(&entry.at).replacen('T', " ", 1)),
        change,
        entry.epoch.map_or_else(String::new, |epoch| format!("epoch {epoch}")),
        printable(&format!("{}{peer}", entry.reason)),
    ]
}
