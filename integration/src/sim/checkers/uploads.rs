//! What was acknowledged of an unfinished upload is there.
//!
//! An upload whose begin was acknowledged exists until somebody completes or aborts it, and a part that was
//! acknowledged is the one that is joined, unless it was stored anew.

use std::collections::BTreeMap;

use holdfast_store::object::UploadId;

use super::clients::{Report, Violation};
use crate::sim::s3::blob::Blob;
use crate::sim::s3::call::{Call, Code};
use crate::sim::s3::history::{Heard, History, OpId, Recorded};

const NAME: &str = "uploads";

#[derive(Default)]
struct Story {
    /// When its begin was acknowledged.
    created: Option<(u32, OpId)>,
    /// When somebody first tried to end it, and was not refused.
    ended: Option<u32>,
    /// When somebody was first told that it is ended.
    over: Option<(u32, OpId)>,
    /// By number: the tries that were not refused.
    parts: BTreeMap<u16, Vec<Part>>,
}

struct Part {
    blob: Blob,
    op: OpId,
    begun: u32,
    /// When it was acknowledged.
    stored: Option<u32>,
}

/// Checks every upload that began after the last accepted loss.
pub(super) fn check(history: &History, report: &mut Report) {
    let forgotten = history.forgotten().map_or(0, |forgotten| forgotten.order);
    let mut stories: BTreeMap<UploadId, Story> = BTreeMap::new();
    for (id, op) in history.ops() {
        learn(&mut stories, id, op, forgotten);
    }
    for (id, op) in history.ops() {
        if let Some((text, earlier)) = goes_on(&stories, op) {
            let text = format!("{text}\n{}\n{}", history.line(earlier), history.line(id));
            report.violations.push(Violation { invariant: NAME, key: op.call.key(), text });
        }
        let Heard::Refused(code) = op.heard else { continue };
        let (Call::UploadPart { upload, .. } | Call::Complete { upload, .. } | Call::Abort { upload, .. }) =
            &op.call
        else {
            continue;
        };
        report.checked += 1;
        let Some(story) = stories.get(upload) else { continue };
        if let Some((text, earlier)) = complaint(story, op, code) {
            let text = format!("{text}\n{}\n{}", history.line(earlier), history.line(id));
            report.violations.push(Violation { invariant: NAME, key: op.call.key(), text });
        }
    }
}

fn learn(stories: &mut BTreeMap<UploadId, Story>, id: OpId, op: &Recorded, forgotten: u32) {
    let refused = matches!(op.heard, Heard::Refused(_));
    let end = op.completed.map(|(order, _)| order);
    match (&op.call, &op.heard) {
        (Call::CreateUpload { .. }, Heard::Upload(upload)) if op.invoked.0 > forgotten => {
            stories.entry(*upload).or_default().created = end.map(|end| (end, id));
        }
        (Call::UploadPart { upload, number, blob, .. }, heard) if !refused => {
            let stored = end.filter(|_| matches!(heard, Heard::Stored(_)));
            let part = Part { blob: *blob, op: id, begun: op.invoked.0, stored };
            stories.entry(*upload).or_default().parts.entry(*number).or_default().push(part);
        }
        (Call::Complete { upload, .. } | Call::Abort { upload, .. }, _) if !refused => {
            let ended = &mut stories.entry(*upload).or_default().ended;
            *ended = Some(ended.map_or(op.invoked.0, |known| known.min(op.invoked.0)));
            let told = end
                .filter(|_| op.invoked.0 > forgotten && matches!(op.heard, Heard::Done | Heard::Stored(_)));
            let over = &mut stories.entry(*upload).or_default().over;
            if let Some(at) = told.filter(|at| over.is_none_or(|(known, _)| known > *at)) {
                *over = Some((at, id));
            }
        }
        _ => {}
    }
}

/// An upload that was ended takes no part any more and cannot be aborted.
fn goes_on(stories: &BTreeMap<UploadId, Story>, op: &Recorded) -> Option<(String, OpId)> {
    let upload = match (&op.call, &op.heard) {
        (Call::UploadPart { upload, .. }, Heard::Stored(_)) | (Call::Abort { upload, .. }, Heard::Done) => {
            upload
        }
        _ => return None,
    };
    let (over, end) = stories.get(upload)?.over?;
    (over < op.invoked.0).then(|| ("an upload goes on that was ended".to_owned(), end))
}

fn complaint(story: &Story, op: &Recorded, code: Code) -> Option<(String, OpId)> {
    let (created, creation) = story.created?;
    let (end, _) = op.completed?;
    match (code, &op.call) {
        (Code::NoSuchUpload, _) => {
            let existed = created < op.invoked.0 && story.ended.is_none_or(|ended| ended > end);
            existed.then(|| ("an upload is gone that nobody ended".to_owned(), creation))
        }
        (Code::InvalidPart, Call::Complete { parts, .. }) => {
            // Each listed part was acknowledged before, and nobody tried to replace it by another one.
            let kept = |(number, blob): &(u16, Blob)| {
                let tries = story.parts.get(number)?;
                let others = tries.iter().any(|part| part.blob != *blob && part.begun < end);
                let stored = |part: &&Part| {
                    part.blob == *blob && part.stored.is_some_and(|stored| stored < op.invoked.0)
                };
                tries.iter().find(stored).filter(|_| !others).map(|part| part.op)
            };
            let kept: Option<Vec<OpId>> = parts.iter().map(kept).collect();
            let first = kept?.first().copied()?;
            Some(("a part that was acknowledged is missing".to_owned(), first))
        }
        _ => None,
    }
}
