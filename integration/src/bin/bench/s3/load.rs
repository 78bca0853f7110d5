//! The load generator: the same small HTTP/1.1 client for every server, so that what is compared is the servers.
//!
//! Each connection is a task with a socket of its own that sends a request, reads the whole answer, and sends the
//! next. Requests are signed (Signature Version 4, in headers, the payload unsigned as over TLS); a server that wants
//! no signature ignores it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use holdfast_agent::lab::world::NetNs;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Threads of the generator: each has a runtime of its own.
const THREADS: usize = 2;
/// Bytes read at once.
const READ: usize = 256 << 10;
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Where requests go, and with which keys.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub address: SocketAddr,
    pub region: &'static str,
    pub access_key: String,
    pub secret_key: String,
    pub bucket: &'static str,
}

/// What the connections do until the time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Stores objects of this size under new names.
    Put(usize),
    /// Stores so many objects of this size under `size-number`, and ends.
    Fill(usize, u64),
    /// The same with objects of zeros.
    FillZeros(usize, u64),
    /// Reads objects of this size, of so many.
    Get(usize, u64),
    /// Lists everything under the prefix of so many objects of this size in pages of 1,000, again and again.
    List(usize),
    /// Lists pages of 1,000 of so many objects of this size, from anywhere.
    Page(usize, u64),
    /// Of ten requests seven read, two store and one lists a page; objects of this size, of so many.
    Mixed(usize, u64),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    pub requests: u64,
    /// Of bodies, in either direction.
    pub bytes: u64,
    pub took: Duration,
    latencies: Vec<Duration>,
}

impl Done {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn mb_per_second(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64() / 1e6
    }

    /// The latency that this share of the requests did not exceed.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// Lets `clients` connections work from inside `from`.
pub(crate) fn run(from: &NetNs, server: &Server, work: Work, clients: usize, span: Duration) -> Result<Done> {
    let (signer, counter) = (Arc::new(Signer::new(server)), Arc::new(AtomicU64::new(0)));
    let begun = Instant::now();
    let until = begun + span;
    let threads = THREADS.min(clients);
    let mut running = Vec::new();
    for thread in 0..threads {
        let mine = clients / threads + usize::from(thread < clients % threads);
        let (server, signer, counter) = (server.clone(), signer.clone(), counter.clone());
        running.push(from.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let tasks = (0..mine).map(|_| connection(&server, &signer, work, &counter, until));
                sum(futures::future::join_all(tasks).await)
            })
        }));
    }
    let mut parts = Vec::new();
    for thread in running {
        parts.push(thread.join().map_err(|_| anyhow::anyhow!("a thread of the load died"))?.flatten());
    }
    let mut done = sum(parts)?;
    done.took = begun.elapsed();
    done.latencies.sort();
    Ok(done)
}

fn sum(parts: Vec<Result<Done>>) -> Result<Done> {
    let mut done = Done::default();
    for part in parts {
        let part = part?;
        done.requests += part.requests;
        done.bytes += part.bytes;
        done.latencies.extend(part.latencies);
    }
    Ok(done)
}

async fn connection(
    server: &Server,
    signer: &Signer,
    work: Work,
    counter: &AtomicU64,
    until: Instant,
) -> Result<Done> {
    let stream = TcpStream::connect(server.address).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut wire = Wire { stream, buffer: vec![0; READ], head: String::new() };
    let size = match work {
        Work::Put(size) | Work::Fill(size, _) | Work::FillZeros(size, _) | Work::Mixed(size, _) => size,
        Work::Get(..) | Work::List(_) | Work::Page(..) => 0,
    };
    let noise = !matches!(work, Work::FillZeros(..));
    let body: Vec<u8> = match noise {
        false => vec![0; size],
        true => (0..size).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7]).collect(),
    };
    let bucket = server.bucket;
    let mut done = Done::default();
    let mut page = String::new();
    loop {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        if Instant::now() >= until {
            return Ok(done);
        }
        // Spreads what is read over all there is, in no order.
        let any = |count: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % count.max(1);
        let (method, path, query, body) = match work {
            Work::Fill(_, count) | Work::FillZeros(_, count) if n >= count => return Ok(done),
            Work::Fill(size, _) | Work::FillZeros(size, _) => {
                ("PUT", format!("/{bucket}/{size}-{n:08}"), String::new(), &body[..])
            }
            Work::Put(size) => ("PUT", format!("/{bucket}/new-{size}-{n:08}"), String::new(), &body[..]),
            Work::Get(size, count) => {
                ("GET", format!("/{bucket}/{size}-{:08}", any(count)), String::new(), &[][..])
            }
            Work::List(size) => {
                let token = if page.is_empty() {
                    String::new()
                } else {
                    format!("continuation-token={}&", encoded(&page))
                };
                (
                    "GET",
                    format!("/{bucket}"),
                    format!("{token}list-type=2&max-keys=1000&prefix={size}-"),
                    &[][..],
                )
            }
            Work::Page(size, count) => {
                let from = encoded(&format!("{size}-{:08}", any(count.saturating_sub(1000))));
                let query = format!("list-type=2&max-keys=1000&prefix={size}-&start-after={from}");
                ("GET", format!("/{bucket}"), query, &[][..])
            }
            Work::Mixed(size, count) => match n % 10 {
                0 | 5 => ("PUT", format!("/{bucket}/mixed-{n:08}"), String::new(), &body[..]),
                9 => (
                    "GET",
                    format!("/{bucket}"),
                    format!("list-type=2&max-keys=100&prefix={size}-0000"),
                    &[][..],
                ),
                _ => ("GET", format!("/{bucket}/{size}-{:08}", any(count)), String::new(), &[][..]),
            },
        };
        let begun = Instant::now();
        let keep = matches!(work, Work::List(_));
        let answer = wire.exchange(server, signer, method, &path, &query, body, keep).await?;
        done.latencies.push(begun.elapsed());
        done.requests += 1;
        done.bytes += answer.bytes + body.len() as u64;
        if keep {
            page = between(&answer.kept, "<NextContinuationToken>", "</NextContinuationToken>").to_owned();
        }
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to).map_or("", |(found, _)| found)
}

struct Answer {
    bytes: u64,
    kept: String,
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    head: String,
}

impl Wire {
    #[allow(clippy::too_many_arguments, reason = "a request has these parts")]
    async fn exchange(
        &mut self,
        server: &Server,
        signer: &Signer,
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
        keep: bool,
    ) -> Result<Answer> {
        self.head.clear();
        signer.write_head(&mut self.head, method, path, query, body.len());
        // Small requests in one segment, as clients send them.
        if body.len() <= 64 << 10 {
            let mut whole = Vec::with_capacity(self.head.len() + body.len());
            whole.extend_from_slice(self.head.as_bytes());
            whole.extend_from_slice(body);
            self.stream.write_all(&whole).await?;
        } else {
            self.stream.write_all(self.head.as_bytes()).await?;
            self.stream.write_all(body).await?;
        }
        let mut filled = 0;
        let (head_len, status, length) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            ensure!(read > 0, "the connection was closed by {}", server.address);
            filled += read;
            if let Some(found) = parse_head(&self.buffer[..filled])? {
                break found;
            }
        };
        let mut kept = Vec::new();
        let mut there = (filled - head_len) as u64;
        if keep || status >= 300 {
            kept.extend_from_slice(&self.buffer[head_len..filled]);
        }
        match length {
            Some(length) => {
                while there < length {
                    let read = self.stream.read(&mut self.buffer).await?;
                    ensure!(read > 0, "the answer ended early");
                    there += read as u64;
                    if keep || status >= 300 {
                        kept.extend_from_slice(&self.buffer[..read]);
                    }
                }
            }
            // In chunks: only listings and errors come so, and the end of their last chunk is easy to see.
            None => {
                kept = self.buffer[head_len..filled].to_vec();
                while !kept.ends_with(b"0\r\n\r\n") {
                    let read = self.stream.read(&mut self.buffer).await?;
                    ensure!(read > 0, "the answer ended early");
                    kept.extend_from_slice(&self.buffer[..read]);
                    there += read as u64;
                }
            }
        }
        let kept = String::from_utf8_lossy(&kept).into_owned();
        if status >= 300 {
            bail!("{method} {path}?{query} was answered with {status}: {kept}");
        }
        Ok(Answer { bytes: there, kept })
    }
}

/// Length of the head, the status, and the length of the body where the head says it.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, u16, Option<u64>)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).context("a head that is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status")?;
    let mut length = None;
    let mut chunked = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        }
        chunked |= name.eq_ignore_ascii_case("transfer-encoding");
    }
    if status == 204 || status == 304 {
        length = Some(0);
    }
    ensure!(length.is_some() || chunked, "an answer without a length");
    Ok(Some((end + 4, status, length)))
}

fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Signs requests of one day for one server.
struct Signer {
    host: String,
    scope: String,
    credential: String,
    key: Hmac<Sha256>,
    stamp: String,
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    mac.chain_update(text.as_bytes()).finalize().into_bytes().to_vec()
}

impl Signer {
    /// With the time of now: a measurement takes less than the fifteen minutes for which that is good.
    fn new(server: &Server) -> Signer {
        let now = OffsetDateTime::now_utc();
        let (year, month, day) = now.to_calendar_date();
        let date = format!("{year:04}{:02}{day:02}", u8::from(month));
        let stamp = format!("{date}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let scope = format!("{date}/{}/s3/aws4_request", server.region);
        let mut key = format!("AWS4{}", server.secret_key).into_bytes();
        for part in scope.split('/') {
            key = mac(&key, part);
        }
        Signer {
            host: server.address.to_string(),
            credential: format!("{}/{scope}", server.access_key),
            key: Hmac::new_from_slice(&key).expect("any length will do"),
            scope,
            stamp,
        }
    }

    fn write_head(&self, out: &mut String, method: &str, path: &str, query: &str, length: usize) {
        use std::fmt::Write;
        let (host, stamp) = (&self.host, &self.stamp);
        let canonical = format!(
            "{method}\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{UNSIGNED}\nx-amz-date:{stamp}\n\n\
             host;x-amz-content-sha256;x-amz-date\n{UNSIGNED}"
        );
        let digest = hex::encode(Sha256::digest(canonical.as_bytes()));
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{}\n{digest}", self.scope);
        let signature = hex::encode(self.key.clone().chain_update(text.as_bytes()).finalize().into_bytes());
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let _ = write!(
            out,
            "{method} {target} HTTP/1.1\r\nhost: {host}\r\nx-amz-content-sha256: {UNSIGNED}\r\nx-amz-date: {stamp}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential={},SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature={signature}\r\n\
             content-length: {length}\r\n\r\n",
            self.credential
        );
    }
}
