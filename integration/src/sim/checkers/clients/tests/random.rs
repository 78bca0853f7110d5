//! Histories of real clients and a real log: always legal as they are, and mostly not once an answer in
//! them is changed.

use std::collections::BTreeMap;

use holdfast_heartbeat::types::{Incarnation, Member, NodeId};
use holdfast_replication::replica::{Done, Input, Output, Replica, ReplicaOptions, Wait};
use holdfast_replication::testing::MemDisk;
use holdfast_replication::{LogReader, RecordKind};
use holdfast_store::machine::Machine;

use super::*;
use crate::sim::s3::client::Client;
use crate::sim::s3::session::Logged;
use crate::sim::s3::workload::Workload;

/// One member that leads alone.
struct Alone {
    replica: Replica<MemDisk, Machine, usize>,
    index: Index,
    log: LogReader,
}

impl Alone {
    fn new() -> Alone {
        let index = Index::in_memory();
        let machine = Machine::new(index.clone()).unwrap();
        let me = Member { id: NodeId::new("a").unwrap(), incarnation: Incarnation(1) };
        let options = ReplicaOptions { new_log_id: 7, ..Default::default() };
        let (mut replica, _) = Replica::open(MemDisk::new(), me.clone(), machine, options).unwrap();
        let (log, mut out) = (replica.reader(), Vec::new());
        replica.ingest([Input::Lead { epoch: Epoch(1), members: vec![me], wall_ms: 0 }], &mut out);
        replica.flush(&mut out);
        Alone { replica, index, log }
    }

    fn submit(&mut self, kind: RecordKind, payload: Vec<Bytes>, wait: Wait) -> Logged {
        let mut out = Vec::new();
        self.replica.ingest([Input::Submit { kind, payload, wait, reply: 0 }], &mut out);
        self.replica.flush(&mut out);
        let reply = out.into_iter().find_map(|output| match output {
            Output::Reply { result, .. } => Some(result),
            _ => None,
        });
        match reply.expect("a single member answers at once") {
            Ok(Done::Appended { lsn, end }) => Logged::Appended { lsn, end },
            Ok(Done::Committed { outcome, .. }) => Logged::Committed(outcome),
            Err(error) => Logged::Refused(error),
        }
    }
}

/// What is recorded, so that it can be changed and told again.
#[derive(Clone)]
enum Event {
    Invoked(ClientId, Call, u64),
    Completed(OpId, Answer, u64),
}

fn told(events: &[Event]) -> History {
    let mut history = History::new();
    for event in events {
        match event {
            Event::Invoked(client, call, at) => drop(history.invoked(*client, call.clone(), *at)),
            Event::Completed(op, answer, at) => history.completed(*op, answer, *at),
        }
    }
    history
}

enum Due {
    Send { client: usize, call: Call },
    Arrive { request: usize },
    Log { request: usize, step: Step },
    Answer { request: usize, answer: Answer },
    GiveUp { request: usize },
}

struct Request {
    client: usize,
    call: Call,
    session: Option<Session>,
    op: OpId,
    heard: bool,
}

/// Lets clients work for `requests` requests over a network that delays everything and loses some.
fn run(seed: u64, clients: u16, requests: usize) -> (Vec<Event>, Alone) {
    let mut dice = Dice(seed);
    let mut host = Alone::new();
    let mut events = Vec::new();
    let workload = Workload::draw(&mut dice);
    let loses = [0, 3, 20][dice.below(3) as usize];
    let mut clients: Vec<Client> =
        (0..clients).map(|id| Client::new(ClientId(id), workload.clone(), &mut dice)).collect();
    let mut queue: BTreeMap<(u64, u64), Due> = BTreeMap::new();
    let mut serial = 0;
    let mut push = |queue: &mut BTreeMap<(u64, u64), Due>, at: u64, due: Due| {
        serial += 1;
        queue.insert((at, serial), due);
    };
    push(&mut queue, 0, Due::Send { client: 0, call: Call::CreateBucket });
    let mut all: Vec<Request> = Vec::new();
    while let Some(((now, _), due)) = queue.pop_first() {
        let delay = |dice: &mut Dice| {
            // Now and then something is under way for longer than anybody waits.
            if dice.below(100) < loses { dice.below(20_000_000_000) } else { dice.below(3_000_000) }
        };
        match due {
            Due::Send { client, call } => {
                let op = OpId(all.len() as u32);
                events.push(Event::Invoked(clients[client].id(), call.clone(), now));
                all.push(Request { client, call, session: None, op, heard: false });
                let request = all.len() - 1;
                push(&mut queue, now + delay(&mut dice), Due::Arrive { request });
                push(&mut queue, now + clients[client].patience(), Due::GiveUp { request });
            }
            Due::Arrive { request } => {
                let call = all[request].call.clone();
                let (index, log) = (&host.index, &host.log);
                let mut context = Context { index, log, wall_ms: now, epoch: Epoch(1), dice: &mut dice };
                let (session, step) = Session::begin(call, &mut context);
                all[request].session = Some(session);
                push(&mut queue, now + delay(&mut dice), Due::Log { request, step });
            }
            Due::Log { request, step } => {
                let logged = match step {
                    Step::Append(payload) => host.submit(RecordKind::Data, payload, Wait::Appended),
                    Step::Commit(payload) => host.submit(RecordKind::Op, payload, Wait::Committed),
                    Step::Answer(answer) => {
                        push(&mut queue, now + delay(&mut dice), Due::Answer { request, answer });
                        continue;
                    }
                };
                let (index, log) = (&host.index, &host.log);
                let mut context = Context { index, log, wall_ms: now, epoch: Epoch(1), dice: &mut dice };
                let session = all[request].session.as_mut().expect("it arrived before");
                let step = session.go_on(logged, &mut context);
                push(&mut queue, now + delay(&mut dice), Due::Log { request, step });
            }
            Due::Answer { request: at, answer } => {
                hear(&mut all[at], answer, now, &mut clients, &mut dice, &mut events)
            }
            Due::GiveUp { request: at } => {
                hear(&mut all[at], LOST, now, &mut clients, &mut dice, &mut events)
            }
        }
        // Every client that has heard something asks for the next thing.
        let idle: Vec<usize> = match events.last() {
            Some(Event::Completed(op, ..)) if all[op.0 as usize].heard => {
                all[op.0 as usize].heard = false;
                // The bucket comes first; then everybody begins.
                if op.0 == 0 { (0..clients.len()).collect() } else { vec![all[op.0 as usize].client] }
            }
            _ => Vec::new(),
        };
        for client in idle {
            if all.len() < requests {
                let (call, at) = clients[client].next(now, &mut dice);
                push(&mut queue, at, Due::Send { client, call });
            }
        }
    }
    (events, host)
}

fn hear(
    request: &mut Request,
    answer: Answer,
    now: u64,
    clients: &mut [Client],
    dice: &mut Dice,
    events: &mut Vec<Event>,
) {
    // Nobody listens any more: it was heard before, or given up.
    if std::mem::replace(&mut request.call, Call::CreateBucket) == Call::CreateBucket && request.op != OpId(0)
    {
        return;
    }
    if request.op == OpId(0) && events.iter().any(|e| matches!(e, Event::Completed(OpId(0), ..))) {
        return;
    }
    request.heard = true;
    if request.op != OpId(0) {
        clients[request.client].answered(&answer, dice);
    }
    events.push(Event::Completed(request.op, answer, now));
}

#[test]
fn what_a_real_log_and_index_answer_is_always_legal() {
    let (mut operations, mut lost) = (0, 0);
    for seed in 0..40 {
        let (events, host) = run(seed, 2 + (seed % 7) as u16, 600);
        let mut history = told(&events);
        final_reads(&mut history, &host.index, &host.log, u64::MAX);
        let report = check(&history);
        assert!(report.violations.is_empty(), "seed {seed}: {}", report.violations[0].text);
        assert_eq!(report.undecided, Vec::<String>::new(), "seed {seed}");
        operations += history.len();
        for (_, op) in history.ops() {
            lost += u32::from(matches!(op.heard, crate::sim::s3::history::Heard::Nothing(_)));
        }
    }
    assert!(operations > 20_000 && lost > 300, "{operations} operations, {lost} without answer");
}

#[test]
fn a_changed_answer_is_mostly_noticed() {
    let (mut tried, mut noticed) = (0, 0);
    for seed in 0..60 {
        let (mut events, _) = run(seed, 4, 200);
        let mut dice = Dice(seed ^ 0xabc);
        let objects: Vec<usize> = (0..events.len())
            .filter(|i| matches!(&events[*i], Event::Completed(_, Answer::Object { .. }, _)))
            .collect();
        if objects.len() < 2 {
            continue;
        }
        let at = objects[dice.below(objects.len() as u64) as usize];
        let other = objects[dice.below(objects.len() as u64) as usize];
        let answer = match &events[other] {
            Event::Completed(_, answer, _) if other != at && dice.below(2) == 0 => answer.clone(),
            _ => ABSENT,
        };
        let Event::Completed(_, old, _) = &mut events[at] else { unreachable!("chosen above") };
        if *old == answer {
            continue;
        }
        *old = answer;
        tried += 1;
        noticed += u32::from(!check(&told(&events)).violations.is_empty());
    }
    assert!(tried > 30 && noticed * 10 > tried * 7, "{noticed} of {tried}");
}

#[test]
fn a_lost_acknowledged_write_is_noticed_at_the_end() {
    let mut noticed = 0;
    for seed in 0..10 {
        let (events, _) = run(seed, 3, 300);
        // The replica that is looked at has nothing.
        let empty = Alone::new();
        let mut history = told(&events);
        final_reads(&mut history, &empty.index, &empty.log, u64::MAX);
        noticed += u32::from(!check(&history).violations.is_empty());
    }
    assert_eq!(noticed, 10);
}

#[test]
fn a_long_contended_history_is_judged_quickly() {
    // Not a measurement: the bound on steps is what is checked, and it is the same on every machine.
    let (events, _) = run(3, 8, 12_000);
    let history = told(&events);
    let report = check_within(&history, 2_000_000);
    assert!(report.violations.is_empty() && report.undecided.is_empty(), "{:?}", report.undecided);
}
