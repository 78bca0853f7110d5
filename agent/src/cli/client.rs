//! One request to an agent's API, and what it means when it fails.
//!
//! The message says which URL was tried, what that means, and what to do next.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::args::ApiArgs;

/// An agent on a living host takes a connection at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The agent answers a reading request within two seconds, or says that it cannot.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// What has to be looked up on a disk first, the agent answers within twenty seconds, or says that it cannot.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(25);
/// The agent answers an order within fifteen seconds, or says that the outcome is not known.
const ORDER_WITHIN: Duration = Duration::from_secs(20);
/// Longest token file, in bytes: anything longer is some other file.
const MAX_TOKEN_BYTES: u64 = 4096;

/// A caller of one agent.
#[derive(Debug)]
pub(crate) struct Client {
    url: String,
    token: Option<String>,
    actor: Option<String>,
}

impl Client {
    pub(super) fn new(args: &ApiArgs) -> Result<Client> {
        let url = args.api.trim_end_matches('/');
        if url.starts_with("https://") {
            bail!(
                "the agent's API speaks http, not https; use --api http://HOST:PORT (a tunnel, such as `ssh -L`, keeps it private)"
            );
        }
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        if !url.starts_with("http://") {
            bail!("{:?} is not an address of an agent; write --api http://HOST:PORT", args.api);
        }
        // sudo hides who it is behind root.
        let user = || ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let actor = args.actor.clone().or_else(user).filter(|name| !name.is_empty());
        Ok(Client { url, token: token(args)?, actor })
    }

    /// A caller of the agent of this host, where it answers unless told otherwise.
    pub(crate) fn of_this_host() -> Client {
        Client { url: super::args::DEFAULT_API.to_owned(), token: None, actor: None }
    }

    /// Reads `path`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.send(reqwest::Method::GET, path, None)
    }

    /// Reads `path`, for which the agent may have to read much.
    pub(super) fn look_up(&self, path: &str) -> Result<Value> {
        self.answered(reqwest::Method::GET, path, None, LOOKED_UP_WITHIN)
    }

    /// Reads the bytes at `path`.
    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let (status, body) = self.exchange(reqwest::Method::GET, path, None, LOOKED_UP_WITHIN)?;
        if status.is_success() {
            return Ok(body);
        }
        self.judged(path, status, &body).map(|_| Vec::new())
    }

    /// Gives an order and returns the agent's words.
    pub(super) fn order(&self, path: &str, body: Value) -> Result<Value> {
        self.send(reqwest::Method::POST, path, Some(body))
    }

    /// Changes what is at `path`.
    pub(super) fn change(&self, method: reqwest::Method, path: &str, body: Value) -> Result<Value> {
        self.send(method, path, Some(body))
    }

    fn send(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value> {
        let within = if method == reqwest::Method::GET { READ_WITHIN } else { ORDER_WITHIN };
        self.answered(method, path, body, within)
    }

    fn answered(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
        within: Duration,
    ) -> Result<Value> {
        let (status, body) = self.exchange(method, path, body, within)?;
        self.judged(path, status, &body)
    }

    fn exchange(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<Value>,
        within: Duration,
    ) -> Result<(reqwest::StatusCode, Vec<u8>)> {
        let url = format!("{}{path}", self.url);
        let exchange = async {
            // No proxy of the environment: the token must go to the agent and to nobody else.
            let client =
                crate::plain_http::builder().connect_timeout(CONNECT_WITHIN).timeout(within).build()?;
            let mut request = client.request(method, &url);
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            if let (Some(body), actor) = (&body, &self.actor) {
                // A name that no header can carry is left out: it is only a claim.
                let actor =
                    actor.as_deref().and_then(|name| reqwest::header::HeaderValue::from_str(name).ok());
                if let Some(actor) = actor {
                    request = request.header(crate::api::ACTOR, actor);
                }
                request = request.json(body);
            }
            let response = request.send().await?;
            let status = response.status();
            Ok((status, response.bytes().await?.to_vec()))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(exchange).map_err(|error| self.unreachable(&error, within))
    }

    /// The answer, or why there is none.
    fn judged(&self, path: &str, status: reqwest::StatusCode, body: &[u8]) -> Result<Value> {
        let answer: Option<Value> = serde_json::from_slice(body).ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer["error"]["message"].is_string() => Err(refusal(status, &answer)),
            _ => bail!(
                "{}{path} answered {status}, and not as a Holdfast agent does; is --api right? (the API is at `api {{ listen }}` of the agent's configuration, {} by default)",
                self.url,
                super::args::DEFAULT_API
            ),
        }
    }

    fn unreachable(&self, error: &reqwest::Error, within: Duration) -> anyhow::Error {
        if error.is_builder() {
            return anyhow!("{:?} is not an address of an agent; write --api http://HOST:PORT", self.url);
        }
        if error.is_timeout() {
            return anyhow!(
                "no answer from {} within {} s. The host is off or cut off, or the agent is stuck; on that host see: systemctl status holdfast",
                self.url,
                if error.is_connect() { CONNECT_WITHIN } else { within }.as_secs()
            );
        }
        if error.is_connect() {
            return anyhow!(
                "nobody answers at {} ({}). Is the agent running? See: systemctl status holdfast. If its API listens elsewhere: --api URL or HOLDFAST_API",
                self.url,
                root_cause(error)
            );
        }
        anyhow!(
            "the exchange with {} broke off ({}); its outcome is not known. See: holdfast ha status",
            self.url,
            root_cause(error)
        )
    }
}

/// What the agent refused, in its own words.
fn refusal(status: reqwest::StatusCode, answer: &Value) -> anyhow::Error {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    let code = answer["error"]["code"].as_str().unwrap_or_default();
    match status.as_u16() {
        409 => anyhow!("refused ({code}): {message}"),
        _ => anyhow!("{message} ({code})"),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn token(args: &ApiArgs) -> Result<Option<String>> {
    use std::io::Read;
    let Some(path) = &args.token_file else { return Ok(args.token.clone()) };
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("the token file {} cannot be read", path.display()))?;
    let token = text.trim();
    if token.is_empty() {
        bail!("the token file {} is empty", path.display());
    }
    Ok(Some(token.to_owned()))
}

/// An answer in the shape that this build knows.
pub(crate) fn shaped<T: DeserializeOwned>(answer: Value) -> Result<T> {
    serde_json::from_value(answer).context(
        "the agent's answer has a shape that this program does not know; are both of the same version? (--json shows it as it is)",
    )
}
