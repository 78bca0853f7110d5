//! What `ha status` and the metrics show of the connections that are carried over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// A trouble that ends within this time is none: members start and change roles.
const TROUBLE_AFTER: Duration = Duration::from_secs(10);

/// The connections through this host, and how many of them the standby has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConntrackStatus {
    /// What a standby hears, in words; empty where this host's own table is what counts.
    pub state: String,
    /// Standbys that are told of this host's connections.
    pub askers: u64,
    /// Connections that the standby has, or that are held here for the primary.
    pub entries: u64,
    /// The bound of the configuration.
    pub max_entries: u64,
    /// Connections of this host that had no room at the last comparison.
    pub left_out: u64,
    /// Changes sent to standbys.
    pub sent: u64,
    /// Changes received from primaries.
    pub received: u64,
    /// Entries put into this host's table, or changed there.
    pub put_in: u64,
    /// Entries that the kernel did not take.
    pub failed: u64,
    /// Entries that were received and not tried: no room, or nothing that another host should say.
    pub dropped: u64,
    /// Notices of the kernel that were lost, each time followed by a comparison.
    pub overruns: u64,
    /// How long the last changes took to be in the standby's table; absent where nobody is told.
    pub lag_ms: Option<u64>,
    /// What keeps connections from being carried over, in words.
    pub problem: Option<String>,
}

/// Shared by those who do the work and those who show it. Clones are the same board.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    status: ConntrackStatus,
    /// What each part is troubled by, and since when.
    troubles: [Option<(Instant, String)>; PARTS],
}

const PARTS: usize = 4;

/// Who may have a trouble.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The kernel's table, on either member.
    Kernel,
    /// The bound.
    Room,
    /// The connection to the primary.
    Peer,
    /// Putting entries in.
    Putting,
}

impl Board {
    /// Of a table with at most so many entries.
    pub(super) fn new(max_entries: u64) -> Board {
        let board = Board::default();
        board.write(|status| status.max_entries = max_entries);
        board
    }

    /// What there is to show now.
    pub fn read(&self) -> ConntrackStatus {
        self.read_at(Instant::now())
    }

    fn read_at(&self, now: Instant) -> ConntrackStatus {
        let written = self.0.lock();
        let lasts = |since: Instant| now.saturating_duration_since(since) >= TROUBLE_AFTER;
        let lasting = written.troubles.iter().flatten().find(|(since, _)| lasts(*since));
        ConntrackStatus { problem: lasting.map(|(_, words)| words.clone()), ..written.status.clone() }
    }

    pub(super) fn write(&self, change: impl FnOnce(&mut ConntrackStatus)) {
        change(&mut self.0.lock().status);
    }

    pub(super) fn state(&self, state: impl Into<String>) {
        self.write(|status| status.state = state.into());
    }

    /// States a part's trouble, or that it has none. One that lasts keeps the moment of its beginning.
    pub(super) fn trouble(&self, part: Part, trouble: Option<String>) {
        let place = &mut self.0.lock().troubles[part as usize];
        *place = trouble.map(|words| {
            let since = place.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            (since, words)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trouble_that_lasts_is_shown() {
        let board = Board::new(5);
        board.trouble(Part::Peer, Some("first".to_owned()));
        assert_eq!(board.read().problem, None);
        let later = Instant::now() + TROUBLE_AFTER;
        board.trouble(Part::Peer, Some("still".to_owned()));
        assert_eq!(board.read_at(later).problem.as_deref(), Some("still"));
        board.trouble(Part::Peer, None);
        assert_eq!(board.read_at(later).problem, None);
        assert_eq!(board.read().max_entries, 5);
    }
}
