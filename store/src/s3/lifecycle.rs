//! The rules by which objects, former versions and unfinished uploads end.
//!
//! Pure: it reads rules and says what has come to its end at a moment; [`crate::s3::Caretaker`] carries it
//! out. What the rules cannot do here (other storage classes) is refused when they are put.

use s3s::dto::{BucketLifecycleConfiguration, ExpirationStatus, LifecycleRule};
use s3s::{S3Result, s3_error};

use super::traits::milliseconds;
use crate::object::Tag;

/// The most rules of a bucket, as S3 has it.
const RULES_MAX: usize = 1000;

/// The longest name of a rule, as S3 has it.
const ID_MAX: usize = 255;

/// Milliseconds in a day.
pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;

/// Refuses rules that could not be kept, and names those that have no name.
pub(super) fn check(configuration: &mut BucketLifecycleConfiguration) -> S3Result<()> {
    let count = configuration.rules.len();
    if count == 0 || count > RULES_MAX {
        return Err(s3_error!(MalformedXML, "A bucket has 1 to {RULES_MAX} lifecycle rules"));
    }
    for at in 0..count {
        let id = configuration.rules[at].id.clone().filter(|id| !id.is_empty());
        match &id {
            Some(id) if id.len() > ID_MAX => {
                return Err(s3_error!(InvalidArgument, "The name of a rule has at most {ID_MAX} characters"));
            }
            Some(_) => {}
            None => configuration.rules[at].id = Some(format!("rule-{at}")),
        }
        let id = configuration.rules[at].id.clone();
        if configuration.rules[..at].iter().any(|other| other.id == id) {
            return Err(s3_error!(
                InvalidArgument,
                "Rule ID must be unique. Found same ID for more than one rule"
            ));
        }
        check_rule(&configuration.rules[at])?;
    }
    Ok(())
}

fn check_rule(rule: &LifecycleRule) -> S3Result<()> {
    let malformed = |why: &'static str| s3s::S3Error::with_message(s3s::S3ErrorCode::MalformedXML, why);
    if !matches!(rule.status.as_str(), ExpirationStatus::ENABLED | ExpirationStatus::DISABLED) {
        return Err(malformed("A rule is Enabled or Disabled"));
    }
    let some = |list: Option<usize>| list.is_some_and(|len| len > 0);
    if some(rule.transitions.as_ref().map(Vec::len))
        || some(rule.noncurrent_version_transitions.as_ref().map(Vec::len))
    {
        return Err(s3_error!(NotImplemented, "There are no other storage classes to move objects to"));
    }
    if rule.filter.is_some() && rule.prefix.is_some() {
        return Err(malformed("A rule has a filter or, as it was of old, a prefix"));
    }
    let positive = |days: Option<i32>| match days {
        Some(days) if days <= 0 => Err(s3_error!(InvalidArgument, "A number of days is 1 at least")),
        _ => Ok(()),
    };
    if let Some(expiration) = &rule.expiration {
        let said = usize::from(expiration.days.is_some())
            + usize::from(expiration.date.is_some())
            + usize::from(expiration.expired_object_delete_marker.is_some());
        if said != 1 {
            return Err(malformed("An expiration is by days, by date or of delete markers"));
        }
        positive(expiration.days)?;
        if let Some(date) = &expiration.date
            && !milliseconds(date).is_multiple_of(DAY_MS)
        {
            return Err(s3_error!(InvalidArgument, "'Date' must be at midnight GMT"));
        }
    }
    if let Some(noncurrent) = &rule.noncurrent_version_expiration {
        if noncurrent.noncurrent_days.is_none() {
            return Err(malformed("Former versions expire after a number of days"));
        }
        positive(noncurrent.noncurrent_days)?;
        positive(noncurrent.newer_noncurrent_versions)?;
    }
    if let Some(abort) = &rule.abort_incomplete_multipart_upload {
        if abort.days_after_initiation.is_none() {
            return Err(malformed("Uploads are given up after a number of days"));
        }
        positive(abort.days_after_initiation)?;
        if tags(rule).next().is_some() {
            return Err(s3_error!(InvalidRequest, "Unfinished uploads have no tags to filter by"));
        }
    }
    if rule.expiration.is_none()
        && rule.noncurrent_version_expiration.is_none()
        && rule.abort_incomplete_multipart_upload.is_none()
    {
        return Err(malformed("A rule does something"));
    }
    Ok(())
}

fn prefix(rule: &LifecycleRule) -> &str {
    let of_filter = rule
        .filter
        .as_ref()
        .and_then(|filter| filter.prefix.as_deref().or_else(|| filter.and.as_ref()?.prefix.as_deref()));
    of_filter.or(rule.prefix.as_deref()).unwrap_or_default()
}

fn tags(rule: &LifecycleRule) -> impl Iterator<Item = (&str, &str)> {
    let filter = rule.filter.as_ref();
    let one = filter.and_then(|filter| filter.tag.as_ref());
    let many = filter.and_then(|filter| filter.and.as_ref()).and_then(|and| and.tags.as_ref());
    one.into_iter()
        .chain(many.into_iter().flatten())
        .map(|tag| (tag.key.as_deref().unwrap_or_default(), tag.value.as_deref().unwrap_or_default()))
}

fn sizes(rule: &LifecycleRule) -> (Option<i64>, Option<i64>) {
    let filter = rule.filter.as_ref();
    let and = filter.and_then(|filter| filter.and.as_ref());
    let more =
        filter.and_then(|f| f.object_size_greater_than).or(and.and_then(|a| a.object_size_greater_than));
    let less = filter.and_then(|f| f.object_size_less_than).or(and.and_then(|a| a.object_size_less_than));
    (more, less)
}

/// A day of the rules: 24 hours, unless a day is shortened to try rules out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(pub std::time::Duration);

impl Default for Day {
    fn default() -> Day {
        Day(std::time::Duration::from_millis(DAY_MS))
    }
}

impl Day {
    /// When something of `from_ms` is `days` old: as S3 has it, at the midnight that follows.
    fn after(self, from_ms: u64, days: i32) -> u64 {
        let day = (self.0.as_millis() as u64).max(1);
        let due = from_ms.saturating_add(u64::try_from(days).unwrap_or(0).saturating_mul(day));
        if day == DAY_MS { due.next_multiple_of(DAY_MS) } else { due }
    }
}

/// What a rule looks at of an object.
pub(super) struct Subject<'a> {
    pub(super) key: &'a str,
    pub(super) size: u64,
    pub(super) tags: &'a [Tag],
}

fn selects(rule: &LifecycleRule, subject: &Subject<'_>) -> bool {
    let (more, less) = sizes(rule);
    let size = i64::try_from(subject.size).unwrap_or(i64::MAX);
    rule.status.as_str() == ExpirationStatus::ENABLED
        && subject.key.starts_with(prefix(rule))
        && tags(rule).all(|(key, value)| subject.tags.iter().any(|(k, v)| k == key && v == value))
        && more.is_none_or(|more| size > more)
        && less.is_none_or(|less| size < less)
}

/// When the current object ends, and by which rule.
pub(super) fn expiry<'a>(
    rules: &'a BucketLifecycleConfiguration,
    day: Day,
    subject: &Subject<'_>,
    modified_ms: u64,
) -> Option<(u64, &'a str)> {
    let due = |rule: &'a LifecycleRule| {
        let expiration = rule.expiration.as_ref()?;
        let at = match (expiration.days, &expiration.date) {
            (Some(days), _) => day.after(modified_ms, days),
            (None, Some(date)) => milliseconds(date),
            (None, None) => return None,
        };
        Some((at, rule.id.as_deref().unwrap_or_default()))
    };
    rules.rules.iter().filter(|rule| selects(rule, subject)).filter_map(due).min_by_key(|(at, _)| *at)
}

/// Whether a former version has come to its end at `now_ms`: it stopped being current at `since_ms`, and
/// `newer` former versions of the key are newer than it.
pub(super) fn former_ends(
    rules: &BucketLifecycleConfiguration,
    day: Day,
    subject: &Subject<'_>,
    since_ms: u64,
    newer: usize,
    now_ms: u64,
) -> bool {
    rules.rules.iter().filter(|rule| selects(rule, subject)).any(|rule| {
        let Some(expiration) = &rule.noncurrent_version_expiration else { return false };
        let kept = expiration.newer_noncurrent_versions.map_or(0, |n| usize::try_from(n).unwrap_or(0));
        expiration.noncurrent_days.is_some_and(|days| day.after(since_ms, days) <= now_ms) && newer >= kept
    })
}

/// Whether a delete marker of `since_ms` that is all that is left of its key is to go.
pub(super) fn marker_ends(
    rules: &BucketLifecycleConfiguration,
    day: Day,
    key: &str,
    since_ms: u64,
    now_ms: u64,
) -> bool {
    let subject = Subject { key, size: 0, tags: &[] };
    rules.rules.iter().filter(|rule| selects(rule, &subject)).any(|rule| {
        rule.expiration.as_ref().is_some_and(|expiration| {
            let old = expiration.days.is_some_and(|days| day.after(since_ms, days) <= now_ms);
            old || expiration.expired_object_delete_marker == Some(true)
        })
    })
}

/// Whether an upload that began at `initiated_ms` is to be given up.
pub(super) fn upload_ends(
    rules: &BucketLifecycleConfiguration,
    day: Day,
    key: &str,
    initiated_ms: u64,
    now_ms: u64,
) -> bool {
    let subject = Subject { key, size: 0, tags: &[] };
    rules.rules.iter().filter(|rule| selects(rule, &subject)).any(|rule| {
        let abort = rule.abort_incomplete_multipart_upload.as_ref();
        let days = abort.and_then(|abort| abort.days_after_initiation);
        days.is_some_and(|days| day.after(initiated_ms, days) <= now_ms)
    })
}

/// `x-amz-expiration`: when the object ends, and by which rule.
pub(super) fn shown_expiry(at_ms: u64, rule: &str) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp((at_ms / 1000) as i64);
    let time = time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = time.format(&format).unwrap_or_default();
    format!(
        "expiry-date=\"{date}\", rule-id=\"{}\"",
        percent_encoding::utf8_percent_encode(rule, percent_encoding::NON_ALPHANUMERIC)
    )
}
