//! Numbers and tables as people read them.

/// A duration in its two largest units.
pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60_000..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A round trip.
pub(super) fn round_trip(us: u64) -> String {
    if us < 10_000 { format!("{us} us") } else { format!("{} ms", us / 1000) }
}

/// A position or a count, with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// An amount of bytes.
pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How much of something is done.
pub(super) fn bar(percent: u64) -> String {
    const CELLS: usize = 24;
    let done = (usize::try_from(percent).unwrap_or(100).min(100) * CELLS) / 100;
    format!("[{}{}] {percent} %", "#".repeat(done), ".".repeat(CELLS - done))
}

/// What came from the network, fit for a terminal: nothing in it can move a cursor or hide text.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Names in a row, or a dash.
pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

/// Rows with their columns aligned to the left; the last one is not padded. Cells may hold colours.
pub(super) fn table(rows: &[Vec<String>], indent: &str) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| seen(cell)).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (at, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < row.len() {
                line.push_str(&" ".repeat(widths[at] - seen(cell) + 2));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How many characters of a cell are seen: its colours are not.
fn seen(cell: &str) -> usize {
    let mut rest = cell;
    let mut count = 0;
    while let Some(at) = rest.find('\x1b') {
        count += rest[..at].chars().count();
        rest = rest[at..].split_once('m').map_or("", |(_, after)| after);
    }
    count + rest.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([duration(7), duration(1_250), duration(61_000)], ["7 ms", "1.2 s", "1 min 1 s"]);
        assert_eq!([duration(11_520_000), duration(90_000_000)], ["3 h 12 min", "1 d 1 h"]);
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([bytes(1023), bytes(1536), bytes(5 << 30)], ["1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn a_bar_is_as_long_as_it_is() {
        assert_eq!(bar(0), "[........................] 0 %");
        assert_eq!(bar(50), "[############............] 50 %");
        assert_eq!(bar(100), "[########################] 100 %");
    }

    #[test]
    fn colours_do_not_bend_a_table() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let out = table(&[row(["\x1b[1;31mab\x1b[0m", "x"]), row(["abc", "y"])], "");
        assert_eq!(out, "\x1b[1;31mab\x1b[0m   x\nabc  y\n");
    }
}
