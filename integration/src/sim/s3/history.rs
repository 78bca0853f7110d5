//! What clients asked, what they heard, and in which order.
//!
//! A history is written while a run goes on and read by the checkers after it. It judges nothing. The order
//! in which it is told of events is the order of the simulated world, finer than its clock; times are kept
//! for people. An operation that is never completed stays open: it may have happened, or may yet happen.
//!
//! Bodies are read once, when they arrive, and not kept: what remains is which write they come from, or
//! that they come from none.

use std::collections::BTreeMap;

use holdfast_store::object::{Etag, UploadId};

use super::blob::Blob;
use super::call::{Answer, Call, Code, Doubt, Key, Short};
use super::session::etag_of;

/// The bucket itself, where it is treated like one more key: there, or not there.
pub const THE_BUCKET: Key = Key(u32::MAX);

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u16);

impl ClientId {
    /// Whoever looks at a replica when everything is over.
    pub const INSPECTOR: ClientId = ClientId(u16::MAX);
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == ClientId::INSPECTOR { write!(f, "the end") } else { write!(f, "client {}", self.0) }
    }
}

/// One operation of the history: each try of a request is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u32);

/// A value that an object may have: stands for its entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u32);

/// What a client heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing it can rely on, or nothing yet.
    Nothing(Option<Doubt>),
    /// Nothing was changed.
    Refused(Code),
    /// The bucket was made, the object removed, the upload forgotten.
    Done,
    /// An object or a part was stored, with this value.
    Stored(Token),
    /// An upload began.
    Upload(UploadId),
    /// The object has this value.
    Object {
        /// By its entity tag.
        token: Token,
        /// What is wrong with its bytes or its size.
        wrong: Option<String>,
    },
    /// A page of keys in the order in which they came.
    Listing {
        /// Names, values and what is wrong with the size.
        entries: Box<[Line]>,
        /// Whether more was said to follow.
        truncated: bool,
    },
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The key as it came.
    pub name: String,
    /// The key, if it is one that a client could have written.
    pub key: Option<Key>,
    /// Its value.
    pub token: Token,
    /// Its size in bytes.
    pub size: u64,
}

/// An operation with its place in the order of all events.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Who.
    pub client: ClientId,
    /// What was asked.
    pub call: Call,
    /// Place and time of the asking, in nanoseconds.
    pub invoked: (u32, u64),
    /// Place and time of the answer, if there was any.
    pub completed: Option<(u32, u64)>,
    /// The answer.
    pub heard: Heard,
}

/// A moment at which it was accepted that acknowledged writes are lost.
#[derive(Clone, Debug)]
pub struct Forgotten {
    /// Its place in the order of events.
    pub order: u32,
    /// What the surviving replica had then; `None`: not known.
    pub surviving: Option<BTreeMap<Key, Token>>,
}

/// Everything that clients asked and heard.
#[derive(Debug, Default)]
pub struct History {
    ops: Vec<Recorded>,
    events: u32,
    etags: Vec<Etag>,
    tokens: BTreeMap<([u8; 16], u32), Token>,
    contents: BTreeMap<Token, Box<[Blob]>>,
    by_key: BTreeMap<Key, Vec<OpId>>,
    listings: Vec<OpId>,
    forgotten: Option<Forgotten>,
}

impl History {
    /// Nothing happened yet.
    pub fn new() -> History {
        History::default()
    }

    /// A client sends a request at `at`, in nanoseconds of the world.
    pub fn invoked(&mut self, client: ClientId, call: Call, at: u64) -> OpId {
        let id = OpId(self.ops.len() as u32);
        if let Some(etag) = etag_of(&call) {
            let token = self.intern(etag);
            let blobs: Box<[Blob]> = match &call {
                Call::Complete { parts, .. } => parts.iter().map(|(_, blob)| *blob).collect(),
                Call::Put { blob, .. } => [*blob].into(),
                _ => Box::default(),
            };
            self.contents.insert(token, blobs);
        }
        // Parts are compared by their tags too, and conditions name them.
        match &call {
            Call::UploadPart { blob, .. } => drop(self.intern(blob.etag())),
            Call::Put { condition, .. } | Call::Complete { condition, .. } => {
                if let super::call::Condition::Is(etag) = condition {
                    self.intern(*etag);
                }
            }
            Call::Delete { if_match: Some(etag), .. } => drop(self.intern(*etag)),
            _ => {}
        }
        match &call {
            Call::CreateBucket => self.by_key.entry(THE_BUCKET).or_default().push(id),
            Call::List { .. } => self.listings.push(id),
            _ => {}
        }
        if let Some(key) = call.key() {
            self.by_key.entry(key).or_default().push(id);
        }
        if let Call::Copy { from, to } = call
            && from != to
        {
            self.by_key.entry(from).or_default().push(id);
        }
        self.events += 1;
        let invoked = (self.events, at);
        self.ops.push(Recorded { client, call, invoked, completed: None, heard: Heard::Nothing(None) });
        id
    }

    /// The client hears an answer, or makes up its mind that none will come. What comes after that is
    /// not heard any more.
    pub fn completed(&mut self, op: OpId, answer: &Answer, at: u64) {
        if self.op(op).completed.is_some() {
            return;
        }
        let heard = self.hear(answer);
        self.events += 1;
        let recorded = &mut self.ops[op.0 as usize];
        if heard == Heard::Refused(Code::NoSuchBucket) {
            self.by_key.entry(THE_BUCKET).or_default().push(op);
        }
        recorded.completed = Some((self.events, at));
        recorded.heard = heard;
    }

    fn hear(&mut self, answer: &Answer) -> Heard {
        match answer {
            Answer::BucketCreated | Answer::Deleted | Answer::UploadAborted => Heard::Done,
            Answer::Stored { etag } => Heard::Stored(self.intern(*etag)),
            Answer::UploadCreated { upload } => Heard::Upload(*upload),
            Answer::Refused(code) => Heard::Refused(*code),
            Answer::Unknown(doubt) => Heard::Nothing(Some(*doubt)),
            Answer::Object { etag, body } => {
                let token = self.intern(*etag);
                let wrong = match Blob::parse(body) {
                    Err(torn) => Some(torn.to_string()),
                    Ok(blobs) if self.contents.get(&token).is_none_or(|known| **known != *blobs) => {
                        let blobs: Vec<String> = blobs.iter().map(Blob::to_string).collect();
                        Some(format!("the bytes are those of {}", blobs.join(" ")))
                    }
                    Ok(_) => None,
                };
                Heard::Object { token, wrong }
            }
            Answer::Described { etag, size } => {
                let token = self.intern(*etag);
                Heard::Object { token, wrong: self.wrong_size(token, *size) }
            }
            Answer::Listing { entries, truncated } => {
                let line = |history: &mut History, listed: &super::call::Listed| Line {
                    key: Key::parse(&listed.name),
                    name: listed.name.clone(),
                    token: history.intern(listed.etag),
                    size: listed.size,
                };
                let entries = entries.iter().map(|listed| line(self, listed)).collect();
                Heard::Listing { entries, truncated: *truncated }
            }
        }
    }

    /// What is wrong with this size for that value, if anything.
    pub fn wrong_size(&self, token: Token, size: u64) -> Option<String> {
        let known: u64 = self.contents.get(&token)?.iter().map(|blob| blob.len()).sum();
        (known != size).then(|| format!("it has {known} bytes, not {size}"))
    }

    /// From here on, acknowledged writes of before may be missing: an operator accepted their loss, or two
    /// members without a third reigned at once and one's writes were set aside. To be called when only one
    /// replica is left that will ever serve, with the state it has once all of its log is applied, or
    /// `None` where that is not known: then every key may have any value that it may ever have had.
    ///
    /// What was acknowledged before is not looked for after. What was open, or had an unknown outcome, may
    /// still take effect after. Reads of before are not checked. A later call replaces an earlier one.
    /// That nobody reads what nobody wrote holds throughout all the same.
    pub fn forget_before(&mut self, surviving: Option<&[(Key, Etag)]>) {
        self.events += 1;
        let surviving =
            surviving.map(|all| all.iter().map(|(key, etag)| (*key, self.intern(*etag))).collect());
        self.forgotten = Some(Forgotten { order: self.events, surviving });
    }

    /// The last moment at which a loss was accepted.
    pub fn forgotten(&self) -> Option<&Forgotten> {
        self.forgotten.as_ref()
    }

    fn intern(&mut self, etag: Etag) -> Token {
        let next = Token(self.etags.len() as u32);
        let token = *self.tokens.entry((etag.md5, etag.parts)).or_insert(next);
        if token == next {
            self.etags.push(etag);
        }
        token
    }

    /// The value with that entity tag, which some call or answer must have named.
    pub fn token(&self, etag: Etag) -> Option<Token> {
        self.tokens.get(&(etag.md5, etag.parts)).copied()
    }

    /// The value that this call writes, if it is known beforehand.
    pub fn token_of(&self, call: &Call) -> Option<Token> {
        self.token(etag_of(call)?)
    }

    /// What to call a value.
    pub fn value(&self, token: Token) -> String {
        let etag = Short(&self.etags[token.0 as usize]).to_string();
        let blobs = self.contents.get(&token).into_iter().flatten();
        blobs.fold(etag, |text, blob| format!("{text} {blob}"))
    }

    /// How many different values there are: tokens are below.
    pub fn values(&self) -> u32 {
        self.etags.len() as u32
    }

    /// The operation.
    pub fn op(&self, id: OpId) -> &Recorded {
        &self.ops[id.0 as usize]
    }

    /// All operations, in the order in which they were begun.
    pub fn ops(&self) -> impl Iterator<Item = (OpId, &Recorded)> {
        self.ops.iter().enumerate().map(|(i, op)| (OpId(i as u32), op))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Every key that a request named, and the bucket, with the operations on it.
    pub fn keys(&self) -> impl Iterator<Item = (Key, &[OpId])> {
        self.by_key.iter().map(|(key, ops)| (*key, &ops[..]))
    }

    /// The operations on `key`.
    pub fn of_key(&self, key: Key) -> &[OpId] {
        self.by_key.get(&key).map_or(&[], |ops| ops)
    }

    /// All listings.
    pub fn listings(&self) -> &[OpId] {
        &self.listings
    }

    /// One operation for a person to read, with times in milliseconds.
    pub fn line(&self, id: OpId) -> String {
        let op = self.op(id);
        let ms = |at: u64| format!("{}.{:03}", at / 1_000_000, at / 1000 % 1000);
        let end = op.completed.map_or_else(|| "...".to_owned(), |(_, at)| ms(at));
        let heard = match &op.heard {
            Heard::Nothing(None) => "no answer".to_owned(),
            Heard::Nothing(Some(doubt)) => format!("unknown: {doubt:?}"),
            Heard::Refused(code) => format!("refused: {code:?}"),
            Heard::Done => "done".to_owned(),
            Heard::Stored(token) => format!("stored {}", self.value(*token)),
            Heard::Upload(upload) => format!("upload {}", &upload.to_string()[..8]),
            Heard::Object { token, wrong: None } => format!("is {}", self.value(*token)),
            Heard::Object { token, wrong: Some(wrong) } => format!("is {} but {wrong}", self.value(*token)),
            Heard::Listing { entries, truncated } => {
                let more = if *truncated { " and more" } else { "" };
                format!("{} keys{more}", entries.len())
            }
        };
        format!("{:>12} {end:>12} ms  {}: {} -> {heard}", ms(op.invoked.1), op.client, op.call)
    }

    /// Everything that happened to `key`, listings aside, in the order in which it began.
    pub fn story(&self, key: Key) -> Vec<String> {
        let mut ops = self.of_key(key).to_vec();
        ops.sort();
        ops.into_iter().map(|id| self.line(id)).collect()
    }
}
