//! One client: asks, waits for the answer, thinks, asks again.
//!
//! It behaves as the usual libraries do. An answer that does not say what became of a request, or that asks
//! to come back, makes it send the same request again after a pause that grows, up to a number of times;
//! then it gives up and goes on with something else. It remembers entity tags that it has seen, so that its
//! conditions hold now and then, and often reads what it has just written.

use std::collections::VecDeque;

use holdfast_replication::testing::Dice;
use holdfast_store::object::{Etag, UploadId};

use super::blob::Blob;
use super::call::{Answer, Call, Code, Condition, DIRECTORIES, Key};
use super::history::ClientId;
use super::session::etag_of;
use super::workload::{Kind, Workload};

/// Most entity tags that a client remembers.
const TAGS: usize = 16;

/// The pause before the first retry, in nanoseconds; each further one is twice as long.
const BACKOFF: u64 = 50_000_000;

/// The first key that belongs to one client alone; each client has as many as are below the next.
const OWN_KEYS: u32 = 1000;

/// How many keys a client has for itself: few enough to come back to some.
const OWN_COUNT: u32 = 64;

/// The parts of an unfinished upload that the client knows to be stored.
#[derive(Clone, Debug)]
struct Upload {
    key: Key,
    id: UploadId,
    parts: Vec<(u16, Blob)>,
}

/// A client in a closed loop: [`Client::next`], then [`Client::answered`], and so on.
#[derive(Clone, Debug)]
pub struct Client {
    id: ClientId,
    workload: Workload,
    bodies: u64,
    tags: VecDeque<(Key, Etag)>,
    upload: Option<Upload>,
    /// To be read next, because it was just written.
    curious: Option<Key>,
    /// Where a listing was cut off.
    next_page: Option<(&'static str, Key)>,
    asked: Option<Call>,
    again: bool,
    tries: u32,
    pause: u64,
    /// Of eight writes, this many are read back at once by the same client.
    doubtful: u64,
}

impl Client {
    /// A client of the given mixture; some are more doubtful than others.
    pub fn new(id: ClientId, workload: Workload, dice: &mut Dice) -> Client {
        Client {
            id,
            workload,
            bodies: 0,
            tags: VecDeque::new(),
            upload: None,
            curious: None,
            next_page: None,
            asked: None,
            again: false,
            tries: 0,
            pause: 0,
            doubtful: [0, 1, 4, 7][dice.below(4) as usize],
        }
    }

    /// Who it is.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// How long it waits for an answer before it takes the request for lost, in nanoseconds.
    pub fn patience(&self) -> u64 {
        self.workload.patience
    }

    /// The next request, and when it is to be sent: not before `now`, both in nanoseconds.
    pub fn next(&mut self, now: u64, dice: &mut Dice) -> (Call, u64) {
        if let Some(call) = self.asked.clone().filter(|_| self.again) {
            let jitter = dice.below(self.pause / 2 + 1);
            return (call, now + self.pause + jitter);
        }
        self.tries = 0;
        let call = self.choose(dice);
        self.asked = Some(call.clone());
        (call, now + dice.below(self.workload.think_most + 1))
    }

    /// Takes in the answer to the last request, or that there will be none.
    pub fn answered(&mut self, answer: &Answer, dice: &mut Dice) {
        let Some(call) = self.asked.clone() else { return };
        let unusable = match answer {
            Answer::Unknown(_) => true,
            Answer::Refused(code) => code.is_retried(),
            _ => false,
        };
        self.again = unusable && self.tries < self.workload.retries;
        if self.again {
            self.pause = BACKOFF << self.tries.min(6);
            self.tries += 1;
            return;
        }
        self.learn(&call, answer, dice);
    }

    fn learn(&mut self, call: &Call, answer: &Answer, dice: &mut Dice) {
        let written = matches!(
            call,
            Call::Put { .. } | Call::Delete { .. } | Call::Copy { .. } | Call::Complete { .. }
        );
        if written && dice.below(8) < self.doubtful {
            self.curious = call.key();
        }
        let etag = match answer {
            Answer::Stored { etag } if !matches!(call, Call::UploadPart { .. }) => Some(*etag),
            Answer::Object { etag, .. } | Answer::Described { etag, .. } => Some(*etag),
            // The write may have happened: a later condition on it is the most interesting one.
            Answer::Unknown(_) => etag_of(call),
            _ => None,
        };
        if let (Some(key), Some(etag)) = (call.key(), etag) {
            self.tags.retain(|(known, _)| *known != key || dice.below(4) == 0);
            self.tags.push_back((key, etag));
            if self.tags.len() > TAGS {
                self.tags.pop_front();
            }
        }
        match (call, answer) {
            (Call::CreateUpload { key }, Answer::UploadCreated { upload }) => {
                self.upload = Some(Upload { key: *key, id: *upload, parts: Vec::new() });
            }
            (Call::UploadPart { number, blob, .. }, Answer::Stored { .. }) => {
                if let Some(upload) = &mut self.upload {
                    upload.parts.retain(|(known, _)| known != number);
                    upload.parts.push((*number, *blob));
                    upload.parts.sort();
                }
            }
            (Call::Complete { .. } | Call::Abort { .. }, Answer::Refused(Code::PreconditionFailed)) => {}
            // Now and then somebody goes on with an upload that is over.
            (Call::Complete { .. }, Answer::Stored { .. }) if dice.below(8) == 0 => {}
            (Call::Complete { .. } | Call::Abort { .. }, _) => self.upload = None,
            (Call::List { prefix, .. }, Answer::Listing { entries, truncated: true }) => {
                let last = entries.last().and_then(|last| Key::parse(&last.name));
                self.next_page = last.map(|last| (*prefix, last));
            }
            _ => {}
        }
    }

    fn choose(&mut self, dice: &mut Dice) -> Call {
        if let Some(key) = self.curious.take() {
            return if dice.below(5) == 0 { Call::Head { key } } else { Call::Get { key } };
        }
        if let Some((prefix, after)) = self.next_page.take()
            && dice.below(4) > 0
        {
            return Call::List { prefix, start_after: Some(after), max_keys: page_len(dice) };
        }
        let key = self.key(dice);
        match self.workload.kind(dice) {
            Kind::Put => Call::Put { key, blob: self.blob(dice), condition: Condition::Always },
            Kind::PutIfAbsent => Call::Put { key, blob: self.blob(dice), condition: Condition::Absent },
            Kind::PutIfMatch => match self.tag(dice) {
                Some((key, etag)) => Call::Put { key, blob: self.blob(dice), condition: Condition::Is(etag) },
                None => Call::Get { key },
            },
            Kind::Get => Call::Get { key },
            Kind::Head => Call::Head { key },
            Kind::Delete => Call::Delete { key, if_match: None },
            Kind::DeleteIfMatch => match self.tag(dice) {
                Some((key, etag)) => Call::Delete { key, if_match: Some(etag) },
                None => Call::Head { key },
            },
            Kind::List => {
                let prefix = match dice.below(DIRECTORIES.len() as u64 * 2) as usize {
                    i if i < DIRECTORIES.len() => DIRECTORIES[i],
                    _ => "",
                };
                let start_after = (dice.below(4) == 0).then_some(key);
                Call::List { prefix, start_after, max_keys: page_len(dice) }
            }
            Kind::Copy => match self.key(dice) {
                to if to != key => Call::Copy { from: key, to },
                _ => Call::Get { key },
            },
            Kind::Multipart => self.multipart(key, dice),
        }
    }

    /// The next step of the upload under way, or the first one of a new upload.
    fn multipart(&mut self, key: Key, dice: &mut Dice) -> Call {
        let Some(Upload { key, id: upload, parts }) = self.upload.clone() else {
            return Call::CreateUpload { key };
        };
        let chance = dice.below(10);
        if parts.is_empty() || chance < 2 {
            // Now and then a second one, which S3 refuses to join because the first is too small.
            let number = if dice.below(8) == 0 { 2 } else { 1 };
            return Call::UploadPart { key, upload, number, blob: self.blob(dice) };
        }
        if chance == 2 {
            return Call::Abort { key, upload };
        }
        let condition = match dice.below(6) {
            0 => Condition::Absent,
            1 => self
                .tags
                .iter()
                .rev()
                .find(|(known, _)| *known == key)
                .map_or(Condition::Always, |(_, etag)| Condition::Is(*etag)),
            _ => Condition::Always,
        };
        Call::Complete { key, upload, parts, condition }
    }

    fn key(&self, dice: &mut Dice) -> Key {
        if dice.below(100) < self.workload.own_percent {
            let first = OWN_KEYS * (u32::from(self.id.0) + 1);
            return Key(first + dice.below(OWN_COUNT.into()) as u32);
        }
        Key(self.workload.shared_key(dice))
    }

    fn tag(&self, dice: &mut Dice) -> Option<(Key, Etag)> {
        let among = self.tags.len() as u64;
        (among > 0).then(|| self.tags[dice.below(among) as usize])
    }

    fn blob(&mut self, dice: &mut Dice) -> Blob {
        self.bodies += 1;
        // The client's number in front keeps the bodies of all clients apart.
        Blob::new((u64::from(self.id.0) << 32) | self.bodies, self.workload.body_len(dice))
    }
}

fn page_len(dice: &mut Dice) -> u16 {
    [1, 3, 10, 100][dice.below(4) as usize]
}

#[cfg(test)]
mod tests {
    use super::super::call::Doubt;
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_makes_it_ask_the_same_again_and_at_last_give_up() {
        let mut dice = Dice(1);
        let mut workload = Workload::draw(&mut dice);
        workload.retries = 3;
        let mut client = Client::new(ClientId(1), workload, &mut dice);
        let (first, mut now) = client.next(0, &mut dice);
        for _ in 0..3 {
            client.answered(&Answer::Unknown(Doubt::TimedOut), &mut dice);
            let (call, at) = client.next(now, &mut dice);
            assert_eq!(call, first);
            assert!(at >= now + BACKOFF);
            now = at;
        }
        client.answered(&Answer::Unknown(Doubt::TimedOut), &mut dice);
        assert_eq!(client.tries, 3);
        client.next(now, &mut dice);
        assert_eq!(client.tries, 0);
    }

    #[test]
    fn no_two_writes_have_the_same_body() {
        let mut dice = Dice(2);
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..3 {
            let workload = Workload::draw(&mut dice);
            let mut client = Client::new(ClientId(id), workload, &mut dice);
            for _ in 0..500 {
                let (call, _) = client.next(0, &mut dice);
                if let Call::Put { blob, .. } | Call::UploadPart { blob, .. } = call {
                    assert!(seen.insert(blob));
                }
                client.answered(&Answer::Refused(Code::PreconditionFailed), &mut dice);
            }
        }
        assert!(seen.len() > 100);
    }
}
