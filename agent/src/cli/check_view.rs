//! `holdfast ha check`: one line for each finding, and below what is not well what it means and what to do.

use super::paint::Paint;
use super::words::printable;
use crate::runtime::inquiry::{CheckReport, Finding, Outcome};

/// The whole view, with its line end.
pub(super) fn render(report: &CheckReport, paint: Paint) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        out.push_str(&one(finding, paint));
    }
    let count = |outcome| report.findings.iter().filter(|finding| finding.outcome == outcome).count();
    let (failed, warned) = (count(Outcome::Fail), count(Outcome::Warn));
    let node = printable(&report.node);
    let looked =
        format!("{} things looked at from {node}: {failed} failed, {warned} warnings", report.findings.len());
    out.push('\n');
    out.push_str(&match (report.healthy, failed) {
        (true, _) => paint.good(&format!("{looked}.")),
        (false, 0) => paint.warn(&format!("{looked}. See also: holdfast ha status")),
        (false, _) => paint.bad(&format!("{looked}.")),
    });
    out.push('\n');
    out
}

fn one(finding: &Finding, paint: Paint) -> String {
    let mark = match finding.outcome {
        Outcome::Ok => paint.good("ok  "),
        Outcome::Warn => paint.warn("warn"),
        Outcome::Fail => paint.bad("FAIL"),
    };
    let mut out = format!("{mark}  {}: {}\n", printable(&finding.name), printable(&finding.seen));
    if let Some(means) = &finding.means {
        out.push_str(&format!("        {}\n", printable(means)));
    }
    if let Some(advice) = &finding.advice {
        out.push_str(&format!("      > {}\n", printable(advice)));
    }
    out
}
