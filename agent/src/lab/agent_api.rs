//! What the lab asks the agents: the shapes of the answers, and one request.
//!
//! Every field may be missing: the lab must be able to look at an agent that is older or half started.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::world::NetNs;

/// Where each agent answers on its own host.
const API: &str = "http://127.0.0.1:8080";
/// An agent that does not answer for this long is taken for silent.
const REQUEST_LIMIT: Duration = Duration::from_secs(1);
/// The status of an order that was refused.
const CONFLICT: u16 = 409;
/// A switchover is answered when it is done, which may take the length of the lease and more.
const ACTION_LIMIT: Duration = Duration::from_secs(15);

/// `GET /api/ha/status`, as far as the lab looks at it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The host that was asked. (The member's own name may differ, where the config gives none.)
    pub node: String,
    /// `data` or `witness`.
    pub kind: String,
    /// The agent's process id on its host.
    pub pid: i32,
    /// Its supervisor's process id on its host.
    pub supervisor_pid: Option<i32>,
    /// `primary`, `standby`, `candidate`, `witness`, ...
    pub role: String,
    /// The epoch that it knows of.
    pub epoch: u64,
    /// The primary that it knows of.
    pub primary: Option<String>,
    /// How long it has been primary.
    pub primary_since_ms: Option<u64>,
    /// What is left of the lease.
    pub lease_remaining_ms: Option<u64>,
    /// The data members that hold every acknowledged byte.
    pub in_sync: Vec<String>,
    /// Who has a vote, where it is written down.
    pub voters: Vec<String>,
    /// Whether the primary is alone in the in-sync set.
    pub solo: bool,
    /// Why there is no primary, in words, and what to do.
    pub waiting_for: Option<String>,
    /// Whether all is well.
    pub healthy: bool,
    /// What is not well.
    pub warnings: Vec<String>,
    /// The virtual addresses.
    pub vips: Vec<VipStatus>,
    /// The kernel gate in use.
    pub gate: String,
    /// Identifiers of the shared keys, the signing one first.
    pub keys: Vec<String>,
    /// The end of the log on disk.
    pub durable_lsn: u64,
    /// The end of what is acknowledged.
    pub committed_lsn: u64,
    /// The other members.
    pub peers: Vec<PeerStatus>,
    /// Counters by name and reason.
    pub counters: BTreeMap<String, serde_json::Value>,
}

/// One virtual address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct VipStatus {
    /// Address and prefix length.
    pub address: String,
    /// The interface.
    pub interface: String,
    /// Whether this member holds it now.
    pub held: bool,
}

/// Another member.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name.
    pub id: String,
    /// Whether heartbeats arrive from it.
    pub alive: bool,
    /// Time since its last heartbeat.
    pub last_heard_ms: Option<u64>,
}

/// One line of `GET /api/ha/history`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// When, by the wall clock.
    pub at: String,
    /// The role before.
    pub from: String,
    /// The role after.
    pub to: String,
    /// The epoch after.
    pub epoch: u64,
    /// What happened, as the table of transitions names it.
    pub cause: String,
    /// Why, in words.
    pub reason: String,
    /// What a hook said.
    pub output: String,
}

impl Status {
    /// The sum of the counter `name`, or its part for one reason.
    pub fn counter(&self, name: &str, reason: Option<&str>) -> u64 {
        match (self.counters.get(name), reason) {
            (Some(serde_json::Value::Number(n)), _) => n.as_u64().unwrap_or(0),
            (Some(serde_json::Value::Object(parts)), Some(reason)) => {
                parts.get(reason).and_then(serde_json::Value::as_u64).unwrap_or(0)
            }
            (Some(serde_json::Value::Object(parts)), None) => {
                parts.values().filter_map(serde_json::Value::as_u64).sum()
            }
            _ => 0,
        }
    }

    /// Whether it is the primary and says that it may serve.
    pub fn is_primary(&self) -> bool {
        self.role == "primary"
    }
}

/// Asks the agent in `host` and parses its JSON.
pub fn get<T: DeserializeOwned + Send>(host: &NetNs, path: &str) -> Result<T> {
    let (status, body) = request(host, reqwest::Method::GET, path, None)?;
    // A status code that says "not healthy" still carries the picture.
    serde_json::from_str(&body).with_context(|| format!("GET {path} answered {status}: {}", short(&body)))
}

/// What an agent answers to an order: done, or the stable word of its refusal with the whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was carried out.
    Done(String),
    /// It was not, and nothing was changed.
    Declined {
        /// Why, as a stable word: `no_successor`, `handover_failed`, ...
        code: String,
        /// The whole answer.
        text: String,
    },
}

/// Tells the agent in `host` to do something; anything but success is an error.
pub fn post(host: &NetNs, path: &str, body: Option<serde_json::Value>) -> Result<String> {
    match order(host, path, body)? {
        Answer::Done(answer) => Ok(answer),
        Answer::Declined { text, .. } => bail!("POST {path} answered {CONFLICT}: {}", short(&text)),
    }
}

/// Like [`post`], with a refusal told apart from a failure.
pub fn order(host: &NetNs, path: &str, body: Option<serde_json::Value>) -> Result<Answer> {
    let (status, text) = request(host, reqwest::Method::POST, path, body)?;
    match (status, refusal(&text)) {
        (200..300, _) => Ok(Answer::Done(text)),
        (CONFLICT, Some(code)) => Ok(Answer::Declined { code, text }),
        _ => bail!("POST {path} answered {status}: {}", short(&text)),
    }
}

/// The stable word in an answer that is an error.
fn refusal(answer: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    answer.pointer("/error/code")?.as_str().map(str::to_owned)
}

/// What the agent in `host` answers to `GET path`, as it stands.
pub fn text(host: &NetNs, path: &str) -> Result<String> {
    Ok(request(host, reqwest::Method::GET, path, None)?.1)
}

/// The status code of `GET path`.
pub fn probe(host: &NetNs, path: &str) -> Result<u16> {
    Ok(request(host, reqwest::Method::GET, path, None)?.0)
}

fn request(
    host: &NetNs,
    method: reqwest::Method,
    path: &str,
    body: Option<serde_json::Value>,
) -> Result<(u16, String)> {
    let limit = if method == reqwest::Method::POST { ACTION_LIMIT } else { REQUEST_LIMIT };
    let url = format!("{API}{path}");
    host.block_on(|| async move {
        let client = crate::plain_http::builder().timeout(limit).build()?;
        let mut request = client.request(method, &url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.with_context(|| format!("ask {url}"))?;
        let status = response.status().as_u16();
        anyhow::Ok((status, response.text().await?))
    })?
}

fn short(body: &str) -> String {
    body.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_refusal_is_found() {
        let text = r#"{"error":{"code":"no_successor","message":"nothing was changed"}}"#;
        assert_eq!(refusal(text).as_deref(), Some("no_successor"));
        for text in ["", "{}", r#"{"error":"no_successor"}"#, "no_successor"] {
            assert_eq!(refusal(text), None, "{text}");
        }
    }

    #[test]
    fn a_status_with_missing_and_unknown_fields_is_read() {
        let text = r#"{"node":"a","role":"primary","novel":1,
            "counters":{"heartbeat_dropped":{"bad_mac":2,"replayed":3},"elections":4}}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert!(status.is_primary());
        assert_eq!(status.counter("heartbeat_dropped", Some("replayed")), 3);
        assert_eq!(status.counter("heartbeat_dropped", None), 5);
        assert_eq!(status.counter("elections", None), 4);
        assert_eq!(status.counter("nothing", None), 0);
    }
}
