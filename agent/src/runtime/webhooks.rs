//! What the configuration gives the store beside its place: keys at rest, and webhooks that events are sent to.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_config::Config;
use holdfast_store::s3::Post;
use holdfast_store::seal::{KEY, Key, StoreKeys};

/// How long a receiver may take for one event.
const RECEIVED_WITHIN: Duration = Duration::from_secs(5);

/// The keys of the key file, as the store wants them. The configuration has checked their form.
pub(super) fn store_keys(config: &Config) -> StoreKeys {
    let keys = config.store.iter().flat_map(|store| &store.encryption_keys).filter_map(|key| {
        let mut bytes = [0; KEY];
        hex::decode_to_slice(key.expose(), &mut bytes).ok()?;
        Some(Key::new(bytes))
    });
    StoreKeys::new(keys.collect())
}

/// The names of the webhooks.
pub(super) fn names(config: &Config) -> Vec<String> {
    config.store.iter().flat_map(|store| &store.webhooks).map(|webhook| webhook.name.clone()).collect()
}

/// Sends events to the webhooks of the configuration.
pub(super) struct Webhooks {
    client: reqwest::Client,
    to: HashMap<String, (String, Option<String>)>,
}

impl Webhooks {
    /// `None` where the configuration has none.
    pub(super) fn new(config: &Config) -> anyhow::Result<Option<Webhooks>> {
        let webhooks = config.store.iter().flat_map(|store| &store.webhooks);
        let to: HashMap<_, _> = webhooks
            .map(|hook| {
                let token = hook.token.as_ref().map(|token| token.expose().to_owned());
                (hook.name.clone(), (hook.url.clone(), token))
            })
            .collect();
        if to.is_empty() {
            return Ok(None);
        }
        // No proxy of the environment: the token is the receiver's.
        let client = crate::plain_http::builder()
            .timeout(RECEIVED_WITHIN)
            .build()
            .context("webhooks cannot be called")?;
        Ok(Some(Webhooks { client, to }))
    }
}

impl Post for Webhooks {
    fn post(&self, webhook: &str, body: String) -> BoxFuture<'_, Result<(), String>> {
        let Some((url, token)) = self.to.get(webhook) else {
            // The rule of a bucket names a webhook that was taken out of the configuration.
            tracing::warn!(
                webhook,
                "an event is dropped: there is no such webhook in the configuration any more"
            );
            return async { Ok(()) }.boxed();
        };
        let mut request = self.client.post(url).header("content-type", "application/json").body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        async move {
            let answer = request.send().await.map_err(|e| e.without_url().to_string())?;
            if answer.status().is_success() {
                Ok(())
            } else {
                Err(format!("it answered {}", answer.status()))
            }
        }
        .boxed()
    }
}
