//! Which events of a bucket go to which webhook.
//!
//! Webhooks have names in the configuration; a bucket's rules name them as
//! `arn:holdfast:sqs::NAME:webhook`, as a queue or as a topic, which are the same here.

use s3s::dto::{FilterRule, NotificationConfiguration, NotificationConfigurationFilter};
use s3s::{S3Result, s3_error};

use crate::state::{Event, EventKind};

/// All kinds of events, for checking what rules ask for.
const KINDS: [EventKind; 5] = [
    EventKind::ObjectCreatedPut,
    EventKind::ObjectCreatedCopy,
    EventKind::ObjectCreatedCompleteMultipartUpload,
    EventKind::ObjectRemovedDelete,
    EventKind::ObjectRemovedDeleteMarkerCreated,
];

/// The webhook that an ARN names.
fn webhook(arn: &str) -> Option<&str> {
    let name = arn.strip_prefix("arn:holdfast:sqs::")?.strip_suffix(":webhook")?;
    (!name.is_empty()).then_some(name)
}

/// Whether the pattern of a rule covers a kind of events.
fn covers(pattern: &str, kind: EventKind) -> bool {
    let Some(pattern) = pattern.strip_prefix("s3:") else { return false };
    match pattern.strip_suffix('*') {
        Some(start) => kind.name().starts_with(start),
        None => kind.name() == pattern,
    }
}

/// Refuses rules that would send nothing anywhere.
pub(super) fn check(wanted: &NotificationConfiguration, webhooks: &[String]) -> S3Result<()> {
    if wanted.lambda_function_configurations.as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(s3_error!(NotImplemented, "Functions are not offered; name a webhook as a queue"));
    }
    if wanted.event_bridge_configuration.is_some() {
        return Err(s3_error!(NotImplemented, "An event bus is not offered; name a webhook as a queue"));
    }
    for (arn, events, filter) in rules(wanted) {
        let known = webhook(arn).is_some_and(|name| webhooks.iter().any(|webhook| webhook == name));
        if !known {
            return Err(s3_error!(
                InvalidArgument,
                "There is no webhook {arn}: name one of the configuration as arn:holdfast:sqs::NAME:webhook"
            ));
        }
        for pattern in &events {
            if !KINDS.iter().any(|kind| covers(pattern, *kind)) {
                return Err(s3_error!(InvalidArgument, "No event {pattern} happens here"));
            }
        }
        for FilterRule { name, value } in filter_rules(filter) {
            let name = name.as_ref().map(|name| name.as_str().to_lowercase());
            if !matches!(name.as_deref(), Some("prefix" | "suffix")) || value.is_none() {
                return Err(s3_error!(InvalidArgument, "A filter is a prefix or a suffix with a value"));
            }
        }
    }
    Ok(())
}

type Rule<'a> = (&'a str, Vec<String>, Option<&'a NotificationConfigurationFilter>);

fn rules(of: &NotificationConfiguration) -> Vec<Rule<'_>> {
    let names = |events: &[s3s::dto::Event]| events.iter().map(|e| e.as_ref().to_owned()).collect();
    let queues = of.queue_configurations.iter().flatten();
    let topics = of.topic_configurations.iter().flatten();
    queues
        .map(|queue| (queue.queue_arn.as_str(), names(&queue.events), queue.filter.as_ref()))
        .chain(topics.map(|topic| (topic.topic_arn.as_str(), names(&topic.events), topic.filter.as_ref())))
        .collect()
}

fn filter_rules(filter: Option<&NotificationConfigurationFilter>) -> &[FilterRule] {
    let rules = filter.and_then(|f| f.key.as_ref()).and_then(|k| k.filter_rules.as_ref());
    rules.map_or(&[], Vec::as_slice)
}

/// The names of the webhooks that are to hear of the event.
pub(super) fn receivers(rules_of_bucket: &NotificationConfiguration, event: &Event) -> Vec<String> {
    let mut names = Vec::new();
    for (arn, events, filter) in rules(rules_of_bucket) {
        let fits = filter_rules(filter).iter().all(|rule| {
            let value = rule.value.as_deref().unwrap_or_default();
            match rule.name.as_ref().map(|name| name.as_str().to_lowercase()).as_deref() {
                Some("prefix") => event.key.starts_with(value),
                Some("suffix") => event.key.ends_with(value),
                _ => false,
            }
        });
        if fits
            && events.iter().any(|pattern| covers(pattern, event.kind))
            && let Some(name) = webhook(arn)
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}
