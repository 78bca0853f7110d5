//! Winning space back: what is live of thin segments is moved to the tail, the state is written down as
//! a checkpoint, and the segments go.
//!
//! ```text
//!   RaiseFloor    data in those segments that is nobody's yet will not become anybody's
//!   Move ...      live extents once more, each followed by
//!   Relocate      where they are now
//!   Checkpoint .. the whole state, as of one LSN: the operations before it are not needed any more
//!   Retire        the segments go, on every member, as it applies this
//! ```
//!
//! [`Thinning`] decides what comes next and reads what it needs; whoever runs it writes to the log, at
//! the pace that it likes, while everything else goes on. It may be dropped at any step: what was
//! written until then is garbage at worst.
//!
//! Invariant: when the retirement is written, nothing in the index names an extent in those segments,
//! nor can anything come to. Nothing did in the checkpoint's view, which was looked through entry by
//! entry; later operations share extents that somebody has, or name data above the floor.

mod holders;
pub mod plan;

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_heartbeat::planted;
use holdfast_heartbeat::types::{Epoch, Lsn};
use holdfast_replication::RecordKind;
use holdfast_replication::moves::{MoveSource, encode_head, head_len};
use holdfast_replication::space::{Checkpoint, Holes, Retirement};

use crate::apply::Outcome;
use crate::backend::{ReadError, ReadLog};
use crate::checkpoint;
use crate::index::{Entry, Index, IndexError, Lookup, Tables, View};
use crate::keys;
use crate::op::{BadOp, Extent, Holder, Op, Relocation};

/// How much one step does: what is known of the index is from its beginning, and nothing else is written meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of small extents that one move packs together: a read of one of them reads them all.
    pub pack_bytes: usize,
    /// Bytes that are moved before the new places are noted.
    pub window_bytes: u64,
    /// Extents that are moved before the new places are noted, and all of the entry that is looked at then.
    pub window_extents: usize,
    /// New places that one operation notes: it must not hold up others for longer than a write to the disk does.
    pub noted_at_once: usize,
    /// Entries of the index that one step looks at.
    pub look: usize,
    /// Bytes of entries in one record of a checkpoint.
    pub checkpoint_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            pack_bytes: 16 * 1024,
            window_bytes: 4 * 1024 * 1024,
            window_extents: 128,
            noted_at_once: 128,
            look: 8192,
            checkpoint_bytes: 128 * 1024,
        }
    }
}

/// How often what came into the segments' way while they were emptied is moved too.
const MAX_ROUNDS: u32 = 10;

/// What to write next.
#[derive(Debug)]
pub enum Step {
    /// Nothing yet: call again.
    Look,
    /// Append this record, and say where it is.
    Append(RecordKind, Vec<Bytes>),
    /// Commit this record, and say what came of it.
    Commit(RecordKind, Vec<Bytes>),
    /// The segments are gone.
    Done,
}

/// What came of the step before.
#[derive(Debug)]
pub enum Told {
    /// There was none, or it asked for nothing.
    Nothing,
    /// Where the record is.
    Appended {
        /// Its beginning.
        lsn: Lsn,
        /// Its end.
        end: Lsn,
    },
    /// What the operation did.
    Committed(Outcome),
}

/// Why it cannot go on. Nothing is lost: it may be begun again.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Live bytes that the disk does not give back: their segment must not go.
    #[error("live bytes at LSN {} cannot be read: {error}", .extent.lsn)]
    Unreadable {
        /// Which.
        extent: Extent,
        /// Why.
        error: ReadError,
    },
    /// The segments were filled again as fast as they were emptied.
    #[error("the segments are still in use after {MAX_ROUNDS} rounds")]
    Unsettled,
    /// The operation did not do what it does.
    #[error("an operation to win space back was answered with {0:?}")]
    Unexpected(Outcome),
    /// The operation cannot be written.
    #[error(transparent)]
    Op(#[from] BadOp),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Segments that will go.
    pub segments: usize,
    /// Bytes of records in them.
    pub segment_bytes: u64,
    /// Live bytes that were moved.
    pub moved_bytes: u64,
    /// Bytes of the checkpoint.
    pub checkpoint_bytes: u64,
}

/// An extent on its way.
struct Item {
    holder: Holder,
    from: Extent,
    to: Option<Extent>,
}

/// Where the bytes of one move come from: numbers of items.
type Pack = Vec<usize>;

#[derive(Default)]
struct Moving {
    /// The first key that was not looked at.
    cursor: Vec<u8>,
    items: Vec<Item>,
    packs: VecDeque<Pack>,
}

struct Dumping {
    view: View,
    as_of: Lsn,
    cursor: Vec<u8>,
    span: Option<(Lsn, Lsn)>,
}

enum Phase {
    Floor,
    Moving(Moving),
    Noting(Moving),
    Dumping(Dumping),
    Retiring,
    Done,
}

/// See the module's documentation.
pub struct Thinning {
    epoch: Epoch,
    bounds: Bounds,
    victims: Holes,
    /// All that will be gone.
    holes: Holes,
    phase: Phase,
    rounds: u32,
    progress: Progress,
}

impl Thinning {
    /// Gives up `segments`, which must be whole and not written any more, in the reign `epoch`. `gone` is
    /// what is gone already.
    pub fn begin(epoch: Epoch, segments: &[(Lsn, Lsn)], gone: &Holes, bounds: Bounds) -> Thinning {
        let victims = Holes::new(segments.iter().copied());
        let holes = gone.and(&victims);
        let progress =
            Progress { segments: segments.len(), segment_bytes: victims.bytes(), ..Progress::default() };
        Thinning { epoch, bounds, victims, holes, phase: Phase::Floor, rounds: 0, progress }
    }

    /// The reign in which it counts.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// What comes next, after `told`. To be called where waiting for the disk is allowed.
    pub fn next(&mut self, told: Told, index: &Index, log: &dyn ReadLog) -> Result<Step, Stopped> {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Floor => match told {
                Told::Committed(Outcome::Changed) => {
                    self.phase = Phase::Moving(Moving::default());
                    Ok(Step::Look)
                }
                Told::Committed(other) => Err(Stopped::Unexpected(other)),
                _ => {
                    self.phase = Phase::Floor;
                    commit(&Op::RaiseFloor { floor: self.victims.end() })
                }
            },
            Phase::Moving(mut moving) => {
                if let Told::Appended { lsn, .. } = told {
                    moving.placed(lsn);
                }
                self.go_on_moving(moving, index, log)
            }
            Phase::Noting(mut moving) => match told {
                Told::Committed(Outcome::Changed) => {
                    let noted = moving.items.len().min(self.bounds.noted_at_once);
                    moving.items.drain(..noted);
                    self.go_on_moving(moving, index, log)
                }
                Told::Committed(other) => Err(Stopped::Unexpected(other)),
                _ => {
                    let step = commit(&moving.relocations(self.bounds.noted_at_once));
                    self.phase = Phase::Noting(moving);
                    step
                }
            },
            Phase::Dumping(mut dumping) => {
                if let Told::Appended { lsn, end } = told {
                    dumping.span = Some((dumping.span.map_or(lsn, |(from, _)| from), end));
                }
                self.go_on_dumping(dumping)
            }
            Phase::Retiring => match told {
                Told::Committed(Outcome::Nothing) => Ok(Step::Done),
                Told::Committed(other) => Err(Stopped::Unexpected(other)),
                _ => Ok(Step::Look),
            },
            Phase::Done => Ok(Step::Done),
        }
    }

    fn go_on_moving(
        &mut self,
        mut moving: Moving,
        index: &Index,
        log: &dyn ReadLog,
    ) -> Result<Step, Stopped> {
        if let Some(pack) = moving.packs.front() {
            let payload = moving.payload(pack, log)?;
            self.progress.moved_bytes += payload[1..].iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            self.phase = Phase::Moving(moving);
            return Ok(Step::Append(RecordKind::Move, payload));
        }
        if !moving.items.is_empty() {
            let step = commit(&moving.relocations(self.bounds.noted_at_once));
            self.phase = Phase::Noting(moving);
            return step;
        }
        let view = index.view();
        if moving.look(&view, &self.victims, &self.bounds)? {
            self.phase = Phase::Moving(moving);
            return Ok(Step::Look);
        }
        let as_of = view.applied()?;
        self.progress.checkpoint_bytes = 0;
        self.phase = Phase::Dumping(Dumping { view, as_of, cursor: Vec::new(), span: None });
        Ok(Step::Look)
    }

    fn go_on_dumping(&mut self, mut dumping: Dumping) -> Result<Step, Stopped> {
        let (mut entries, mut bytes, mut ended): (Vec<Entry>, usize, bool) = (Vec::new(), 0, true);
        for entry in dumping.view.scan(&dumping.cursor, None) {
            let entry = entry?;
            if bytes >= self.bounds.checkpoint_bytes {
                dumping.cursor = entry.0;
                ended = false;
                break;
            }
            if entry.0.starts_with(keys::META) {
                continue;
            }
            let in_the_way = |extent: &Extent| self.victims.at(extent.lsn).is_some();
            let held = holders::held(&entry)?;
            if held.is_some_and(|held| held.extents.iter().any(in_the_way))
                && !planted::is("stragglers-left-behind")
            {
                // Shared or moved among the versions meanwhile: once more from the beginning.
                self.rounds += 1;
                if self.rounds > MAX_ROUNDS {
                    return Err(Stopped::Unsettled);
                }
                self.phase = Phase::Moving(Moving::default());
                return Ok(Step::Look);
            }
            bytes += entry.0.len() + entry.1.len();
            entries.push(entry);
        }
        match dumping.span {
            Some((from, to)) if ended && entries.is_empty() => {
                self.phase = Phase::Retiring;
                let checkpoint = Checkpoint { as_of: dumping.as_of, from, to };
                let retirement = Retirement { epoch: self.epoch, holes: self.holes.clone(), checkpoint };
                Ok(Step::Commit(RecordKind::Retire, vec![Bytes::from(retirement.encode())]))
            }
            _ => {
                if ended {
                    // Behind every key there is.
                    dumping.cursor = vec![u8::MAX];
                }
                let payload = checkpoint::encode(dumping.as_of, &entries);
                self.progress.checkpoint_bytes += payload.len() as u64;
                self.phase = Phase::Dumping(dumping);
                Ok(Step::Append(RecordKind::Checkpoint, vec![payload]))
            }
        }
    }
}

fn commit(op: &Op) -> Result<Step, Stopped> {
    Ok(Step::Commit(RecordKind::Op, op.encode(Bytes::new())?))
}

impl Moving {
    /// Looks for extents in the victims, from the cursor on; says whether there may be more.
    fn look(&mut self, view: &View, victims: &Holes, bounds: &Bounds) -> Result<bool, Stopped> {
        let (mut looked, mut bytes) = (0, 0);
        for table in keys::HOLDERS {
            if self.cursor.first().is_some_and(|at| *at > table) {
                continue;
            }
            let from = if self.cursor.first() == Some(&table) { self.cursor.clone() } else { vec![table] };
            for entry in view.scan(&from, Some(&[table + 1])) {
                let entry = entry?;
                let full = bytes >= bounds.window_bytes
                    || self.items.len() >= bounds.window_extents
                    || looked >= bounds.look;
                if full {
                    self.cursor = entry.0;
                    self.pack(view, bounds.pack_bytes)?;
                    return Ok(true);
                }
                looked += 1;
                let Some(held) = holders::held(&entry)? else { continue };
                for from in held.extents.into_iter().filter(|extent| victims.at(extent.lsn).is_some()) {
                    bytes += u64::from(from.len);
                    self.items.push(Item { holder: held.holder.clone(), from, to: None });
                }
            }
            self.cursor = vec![table + 1];
        }
        self.pack(view, bounds.pack_bytes)?;
        Ok(!self.items.is_empty())
    }

    /// Sorts what was found into moves, in the order in which it lies on the disk. What was shared and has
    /// been moved already needs none.
    fn pack(&mut self, view: &View, pack_bytes: usize) -> Result<(), Stopped> {
        let mut order = Vec::new();
        for (number, item) in self.items.iter().enumerate() {
            let elsewhere = match view.shared(&item.from)?.and_then(|noted| noted.moved_to) {
                Some(place) if place.len == item.from.len => view.shared(&place)?.is_some(),
                _ => false,
            };
            if !elsewhere {
                order.push(number);
            }
        }
        order.sort_by_key(|number| (self.items[*number].from.lsn, self.items[*number].from.offset));
        let (mut pack, mut bytes) = (Pack::new(), 0);
        for number in order {
            let len = self.items[number].from.len as usize;
            if bytes + len > pack_bytes && !pack.is_empty() {
                self.packs.push_back(std::mem::take(&mut pack));
                bytes = 0;
            }
            pack.push(number);
            bytes += len;
        }
        if !pack.is_empty() {
            self.packs.push_back(pack);
        }
        Ok(())
    }

    fn sources(&self, pack: &[usize]) -> Vec<MoveSource> {
        let source = |number: &usize| {
            let Extent { lsn, offset, len } = self.items[*number].from;
            MoveSource { lsn, offset, len }
        };
        pack.iter().map(source).collect()
    }

    fn payload(&self, pack: &[usize], log: &dyn ReadLog) -> Result<Vec<Bytes>, Stopped> {
        let mut payload = vec![encode_head(&self.sources(pack))];
        for number in pack {
            let extent = self.items[*number].from;
            let read = log.read_slice(extent.lsn, extent.offset, extent.len);
            payload.push(read.map_err(|error| Stopped::Unreadable { extent, error })?);
        }
        Ok(payload)
    }

    /// The first pack lies in the record at `lsn` now.
    fn placed(&mut self, lsn: Lsn) {
        let Some(pack) = self.packs.pop_front() else { return };
        let mut offset = head_len(pack.len()) as u32;
        for number in pack {
            let len = self.items[number].from.len;
            self.items[number].to = Some(Extent { lsn, offset, len });
            offset += len;
        }
    }

    /// Notes where the first `most` items are now.
    fn relocations(&self, most: usize) -> Op {
        let mut relocations: Vec<Relocation> = Vec::new();
        for item in self.items.iter().take(most) {
            let moved = (item.from, item.to);
            match relocations.last_mut() {
                Some(last) if last.holder == item.holder => last.extents.push(moved),
                _ => relocations.push(Relocation { holder: item.holder.clone(), extents: vec![moved] }),
            }
        }
        Op::Relocate { relocations }
    }
}
