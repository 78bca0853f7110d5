//! Whether a read's conditions hold, in the order of RFC 9110 section 13.2.2.

use http::{HeaderValue, header};
use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

use super::answer::with_headers;
use crate::op::{Match, Precondition};
use crate::state::ObjectState;

/// The conditions of a read, or of a copy's source.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

/// What the conditions say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Hold,
    Failed,
    NotModified,
}

impl Conditions {
    /// Judges the conditions for this object.
    pub(super) fn judge(self, object: &ObjectState) -> Verdict {
        let etag = object.etag.to_string();
        let matches = |condition: &ETagCondition| match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(wanted) => wanted.value() == etag,
        };
        let modified_s = (object.modified_ms / 1000) as i64;
        let seconds = |t: &Timestamp| time::OffsetDateTime::from(t.clone()).unix_timestamp();
        match (&self.if_match, &self.if_unmodified_since) {
            (Some(condition), _) if !matches(condition) => return Verdict::Failed,
            (None, Some(since)) if modified_s > seconds(since) => return Verdict::Failed,
            _ => {}
        }
        match (&self.if_none_match, &self.if_modified_since) {
            (Some(condition), _) if matches(condition) => Verdict::NotModified,
            (None, Some(since)) if modified_s <= seconds(since) => Verdict::NotModified,
            _ => Verdict::Hold,
        }
    }

    /// Answers a read whose conditions do not hold.
    pub(super) fn check_read(self, object: &ObjectState) -> S3Result<()> {
        match self.judge(object) {
            Verdict::Hold => Ok(()),
            Verdict::Failed => Err(s3_error!(PreconditionFailed, "A condition of the request does not hold")),
            Verdict::NotModified => Err(with_headers(s3_error!(NotModified), |headers| {
                headers.remove(header::CONTENT_TYPE);
                if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", object.etag)) {
                    headers.insert(header::ETAG, etag);
                }
            })),
        }
    }

    /// Answers a copy whose source's conditions do not hold.
    pub(super) fn check_source(self, object: &ObjectState) -> S3Result<()> {
        match self.judge(object) {
            Verdict::Hold => Ok(()),
            Verdict::Failed | Verdict::NotModified => {
                Err(s3_error!(PreconditionFailed, "A condition on the source of the copy does not hold"))
            }
        }
    }
}

fn to_match(condition: ETagCondition) -> Match {
    match condition {
        ETagCondition::Any => Match::Any,
        ETagCondition::ETag(etag) => Match::Etag(etag.into_value()),
    }
}

/// The conditions of a write, which are judged when it is applied.
pub(super) fn precondition(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> Precondition {
    Precondition { if_match: if_match.map(to_match), if_none_match: if_none_match.map(to_match) }
}

/// The entity tag as S3 writes it.
pub(super) fn etag(etag: crate::object::Etag) -> ETag {
    ETag::Strong(etag.to_string())
}
