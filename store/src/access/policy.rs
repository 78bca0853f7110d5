//! Bucket policies: the JSON language of "Policies and permissions in Amazon S3", read into a form that
//! can be judged, and judged.
//!
//! What this release cannot judge (an operator, a key or an element that it does not know) is refused when
//! the policy is put: a condition that is passed over would be a hole.
//!
//! Invariant: a denial that applies wins over every permission.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::Who;

/// The largest policy, in bytes, as S3 has it.
const POLICY_MAX: usize = 20 * 1024;

/// Why a text is not a policy that can be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPolicy(pub String);

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It permits.
    Allow,
    /// It forbids.
    Deny,
}

/// What a policy says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// No, whatever else says yes.
    Denied,
    /// Nothing.
    Silent,
}

/// What conditions look at: values by key, each key in lower case.
#[derive(Clone, Debug, Default)]
pub struct Context {
    values: BTreeMap<String, Vec<String>>,
}

impl Context {
    /// Adds a value; a key may have several.
    pub fn add(&mut self, key: &str, value: impl Into<String>) {
        self.values.entry(key.to_lowercase()).or_default().push(value.into());
    }

    /// Takes the values of another one in.
    pub fn extend(&mut self, other: Context) {
        for (key, values) in other.values {
            self.values.entry(key).or_default().extend(values);
        }
    }

    fn get(&self, key: &str) -> &[String] {
        self.values.get(key).map_or(&[], Vec::as_slice)
    }
}

/// The keys that this release can fill, in lower case. Those that end in a slash take a name behind it.
const KEYS: &[&str] = &[
    "aws:referer",
    "aws:securetransport",
    "aws:sourceip",
    "aws:useragent",
    "aws:username",
    "aws:userid",
    "aws:currenttime",
    "aws:epochtime",
    "aws:principaltype",
    "s3:authtype",
    "s3:signatureversion",
    "s3:prefix",
    "s3:delimiter",
    "s3:max-keys",
    "s3:versionid",
    "s3:locationconstraint",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp",
    "s3:x-amz-grant-write",
    "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm",
    "s3:x-amz-storage-class",
    "s3:object-lock-mode",
    "s3:object-lock-retain-until-date",
    "s3:object-lock-remaining-retention-days",
    "s3:object-lock-legal-hold",
    "s3:existingobjecttag/",
    "s3:requestobjecttag/",
    "s3:requestobjecttagkeys",
    "s3:if-match",
    "s3:if-none-match",
    "s3:objectcreationoperation",
];

#[derive(Clone, Debug)]
enum Test {
    Equals { ignore_case: bool },
    Like,
    Bool,
    Numeric(std::cmp::Ordering, bool),
    Date(std::cmp::Ordering, bool),
    Ip,
    Null,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Every {
    One,
    ForAny,
    ForAll,
}

#[derive(Clone, Debug)]
struct Condition {
    test: Test,
    negated: bool,
    if_exists: bool,
    every: Every,
    key: String,
    values: Vec<String>,
}

#[derive(Clone, Debug)]
enum Principals {
    Everybody,
    Named { users: Vec<String>, tenants: Vec<String> },
}

#[derive(Clone, Debug)]
struct Statement {
    effect: Effect,
    principals: Principals,
    but_principals: bool,
    actions: Vec<String>,
    but_actions: bool,
    resources: Vec<String>,
    but_resources: bool,
    conditions: Vec<Condition>,
}

/// A bucket's policy.
#[derive(Clone, Debug)]
pub struct Policy {
    statements: Vec<Statement>,
}

impl Policy {
    /// Reads the policy of that bucket.
    pub fn parse(text: &str, bucket: &str) -> Result<Policy, BadPolicy> {
        if text.len() > POLICY_MAX {
            return Err(BadPolicy(format!("a policy has at most {POLICY_MAX} bytes")));
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|e| BadPolicy(format!("the policy is not valid JSON: {e}")))?;
        let Value::Object(mut policy) = value else { return Err(bad("a policy is a JSON object")) };
        match policy.remove("Version").as_ref().and_then(Value::as_str) {
            Some("2012-10-17" | "2008-10-17") | None => {}
            Some(_) => return Err(bad("Version is 2012-10-17 or 2008-10-17")),
        }
        policy.remove("Id");
        let statements = match policy.remove("Statement") {
            Some(Value::Array(statements)) => statements,
            Some(one @ Value::Object(_)) => vec![one],
            _ => return Err(bad("a policy has a Statement")),
        };
        if let Some(key) = policy.keys().next() {
            return Err(BadPolicy(format!("{key} is not an element of a policy")));
        }
        let statements =
            statements.into_iter().map(|s| Statement::parse(s, bucket)).collect::<Result<_, _>>()?;
        Ok(Policy { statements })
    }

    /// What it says about this request.
    pub fn judge(
        &self,
        who: &Who,
        action: &str,
        bucket: &str,
        key: Option<&str>,
        context: &Context,
    ) -> Verdict {
        let resource = match key {
            Some(key) => format!("arn:aws:s3:::{bucket}/{key}"),
            None => format!("arn:aws:s3:::{bucket}"),
        };
        let mut verdict = Verdict::Silent;
        for statement in &self.statements {
            if statement.applies(who, action, &resource, context) {
                match statement.effect {
                    Effect::Deny => return Verdict::Denied,
                    Effect::Allow => verdict = Verdict::Allowed,
                }
            }
        }
        verdict
    }

    /// Whether it allows something to everybody: without a condition that fixes who asks or from where.
    pub fn is_public(&self) -> bool {
        const FIXING: &[&str] = &["aws:sourceip", "aws:username", "aws:userid"];
        self.statements.iter().any(|statement| {
            let everybody = match statement.principals {
                Principals::Everybody => !statement.but_principals,
                Principals::Named { .. } => statement.but_principals,
            };
            let fixed = statement.conditions.iter().any(|c| {
                FIXING.contains(&c.key.as_str())
                    && !c.negated
                    && !c.if_exists
                    && c.values.iter().all(|v| v != "0.0.0.0/0" && v != "::/0" && v != "*")
            });
            statement.effect == Effect::Allow && everybody && !fixed
        })
    }
}

fn bad(why: &str) -> BadPolicy {
    BadPolicy(why.to_owned())
}

/// One string, or a list of them.
fn strings(what: &str, value: Value) -> Result<Vec<String>, BadPolicy> {
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        _ => Err(BadPolicy(format!("{what} is a string or a list of strings"))),
    };
    match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        value => Ok(vec![text(value)?]),
    }
}

/// An element that exists in two forms, of which one must be there.
fn either(map: &mut Map<String, Value>, name: &str) -> Result<(Value, bool), BadPolicy> {
    match (map.remove(name), map.remove(&format!("Not{name}"))) {
        (Some(value), None) => Ok((value, false)),
        (None, Some(value)) => Ok((value, true)),
        _ => Err(BadPolicy(format!("a statement has either {name} or Not{name}"))),
    }
}

impl Statement {
    fn parse(value: Value, bucket: &str) -> Result<Statement, BadPolicy> {
        let Value::Object(mut map) = value else { return Err(bad("a statement is a JSON object")) };
        map.remove("Sid");
        let effect = match map.remove("Effect").as_ref().and_then(Value::as_str) {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            _ => return Err(bad("Effect is Allow or Deny")),
        };
        let (principals, but_principals) = either(&mut map, "Principal")?;
        if but_principals && effect == Effect::Allow {
            return Err(bad("NotPrincipal goes with Deny: with Allow it would let in everybody else"));
        }
        let principals = principals_of(principals)?;
        let (actions, but_actions) = either(&mut map, "Action")?;
        let actions = strings("Action", actions)?;
        if actions.is_empty() || !actions.iter().all(|a| a == "*" || a.to_lowercase().starts_with("s3:")) {
            return Err(bad("an Action begins with s3:"));
        }
        let actions = actions.into_iter().map(|a| a.to_lowercase()).collect();
        let (resources, but_resources) = either(&mut map, "Resource")?;
        let resources = strings("Resource", resources)?;
        let ours = |resource: &String| {
            let name = resource.strip_prefix("arn:aws:s3:::").or_else(|| {
                // Some tools write the account between the colons.
                let rest = resource.strip_prefix("arn:aws:s3::")?;
                rest.split_once(':').map(|(_, name)| name)
            });
            resource == "*"
                || name.is_some_and(|name| matches_glob(name.split('/').next().unwrap_or_default(), bucket))
        };
        if resources.is_empty() || !resources.iter().all(ours) {
            return Err(BadPolicy(format!(
                "a Resource of this policy is arn:aws:s3:::{bucket} or arn:aws:s3:::{bucket}/…"
            )));
        }
        let mut conditions = Vec::new();
        match map.remove("Condition") {
            None => {}
            Some(Value::Object(operators)) => {
                for (operator, keys) in operators {
                    let Value::Object(keys) = keys else {
                        return Err(bad("a condition's operator has keys"));
                    };
                    for (key, values) in keys {
                        conditions.push(Condition::parse(&operator, &key, strings(&key, values)?)?);
                    }
                }
            }
            Some(_) => return Err(bad("Condition is a JSON object")),
        }
        if let Some(key) = map.keys().next() {
            return Err(BadPolicy(format!("{key} is not an element of a statement")));
        }
        Ok(Statement {
            effect,
            principals,
            but_principals,
            actions,
            but_actions,
            resources,
            but_resources,
            conditions,
        })
    }

    fn applies(&self, who: &Who, action: &str, resource: &str, context: &Context) -> bool {
        let principal = match &self.principals {
            Principals::Everybody => true,
            Principals::Named { users, tenants } => {
                let named = who.id().is_some_and(|id| !id.is_empty() && users.iter().any(|n| n == id));
                named || who.tenant().is_some_and(|tenant| tenants.iter().any(|t| t == tenant))
            }
        };
        let action = action.to_lowercase();
        let acts = self.actions.iter().any(|pattern| matches_glob(pattern, &action));
        let resource = self.resources.iter().any(|pattern| {
            let pattern = match pattern.strip_prefix("arn:aws:s3::").and_then(|rest| rest.split_once(':')) {
                Some((_, name)) => format!("arn:aws:s3:::{name}"),
                None => pattern.clone(),
            };
            matches_glob(&pattern, resource)
        });
        principal != self.but_principals
            && acts != self.but_actions
            && resource != self.but_resources
            && self.conditions.iter().all(|condition| condition.holds(context))
    }
}

/// Whom a statement is about. A user is `arn:aws:iam::TENANT:user/NAME`, whatever stands for the tenant, or
/// the name itself; all users of a tenant are `arn:aws:iam::TENANT:root`.
fn principals_of(value: Value) -> Result<Principals, BadPolicy> {
    let named = match value {
        Value::String(text) if text == "*" => return Ok(Principals::Everybody),
        Value::Object(kinds) => {
            let mut named = Vec::new();
            for (kind, names) in kinds {
                match kind.as_str() {
                    "AWS" | "CanonicalUser" => named.extend(strings("Principal", names)?),
                    other => {
                        return Err(BadPolicy(format!("principals of the kind {other} do not exist here")));
                    }
                }
            }
            named
        }
        _ => return Err(bad("Principal is \"*\" or {\"AWS\": …}")),
    };
    if named.iter().any(|name| name == "*") {
        return Ok(Principals::Everybody);
    }
    let (mut users, mut tenants) = (BTreeSet::new(), BTreeSet::new());
    for text in named {
        let unknown = || {
            BadPolicy(format!(
                "{text} names nobody: write arn:aws:iam:::user/NAME, or arn:aws:iam::TENANT:root for all of a tenant"
            ))
        };
        match text.strip_prefix("arn:aws:iam::") {
            None if !text.starts_with("arn:") => drop(users.insert(text)),
            None => return Err(unknown()),
            Some(rest) => match rest.split_once(":user/") {
                Some((_, path)) => drop(users.insert(path.rsplit('/').next().unwrap_or(path).to_owned())),
                None => match rest.strip_suffix(":root") {
                    Some(tenant) if !tenant.is_empty() => drop(tenants.insert(tenant.to_owned())),
                    _ => return Err(unknown()),
                },
            },
        }
    }
    if users.is_empty() && tenants.is_empty() {
        return Err(bad("Principal names nobody"));
    }
    Ok(Principals::Named { users: users.into_iter().collect(), tenants: tenants.into_iter().collect() })
}

impl Condition {
    fn parse(operator: &str, key: &str, values: Vec<String>) -> Result<Condition, BadPolicy> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (every, name) = match operator.split_once(':') {
            Some(("ForAnyValue", name)) => (Every::ForAny, name),
            Some(("ForAllValues", name)) => (Every::ForAll, name),
            Some(_) => return Err(BadPolicy(format!("the condition operator {operator} does not exist"))),
            None => (Every::One, operator),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (test, negated) = match name {
            "StringEquals" | "ArnEquals" => (Test::Equals { ignore_case: false }, false),
            "StringNotEquals" | "ArnNotEquals" => (Test::Equals { ignore_case: false }, true),
            "StringEqualsIgnoreCase" => (Test::Equals { ignore_case: true }, false),
            "StringNotEqualsIgnoreCase" => (Test::Equals { ignore_case: true }, true),
            "StringLike" | "ArnLike" => (Test::Like, false),
            "StringNotLike" | "ArnNotLike" => (Test::Like, true),
            "Bool" => (Test::Bool, false),
            "NumericEquals" => (Test::Numeric(Equal, true), false),
            "NumericNotEquals" => (Test::Numeric(Equal, true), true),
            "NumericLessThan" => (Test::Numeric(Less, false), false),
            "NumericLessThanEquals" => (Test::Numeric(Less, true), false),
            "NumericGreaterThan" => (Test::Numeric(Greater, false), false),
            "NumericGreaterThanEquals" => (Test::Numeric(Greater, true), false),
            "DateEquals" => (Test::Date(Equal, true), false),
            "DateNotEquals" => (Test::Date(Equal, true), true),
            "DateLessThan" => (Test::Date(Less, false), false),
            "DateLessThanEquals" => (Test::Date(Less, true), false),
            "DateGreaterThan" => (Test::Date(Greater, false), false),
            "DateGreaterThanEquals" => (Test::Date(Greater, true), false),
            "IpAddress" => (Test::Ip, false),
            "NotIpAddress" => (Test::Ip, true),
            "Null" => (Test::Null, false),
            _ => return Err(BadPolicy(format!("the condition operator {operator} does not exist here"))),
        };
        let lower = key.to_lowercase();
        let known = KEYS.iter().any(|known| match known.strip_suffix('/') {
            Some(_) => lower.starts_with(known) && lower.len() > known.len(),
            None => lower == *known,
        });
        if !known {
            return Err(BadPolicy(format!("the condition key {key} is not known here")));
        }
        let fits = values.iter().all(|value| match test {
            Test::Equals { .. } | Test::Like => true,
            Test::Bool | Test::Null => matches!(value.to_lowercase().as_str(), "true" | "false"),
            Test::Numeric(..) => value.parse::<f64>().is_ok(),
            Test::Date(..) => date(value).is_some(),
            Test::Ip => net(value).is_some(),
        });
        if !fits {
            return Err(BadPolicy(format!("a value of {operator} for {key} is not of that kind")));
        }
        Ok(Condition { test, negated, if_exists, every, key: lower, values })
    }

    fn holds(&self, context: &Context) -> bool {
        let given = context.get(&self.key);
        if matches!(self.test, Test::Null) {
            let absent = given.is_empty();
            return self.values.iter().any(|value| value.eq_ignore_ascii_case("true") == absent);
        }
        if given.is_empty() {
            return self.if_exists || self.every == Every::ForAll || self.negated;
        }
        let one =
            |given: &String| self.values.iter().any(|wanted| self.test.passes(given, wanted)) != self.negated;
        match self.every {
            Every::One | Every::ForAny if !self.negated => given.iter().any(one),
            Every::ForAny => given.iter().any(one),
            Every::One | Every::ForAll => given.iter().all(one),
        }
    }
}

impl Test {
    fn passes(&self, given: &str, wanted: &str) -> bool {
        let ordered = |order: std::cmp::Ordering, or_equal: bool, found: Option<std::cmp::Ordering>| {
            found.is_some_and(|found| found == order || or_equal && found == std::cmp::Ordering::Equal)
        };
        match self {
            Test::Equals { ignore_case: false } => given == wanted,
            Test::Equals { ignore_case: true } => given.to_lowercase() == wanted.to_lowercase(),
            Test::Like => matches_glob(wanted, given),
            Test::Bool => given.eq_ignore_ascii_case(wanted),
            Test::Numeric(order, or_equal) => {
                let (given, wanted) = (given.parse::<f64>(), wanted.parse::<f64>());
                ordered(*order, *or_equal, given.ok().and_then(|g| g.partial_cmp(&wanted.ok()?)))
            }
            Test::Date(order, or_equal) => {
                ordered(*order, *or_equal, date(given).and_then(|g| g.partial_cmp(&date(wanted)?)))
            }
            Test::Ip => match (given.parse::<IpAddr>(), net(wanted)) {
                (Ok(given), Some(wanted)) => wanted.contains(&given.to_canonical()),
                _ => false,
            },
            Test::Null => false,
        }
    }
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Seconds since 1970.
fn date(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Some(seconds);
    }
    let parsed =
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Iso8601::DEFAULT).ok()?;
    Some(parsed.unix_timestamp_nanos() as f64 / 1e9)
}

/// Whether the text fits the pattern, in which `*` stands for any text and `?` for any character. Takes
/// time in proportion to the product of the lengths at worst.
fn matches_glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                // The star takes one more character, and the rest is tried again.
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(condition: &str) -> Policy {
        let text = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":"*","Action":"s3:GetObject",
            "Resource":"arn:aws:s3:::b/*","Condition":{condition}}}]}}"#
        );
        Policy::parse(&text, "b").unwrap()
    }

    fn judge(policy: &Policy, pairs: &[(&str, &str)]) -> Verdict {
        let mut context = Context::default();
        for (key, value) in pairs {
            context.add(key, *value);
        }
        policy.judge(&Who::Anonymous, "s3:GetObject", "b", Some("k"), &context)
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("arn:aws:s3:::b/*", "arn:aws:s3:::b/", true),
            ("arn:aws:s3:::b/*", "arn:aws:s3:::b", false),
        ] {
            assert_eq!(matches_glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_denial_wins() {
        let text = r#"{"Statement":[
            {"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]},
            {"Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/secret*"}]}"#;
        let policy = Policy::parse(text, "b").unwrap();
        let judge = |key| policy.judge(&Who::Anonymous, "s3:GetObject", "b", Some(key), &Context::default());
        assert_eq!(judge("open"), Verdict::Allowed);
        assert_eq!(judge("secret/1"), Verdict::Denied);
        assert!(policy.is_public());
    }

    #[test]
    fn conditions_hold_or_do_not() {
        let ip = allow(r#"{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","192.168.1.1"]}}"#);
        assert_eq!(judge(&ip, &[("aws:SourceIp", "10.1.2.3")]), Verdict::Allowed);
        assert_eq!(judge(&ip, &[("aws:SourceIp", "192.168.1.2")]), Verdict::Silent);
        assert_eq!(judge(&ip, &[]), Verdict::Silent);
        assert!(!ip.is_public());
        let tag = allow(r#"{"StringEquals":{"s3:ExistingObjectTag/security":"public"}}"#);
        assert_eq!(judge(&tag, &[("s3:ExistingObjectTag/security", "public")]), Verdict::Allowed);
        assert_eq!(judge(&tag, &[("s3:ExistingObjectTag/security", "private")]), Verdict::Silent);
        let not = allow(r#"{"StringNotEquals":{"s3:x-amz-acl":"public-read"}}"#);
        assert_eq!(judge(&not, &[]), Verdict::Allowed);
        assert_eq!(judge(&not, &[("s3:x-amz-acl", "public-read")]), Verdict::Silent);
        let exists = allow(r#"{"StringLikeIfExists":{"aws:Referer":"http://good/*"}}"#);
        assert_eq!(judge(&exists, &[]), Verdict::Allowed);
        assert_eq!(judge(&exists, &[("aws:Referer", "http://bad/")]), Verdict::Silent);
        let null = allow(r#"{"Null":{"s3:x-amz-server-side-encryption":"true"}}"#);
        assert_eq!(judge(&null, &[]), Verdict::Allowed);
        assert_eq!(judge(&null, &[("s3:x-amz-server-side-encryption", "AES256")]), Verdict::Silent);
        let all = allow(r#"{"ForAllValues:StringLike":{"s3:RequestObjectTagKeys":["a","b*"]}}"#);
        assert_eq!(
            judge(&all, &[("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "bc")]),
            Verdict::Allowed
        );
        assert_eq!(
            judge(&all, &[("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "c")]),
            Verdict::Silent
        );
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let with = |statement: &str| Policy::parse(&format!(r#"{{"Statement":[{statement}]}}"#), "b");
        let base = r#""Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::b/*""#;
        assert!(with(&format!("{{{base}}}")).is_ok());
        for more in [
            r#""Condition":{"StringEquls":{"aws:Referer":"x"}}"#,
            r#""Condition":{"StringEquals":{"aws:MoonPhase":"full"}}"#,
            r#""Condition":{"NumericLessThan":{"s3:max-keys":"many"}}"#,
            r#""Conditions":{}"#,
        ] {
            assert!(with(&format!("{{{base},{more}}}")).is_err(), "{more}");
        }
        for text in ["", "[]", r#"{"Statement":[]"#, r#"{"Version":"1999","Statement":[]}"#] {
            assert!(Policy::parse(text, "b").is_err(), "{text}");
        }
        let other = r#"{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::other/*"}"#;
        assert!(with(other).is_err());
    }

    #[test]
    fn users_are_named_by_arn_or_name() {
        let text = r#"{"Statement":{"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/ann","bob"]},
            "Action":["s3:GetObject"],"Resource":"arn:aws:s3:::b/*"}}"#;
        let policy = Policy::parse(text, "b").unwrap();
        for (name, verdict) in
            [("ann", Verdict::Allowed), ("bob", Verdict::Allowed), ("eve", Verdict::Silent)]
        {
            let user = super::super::tests::user(name);
            let who = Who::User(std::sync::Arc::new(user));
            assert_eq!(
                policy.judge(&who, "s3:GetObject", "b", Some("k"), &Context::default()),
                verdict,
                "{name}"
            );
        }
        assert!(!policy.is_public());
    }
}
