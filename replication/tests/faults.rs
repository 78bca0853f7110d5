//! Random crashes, cuts, elections and changes of the in-sync set over three replicas, with a
//! coordinator that keeps to the rules of elections (R1) and of the in-sync set (R3). Whatever it
//! does, no acknowledged write is ever missing from a later primary, and logs agree up to what is
//! committed.

mod cluster;

use std::collections::BTreeMap;

use cluster::Cluster;
use holdfast_replication::replica::{Done, Input, Output, ReplicaRole};
use holdfast_replication::testing::Dice;
use holdfast_replication::{Epoch, InSyncRecord, Lsn, Member};
use proptest::prelude::*;

/// Stands for the quorum: remembers votes and the in-sync record, and refuses stale epochs.
struct Coordinator {
    c: Cluster,
    dice: Dice,
    epoch: u64,
    record: InSyncRecord,
    leader: Option<usize>,
    /// Members that this epoch's primary was told to wait for, beyond the record.
    growing: Option<InSyncRecord>,
    submitted: BTreeMap<u64, Vec<u8>>,
    /// Acknowledged writes: where, in which epoch they were answered, and what.
    acknowledged: BTreeMap<Lsn, (Epoch, Vec<u8>)>,
    seen: [usize; 3],
    /// How much happened, to show that the test exercises something.
    answers: u64,
    set_aside: u64,
}

impl Coordinator {
    fn new(seed: u64) -> Coordinator {
        let c = Cluster::new(3);
        let members: Vec<Member> = c.nodes.iter().map(|n| n.member.clone()).collect();
        let record = InSyncRecord { epoch: Epoch(1), version: 1, members, voters: None };
        let mut coordinator = Coordinator {
            c,
            dice: Dice(seed),
            epoch: 1,
            record,
            leader: Some(0),
            growing: None,
            submitted: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            seen: [0; 3],
            answers: 0,
            set_aside: 0,
        };
        coordinator.c.lead(0, 1, &[0, 1, 2]);
        coordinator.reconnect();
        coordinator
    }

    fn pick(&mut self) -> usize {
        self.dice.below(3) as usize
    }

    /// Members as numbers.
    fn numbers(&self, members: &[Member]) -> Vec<usize> {
        (0..3).filter(|n| members.contains(&self.c.nodes[*n].member)).collect()
    }

    fn reconnect(&mut self) {
        let Some(leader) = self.leader else { return };
        for n in 0..3 {
            if n != leader && !self.c.connected(n, leader) {
                self.c.follow(n, self.epoch, leader);
                self.c.connect(n, leader);
            }
        }
    }

    fn elect(&mut self) {
        let n = self.pick();
        if !self.record.contains(&self.c.nodes[n].member) {
            return;
        }
        // The vote: the quorum knows the new epoch from here on; the old primary may not.
        self.epoch += 1;
        self.leader = Some(n);
        self.growing = None;
        for other in 0..3 {
            if self.dice.below(2) == 0 {
                self.c.tell(other, Input::Promise { epoch: Epoch(self.epoch) });
            }
        }
        // The candidate votes for itself before anything else.
        self.c.tell(n, Input::Promise { epoch: Epoch(self.epoch) });
        // It records the set under its own epoch, then leads with it.
        self.record = self.next_record(self.record.members.clone());
        let members = self.numbers(&self.record.members);
        // The rest of the set must have promised too before it is waited for (they hear of it in order).
        self.c.lead(n, self.epoch, &members);
    }

    fn next_record(&self, members: Vec<Member>) -> InSyncRecord {
        let epoch = Epoch(self.epoch);
        let version = if epoch == self.record.epoch { self.record.version + 1 } else { 1 };
        InSyncRecord { epoch, version, members, voters: None }
    }

    fn shrink(&mut self) {
        let n = self.pick();
        let Some(leader) = self.leader else { return };
        let leaving = self.c.nodes[n].member.clone();
        if n == leader || !self.record.contains(&leaving) || self.growing.is_some() {
            return;
        }
        // Record first, then stop waiting.
        let staying = self.record.members.iter().filter(|member| **member != leaving).cloned().collect();
        self.record = self.next_record(staying);
        let members = self.numbers(&self.record.members);
        self.c.wait_for(leader, self.epoch, self.record.version, &members);
    }

    fn grow(&mut self) {
        let n = self.pick();
        let Some(leader) = self.leader else { return };
        let joining = self.c.nodes[n].member.clone();
        if self.record.contains(&joining) || self.growing.is_some() {
            return;
        }
        // Wait first; the record is written when `WaitReached` comes.
        let next = self.next_record([self.record.members.clone(), vec![joining]].concat());
        let members = self.numbers(&next.members);
        self.c.wait_for(leader, self.epoch, next.version, &members);
        self.growing = Some(next);
    }

    fn crash(&mut self, n: usize) {
        let seed = self.dice.roll();
        let disk = if seed.is_multiple_of(4) {
            self.c.nodes[n].disk.kill()
        } else {
            self.c.nodes[n].disk.crash(seed)
        };
        self.look();
        self.c.reopen(n, disk);
        self.seen[n] = 0;
        // Its vote is durable elsewhere: it comes back with what it promised or more.
        self.c.tell(n, Input::Promise { epoch: Epoch(self.epoch) });
        if self.leader == Some(n) {
            self.leader = None;
            self.growing = None;
        }
    }

    /// Reads what the replicas said since the last look.
    fn look(&mut self) {
        for n in 0..3 {
            for event in &self.c.nodes[n].events[self.seen[n]..] {
                match event {
                    Output::Reply { reply, result: Ok(Done::Committed { lsn, .. }) } => {
                        self.answers += 1;
                        let payload = self.submitted[reply].clone();
                        let epoch = self.c.nodes[n].replica.log().last_epoch();
                        let twice = self.acknowledged.insert(*lsn, (epoch, payload));
                        assert!(twice.is_none(), "two acknowledged writes at {lsn}");
                    }
                    Output::WaitReached { epoch, version } => {
                        if let Some(next) = &self.growing
                            && (next.epoch, next.version) == (*epoch, *version)
                        {
                            self.record = self.growing.take().unwrap();
                        }
                    }
                    Output::SetAside { .. } => self.set_aside += 1,
                    Output::EpochStarted { epoch, .. } => {
                        let replica = &self.c.nodes[n].replica;
                        if replica.status().role == ReplicaRole::Leading {
                            // A deposed primary may get this far late, and owes nothing to its successors.
                            for (lsn, (_, payload)) in
                                self.acknowledged.iter().filter(|(_, (e, _))| e <= epoch)
                            {
                                let held = replica.reader().read(*lsn);
                                let held = held.unwrap_or_else(|e| panic!("acknowledged {lsn} is lost: {e}"));
                                assert_eq!(&held.payload[..], &payload[..], "at {lsn}");
                            }
                        }
                    }
                    Output::LogFailed { error, .. } => panic!("log failed: {error}"),
                    _ => {}
                }
            }
            self.seen[n] = self.c.nodes[n].events.len();
        }
    }

    fn check_agreement(&self) {
        for a in 0..3 {
            for b in 0..a {
                let both =
                    self.c.nodes[a].replica.status().applied.min(self.c.nodes[b].replica.status().applied);
                let upto = both.0 as usize;
                assert_eq!(
                    self.c.log_bytes(a)[..upto],
                    self.c.log_bytes(b)[..upto],
                    "{a} and {b} below {both}"
                );
            }
        }
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0 => self.elect(),
            1 => self.shrink(),
            2 | 3 => self.grow(),
            4 => {
                let n = self.pick();
                self.crash(n);
            }
            5 => {
                let (a, b) = (self.pick(), self.pick());
                self.c.cut(a, b);
            }
            6..=8 => self.reconnect(),
            9..=15 => {
                // To anybody: who is not the primary must refuse, who thinks it is may try.
                let n = if self.dice.below(4) == 0 { self.pick() } else { self.leader.unwrap_or(0) };
                let len = self.dice.below(900) as usize;
                let payload = vec![self.dice.roll() as u8; len];
                let reply = self.c.submit(n, payload.clone());
                self.submitted.insert(reply, payload);
            }
            16..=29 => {
                let (n, count) = (self.pick(), self.dice.below(5) as usize);
                self.c.ingest_some(n, count);
            }
            _ => {
                let n = self.pick();
                self.c.flush(n);
            }
        }
        self.look();
    }

    /// Lets everything heal: a primary from the record, everybody connected, the set full again.
    fn heal(&mut self) {
        self.c.settle();
        self.look();
        let n = (0..3).find(|n| self.record.contains(&self.c.nodes[*n].member)).expect("the set has members");
        self.epoch += 1;
        (self.leader, self.growing) = (Some(n), None);
        for other in 0..3 {
            self.c.tell(other, Input::Promise { epoch: Epoch(self.epoch) });
        }
        self.record = self.next_record(self.record.members.clone());
        let members = self.numbers(&self.record.members);
        self.c.lead(n, self.epoch, &members);
        for a in 0..3 {
            for b in 0..a {
                self.c.cut(a, b);
            }
        }
        self.reconnect();
        self.c.settle();
        let last = self.c.submit(n, b"last".to_vec());
        self.submitted.insert(last, b"last".to_vec());
        self.c.settle();
        self.look();
        assert!(self.c.confirmed(n, last), "writes go on after healing");
        for other in 0..3 {
            assert_eq!(self.c.log_files(other), self.c.log_files(n), "equal logs are equal files");
            assert_eq!(
                self.c.nodes[other].replica.machine().entries,
                self.c.nodes[n].replica.machine().entries
            );
            self.c.nodes[other].replica.log().verify().unwrap();
        }
        for (lsn, (_, payload)) in &self.acknowledged {
            let held = self.c.nodes[n].replica.reader().read(*lsn).unwrap();
            assert_eq!(&held.payload[..], &payload[..]);
        }
    }
}

fn run(seed: u64, steps: u64) -> (u64, u64) {
    let mut coordinator = Coordinator::new(seed);
    for step in 0..steps {
        coordinator.step();
        if step % 50 == 0 {
            coordinator.check_agreement();
        }
    }
    coordinator.heal();
    (coordinator.answers, coordinator.set_aside)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_acknowledged_write_is_lost_whatever_fails(seed in any::<u64>()) {
        run(seed, 600);
    }
}

#[test]
fn the_random_runs_reach_what_they_are_for() {
    let (mut answers, mut set_aside) = (0, 0);
    for seed in 0..60 {
        let (a, s) = run(seed, 600);
        answers += a;
        set_aside += s;
    }
    assert!(answers > 500, "{answers} writes acknowledged");
    assert!(set_aside > 10, "{set_aside} tails set aside");
}
