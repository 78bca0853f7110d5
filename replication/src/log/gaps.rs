//! How parts of the log go, and how a log goes on behind a part that it never had.
//!
//! Each step is durable before the next one, and [`super::Map`] is what a crash in between is judged by:
//! what it lists is gone, whatever files are still there.

use holdfast_heartbeat::{Epoch, Lsn, planted};
use serde::{Deserialize, Serialize};

use super::map::Map;
use super::{Active, Log, LogError, is_full};
use crate::disk::Disk;
use crate::history::EpochHistory;
use crate::record::Position;
use crate::segment::file_name;
use crate::space::{Checkpoint, Holes, Retirement};

/// How a follower's log goes on behind a hole of the primary's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The primary's hole.
    pub hole: (Lsn, Lsn),
    /// Where the log stands behind it.
    pub at: Position,
    /// What a replay begins with.
    pub checkpoint: Checkpoint,
    /// The reigns that began before the hole's end.
    pub history: EpochHistory,
}

#[cfg(test)]
impl Gap {
    /// One for tests of the codec.
    pub(crate) fn sample() -> Gap {
        Gap {
            hole: (Lsn(100), Lsn(200)),
            at: Position { lsn: Lsn(200), chain: 6, epoch: Epoch(4), epoch_start: Lsn(99) },
            checkpoint: Checkpoint { as_of: Lsn(250), from: Lsn(260), to: Lsn(270) },
            history: EpochHistory::new(vec![(Epoch(4), Lsn(99))]).expect("in order"),
        }
    }
}

impl<D: Disk> Log<D> {
    /// What is gone.
    pub fn holes(&self) -> &Holes {
        &self.map.holes
    }

    /// What a replay begins with; all zero where it begins with the log.
    pub fn checkpoint(&self) -> Checkpoint {
        self.map.checkpoint
    }

    /// Whether all that a replay needs is here. Not so while a new member's copy is under way.
    pub fn is_replayable(&self) -> bool {
        self.map.checkpoint.to <= self.tail.lsn
    }

    /// Bytes of records that are here.
    pub fn bytes_kept(&self) -> u64 {
        self.tail.lsn.0 - self.map.holes.bytes()
    }

    /// Gives up what a committed retirement says. Full disks may refuse; the next retirement names the
    /// same again. Returns the bytes won.
    pub fn retire(&mut self, retirement: &Retirement) -> Result<u64, LogError> {
        self.usable()?;
        let holes = self.map.holes.and(&retirement.holes);
        let before = self.map.holes.bytes();
        if holes == self.map.holes && retirement.checkpoint == self.map.checkpoint {
            return Ok(0);
        }
        let bases = self.shared.segments();
        let active = bases.last().copied().unwrap_or_default();
        let bounds = |lsn: &Lsn| {
            bases.binary_search(lsn).is_ok()
                || self.map.holes.at(*lsn).is_some()
                || self.map.holes.ends_at(*lsn)
        };
        let fits = holes.ranges().iter().all(|(from, to)| bounds(from) && bounds(to));
        if !fits || holes.end() > active || retirement.checkpoint.to > self.tail.lsn {
            let detail = "a retirement does not fit the segments of this log".into();
            return Err(LogError::Damaged { lsn: holes.end(), detail });
        }
        let map = Map {
            log_id: self.log_id,
            history: self
                .history
                .starts()
                .iter()
                .filter(|(_, start)| *start < holes.end())
                .copied()
                .collect(),
            holes,
            checkpoint: retirement.checkpoint,
            abandoned: false,
        };
        if planted::is("gone-segments-not-noted") {
            self.map = map;
        } else {
            self.write_map(map)?;
        }
        // From here on readers find nothing of it, save those who held on.
        self.shared.retire(self.map.holes.clone());
        self.sweep();
        Ok(self.map.holes.bytes() - before)
    }

    fn write_map(&mut self, map: Map) -> Result<(), LogError> {
        match map.write(&*self.disk) {
            Ok(()) => {
                self.map = map;
                Ok(())
            }
            Err(error) if is_full(&error) => Err(LogError::Full),
            Err(error) => Err(self.poison(error.to_string())),
        }
    }

    /// Removes the files of segments that are gone and that nobody reads any more. One that stays is in
    /// nobody's way, and goes when the log is opened.
    pub fn sweep(&self) {
        let mut bases = self.shared.take_let_go();
        // A copy that began anew may have a segment there again.
        bases.retain(|base| self.map.holes.at(*base).is_some());
        if bases.is_empty() {
            return;
        }
        let removed = bases.iter().try_for_each(|base| self.disk.remove(&file_name(*base)));
        if let Err(error) = removed.and_then(|()| self.disk.sync_dir("")) {
            tracing::warn!(%error, "a segment that was given up is still there");
        }
        // Open handles would keep the space.
        self.shared.forget_files();
    }

    /// Goes on behind a hole of the primary's: the log ends at the gap's end then, and is not
    /// replayable until the gap's checkpoint has come. What this log has in the hole goes; the primary
    /// gave it up, so nothing of it is needed by anybody.
    pub fn skip(&mut self, gap: &Gap) -> Result<(), LogError> {
        self.usable()?;
        let ((from, to), end) = (gap.hole, self.tail.lsn);
        let known = self.history.starts().iter().filter(|(_, start)| *start < end);
        let bases = self.shared.segments();
        let aligned = from == end || bases.binary_search(&from).is_ok() || self.map.holes.at(from).is_some();
        let sound = from <= end
            && end < to
            && gap.at.lsn == to
            && gap.at.epoch >= self.tail.epoch
            && gap.at.epoch == gap.history.last_epoch()
            && gap.history.starts().iter().all(|(_, start)| *start < to)
            && known.eq(gap.history.starts().iter().filter(|(_, start)| *start < end))
            && gap.checkpoint.as_of >= to;
        if !sound || !aligned {
            let detail = "the primary's gap does not fit this log".into();
            return Err(LogError::Damaged { lsn: end, detail });
        }
        // What the log goes on with is there before anything says that it does: a crash until then leaves the
        // log as it is, behind a segment that opening takes for one never born.
        self.sync()?;
        let before = (self.tail, self.active.take());
        self.tail = gap.at;
        let created = self.create_segment_file();
        let file = match created {
            Ok(file) => file,
            Err(error) => {
                (self.tail, self.active) = before;
                return Err(error);
            }
        };
        // The mark must not claim what goes.
        if from < end {
            let mark = self.mark_at(Lsn::ZERO, Position::origin(self.log_id).chain);
            if let Err(error) = self.mark.write_through(&*self.disk, mark) {
                return Err(self.poison(error.to_string()));
            }
        }
        let map = Map {
            log_id: self.log_id,
            holes: self.map.holes.and(&Holes::new([gap.hole])),
            checkpoint: gap.checkpoint,
            history: gap.history.starts().to_vec(),
            abandoned: false,
        };
        if let Err(error) = self.write_map(map) {
            // Two ends, and nothing that says which: opening the log again puts it in order.
            return Err(self.poison(error.to_string()));
        }
        self.history = gap.history.clone();
        self.active = Some(Active { base: to, file });
        self.shared.retire(self.map.holes.clone());
        self.sweep();
        self.shared.add_segment(to);
        self.shared.set_end(to);
        self.durable = to;
        self.durable_chain = self.tail.chain;
        self.shared.set_durable(to);
        self.write_mark();
        Ok(())
    }

    /// Where the log stands at the end of the hole, for a follower that must go on there.
    pub(crate) fn gap(&self, hole: (Lsn, Lsn)) -> Result<Gap, LogError> {
        let at = self.reader().segment_header(hole.1)?.at;
        let before: Vec<(Epoch, Lsn)> =
            self.history.starts().iter().filter(|(_, start)| *start < hole.1).copied().collect();
        let history = EpochHistory::new(before).expect("part of an ordered history");
        Ok(Gap { hole, at, checkpoint: self.map.checkpoint, history })
    }

    /// Gives up the whole log, durably: it is empty and without identity afterwards. What nobody else
    /// has of it must have been set aside before.
    pub(crate) fn abandon(&mut self) -> Result<(), LogError> {
        self.usable()?;
        let map = Map { abandoned: true, ..self.map.clone() };
        self.write_map(map)?;
        self.shared.set_end(Lsn::ZERO);
        self.shared.set_durable(Lsn::ZERO);
        self.shared.set_segments(Vec::new());
        self.shared.set_holes(Holes::default());
        if let Err(error) = finish_abandoning(&*self.disk, &self.map) {
            return Err(self.poison(error.to_string()));
        }
        self.map = Map::default();
        self.mark = Default::default();
        self.log_id = 0;
        self.shared.set_log_id(0);
        self.active = None;
        self.tail = Position::default();
        (self.durable, self.durable_chain, self.committed) = (Lsn::ZERO, 0, Lsn::ZERO);
        (self.behind, self.calm_syncs) = (false, 0);
        self.history = EpochHistory::default();
        Ok(())
    }

    /// The parts of `from..` that are here, each in one piece.
    pub(crate) fn pieces_from(&self, from: Lsn) -> Vec<(Lsn, Lsn)> {
        let (mut pieces, mut at) = (Vec::new(), from);
        while at < self.tail.lsn {
            if let Some((_, to)) = self.map.holes.at(at) {
                at = to;
                continue;
            }
            let to = self.map.holes.next(at).map_or(self.tail.lsn, |hole| hole.min(self.tail.lsn));
            pieces.push((at, to));
            at = to;
        }
        pieces
    }
}

/// Removes what is left of a log that was given up: the map goes last, since it says so.
pub(super) fn finish_abandoning(disk: &dyn Disk, map: &Map) -> std::io::Result<()> {
    super::mark::remove(disk)?;
    map.sweep(disk)?;
    disk.sync_dir("")?;
    Map::remove(disk)
}
