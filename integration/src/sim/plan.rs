//! What one seed draws: the cluster, what its clients do, and which kinds of faults there are.
//!
//! Not every kind is on in every run (swarm testing: Groce et al., "Swarm Testing", 2012): a fault that is
//! on in all of them hides what only happens without it.

use holdfast_replication::testing::Dice;

use super::chance::Chance;
use super::faults::Kind;
use super::s3::workload::Workload;
use super::world::Ns;
use super::world::kernel::GateKind;
use super::world::network::{MS, S, US};
use super::world::shape::{MOST_HOSTS, Shape};

/// Stirs the seed for the question whether there are hooks.
const HOOKS: u64 = 0x000e_686f_6f6b;
/// Stirs the seed for the question whether the hosts' gates differ.
const GATES: u64 = 0x67617465730053;

/// Stirs the seed for the question whether there are fence devices.
const FENCE: u64 = 0x66656e636d;

/// Stirs the seed for the question whether space is won back; likewise one with which none of the seeds of
/// before does.
const SPACE: u64 = 0x0073_7061_6365_8b69;

/// Stirs the seed for the question whether standbys ask how far the primary is; likewise.
const FRESH: u64 = 0x0066_7265_7368_9bf6;

/// Stirs the seed for the question whether the kinds of faults that came later may be on; likewise.
const ADDED: u64 = 0x0061_6464_6564_0004;

/// Stirs the seed for the question whether votes are taken away and given; likewise.
const VOTES: u64 = 0x0076_6f74_6573_0001;

/// Stirs the seed for the question whether one member is of an older release at first; likewise.
const OLDER: u64 = 0x006f_6c64_6572_0001;

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed that drew it.
    pub seed: u64,
    /// The cluster.
    pub shape: Shape,
    /// A pair whose halves may both reign for a while: what is acknowledged then may be set aside.
    pub split: bool,
    /// How many clients.
    pub clients: usize,
    /// What they do.
    pub workload: Workload,
    /// The kinds of faults that are on, a kind as often as it weighs.
    pub faults: Vec<Kind>,
    /// How long faults go on.
    pub trouble: Ns,
    /// The usual pause between two of them.
    pub pause: Ns,
    /// Space is won back, with this pause between two looks.
    pub reclaim_pause: Option<Ns>,
    /// Standbys ask how far the primary is, with this pause between two questions.
    pub ask_pause: Option<Ns>,
    /// The clock rates of the hosts, in millionths beyond the world's.
    pub ppm: [i64; MOST_HOSTS],
    /// What the weather is like all the time.
    pub weather: Weather,
    /// Hosts start at once, or one after the other, this much apart at most.
    pub staggered: Ns,
    /// This host runs an older release until it is started anew.
    pub older: Option<usize>,
}

/// What the networks and disks do all the time.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Of a million packets.
    pub lost: u64,
    /// Of a million packets.
    pub doubled: u64,
    /// Of a million packets.
    pub altered: u64,
    /// A packet takes this long at least.
    pub delay: Ns,
    /// And this much longer at most.
    pub jitter: Ns,
    /// A sync takes this long at least.
    pub sync_delay: Ns,
    /// And this much longer at most.
    pub sync_jitter: Ns,
    /// A thread gets the processor this much later at most.
    pub wake_delay: Ns,
}

/// The largest difference of rate between two clocks that the drift margin is made for (rule R4: one
/// percent), as the most that each may be off.
pub const RATE_BOUND_PPM: i64 = 4_900;

impl Plan {
    /// Draws the plan of a seed.
    pub fn draw(seed: u64) -> Plan {
        let mut dice = Dice(seed ^ 0x686f_6c64_6661_7374);
        let shape = draw_shape(&mut dice);
        // With chance of its own, so that the seeds of before draw what they drew; the number is one with
        // which none of those that found something has hooks.
        let shape = Shape { hooks: Dice(seed ^ HOOKS).one_in(4), ..shape };
        let shape = Shape { gates: draw_gates(seed).unwrap_or(shape.gates), ..shape };
        let mut fence_dice = Dice(seed ^ FENCE);
        let shape = Shape { fence: fence_dice.one_in(4), ..shape };
        // One pair in four is cut in two, with what the policy `probe` says of it.
        let split = shape.is_pair() && dice.one_in(4);
        let mut faults = Vec::new();
        let pair = shape.is_pair();
        let fits = |kind: Kind| !pair || split || kind.fits_a_pair();
        for (kind, weight) in Kind::ALL {
            // A third of the kinds is on in the usual run; the dangerous ones seldom.
            let on = if kind.is_drastic() { dice.one_in(8) } else { dice.one_in(3) };
            if fits(kind) && on {
                faults.extend(std::iter::repeat_n(kind, weight));
            }
        }
        let mut added_dice = Dice(seed ^ ADDED);
        let mut shape = shape;
        if added_dice.one_in(4) {
            if added_dice.one_in(2) {
                // So short for such disks that members leave the set and come back all the time.
                shape.standby_timeout_ms = (shape.interval_ms * *added_dice.pick(&[1, 2])).max(200);
                faults.extend([Kind::SlowDisk; 2]);
            }
            for (kind, weight) in Kind::ADDED {
                if fits(kind) && added_dice.one_in(2) {
                    faults.extend(std::iter::repeat_n(kind, weight));
                }
            }
        }
        // Where disks are lost as well, too few may be left that remember who votes.
        let drastic = faults.iter().any(|kind| kind.is_drastic());
        if !pair && !drastic && Dice(seed ^ VOTES).one_in(3) {
            faults.extend([Kind::ChangeVoters; 6]);
        }
        let mut older_dice = Dice(seed ^ OLDER);
        let older = older_dice.one_in(8).then(|| older_dice.below(shape.hosts() as u64) as usize);
        if faults.is_empty() {
            faults.push(Kind::PowerOff);
        }
        // A pair with fence devices is cut in two as well, and promises all the same.
        let fenced_pair = shape.fence && shape.is_pair();
        if split || fenced_pair {
            faults.extend([Kind::Isolate; 4]);
        }
        if fenced_pair {
            faults.extend([Kind::CutBothWays, Kind::CutBothWays, Kind::CutOneWay, Kind::CutService]);
        }
        let split = split && !fenced_pair;
        let outside = faults.contains(&Kind::RateOutside);
        let mut ppm = [0; MOST_HOSTS];
        let drift = *dice.pick(&[0, 100, RATE_BOUND_PPM]);
        for host in &mut ppm {
            *host = dice.between(0, 2 * drift as u64) as i64 - drift;
        }
        let interval = shape.interval_ms * MS;
        let calm = outside || shape.is_pair() && !split || dice.one_in(2);
        let weather = Weather {
            lost: if calm { 0 } else { *dice.pick(&[0, 1_000, 20_000, 100_000]) },
            doubled: *dice.pick(&[0, 0, 50_000]),
            altered: *dice.pick(&[0, 0, 2_000]),
            delay: *dice.pick(&[50 * US, 200 * US, MS]),
            jitter: *dice.pick(&[50 * US, MS, interval / 10, interval / 2]),
            sync_delay: *dice.pick(&[100 * US, 500 * US, 5 * MS]),
            sync_jitter: *dice.pick(&[100 * US, 2 * MS, 30 * MS]),
            wake_delay: *dice.pick(&[20 * US, 100 * US, MS, 5 * MS]),
        };
        let trouble = interval * dice.between(200, 1_200);
        let clients = dice.between(1, 4) as usize;
        let mut workload = Workload::draw(&mut dice);
        // A run is worth some thousands of requests, however long it lasts.
        workload.think_most = workload.think_most.max(trouble / 1_000);
        let pause = interval * *dice.pick(&[1, 4, 10, 30]);
        let staggered = *dice.pick(&[0, 10 * MS, 2 * S]);
        let mut space_dice = Dice(seed ^ SPACE);
        let reclaim_pause = space_dice.one_in(2).then(|| *space_dice.pick(&[100 * MS, S, 5 * S]));
        let mut fresh_dice = Dice(seed ^ FRESH);
        let ask_pause = fresh_dice.one_in(2).then(|| *fresh_dice.pick(&[5 * MS, 50 * MS, S]));
        Plan {
            seed,
            shape,
            split,
            clients,
            workload,
            faults,
            trouble,
            pause,
            reclaim_pause,
            ask_pause,
            ppm,
            weather,
            staggered,
            older,
        }
    }

    /// The kinds of faults in this plan, once each.
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.faults.clone();
        kinds.dedup();
        kinds
    }
}

/// A kernel of its own on each host; `None` where all are alike.
fn draw_gates(seed: u64) -> Option<[GateKind; MOST_HOSTS]> {
    let mut dice = Dice(seed ^ GATES);
    dice.one_in(4).then(|| std::array::from_fn(|_| *dice.pick(&GateKind::ALL)))
}

fn draw_shape(dice: &mut Dice) -> Shape {
    let (data, witness) = *dice.pick(&[
        (2, true),
        (2, true),
        (2, true),
        (2, true),
        (2, false),
        (3, false),
        (3, false),
        (3, true),
        (4, true),
        (5, true),
    ]);
    Shape {
        data,
        witness,
        paths: if dice.one_in(4) { 2 } else { 1 },
        interval_ms: *dice.pick(&[20, 100, 100, 250, 1_000]),
        threshold: *dice.pick(&[3, 3, 5]),
        probe: !dice.one_in(4),
        failback_ms: if dice.one_in(3) { Some(*dice.pick(&[0, 1_000, 10_000])) } else { None },
        standby_timeout_ms: *dice.pick(&[1_000, 1_000, 3_000]),
        gates: [if dice.one_in(6) { GateKind::LifetimeOnly } else { GateKind::Absolute }; MOST_HOSTS],
        segment_size: *dice.pick(&[8 << 10, 64 << 10, 1 << 20]),
        // Without it nothing tells the halves of a pair a dead peer from a cut cable.
        arp_ping: !dice.one_in(5) || data == 2 && !witness,
        hooks: false,
        hooks_of: None,
        fence: false,
    }
}
