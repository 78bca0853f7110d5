//! `holdfast ha audit`: one line per entry, what came of it at its end, and the verdict on the chain.

use std::process::ExitCode;

use super::FAILED;
use super::paint::Paint;
use super::words::{printable, table};
use crate::runtime::audit::Shown;
use crate::runtime::audit::chain::{MAX_FAULTS, Sealed, Verified};

/// The whole view, with its line end.
pub(super) fn render(shown: &Shown, paint: Paint) -> String {
    let rows: Vec<_> = shown.records.iter().map(|sealed| row(sealed, paint)).collect();
    let mut out = match rows.is_empty() {
        true => "nobody asked this member for anything yet\n".to_owned(),
        false => table(&rows, ""),
    };
    if shown.lost > 0 {
        let lost = format!("{} entries since the agent's start could not be written down", shown.lost);
        out.push_str(&format!("{}\n", paint.warn(&lost)));
    }
    if let Some(verified) = &shown.verified {
        out.push_str(&verdict(verified, paint));
    }
    out
}

fn row(sealed: &Sealed, paint: Paint) -> Vec<String> {
    let record = &sealed.record;
    let claimed = record.claimed.as_ref().map_or_else(String::new, |name| format!(" as \"{name}\""));
    let from = record.from.as_ref().map_or_else(String::new, |from| format!(" from {from}"));
    let detail = record.detail.as_deref().unwrap_or_default();
    let outcome = match record.outcome.as_str() {
        "done" => printable(&record.outcome),
        other => paint.warn(&printable(other)),
    };
    vec![
        record.seq.to_string(),
        paint.dim(&printable(&record.at).replacen('T', " ", 1)),
        format!("epoch {}", record.epoch),
        printable(format!("{} {detail}", record.action).trim_end()),
        outcome,
        printable(&format!("{}{claimed}{from}", record.by)),
        printable(record.message.as_deref().unwrap_or_default()),
    ]
}

/// What a check found, in words.
pub(super) fn verdict(verified: &Verified, paint: Paint) -> String {
    let mut out = String::new();
    for fault in &verified.faults {
        let line = format!("{}: line {} {}", fault.file, fault.line, fault.what);
        out.push_str(&format!("{}\n", paint.warn(&printable(&line))));
    }
    if verified.fault_count > MAX_FAULTS as u64 {
        out.push_str(&format!("and {} more\n", verified.fault_count - MAX_FAULTS as u64));
    }
    let (lines, first, head) = (verified.lines, verified.first_seq, &verified.head);
    let older =
        if first > 1 { format!(" (those before number {first} were rotated away)") } else { String::new() };
    out.push_str(&match verified.intact {
        true => format!("{}: {lines} lines, each continues the one before it{older}\n", paint.good("intact")),
        false => format!(
            "{}: {lines} lines, of which some are not as they were written{older}\n",
            paint.warn("changed")
        ),
    });
    if verified.torn {
        out.push_str("the last line was never finished, as after a crash\n");
    }
    out.push_str(&format!(
        "the chain ends with number {} and hash {}\ncompare with the journal: journalctl -u holdfast | grep 'seq={}'\n",
        head.seq,
        printable(&head.hash),
        head.seq
    ));
    out
}

/// Done, or failed where something was changed.
pub(super) fn status(verified: &Verified) -> ExitCode {
    if verified.intact { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}
