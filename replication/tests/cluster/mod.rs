//! Replicas joined in memory: every frame, sync and crash happens when the test says so.

#![allow(dead_code, reason = "each test crate uses its share of this harness")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use holdfast_replication::disk::Disk;
use holdfast_replication::log::OpenOptions;
use holdfast_replication::replica::{
    ApplyError, Committed, ConnId, Done, Input, Output, Replica, ReplicaOptions, StateMachine, Wait,
};
use holdfast_replication::space::{Checkpoint, Holes, Retirement};
use holdfast_replication::stream::Frame;
use holdfast_replication::testing::MemDisk;
use holdfast_replication::{Epoch, Incarnation, Lsn, Member, NodeId, RecordKind};

pub(crate) const SEGMENT: u64 = 4000;

/// Remembers what it was told, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Toy {
    pub(crate) applied: Lsn,
    pub(crate) entries: Vec<(Lsn, RecordKind, Vec<u8>)>,
    pub(crate) resets: u64,
}

impl StateMachine for Toy {
    type Outcome = usize;
    fn applied(&self) -> Lsn {
        self.applied
    }
    fn apply(&mut self, batch: &[Committed<'_>]) -> Result<Vec<usize>, ApplyError> {
        let mut outcomes = Vec::new();
        for entry in batch {
            assert_eq!(entry.lsn, self.applied, "no gap, nothing twice");
            self.applied = entry.end;
            self.entries.push((entry.lsn, entry.kind, entry.payload.to_vec()));
            outcomes.push(self.entries.len());
        }
        Ok(outcomes)
    }
    fn restore(&mut self, as_of: Lsn, batch: &[Committed<'_>], last: bool) -> Result<(), ApplyError> {
        assert_eq!(self.applied, Lsn::ZERO, "not before it is whole");
        for entry in batch.iter().filter(|entry| entry.kind == RecordKind::Checkpoint) {
            let (of, entries): (Lsn, Vec<(Lsn, RecordKind, Vec<u8>)>) =
                postcard::from_bytes(entry.payload).expect("a checkpoint of this machine");
            if of == as_of {
                self.entries.extend(entries);
            }
        }
        if last {
            self.applied = as_of;
        }
        Ok(())
    }
    fn reset(&mut self) -> Result<(), ApplyError> {
        *self = Toy { resets: self.resets + 1, ..Toy::default() };
        Ok(())
    }
}

pub(crate) type Event = Output<u64, usize>;

pub(crate) struct Node {
    pub(crate) disk: MemDisk,
    pub(crate) replica: Replica<MemDisk, Toy, u64>,
    pub(crate) member: Member,
    /// Everything but sends, closes included.
    pub(crate) events: Vec<Event>,
    pub(crate) inbox: VecDeque<Input<u64>>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) options: ReplicaOptions,
    /// Bytes of frames that node `n` was sent, by whether they were moves.
    pub(crate) sent: BTreeMap<(usize, bool), usize>,
    conns: BTreeMap<ConnId, (usize, usize)>,
    next_conn: u64,
    next_reply: u64,
}

pub(crate) fn member(n: usize) -> Member {
    Member { id: NodeId::new(["a", "b", "c"][n]).unwrap(), incarnation: Incarnation(1) }
}

pub(crate) fn options() -> ReplicaOptions {
    ReplicaOptions {
        log: OpenOptions { segment_size: SEGMENT, ..OpenOptions::default() },
        new_log_id: 0xabc,
        ..ReplicaOptions::default()
    }
}

impl Cluster {
    pub(crate) fn new(count: usize) -> Cluster {
        Cluster::with(count, options())
    }

    pub(crate) fn with(count: usize, options: ReplicaOptions) -> Cluster {
        let node = |n| {
            let disk = MemDisk::new();
            let (replica, _) = Replica::open(disk.clone(), member(n), Toy::default(), options).unwrap();
            Node { disk, replica, member: member(n), events: Vec::new(), inbox: VecDeque::new() }
        };
        Cluster {
            nodes: (0..count).map(node).collect(),
            options,
            sent: BTreeMap::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            next_reply: 0,
        }
    }

    /// `from` opens a connection to `to`.
    pub(crate) fn connect(&mut self, from: usize, to: usize) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.conns.insert(conn, (from, to));
        self.nodes[to].inbox.push_back(Input::Connected { conn, initiated: false });
        self.nodes[from].inbox.push_back(Input::Connected { conn, initiated: true });
        conn
    }

    pub(crate) fn connected(&self, a: usize, b: usize) -> bool {
        self.conns.values().any(|ends| *ends == (a, b) || *ends == (b, a))
    }

    /// The connections, and whom each joins.
    pub(crate) fn conns(&self) -> impl Iterator<Item = (ConnId, (usize, usize))> {
        self.conns.iter().map(|(conn, ends)| (*conn, *ends))
    }

    /// Breaks every connection between two nodes; what is under way is lost.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        let broken: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, ends)| **ends == (a, b) || **ends == (b, a))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in broken {
            self.drop_conn(conn, None);
        }
    }

    fn drop_conn(&mut self, conn: ConnId, but: Option<usize>) {
        let Some((a, b)) = self.conns.remove(&conn) else { return };
        for n in [a, b] {
            if Some(n) != but {
                self.nodes[n].inbox.push_back(Input::Disconnected { conn });
            }
        }
    }

    pub(crate) fn tell(&mut self, n: usize, input: Input<u64>) {
        self.nodes[n].inbox.push_back(input);
    }

    pub(crate) fn lead(&mut self, n: usize, epoch: u64, members: &[usize]) {
        let members = members.iter().map(|m| self.nodes[*m].member.clone()).collect();
        self.tell(n, Input::Lead { epoch: Epoch(epoch), members, wall_ms: 1 });
    }

    pub(crate) fn follow(&mut self, n: usize, epoch: u64, leader: usize) {
        let leader = self.nodes[leader].member.clone();
        self.tell(n, Input::Follow { epoch: Epoch(epoch), leader });
    }

    pub(crate) fn wait_for(&mut self, n: usize, epoch: u64, version: u64, members: &[usize]) {
        let members = members.iter().map(|m| self.nodes[*m].member.clone()).collect();
        self.tell(n, Input::WaitFor { epoch: Epoch(epoch), version, members });
    }

    pub(crate) fn submit(&mut self, n: usize, payload: Vec<u8>) -> u64 {
        self.submit_as(n, RecordKind::Op, payload, Wait::Committed)
    }

    pub(crate) fn submit_as(&mut self, n: usize, kind: RecordKind, payload: Vec<u8>, wait: Wait) -> u64 {
        self.next_reply += 1;
        let reply = self.next_reply;
        self.tell(n, Input::Submit { kind, payload: vec![Bytes::from(payload)], wait, reply });
        reply
    }

    /// Where a confirmed submit has its place.
    pub(crate) fn place(&self, n: usize, reply: u64) -> (Lsn, Lsn) {
        match self.answer(n, reply) {
            Some(Output::Reply {
                result: Ok(Done::Committed { lsn, end, .. } | Done::Appended { lsn, end }),
                ..
            }) => (*lsn, *end),
            other => panic!("not confirmed: {other:?}"),
        }
    }

    /// Writes what the state machine of `n` has now into the log, with another write in the middle of it.
    pub(crate) fn checkpoint(&mut self, n: usize) -> Checkpoint {
        let Toy { applied: as_of, entries, .. } = self.nodes[n].replica.machine().clone();
        let mut places = Vec::new();
        for part in entries.chunks(entries.len().div_ceil(2).max(1)) {
            let payload = postcard::to_stdvec(&(as_of, part)).unwrap();
            let reply = self.submit_as(n, RecordKind::Checkpoint, payload, Wait::Committed);
            self.submit(n, b"written during the checkpoint".to_vec());
            self.settle();
            places.push(self.place(n, reply));
        }
        Checkpoint { as_of, from: places[0].0, to: places.last().unwrap().1 }
    }

    /// Turns over a bit of node `n`'s disk, `at` bytes behind LSN `lsn`.
    pub(crate) fn flip(&self, n: usize, lsn: Lsn, at: u64) {
        let segments = self.nodes[n].replica.reader().segments();
        let base = segments[segments.partition_point(|base| *base <= lsn) - 1];
        let bit = 8 * (64 + lsn.0 - base.0 + at);
        self.nodes[n].disk.flip_bit(&format!("{:016x}.log", base.0), bit);
    }

    /// Has node `n` heal what is at `lsn`; whether it was.
    pub(crate) fn heal(&mut self, n: usize, lsn: Lsn) -> Result<(), String> {
        self.next_reply += 1;
        let reply = self.next_reply;
        self.tell(n, Input::Heal { lsn, reply });
        self.settle();
        match self.answer(n, reply) {
            Some(Output::Reply { result, .. }) => result.as_ref().map(drop).map_err(ToString::to_string),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// Commits a retirement of these ranges.
    pub(crate) fn retire(&mut self, n: usize, ranges: &[(Lsn, Lsn)], checkpoint: Checkpoint) {
        let epoch = self.nodes[n].replica.log().last_epoch();
        let retirement = Retirement { epoch, holes: Holes::new(ranges.iter().copied()), checkpoint };
        let reply = self.submit_as(n, RecordKind::Retire, retirement.encode(), Wait::Committed);
        self.settle();
        self.place(n, reply);
    }

    fn execute(&mut self, n: usize, out: Vec<Event>) {
        for output in out {
            match output {
                Output::Send { conn, frame } => {
                    let Some((a, b)) = self.conns.get(&conn).copied() else { continue };
                    let peer = if a == n { b } else { a };
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes);
                    *self.sent.entry((peer, matches!(frame, Frame::Move { .. }))).or_default() += bytes.len();
                    let frame = Frame::decode(&Bytes::from(bytes)).expect("what is sent can be read");
                    self.nodes[peer].inbox.push_back(Input::Frame { conn, frame });
                }
                Output::Close { conn, reason, refused } => {
                    self.drop_conn(conn, Some(n));
                    self.nodes[n].events.push(Output::Close { conn, reason, refused });
                }
                other => self.nodes[n].events.push(other),
            }
        }
    }

    /// Node `n` takes in the first `count` things that wait for it, and syncs nothing.
    pub(crate) fn ingest_some(&mut self, n: usize, count: usize) {
        let node = &mut self.nodes[n];
        let count = count.min(node.inbox.len());
        let inputs: Vec<Input<u64>> = node.inbox.drain(..count).collect();
        let mut out = Vec::new();
        node.replica.ingest(inputs, &mut out);
        self.execute(n, out);
    }

    pub(crate) fn ingest(&mut self, n: usize) {
        self.ingest_some(n, usize::MAX);
    }

    pub(crate) fn flush(&mut self, n: usize) {
        let mut out = Vec::new();
        self.nodes[n].replica.flush(&mut out);
        self.execute(n, out);
    }

    /// Runs these nodes until nothing happens any more.
    pub(crate) fn settle_only(&mut self, nodes: &[usize]) {
        let live = |node: &Node| !node.inbox.is_empty() || node.replica.wants_flush();
        let mut rounds = 0;
        loop {
            for n in nodes {
                self.ingest(*n);
                self.flush(*n);
            }
            if !nodes.iter().any(|n| live(&self.nodes[*n])) {
                return;
            }
            rounds += 1;
            assert!(rounds < 10_000, "the cluster does not come to rest");
        }
    }

    pub(crate) fn settle(&mut self) {
        self.settle_only(&(0..self.nodes.len()).collect::<Vec<_>>());
    }

    /// Opens node `n` again on `disk`, with an empty index. Its connections break.
    pub(crate) fn reopen(&mut self, n: usize, disk: MemDisk) {
        for other in 0..self.nodes.len() {
            self.cut(n, other);
        }
        let member = self.nodes[n].member.clone();
        let (replica, _) = Replica::open(disk.clone(), member, Toy::default(), self.options).unwrap();
        let node = &mut self.nodes[n];
        (node.disk, node.replica) = (disk, replica);
        node.inbox.clear();
        node.events.clear();
    }

    /// The answer to a submit, if it came.
    pub(crate) fn answer(&self, n: usize, reply: u64) -> Option<&Event> {
        self.nodes[n].events.iter().find(|e| matches!(e, Output::Reply { reply: r, .. } if *r == reply))
    }

    pub(crate) fn confirmed(&self, n: usize, reply: u64) -> bool {
        matches!(self.answer(n, reply), Some(Output::Reply { result: Ok(_), .. }))
    }

    /// The files of the log proper.
    pub(crate) fn log_files(&self, n: usize) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.nodes[n].disk.files();
        files.retain(|name, _| !name.contains('/') && name.ends_with(".log"));
        files
    }

    /// The log's bytes, without the files' headers.
    pub(crate) fn log_bytes(&self, n: usize) -> Vec<u8> {
        self.log_files(n).into_values().flat_map(|bytes| bytes[64..].to_vec()).collect()
    }

    pub(crate) fn archived(&self, n: usize) -> Vec<Vec<u8>> {
        let disk = &self.nodes[n].disk;
        let names = disk.list("set-aside").unwrap();
        let files = disk.files();
        names
            .iter()
            .filter(|n| n.ends_with(".log"))
            .map(|n| files[&format!("set-aside/{n}")].clone())
            .collect()
    }
}

/// `b` follows `a`, both in the wait set, in epoch 1, at rest.
pub(crate) fn pair() -> Cluster {
    pair_with(options())
}

pub(crate) fn pair_with(options: ReplicaOptions) -> Cluster {
    let mut c = Cluster::with(2, options);
    c.lead(0, 1, &[0, 1]);
    c.follow(1, 1, 0);
    c.connect(1, 0);
    c.settle();
    c
}
