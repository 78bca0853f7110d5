//! What `holdfast ha check` says: findings, each with what was seen, what it means, and what to type.

use serde::{Deserialize, Serialize};

/// How a finding turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, and protects less than it could.
    Warn,
    /// Something that is relied upon does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at: a stable word, and what it is about.
    pub name: String,
    /// How it turned out.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What that means.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub means: Option<String>,
    /// What to do, or to type.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
}

impl Finding {
    /// All is well with `name`.
    pub fn ok(name: impl Into<String>, seen: impl Into<String>) -> Finding {
        Finding { name: name.into(), outcome: Outcome::Ok, seen: seen.into(), means: None, advice: None }
    }

    /// It works, and protects less than it could.
    pub fn warn(name: impl Into<String>, seen: impl Into<String>) -> Finding {
        Finding { outcome: Outcome::Warn, ..Finding::ok(name, seen) }
    }

    /// It does not work.
    pub fn fail(name: impl Into<String>, seen: impl Into<String>) -> Finding {
        Finding { outcome: Outcome::Fail, ..Finding::ok(name, seen) }
    }

    /// Adds what it means.
    #[must_use]
    pub fn means(self, means: impl Into<String>) -> Finding {
        Finding { means: Some(means.into()), ..self }
    }

    /// Adds what to do.
    #[must_use]
    pub fn advice(self, advice: impl Into<String>) -> Finding {
        Finding { advice: Some(advice.into()), ..self }
    }
}

/// All findings of one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Who looked.
    pub node: String,
    /// Nothing failed, and `ha status` has nothing that needs attention.
    pub healthy: bool,
    /// What was looked at.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// The findings of `node`, whose status is `healthy`.
    pub fn new(node: &str, healthy: bool, findings: Vec<Finding>) -> CheckReport {
        let failed = findings.iter().any(|finding| finding.outcome == Outcome::Fail);
        CheckReport { node: node.to_owned(), healthy: healthy && !failed, findings }
    }
}
