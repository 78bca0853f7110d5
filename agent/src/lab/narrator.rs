//! How the lab tells what it does: live on a terminal, one plain line per step elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Tells a story step by step.
pub(super) struct Narrator {
    live: bool,
}

/// A step that is being told.
pub(super) struct Telling {
    what: String,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Narrator {
    pub(super) fn new() -> Narrator {
        Narrator { live: std::io::stdout().is_terminal() && std::io::stderr().is_terminal() }
    }

    /// Begins a step.
    pub(super) fn step(&self, what: impl Into<String>) -> Telling {
        let what = what.into();
        let bar = self.live.then(|| {
            let style =
                ProgressStyle::with_template("  {spinner} {msg}").expect("the template is well formed");
            let bar = ProgressBar::new_spinner().with_style(style).with_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Telling { what, bar, began: Instant::now() }
    }

    /// Says a line by itself.
    pub(super) fn say(&self, line: impl AsRef<str>) {
        println!("{}", line.as_ref());
    }
}

impl Telling {
    /// Shows how far the step is, on a terminal only.
    pub(super) fn progress(&self, text: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {}", self.what, text.as_ref()));
        }
    }

    /// Ends the step with what came of it.
    pub(super) fn done(mut self, result: impl AsRef<str>) {
        self.clear();
        let took = self.began.elapsed();
        println!("  ok  {}: {} ({:.1} s)", self.what, result.as_ref(), took.as_secs_f64());
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if self.bar.is_some() {
            // The step did not end well; the error that follows says why.
            self.clear();
            println!("  --  {}: failed after {:.1} s", self.what, self.began.elapsed().as_secs_f64());
        }
    }
}

/// A table of two columns.
pub(super) fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("  {name:<width$}  {value}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_a_table_line_up() {
        let text = table(&[("a", "1".into()), ("long name", "2".into())]);
        assert_eq!(text, "  a          1\n  long name  2\n");
    }
}
