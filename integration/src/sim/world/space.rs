//! What wins space back in an agent, in the world's time: the same steps as `runtime::space` takes. It is more
//! eager than an agent, and does not spare bodies that are being received: what they lose must be refused.

use holdfast_heartbeat::{Epoch, Lsn};
use holdfast_replication::replica::{Input, Wait};
use holdfast_store::index::Lookup;
use holdfast_store::space::plan::{Means, choose, survey};
use holdfast_store::space::{Bounds, Step, Stopped, Thinning, Told};

use super::World;
use super::happening::{Happening, Part};
use super::life::Mode;
use super::network::{MS, US};
use super::service::RequestId;
use crate::sim::chance::Chance;
use crate::sim::s3::session::Logged;

/// Stands for the member itself among the clients.
pub const HOUSEKEEPING: RequestId = RequestId { client: usize::MAX, serial: 0 };

/// The thread that wins space back.
#[derive(Default)]
pub struct Reclaimer {
    thinning: Option<Thinning>,
}

impl World {
    /// It is time to look whether there is anything to be won.
    pub(super) fn look_for_garbage(&mut self, h: usize) {
        let Some(pause) = self.reclaim_pause else { return };
        let after = self.dice.between(pause / 4, pause * 2);
        self.schedule(h, after, Part::Service, Happening::LookForGarbage);
        let now = self.clock(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let Some(epoch) = life.lease.held(now).filter(|_| life.service.mode == Mode::Yes) else { return };
        if life.space.thinning.is_some() || life.log.as_ref().is_none_or(|log| log.full) {
            return;
        }
        let bounds = self.draw_bounds();
        if let Some(thinning) = self.plan_thinning(h, epoch, bounds) {
            let life = self.hosts[h].life.as_mut().expect("it lives");
            life.space.thinning = Some(thinning);
            self.go_on_thinning(h, Told::Nothing);
        }
    }

    /// Steps so small that a world of some hundred objects is moved in many, with writes in between.
    fn draw_bounds(&mut self) -> Bounds {
        Bounds {
            pack_bytes: *self.dice.pick(&[1, 2 << 10, 16 << 10]),
            window_bytes: *self.dice.pick(&[4 << 10, 64 << 10, 4 << 20]),
            window_extents: *self.dice.pick(&[2, 8, 128]),
            noted_at_once: *self.dice.pick(&[1, 4, 128]),
            look: *self.dice.pick(&[4, 16, 8192]),
            checkpoint_bytes: *self.dice.pick(&[512, 4 << 10, 128 << 10]),
        }
    }

    fn plan_thinning(&self, h: usize, epoch: Epoch, bounds: Bounds) -> Option<Thinning> {
        let log = self.hosts[h].life.as_ref()?.log.as_ref()?;
        let view = log.index.view();
        let applied = view.applied().ok()?;
        let (bases, holes) = (log.reader.segments(), log.reader.holes());
        let end = |two: &[Lsn]| holes.next(two[0]).map_or(two[1], |hole| hole.min(two[1]));
        let all = bases.windows(2).map(|two| (two[0], end(two)));
        let sealed: Vec<_> = all.filter(|(_, end)| *end <= applied).collect();
        let found = survey(&view, &sealed).ok()?;
        // Worth it as soon as a segment or two go.
        let chosen = choose(&found, Means { checkpoint_bytes: 1, spare_bytes: u64::MAX });
        (!chosen.is_empty()).then(|| Thinning::begin(epoch, &chosen, &holes, bounds))
    }

    /// The log has answered for what it was given.
    pub(super) fn housekept(&mut self, h: usize, logged: Logged) {
        let told = match logged {
            Logged::Appended { lsn, end } => Told::Appended { lsn, end },
            Logged::Committed(outcome) => Told::Committed(outcome),
            Logged::Refused(error) => return self.stop_thinning(h, &error.to_string()),
        };
        self.go_on_thinning(h, told);
    }

    /// The next step, after what was told of the one before.
    pub(super) fn go_on_thinning(&mut self, h: usize, told: Told) {
        let now = self.clock(h);
        let Some(life) = self.hosts[h].life.as_mut() else { return };
        let (Some(mut thinning), Some(log)) = (life.space.thinning.take(), life.log.as_ref()) else { return };
        let (index, reader) = (log.index.clone(), log.reader.clone());
        let step = thinning.next(told, &index, &*reader);
        if life.lease.held(now) != Some(thinning.epoch()) {
            return self.stop_thinning(h, "the lease is over");
        }
        let progress = thinning.progress();
        let (kind, payload, wait) = match step {
            Ok(Step::Done) => {
                self.counts.reclaims += 1;
                let (segments, moved) = (progress.segments, progress.moved_bytes);
                return self.tell_story(h, format!("{segments} segments were given up, {moved} bytes moved"));
            }
            Ok(Step::Look) => {
                life.space.thinning = Some(thinning);
                let after = self.dice.between(US, self.reclaim_pause.unwrap_or(MS) / 4);
                return self.schedule(h, after, Part::Service, Happening::GoOnThinning);
            }
            Ok(Step::Append(kind, payload)) => (kind, payload, Wait::Appended),
            Ok(Step::Commit(kind, payload)) => (kind, payload, Wait::Committed),
            Err(error @ (Stopped::Unreadable { .. } | Stopped::Unsettled)) => {
                return self.stop_thinning(h, &error.to_string());
            }
            Err(error) => panic!("space cannot be won back: {error}"),
        };
        life.space.thinning = Some(thinning);
        self.tell_log(h, Input::Submit { kind, payload, wait, reply: HOUSEKEEPING });
    }

    fn stop_thinning(&mut self, h: usize, why: &str) {
        if let Some(life) = self.hosts[h].life.as_mut() {
            life.space.thinning = None;
        }
        self.tell_story(h, format!("space is not won back: {why}"));
    }
}
