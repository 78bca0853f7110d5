//! Reads durations and sizes the way people write them.
//!
//! A bare number is seconds (or bytes); a text may carry a unit. Pure functions that never panic and
//! never round a written unit away. Invariant: what [`show`] prints, [`duration`] reads back.

use std::fmt;
use std::time::Duration;

/// Longest duration that any key takes: a year. It keeps every product of timers far from overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Nanoseconds in each unit of time.
const TIME_UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("min", 60 * 1_000_000_000),
    ("h", 3600 * 1_000_000_000),
    ("d", 24 * 3600 * 1_000_000_000),
];

/// Bytes in each unit of size.
const SIZE_UNITS: [(&str, u128); 11] = [
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("TiB", 1 << 40),
];

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadQuantity {
    /// Nothing that starts with a number.
    NotANumber,
    /// A number and then a unit that does not exist.
    UnknownUnit,
    /// More than the greatest that is allowed, or more digits than can be read.
    TooGreat,
}

impl fmt::Display for BadQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadQuantity::NotANumber => "it does not start with a number",
            BadQuantity::UnknownUnit => "its unit is unknown",
            BadQuantity::TooGreat => "it is too great",
        })
    }
}

/// Reads `"250ms"`, `"1.5s"`, `"5m"`, `"1h30m"` or `"10"` (seconds).
pub(crate) fn duration(text: &str) -> Result<Duration, BadQuantity> {
    let nanos = sum(text, &TIME_UNITS, 1_000_000_000)?;
    if nanos > MAX_DURATION.as_nanos() {
        return Err(BadQuantity::TooGreat);
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| BadQuantity::TooGreat)
}

/// Seconds as a number, fractions allowed.
pub(crate) fn seconds(number: f64) -> Result<Duration, BadQuantity> {
    if number.is_nan() || number < 0.0 {
        return Err(BadQuantity::NotANumber);
    }
    match Duration::try_from_secs_f64(number) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => Err(BadQuantity::TooGreat),
    }
}

/// Reads `"64MiB"`, `"1G"` or `"4096"` (bytes).
pub(crate) fn size_bytes(text: &str) -> Result<u64, BadQuantity> {
    u64::try_from(sum(text, &SIZE_UNITS, 1)?).map_err(|_| BadQuantity::TooGreat)
}

/// Adds up parts such as `1h30m`; a lone number counts in `bare`.
fn sum(text: &str, units: &[(&str, u128)], bare: u128) -> Result<u128, BadQuantity> {
    let mut rest = text.trim();
    let mut total: u128 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let tail = tail.trim_start();
        let end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = if unit.is_empty() && parts == 0 && tail.is_empty() {
            bare
        } else {
            units.iter().find(|(name, _)| *name == unit).map(|&(_, n)| n).ok_or(match number {
                "" => BadQuantity::NotANumber,
                _ => BadQuantity::UnknownUnit,
            })?
        };
        total = total.checked_add(scaled(number, factor)?).ok_or(BadQuantity::TooGreat)?;
        rest = tail.trim_start();
        parts += 1;
    }
    if parts == 0 { Err(BadQuantity::NotANumber) } else { Ok(total) }
}

/// `number` times `factor`, in whole units of one, exactly for as many places as the factor has.
fn scaled(number: &str, factor: u128) -> Result<u128, BadQuantity> {
    /// More digits than this cannot be meant, and would overflow.
    const MAX_DIGITS: usize = 18;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (fraction.is_empty() && number.contains('.')) {
        return Err(BadQuantity::NotANumber);
    }
    if whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
        return Err(BadQuantity::TooGreat);
    }
    let whole: u128 = whole.parse().map_err(|_| BadQuantity::NotANumber)?;
    let mut total = whole.checked_mul(factor).ok_or(BadQuantity::TooGreat)?;
    if !fraction.is_empty() {
        let places = 10u128.pow(fraction.len() as u32);
        let part: u128 = fraction.parse().map_err(|_| BadQuantity::NotANumber)?;
        total += part.checked_mul(factor).ok_or(BadQuantity::TooGreat)? / places;
    }
    Ok(total)
}

/// A duration as an operator would write it: `100ms`, `1.5s`, `5m`, `2h`.
pub fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let whole = |unit: u128| nanos.is_multiple_of(unit).then(|| nanos / unit);
    const SECOND: u128 = 1_000_000_000;
    if nanos == 0 {
        return "0s".to_owned();
    }
    if let Some(hours) = whole(3600 * SECOND) {
        return format!("{hours}h");
    }
    if let Some(minutes) = whole(60 * SECOND) {
        return format!("{minutes}m");
    }
    let (unit, name) = match nanos {
        n if n >= SECOND => (SECOND, "s"),
        n if n >= 1_000_000 => (1_000_000, "ms"),
        n if n >= 1_000 => (1_000, "us"),
        _ => (1, "ns"),
    };
    let fraction = format!("{:09}", (nanos % unit) * (SECOND / unit));
    let fraction = fraction.trim_end_matches('0');
    match fraction {
        "" => format!("{}{name}", nanos / unit),
        _ => format!("{}.{fraction}{name}", nanos / unit),
    }
}

/// A size as an operator would write it: `64MiB`, `1000B`.
pub(crate) fn show_size(bytes: u64) -> String {
    for (shift, name) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{name}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("250ms", 250),
            ("5m", 300_000),
            ("1s", 1_000),
            ("1h", 3_600_000),
            ("1.5s", 1_500),
            ("0.25 s", 250),
            ("1h30m", 5_400_000),
            ("10", 10_000),
            ("0.5", 500),
            (" 2 min ", 120_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        use BadQuantity::*;
        for (text, why) in [
            ("", NotANumber),
            ("fast", NotANumber),
            ("-1s", NotANumber),
            ("1..5s", NotANumber),
            ("1.s", NotANumber),
            (".5s", NotANumber),
            ("5 parsecs", UnknownUnit),
            ("1h30", UnknownUnit),
            ("400d", TooGreat),
            ("99999999999999999999s", TooGreat),
        ] {
            assert_eq!(duration(text), Err(why), "{text}");
        }
        assert_eq!(seconds(f64::NAN), Err(NotANumber));
        assert_eq!(seconds(f64::INFINITY), Err(TooGreat));
        assert_eq!(seconds(-0.1), Err(NotANumber));
    }

    #[test]
    fn sizes_are_read_in_both_systems() {
        for (text, bytes) in
            [("64MiB", 64 << 20), ("1G", 1 << 30), ("1.5KiB", 1536), ("10MB", 10_000_000), ("7", 7)]
        {
            assert_eq!(size_bytes(text), Ok(bytes), "{text}");
            assert_eq!(size_bytes(&show_size(bytes)), Ok(bytes));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_the_same(nanos in 0..MAX_DURATION.as_nanos() as u64) {
            let written = show(Duration::from_nanos(nanos));
            prop_assert_eq!(duration(&written), Ok(Duration::from_nanos(nanos)), "{}", written);
        }

        #[test]
        fn tenths_of_seconds_are_exact_as_number_and_as_text(tenths in 0u32..100_000) {
            let expected = Duration::from_millis(u64::from(tenths) * 100);
            prop_assert_eq!(seconds(f64::from(tenths) / 10.0), Ok(expected));
            let text = format!("{}.{}s", tenths / 10, tenths % 10);
            prop_assert_eq!(duration(&text), Ok(expected));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = duration(&text);
            let _ = size_bytes(&text);
        }
    }
}
