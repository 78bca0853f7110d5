//! Which segments are worth giving up.
//!
//! A segment costs what is still live in it, since that must be written once more; giving any up costs a
//! checkpoint besides, which takes about as much as the index.

use holdfast_heartbeat::types::Lsn;

use super::holders::{self, Held};
use crate::index::{IndexError, Tables};

/// A segment of the log that is not written any more, and how much of it is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub base: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// Bytes in it that somebody has. What several have may be counted for each.
    pub live: u64,
}

impl Segment {
    fn len(&self) -> u64 {
        self.end.bytes_since(self.base)
    }

    fn dead(&self) -> u64 {
        self.len().saturating_sub(self.live)
    }
}

/// What the plan must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// Bytes that a checkpoint takes, about.
    pub checkpoint_bytes: u64,
    /// Bytes that may be written before anything is won.
    pub spare_bytes: u64,
}

/// The segments that may go, `(base, end)` each, with what is live in them: reads the whole index.
pub fn survey(tables: &dyn Tables, segments: &[(Lsn, Lsn)]) -> Result<Vec<Segment>, IndexError> {
    let mut found: Vec<Segment> =
        segments.iter().map(|(base, end)| Segment { base: *base, end: *end, live: 0 }).collect();
    holders::for_each(tables, |Held { extents, .. }| {
        for extent in extents {
            let after = found.partition_point(|segment| segment.base <= extent.lsn);
            if let Some(segment) = after.checked_sub(1).and_then(|i| found.get_mut(i))
                && extent.lsn < segment.end
            {
                segment.live += u64::from(extent.len);
            }
        }
    })?;
    Ok(found)
}

/// The segments to give up, in order; none where it is not worth it. Those that are thinnest come first,
/// down to those that are three quarters live: to move those costs more than it wins.
pub fn choose(segments: &[Segment], means: Means) -> Vec<(Lsn, Lsn)> {
    let mut thinnest: Vec<&Segment> =
        segments.iter().filter(|s| s.live.saturating_mul(4) <= s.len() * 3).collect();
    thinnest
        .sort_by(|a, b| (a.live * b.len().max(1)).cmp(&(b.live * a.len().max(1))).then(a.base.cmp(&b.base)));
    let (mut written, mut won) = (means.checkpoint_bytes, 0);
    let mut chosen = Vec::new();
    for segment in thinnest {
        if written + segment.live > means.spare_bytes {
            break;
        }
        written += segment.live;
        won += segment.dead();
        chosen.push((segment.base, segment.end));
    }
    if won <= means.checkpoint_bytes.saturating_mul(2) {
        return Vec::new();
    }
    chosen.sort_unstable();
    chosen
}

/// Whether so much of the log is garbage that it is worth looking for what may go: more than `share` of
/// it, beside what a checkpoint and the newest segments take.
pub fn is_due(
    log_bytes: u64,
    live_bytes: u64,
    checkpoint_bytes: u64,
    segment_bytes: u64,
    share: f64,
) -> bool {
    let kept = live_bytes + checkpoint_bytes + 2 * segment_bytes;
    let garbage = log_bytes.saturating_sub(kept);
    log_bytes > 4 * segment_bytes && garbage as f64 > log_bytes as f64 * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(at: u64, live: u64) -> Segment {
        Segment { base: Lsn(at * 100), end: Lsn(at * 100 + 100), live }
    }

    #[test]
    fn the_thinnest_go_first_and_full_ones_stay() {
        let all = [segment(0, 90), segment(1, 0), segment(2, 60), segment(3, 10)];
        let means = |spare_bytes| Means { checkpoint_bytes: 5, spare_bytes };
        let go = |n: u64| (Lsn(n * 100), Lsn(n * 100 + 100));
        assert_eq!(choose(&all, means(1000)), [go(1), go(2), go(3)]);
        assert_eq!(choose(&all, means(20)), [go(1), go(3)], "what little space there is decides");
        assert_eq!(choose(&all, means(5)), [go(1)]);
        assert_eq!(choose(&all, means(4)), []);
        assert_eq!(choose(&all, Means { checkpoint_bytes: 200, spare_bytes: 1000 }), [], "not worth it");
    }

    #[test]
    fn a_log_of_live_bytes_is_left_alone() {
        assert!(!is_due(1000, 900, 50, 10, 0.5));
        assert!(is_due(1000, 300, 50, 10, 0.5));
        assert!(!is_due(30, 0, 0, 10, 0.5), "a young log is not worth it");
    }
}
