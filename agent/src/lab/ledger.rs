//! A client that remembers every acknowledgement, and afterwards reads all of it back.
//!
//! Every write has a key of its own and content that follows from seed and number alone, so that nothing but
//! the acknowledgements has to be remembered, and a wrong byte is seen as surely as a missing object. A
//! write that ended in an error is ambiguous: it may have happened. It may be absent, but not half there.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ObjectStoreExt, RetryConfig};

use super::world::NetNs;
use crate::plain_http::{self, PlainHttp};

/// How many objects are read back at a time.
const READERS: usize = 16;
/// Different error texts that a ledger keeps.
const MAX_REASONS: usize = 32;
/// Names that a verdict lists.
const MAX_NAMED: usize = 20;

/// An S3 endpoint with keys and a bucket.
#[derive(Clone, Debug)]
pub struct Target {
    /// `http://address:port`
    pub endpoint: String,
    /// The bucket; see [`Target::create_bucket`].
    pub bucket: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: String,
}

/// How long a client waits, and how often it tries again by itself.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Limit for a connection.
    pub connect: Duration,
    /// Limit for a whole request.
    pub request: Duration,
    /// Repetitions by the client library, as S3 clients do them.
    pub retries: usize,
}

impl Patience {
    /// Gives up soon and never repeats: every failure of the service shows.
    pub const NONE: Patience =
        Patience { connect: Duration::from_millis(300), request: Duration::from_secs(2), retries: 0 };
    /// Repeats like an ordinary S3 client.
    pub const ORDINARY: Patience =
        Patience { connect: Duration::from_secs(1), request: Duration::from_secs(5), retries: 10 };
}

impl Target {
    /// A client for this endpoint. Must be used inside a namespace that reaches it.
    pub fn client(&self, patience: Patience) -> Result<AmazonS3> {
        let http =
            plain_http::builder().connect_timeout(patience.connect).timeout(patience.request).build()?;
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        let retry =
            RetryConfig { max_retries: patience.retries, retry_timeout: Duration::from_secs(60), backoff };
        AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_bucket_name(&self.bucket)
            .with_access_key_id(&self.access_key)
            .with_secret_access_key(&self.secret_key)
            .with_region("us-east-1")
            .with_virtual_hosted_style_request(false)
            .with_http_connector(PlainHttp::new(http))
            .with_retry(retry)
            .build()
            .context("set up the S3 client")
    }

    /// Makes the bucket, from inside `from`. Repeats until `limit`, as the service may just be starting.
    pub fn create_bucket(&self, from: &NetNs, limit: Duration) -> Result<()> {
        from.block_on(|| async {
            let s3 = self.client(Patience::NONE)?;
            let hour = Duration::from_secs(3600);
            let http = plain_http::builder().timeout(Patience::NONE.request).build()?;
            let end = Instant::now() + limit;
            loop {
                let url = s3.signed_url(http::Method::PUT, &Path::default(), hour).await?;
                let failure = match http.put(url).send().await {
                    Ok(answer) if answer.status().is_success() || answer.status() == 409 => return Ok(()),
                    Ok(answer) => {
                        let status = answer.status();
                        format!("{status} {}", answer.text().await.unwrap_or_default())
                    }
                    Err(e) => format!("{e:#}"),
                };
                if Instant::now() > end {
                    return Err(anyhow!("{failure}"))
                        .with_context(|| format!("make the bucket {} at {}", self.bucket, self.endpoint));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })?
    }
}

/// What a load does.
#[derive(Clone, Copy, Debug)]
pub struct LoadSpec {
    /// Concurrent writers.
    pub writers: usize,
    /// Bytes of each object.
    pub size: usize,
    /// Where content and keys follow from.
    pub seed: u64,
    /// Pause of each writer between two writes.
    pub pace: Duration,
    /// The client's patience.
    pub patience: Patience,
    /// Threads of the client.
    pub threads: usize,
}

impl Default for LoadSpec {
    fn default() -> LoadSpec {
        LoadSpec {
            writers: 8,
            size: 4096,
            seed: 1,
            pace: Duration::ZERO,
            patience: Patience::NONE,
            threads: 1,
        }
    }
}

/// One acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    /// Its number, from which key and content follow.
    pub number: u64,
    /// When the acknowledgement arrived.
    pub at: Instant,
    /// How long the write took.
    pub took: Duration,
}

/// Everything that a load was told.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// What the load was.
    pub spec: LoadSpec,
    /// The acknowledged writes, in the order of acknowledgement.
    pub acknowledged: Vec<Acknowledged>,
    /// The numbers of the writes that ended in an error: they may or may not have happened.
    pub ambiguous: Vec<u64>,
    /// The errors by text, with how often each was seen.
    pub reasons: BTreeMap<String, u64>,
    /// How long the load ran.
    pub duration: Duration,
}

impl Ledger {
    fn new(spec: LoadSpec) -> Ledger {
        Ledger {
            spec,
            acknowledged: Vec::new(),
            ambiguous: Vec::new(),
            reasons: BTreeMap::new(),
            duration: Duration::ZERO,
        }
    }

    /// The longest time without an acknowledgement while the load ran.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.acknowledged.windows(2).map(|pair| pair[1].at - pair[0].at);
        gaps.max().unwrap_or(self.duration)
    }
}

/// Writers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    thread: JoinHandle<Result<Result<()>>>,
}

impl Load {
    /// Starts to write from inside `from`. The bucket must exist.
    pub fn start(from: &NetNs, target: &Target, spec: LoadSpec) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let ledger = Arc::new(Mutex::new(Ledger::new(spec)));
        let (halt, book, target) = (stop.clone(), ledger.clone(), target.clone());
        let thread = from.spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(spec.threads).enable_all().build()?;
            runtime.block_on(write_all(target, spec, halt, book))
        });
        Load { stop, ledger, began: Instant::now(), thread }
    }

    /// How many writes were acknowledged until now.
    pub fn acknowledged(&self) -> usize {
        lock(&self.ledger).acknowledged.len()
    }

    /// The errors until now, by text.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        lock(&self.ledger).reasons.clone()
    }

    /// Waits until `more` further writes were acknowledged.
    pub fn wait_for_more(&self, more: usize, limit: Duration) -> Result<()> {
        let (goal, end) = (self.acknowledged() + more, Instant::now() + limit);
        while self.acknowledged() < goal {
            if Instant::now() > end {
                let reasons = lock(&self.ledger).reasons.clone();
                return Err(anyhow!(
                    "only {} of {goal} writes were acknowledged within {} s; errors: {reasons:?}",
                    self.acknowledged(),
                    limit.as_secs()
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the writers after their writes under way, and returns what they were told.
    pub fn stop(self) -> Result<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the writers panicked"))???;
        let mut ledger = lock(&self.ledger).clone();
        ledger.duration = self.began.elapsed();
        Ok(ledger)
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_all(
    target: Target,
    spec: LoadSpec,
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
) -> Result<()> {
    let s3 = Arc::new(target.client(spec.patience)?);
    let next = Arc::new(AtomicU64::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..spec.writers {
        let (s3, next, stop, ledger) = (s3.clone(), next.clone(), stop.clone(), ledger.clone());
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let began = Instant::now();
                let body = content(spec.seed, number, spec.size);
                let result = s3.put(&key(spec.seed, number), body.into()).await;
                let at = Instant::now();
                let failed = result.is_err();
                {
                    let mut ledger = lock(&ledger);
                    match result {
                        Ok(_) => {
                            ledger.acknowledged.push(Acknowledged { number, at, took: at - began });
                        }
                        Err(e) => {
                            ledger.ambiguous.push(number);
                            let reason = reason_of(&e);
                            if ledger.reasons.len() < MAX_REASONS || ledger.reasons.contains_key(&reason) {
                                *ledger.reasons.entry(reason).or_default() += 1;
                            }
                        }
                    }
                }
                // Without a pause a dead service would be asked thousands of times a second.
                let pause = if failed { Duration::from_millis(5) } else { spec.pace };
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        });
    }
    while writers.join_next().await.is_some() {}
    Ok(())
}

/// The innermost causes of an error, without the parts that differ each time.
fn reason_of(error: &object_store::Error) -> String {
    let mut causes = vec![];
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        causes.push(e.to_string());
        cause = e.source();
    }
    // The outer causes name the request; the innermost says what happened to it.
    let mut text = causes.pop().unwrap_or_default();
    if text.len() < 40 {
        text = causes
            .pop()
            .map_or(text.clone(), |outer| outer.rsplit(" - ").next().unwrap_or_default().to_owned())
            + ": "
            + &text;
    }
    // Answers differ in their request ids.
    text.split("<RequestId>").next().unwrap_or_default().chars().take(400).collect()
}

fn key(seed: u64, number: u64) -> Path {
    Path::from(format!("load-{seed}/{:03}/{number}", number % 128))
}

/// The content of object `number`: a xorshift sequence, different for each number and seed.
fn content(seed: u64, number: u64, size: usize) -> Bytes {
    let mut state = (seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// What reading back found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged objects that were looked at.
    pub checked: usize,
    /// Acknowledged objects that are not there.
    pub lost: Vec<String>,
    /// Objects, acknowledged or ambiguous, with other bytes than were written.
    pub corrupt: Vec<String>,
    /// Acknowledged objects that could not be read within the limit, with the reason.
    pub unread: Vec<String>,
    /// Ambiguous writes that turned out to have happened.
    pub happened: usize,
}

impl Verdict {
    /// Whether every acknowledged byte was there.
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.corrupt.is_empty() && self.unread.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, corrupt, unread) = (self.lost.len(), self.corrupt.len(), self.unread.len());
        write!(f, "{} acknowledged objects read back: ", self.checked)?;
        if self.is_good() {
            return write!(f, "none lost, none corrupt");
        }
        write!(f, "Lost({lost}), Corrupt({corrupt}), Unread({unread})")?;
        for name in self.lost.iter().chain(&self.corrupt).chain(&self.unread).take(MAX_NAMED) {
            write!(f, "\n  {name}")?;
        }
        Ok(())
    }
}

enum Finding {
    Same,
    Absent,
    Different(String),
    Unread(String),
}

/// Reads everything back from inside `from`; each object is tried again until `limit` has passed.
pub fn read_back(from: &NetNs, target: &Target, ledger: &Ledger, limit: Duration) -> Result<Verdict> {
    let spec = ledger.spec;
    let acknowledged = ledger.acknowledged.iter().map(|a| (a.number, true));
    let wanted: Vec<(u64, bool)> = acknowledged.chain(ledger.ambiguous.iter().map(|&n| (n, false))).collect();
    from.block_on(|| async move {
        let s3 = target.client(Patience::NONE)?;
        let end = Instant::now() + limit;
        let s3 = &s3;
        let found = futures::stream::iter(wanted).map(|(number, certain)| async move {
            let body = content(spec.seed, number, spec.size);
            (number, certain, look(s3, &key(spec.seed, number), &body, end).await)
        });
        let mut found = found.buffer_unordered(READERS);
        let mut verdict = Verdict::default();
        while let Some((number, certain, finding)) = found.next().await {
            let name = key(spec.seed, number).to_string();
            verdict.checked += usize::from(certain);
            match finding {
                Finding::Same => verdict.happened += usize::from(!certain),
                Finding::Absent if certain => verdict.lost.push(name),
                Finding::Different(how) => verdict.corrupt.push(format!("{name}: {how}")),
                Finding::Unread(why) if certain => verdict.unread.push(format!("{name}: {why}")),
                Finding::Absent | Finding::Unread(_) => {}
            }
        }
        Ok(verdict)
    })?
}

async fn look(s3: &AmazonS3, key: &Path, expected: &Bytes, end: Instant) -> Finding {
    loop {
        let read = async { s3.get(key).await?.bytes().await }.await;
        let failure = match read {
            Ok(bytes) if bytes == *expected => return Finding::Same,
            Ok(bytes) => {
                let first = bytes.iter().zip(expected.iter()).position(|(a, b)| a != b);
                return Finding::Different(format!(
                    "{} of {} bytes, the first difference at {first:?}",
                    bytes.len(),
                    expected.len()
                ));
            }
            Err(object_store::Error::NotFound { .. }) => return Finding::Absent,
            Err(e) => reason_of(&e),
        };
        if Instant::now() > end {
            return Finding::Unread(failure);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_follows_from_seed_and_number() {
        assert_eq!(content(1, 7, 1000), content(1, 7, 1000));
        assert_ne!(content(1, 7, 1000), content(1, 8, 1000));
        assert_ne!(content(2, 7, 1000), content(1, 7, 1000));
        assert_eq!(content(1, 7, 13).len(), 13);
    }

    #[test]
    fn a_verdict_with_anything_missing_is_not_good() {
        let good = Verdict { checked: 3, ..Verdict::default() };
        assert!(good.is_good());
        let bad = Verdict { lost: vec!["x".into()], ..good };
        assert!(!bad.is_good() && bad.to_string().contains("Lost(1)"));
    }
}
