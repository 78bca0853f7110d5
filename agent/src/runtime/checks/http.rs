//! A GET whose answer has one of the wanted statuses. The body is not read, a redirection not followed.

use std::error::Error;
use std::ops::RangeInclusive;

use super::Outcome;

pub(super) struct Http {
    url: String,
    status: RangeInclusive<u16>,
    client: Option<reqwest::Client>,
}

impl Http {
    pub(super) fn new(url: String, status: RangeInclusive<u16>) -> Http {
        Http { url, status, client: None }
    }

    pub(super) async fn run(&mut self) -> Outcome {
        let client = match &self.client {
            Some(client) => client,
            None => {
                // A connection of its own for each run, and no proxy: what is asked is this very service.
                let built = crate::plain_http::builder()
                    .pool_max_idle_per_host(0)
                    .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
                    .build();
                match built {
                    Ok(client) => self.client.insert(client),
                    Err(error) => return Outcome::failed(error.to_string()),
                }
            }
        };
        match client.get(&self.url).send().await {
            Ok(answer) => {
                let status = answer.status();
                Outcome { passed: self.status.contains(&status.as_u16()), words: format!("status {status}") }
            }
            Err(error) => {
                // The innermost cause is what a person can act upon.
                let mut cause: &dyn Error = &error;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                Outcome::failed(cause.to_string())
            }
        }
    }
}
