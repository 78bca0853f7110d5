//! Hand-made histories: what is legal passes, and each kind of broken promise is noticed.

mod random;

use bytes::Bytes;
use holdfast_store::object::{Etag, UploadId};

use super::*;
use crate::sim::s3::blob::Blob;
use crate::sim::s3::call::{Code, Condition, Doubt, Listed};
use crate::sim::s3::history::OpId;

const K: Key = Key(1);
const LOST: Answer = Answer::Unknown(Doubt::TimedOut);
const ABSENT: Answer = Answer::Refused(Code::NoSuchKey);
const FAILED: Answer = Answer::Refused(Code::PreconditionFailed);

fn value(number: u64) -> Blob {
    Blob::new(number, 40)
}

fn put(number: u64) -> Call {
    Call::Put { key: K, blob: value(number), condition: Condition::Always }
}

fn put_if(number: u64, condition: Condition) -> Call {
    Call::Put { key: K, blob: value(number), condition }
}

fn stored(number: u64) -> Answer {
    Answer::Stored { etag: value(number).etag() }
}

fn holds(number: u64) -> Answer {
    Answer::Object { etag: value(number).etag(), body: value(number).bytes() }
}

const GET: Call = Call::Get { key: K };
const DELETE: Call = Call::Delete { key: K, if_match: None };

fn list() -> Call {
    Call::List { prefix: "", start_after: None, max_keys: 10 }
}

fn page(entries: &[(Key, u64)]) -> Answer {
    let line = |(key, number): &(Key, u64)| Listed {
        name: key.name(),
        etag: value(*number).etag(),
        size: value(*number).len(),
    };
    Answer::Listing { entries: entries.iter().map(line).collect(), truncated: false }
}

#[derive(Default)]
struct Told {
    history: History,
    at: u64,
}

impl Told {
    fn begin(&mut self, call: Call) -> OpId {
        self.at += 1_000_000;
        self.history.invoked(ClientId(0), call, self.at)
    }

    fn end(&mut self, op: OpId, answer: Answer) {
        self.at += 1_000_000;
        self.history.completed(op, &answer, self.at);
    }

    fn did(&mut self, call: Call, answer: Answer) -> &mut Told {
        let op = self.begin(call);
        self.end(op, answer);
        self
    }

    fn judged(&self) -> Report {
        let report = check(&self.history);
        assert_eq!(report.undecided, Vec::<String>::new());
        report
    }

    #[track_caller]
    fn is_legal(&self) {
        let violations = self.judged().violations;
        assert!(violations.is_empty(), "{}", violations[0].text);
    }

    #[track_caller]
    fn breaks(&self, invariant: &str) -> String {
        let violations = self.judged().violations;
        let found = violations.iter().find(|violation| violation.invariant == invariant);
        found.unwrap_or_else(|| panic!("{invariant} is not among {violations:#?}")).text.clone()
    }
}

#[test]
fn what_was_written_is_read() {
    let mut told = Told::default();
    told.did(GET, ABSENT).did(put(1), stored(1)).did(GET, holds(1)).did(put(2), stored(2)).did(GET, holds(2));
    told.did(DELETE, Answer::Deleted).did(DELETE, Answer::Deleted).did(GET, ABSENT).is_legal();
}

#[test]
fn concurrent_writes_may_happen_in_either_order() {
    for last in [1, 2] {
        let mut told = Told::default();
        let (a, b) = (told.begin(put(1)), told.begin(put(2)));
        told.end(b, stored(2));
        told.end(a, stored(1));
        told.did(GET, holds(last)).did(GET, holds(last)).is_legal();
        told.did(GET, holds(3 - last)).breaks("linearizable");
    }
}

#[test]
fn a_stale_read_is_noticed_and_told() {
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(put(2), stored(2)).did(GET, holds(1));
    let text = told.breaks("linearizable");
    assert!(text.contains("> ") && text.contains("get b/00001"), "{text}");
}

#[test]
fn a_lost_write_is_noticed() {
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(GET, ABSENT).breaks("linearizable");
}

#[test]
fn a_deleted_object_does_not_come_back() {
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(DELETE, Answer::Deleted).did(GET, holds(1)).breaks("linearizable");
}

#[test]
fn a_write_without_answer_may_happen_late_or_never_but_once() {
    for (reads, legal) in [
        (vec![holds(1), holds(1)], true),
        (vec![holds(1), holds(2)], true),
        (vec![holds(2), holds(2)], true),
        (vec![holds(2), holds(1)], false),
        (vec![holds(1), holds(2), holds(1)], false),
        (vec![ABSENT], false),
    ] {
        let mut told = Told::default();
        told.did(put(1), stored(1)).did(put(2), LOST);
        for read in reads {
            told.did(GET, read);
        }
        if legal { told.is_legal() } else { drop(told.breaks("linearizable")) }
    }
}

#[test]
fn a_retry_can_bring_its_value_back_once() {
    // The first try was delayed in the network and arrived after everything else.
    let mut told = Told::default();
    told.did(put(1), LOST).did(put(1), stored(1)).did(put(2), stored(2)).did(GET, holds(1)).is_legal();
    told.did(put(3), stored(3)).did(GET, holds(1)).breaks("linearizable");
}

#[test]
fn deletes_without_answer_are_alike_and_counted() {
    let mut told = Told::default();
    for _ in 0..3 {
        told.did(DELETE, LOST);
    }
    for number in 1..=3 {
        told.did(put(number), stored(number)).did(GET, ABSENT);
    }
    told.is_legal();
    told.did(put(4), stored(4)).did(GET, ABSENT).breaks("linearizable");
}

#[test]
fn a_write_that_was_given_up_long_ago_may_still_surface() {
    let mut told = Told::default();
    told.did(put(1), LOST);
    for number in 2..500 {
        told.did(put(number), stored(number)).did(GET, holds(number));
    }
    told.did(GET, holds(1)).is_legal();
}

#[test]
fn if_none_match_is_won_once() {
    let mut told = Told::default();
    told.did(put_if(1, Condition::Absent), stored(1));
    told.did(put_if(2, Condition::Absent), stored(2)).breaks("linearizable");

    let mut told = Told::default();
    let (a, b) = (told.begin(put_if(1, Condition::Absent)), told.begin(put_if(2, Condition::Absent)));
    told.end(a, FAILED);
    told.end(b, stored(2));
    told.is_legal();

    let mut told = Told::default();
    told.did(put_if(1, Condition::Absent), FAILED).breaks("linearizable");
}

#[test]
fn a_retry_of_a_conditional_write_that_happened_is_refused() {
    let mut told = Told::default();
    told.did(put_if(1, Condition::Absent), LOST).did(put_if(1, Condition::Absent), FAILED);
    told.did(GET, holds(1)).is_legal();
    told.did(GET, ABSENT).breaks("linearizable");
}

#[test]
fn if_match_is_judged_on_what_is_there() {
    let is = |number: u64| Condition::Is(value(number).etag());
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(put_if(2, is(1)), stored(2)).did(put_if(3, is(1)), FAILED).is_legal();
    told.did(put_if(4, is(1)), stored(4)).breaks("linearizable");

    let mut told = Told::default();
    told.did(put_if(1, is(9)), ABSENT).did(put(1), stored(1)).did(put_if(2, is(1)), FAILED);
    told.breaks("linearizable");

    let delete = |number: u64| Call::Delete { key: K, if_match: Some(value(number).etag()) };
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(delete(2), FAILED).did(delete(1), Answer::Deleted).did(delete(1), ABSENT);
    told.is_legal();
    told.did(put(3), stored(3)).did(delete(1), Answer::Deleted).breaks("linearizable");
}

#[test]
fn an_unanswered_chain_of_conditions_is_followed() {
    let is = |number: u64| Condition::Is(value(number).etag());
    let mut told = Told::default();
    told.did(put(1), LOST).did(put_if(2, is(1)), LOST).did(put_if(3, is(2)), LOST).did(GET, ABSENT);
    told.did(GET, holds(3)).is_legal();
    told.did(GET, holds(2)).breaks("linearizable");
}

#[test]
fn a_refused_write_is_never_seen() {
    let mut told = Told::default();
    told.did(put(1), Answer::Refused(Code::SlowDown)).did(GET, holds(1));
    told.breaks("written");
    told.breaks("linearizable");
}

#[test]
fn a_dirty_read_is_noticed() {
    // The value of an unanswered write is seen, then gone, without anybody who took it away.
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(put(2), LOST).did(GET, holds(2)).did(GET, holds(1));
    told.breaks("linearizable");
}

#[test]
fn torn_and_foreign_bytes_are_noticed() {
    let torn = |body: Bytes| Answer::Object { etag: value(1).etag(), body };
    let mut bytes = value(1).bytes().to_vec();
    bytes[30] ^= 4;
    for body in [Bytes::from(bytes), value(1).bytes().slice(..20), value(2).bytes(), Bytes::new()] {
        let mut told = Told::default();
        told.did(put(1), stored(1)).did(GET, torn(body)).breaks("written");
    }
    let mut told = Told::default();
    told.did(Call::Put { key: Key(2), blob: value(1), condition: Condition::Always }, stored(1));
    told.did(GET, holds(1)).breaks("written");
    let mut told = Told::default();
    let head = Answer::Described { etag: value(1).etag(), size: 41 };
    told.did(put(1), stored(1)).did(Call::Head { key: K }, head).breaks("written");
    let mut told = Told::default();
    told.did(put(1), stored(2)).breaks("written");
}

#[test]
fn a_listing_reads_every_key_of_its_range() {
    let other = Key(5);
    let put_other = Call::Put { key: other, blob: value(5), condition: Condition::Always };
    let mut told = Told::default();
    told.did(list(), page(&[])).did(put(1), stored(1)).did(put_other, stored(5));
    told.did(list(), page(&[(K, 1), (other, 5)])).did(DELETE, Answer::Deleted);
    told.did(list(), page(&[(other, 5)])).is_legal();
    for (entries, why) in
        [(vec![], "misses a key"), (vec![(K, 1), (other, 5)], "shows a deleted key"), (vec![(other, 1)], "?")]
    {
        let mut again = Told::default();
        again
            .did(put(1), stored(1))
            .did(Call::Put { key: other, blob: value(5), condition: Condition::Always }, stored(5));
        again.did(DELETE, Answer::Deleted).did(list(), page(&entries));
        let found = check(&again.history).violations;
        assert!(!found.is_empty(), "{why}");
    }
}

#[test]
fn a_page_says_nothing_about_what_is_behind_it() {
    let one = |truncated| Answer::Listing {
        entries: vec![Listed { name: K.name(), etag: value(1).etag(), size: 40 }],
        truncated,
    };
    let call = Call::List { prefix: "b/", start_after: None, max_keys: 1 };
    let other = Call::Put { key: Key(5), blob: value(5), condition: Condition::Always };
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(other, stored(5)).did(call.clone(), one(true)).is_legal();
    told.did(call, one(false)).breaks("linearizable");
}

#[test]
fn the_form_of_a_listing_is_checked() {
    let lines = |keys: &[(Key, u64)], truncated| match page(keys) {
        Answer::Listing { entries, .. } => Answer::Listing { entries, truncated },
        other => other,
    };
    let put_at = |key: Key, number: u64| Call::Put { key, blob: value(number), condition: Condition::Always };
    let ask =
        |prefix, after: Option<u32>, max_keys| Call::List { prefix, start_after: after.map(Key), max_keys };
    for (call, answer) in [
        (ask("", None, 9), lines(&[(Key(5), 5), (K, 1)], false)),
        (ask("", None, 9), lines(&[(K, 1), (K, 1), (Key(5), 5)], false)),
        (ask("a/", None, 9), lines(&[(K, 1)], false)),
        (ask("", Some(1), 9), lines(&[(K, 1), (Key(5), 5)], false)),
        (ask("", None, 1), lines(&[(K, 1), (Key(5), 5)], false)),
        (ask("", None, 9), lines(&[(K, 1), (Key(5), 5)], true)),
        (ask("", None, 2), lines(&[(K, 1), (Key(5), 5)], true)),
    ] {
        let mut told = Told::default();
        told.did(put_at(K, 1), stored(1)).did(put_at(Key(5), 5), stored(5)).did(call, answer);
        told.breaks("listing");
    }
}

#[test]
fn a_copy_reads_its_source_and_writes_its_target() {
    let to = Key(2);
    let copy = Call::Copy { from: K, to };
    let get = Call::Get { key: to };
    let mut told = Told::default();
    told.did(copy.clone(), ABSENT).did(put(1), stored(1)).did(copy.clone(), stored(1));
    told.did(get.clone(), holds(1)).is_legal();
    told.did(put(2), stored(2)).did(copy.clone(), LOST).did(get.clone(), holds(1)).did(get.clone(), holds(2));
    told.is_legal();
    told.did(copy.clone(), stored(1)).breaks("linearizable");

    let mut told = Told::default();
    told.did(put(1), stored(1)).did(copy.clone(), LOST).did(get.clone(), ABSENT).did(get, holds(2));
    told.breaks("written");
}

fn complete(condition: Condition) -> Call {
    Call::Complete { key: K, upload: UploadId([7; 16]), parts: vec![(1, value(1))], condition }
}

fn joined() -> Etag {
    Blob::joined_etag([value(1)])
}

#[test]
fn an_upload_is_completed_once_however_often_it_is_asked_for() {
    let done = || Answer::Stored { etag: joined() };
    let is = Answer::Object { etag: joined(), body: value(1).bytes() };
    let mut told = Told::default();
    told.did(complete(Condition::Absent), LOST).did(complete(Condition::Absent), done());
    told.did(complete(Condition::Absent), done()).did(GET, is.clone()).is_legal();
    told.did(DELETE, Answer::Deleted).did(GET, ABSENT).is_legal();
    told.did(complete(Condition::Always), done()).breaks("linearizable");

    let mut told = Told::default();
    let abort = Call::Abort { key: K, upload: UploadId([7; 16]) };
    told.did(complete(Condition::Always), LOST).did(abort, Answer::UploadAborted).did(GET, ABSENT).is_legal();
    told.did(GET, is).breaks("linearizable");
}

#[test]
fn acknowledged_uploads_and_parts_are_kept() {
    let upload = UploadId([7; 16]);
    let create = || Call::CreateUpload { key: K };
    let part = |number: u64| Call::UploadPart { key: K, upload, number: 1, blob: value(number) };
    let gone = || Answer::Refused(Code::NoSuchUpload);
    let missing = || Answer::Refused(Code::InvalidPart);
    let mut told = Told::default();
    told.did(create(), Answer::UploadCreated { upload }).did(part(1), stored(1)).is_legal();
    told.did(complete(Condition::Always), missing()).breaks("uploads");

    let mut told = Told::default();
    told.did(create(), Answer::UploadCreated { upload }).did(part(1), stored(1)).did(part(2), LOST);
    told.did(complete(Condition::Always), missing()).is_legal();
    told.did(part(3), gone()).breaks("uploads");

    let mut told = Told::default();
    told.did(create(), Answer::UploadCreated { upload }).did(complete(Condition::Always), LOST);
    told.did(part(3), gone()).is_legal();
}

#[test]
fn the_bucket_does_not_vanish() {
    let mut told = Told::default();
    let no_bucket = || Answer::Refused(Code::NoSuchBucket);
    told.did(GET, no_bucket()).did(Call::CreateBucket, LOST).did(GET, no_bucket());
    told.did(Call::CreateBucket, Answer::Refused(Code::BucketExists)).is_legal();
    told.did(GET, no_bucket()).breaks("linearizable");
}

#[test]
fn an_accepted_loss_is_forgiven_and_nothing_else() {
    let survived = [(K, value(1).etag())];
    let lossy = |surviving: Option<&[(Key, Etag)]>| {
        let mut told = Told::default();
        told.did(put(1), stored(1)).did(put(2), stored(2)).did(GET, holds(2)).did(put(3), LOST);
        told.history.forget_before(surviving);
        told
    };
    for surviving in [None, Some(&survived[..])] {
        lossy(surviving).did(GET, holds(1)).did(GET, holds(3)).did(put(4), stored(4)).is_legal();
        lossy(surviving).did(GET, holds(1)).did(GET, ABSENT).breaks("linearizable");
        lossy(surviving).did(put(4), stored(4)).did(GET, holds(1)).breaks("linearizable");
        lossy(surviving).did(GET, holds(5)).breaks("written");
    }
    lossy(Some(&survived)).did(GET, holds(2)).breaks("linearizable");
    lossy(None).did(GET, holds(2)).is_legal();
}

#[test]
fn what_cannot_be_decided_is_reported() {
    let mut told = Told::default();
    let ops: Vec<OpId> = (1..20).map(|number| told.begin(put(number))).collect();
    for (op, number) in ops.into_iter().zip(1..) {
        told.end(op, stored(number));
    }
    told.did(GET, holds(7));
    let report = check_within(&told.history, 1000);
    assert_eq!((report.violations.len(), report.undecided.len()), (0, 1));
}

#[test]
fn a_story_names_times_clients_calls_and_answers() {
    let mut told = Told::default();
    told.did(put(1), stored(1)).did(GET, ABSENT);
    let story = told.history.story(K);
    assert_eq!(story.len(), 2);
    assert!(story[1].contains("3.000") && story[1].contains("client 0: get b/00001 -> refused: NoSuchKey"));
}
