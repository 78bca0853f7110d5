//! Whether the replicas' logs are the same bytes (rule R9), seen and not believed: with each reading of the primary's log
//! every standby is told the sum of each segment, and sums its own copy from its own disk.
//!
//! A difference changes nothing by itself: both copies are sound, so no machine can tell which one to keep.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_heartbeat::{Lsn, Member};
use holdfast_replication::log::RangeSum;
use holdfast_replication::replica::{ConnId, Input};
use holdfast_replication::stream::Verdict;
use holdfast_replication::{LogError, LogReader};
use serde::{Deserialize, Serialize};

use super::healing::Healer;
use super::history::rfc3339;
use super::log_thread::{LogInput, wall_ms};
use super::mailbox::Sender;

/// Bytes that are read in one go.
const PIECE: usize = 1 << 20;
/// Sums that may wait for this member to look at its own bytes; a primary sends one for each segment that it has read.
const MOST_WAITING: usize = 16;
/// Ranges that are listed of each peer.
const MOST_LISTED: usize = 16;
/// Damaged records of one range that are put right before it is given up.
const MOST_HEALED: usize = 64;

/// A range of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Range {
    /// Where it begins.
    pub from: u64,
    /// Where it ends.
    pub to: u64,
}

/// What was found of one standby, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerSameness {
    /// In the pass that is under way, or was the last: bytes that are the same there, from disk to disk.
    pub same_bytes: u64,
    /// Ranges that it could not read in full.
    pub unread: u64,
    /// Ranges in which it has other bytes, the first of them.
    pub differing: Vec<Range>,
    /// When the last pass began in which all of the log was found to be the same: RFC 3339, in UTC.
    pub last_complete: Option<String>,
    /// The same in milliseconds since 1970.
    pub last_complete_ms: Option<u64>,
}

/// What was compared, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sameness {
    /// On a primary: what was found of each standby, by its name.
    pub peers: BTreeMap<String, PeerSameness>,
    /// On a standby: where it found other bytes than the primary has.
    pub differing: Vec<Range>,
}

impl Sameness {
    /// Whether anything was found to differ.
    pub fn differs(&self) -> bool {
        !self.differing.is_empty() || self.peers.values().any(|peer| !peer.differing.is_empty())
    }
}

#[derive(Default)]
struct Shared {
    status: Sameness,
    /// The pass: when it began, whether all of it was asked, and what was asked.
    begun_ms: u64,
    all_asked: bool,
    asked: BTreeMap<Lsn, Lsn>,
    /// What of it each peer has found to be the same.
    same: BTreeMap<String, BTreeSet<Lsn>>,
}

impl Shared {
    fn complete(&mut self) {
        if !self.all_asked || self.asked.is_empty() {
            return;
        }
        for (name, same) in &self.same {
            if same.len() == self.asked.len()
                && let Some(peer) = self.status.peers.get_mut(name)
            {
                peer.last_complete = Some(rfc3339(self.begun_ms));
                peer.last_complete_ms = Some(self.begun_ms);
            }
        }
    }
}

/// Where the figures stand.
#[derive(Clone, Default)]
pub struct SamenessBoard(Arc<Mutex<Shared>>);

impl SamenessBoard {
    /// The figures.
    pub fn status(&self) -> Sameness {
        self.lock().status.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        let mut shared = self.lock();
        (shared.begun_ms, shared.all_asked) = (wall_ms(), false);
        shared.asked.clear();
        shared.same.clear();
        for peer in shared.status.peers.values_mut() {
            (peer.same_bytes, peer.unread) = (0, 0);
            peer.differing.clear();
        }
    }

    /// A standby's word. What differs, where that is news.
    pub fn answered(&self, member: &Member, from: Lsn, verdict: Verdict) -> Option<Range> {
        let mut shared = self.lock();
        let to = *shared.asked.get(&from)?;
        let name = member.id.to_string();
        let range = Range { from: from.0, to: to.0 };
        let peer = shared.status.peers.entry(name.clone()).or_default();
        let mut news = None;
        match verdict {
            Verdict::Same => {
                peer.same_bytes += to.bytes_since(from);
                shared.same.entry(name).or_default().insert(from);
            }
            Verdict::Unread => peer.unread += 1,
            Verdict::Differs => {
                if peer.differing.len() < MOST_LISTED && !peer.differing.contains(&range) {
                    peer.differing.push(range);
                    news = Some(range);
                }
            }
        }
        shared.complete();
        news
    }
}

/// The primary's side: takes the sums as the log is read.
#[derive(Clone)]
pub struct Teller {
    log: Arc<Mutex<Sender<LogInput>>>,
    board: SamenessBoard,
}

impl Teller {
    /// Sends through `log`, and notes on `board`.
    pub fn new(log: Sender<LogInput>, board: SamenessBoard) -> Teller {
        Teller { log: Arc::new(Mutex::new(log)), board }
    }

    /// A reading of the log begins.
    pub fn begin(&self) {
        self.board.begin();
    }

    /// A range was read.
    pub fn tell(&self, sum: RangeSum) {
        if sum.from == sum.to {
            return;
        }
        self.board.lock().asked.insert(sum.from, sum.to);
        let _ = self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(LogInput::Replica(Input::Compare { sum }));
    }

    /// All of the log was read.
    pub fn end(&self) {
        let mut shared = self.board.lock();
        shared.all_asked = true;
        shared.complete();
    }
}

/// The standby's side: takes the primary's sums.
pub struct Asked(SyncSender<(ConnId, RangeSum)>);

impl Asked {
    /// Has the range looked at. False where too many wait already.
    pub fn look(&self, conn: ConnId, sum: RangeSum) -> bool {
        match self.0.try_send((conn, sum)) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }
}

/// What the standby's side works with.
pub struct Comparer {
    /// This member's log.
    pub reader: LogReader,
    /// Puts right what turns out to be damaged.
    pub healer: Healer,
    /// Where the answers go.
    pub log: Sender<LogInput>,
    /// Where the figures stand.
    pub board: SamenessBoard,
    /// Bytes in a second, at most.
    pub bytes_per_second: u64,
}

impl Comparer {
    /// Starts the thread; `note` is told of what differs.
    pub fn spawn(
        self,
        asked: Receiver<(ConnId, RangeSum)>,
        note: impl Fn(String) + Send + 'static,
    ) -> std::io::Result<()> {
        let work = move || {
            for (conn, sum) in asked {
                let verdict = self.verdict(sum);
                if verdict == Verdict::Differs && self.differs(sum) {
                    note(differs(sum.from, sum.to, "the primary"));
                }
                let found = Input::Found { conn, from: sum.from, verdict };
                if self.log.send(LogInput::Replica(found)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("compare".into()).spawn(work).map(drop)
    }

    fn verdict(&self, sum: RangeSum) -> Verdict {
        let mut pace = |bytes: u64| {
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        };
        for _ in 0..MOST_HEALED {
            match self.reader.sum_of((sum.from, sum.to), PIECE, &mut pace) {
                Ok(own) if own == sum => return Verdict::Same,
                Ok(_) => return Verdict::Differs,
                Err(LogError::Damaged { lsn, .. }) if self.healer.heal(lsn).is_ok() => {}
                Err(error) => {
                    tracing::warn!(%error, from = %sum.from, to = %sum.to, "a range of the log cannot be compared with the primary's");
                    return Verdict::Unread;
                }
            }
        }
        Verdict::Unread
    }

    /// Notes it; whether that is news.
    fn differs(&self, sum: RangeSum) -> bool {
        let range = Range { from: sum.from.0, to: sum.to.0 };
        let mut shared = self.board.lock();
        let listed = &mut shared.status.differing;
        let news = listed.len() < MOST_LISTED && !listed.contains(&range);
        if news {
            listed.push(range);
        }
        news
    }
}

/// Both ends of what waits for the standby's side.
pub fn asked() -> (Asked, Receiver<(ConnId, RangeSum)>) {
    let (sender, receiver) = sync_channel(MOST_WAITING);
    (Asked(sender), receiver)
}

/// A difference in words.
pub fn differs(from: Lsn, to: Lsn, with: &str) -> String {
    format!(
        "LSN {from} to {to} of this member's log and of {with}'s are not the same bytes, though each copy is sound by itself. \
         That must never happen: keep both data directories, and report it. To have the standby copied anew: \
         holdfast replication resync"
    )
}

#[cfg(test)]
mod tests {
    use holdfast_heartbeat::{Incarnation, NodeId};

    use super::*;
    use crate::runtime::mailbox::channel;

    fn sum(from: u64, to: u64) -> RangeSum {
        RangeSum { from: Lsn(from), to: Lsn(to), sha256: [1; 32] }
    }

    fn member(id: &str) -> Member {
        Member { id: NodeId::new(id).unwrap(), incarnation: Incarnation(1) }
    }

    #[test]
    fn a_standby_is_the_same_when_it_said_so_of_every_range_of_one_pass() {
        let (log, sums) = channel();
        let board = SamenessBoard::default();
        let teller = Teller::new(log, board.clone());
        let last = |name: &str| board.status().peers.get(name).and_then(|peer| peer.last_complete_ms);
        teller.begin();
        teller.tell(sum(0, 100));
        teller.tell(sum(100, 150));
        teller.tell(sum(150, 150));
        assert_eq!(sums.try_iter().count(), 2);
        assert_eq!(board.answered(&member("b"), Lsn(0), Verdict::Same), None);
        assert_eq!(board.answered(&member("c"), Lsn(100), Verdict::Same), None);
        assert_eq!(board.answered(&member("b"), Lsn(100), Verdict::Same), None);
        assert_eq!(last("b"), None, "more may come");
        teller.end();
        assert!(last("b").is_some() && last("c").is_none());
        assert_eq!(board.status().peers["b"].same_bytes, 150);
        // The last word comes after the last question.
        board.answered(&member("c"), Lsn(0), Verdict::Same);
        assert!(last("c").is_some() && !board.status().differs());

        // An answer to a question of the pass before counts for nothing.
        let before = last("b");
        teller.begin();
        board.answered(&member("b"), Lsn(0), Verdict::Same);
        teller.tell(sum(0, 100));
        teller.end();
        board.answered(&member("b"), Lsn(0), Verdict::Unread);
        assert_eq!((last("b"), board.status().peers["b"].unread), (before, 1));
        let differing = Some(Range { from: 0, to: 100 });
        assert_eq!(board.answered(&member("b"), Lsn(0), Verdict::Differs), differing);
        assert_eq!(board.answered(&member("b"), Lsn(0), Verdict::Differs), None, "said once");
        assert!(board.status().differs());
    }
}
