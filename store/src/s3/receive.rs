//! How a body becomes log records: hashed, counted, sealed where it is to be encrypted, and appended while it
//! arrives.
//!
//! It never commits anything: until the caller's operation is committed, the appended records are
//! bytes that nothing refers to. Memory: the chunk that fills and the chunk that is being hashed and
//! appended, together about 2 MiB for each request.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use holdfast_heartbeat::types::{Epoch, Lsn};
use http::HeaderMap;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::Checksum as _;
use s3s::dto::StreamingBlob;
use s3s::stream::ByteStream as _;
use s3s::{S3Result, TrailingHeaders, s3_error};
use tokio::task::JoinHandle;

use super::patience::{PROGRESS, WINDOW};
use super::{Store, answer};
use crate::backend::WriteError;
use crate::checksum::{Checksum, ChecksumKind, ChecksumScope};
use crate::op::{CHUNK_LEN, Extent, INLINE_MAX, Source};
use crate::seal::{Key, Sealer};

/// The largest body of one request, in bytes (5 GiB, as S3 has it).
pub(super) const BODY_MAX: u64 = 5 << 30;

/// What the request says about its body.
pub(super) struct Expected {
    /// `Content-Length` or the decoded length of a chunked body.
    pub(super) len: Option<i64>,
    /// `Content-MD5`.
    pub(super) md5: Option<String>,
    /// `x-amz-checksum-*`, with where each value comes from.
    pub(super) checksums: Vec<(ChecksumKind, ChecksumFrom)>,
}

/// Where the value of a checksum is found.
pub(super) enum ChecksumFrom {
    /// In the request's head.
    Head(String),
    /// Behind the body.
    Trailer(TrailingHeaders),
    /// Nowhere: it is to be computed.
    Computed,
}

/// A body that arrived whole and as announced.
pub(super) struct Received {
    pub(super) source: Source,
    pub(super) inline: Bytes,
    pub(super) size: u64,
    pub(super) md5: [u8; 16],
    pub(super) checksums: Vec<Checksum>,
    /// To be kept until the operation is committed.
    pub(super) _kept: Option<Kept>,
}

impl Expected {
    /// Reads what head and trailer announcement say.
    pub(super) fn new(
        len: Option<i64>,
        md5: Option<String>,
        headers: &HeaderMap,
        trailers: Option<&TrailingHeaders>,
    ) -> S3Result<Expected> {
        let announced =
            headers.get("x-amz-trailer").and_then(|v| v.to_str().ok()).unwrap_or_default().to_lowercase();
        let mut checksums = Vec::new();
        for (kind, name) in ChecksumKind::ALL {
            if let Some(value) = headers.get(name).and_then(|v| v.to_str().ok()) {
                checksums.push((kind, ChecksumFrom::Head(value.to_owned())));
            } else if let Some(trailers) = trailers
                && announced.split(',').any(|n| n.trim() == name)
            {
                checksums.push((kind, ChecksumFrom::Trailer(trailers.clone())));
            }
        }
        if checksums.len() > 1 {
            return Err(s3_error!(InvalidRequest, "A request has one x-amz-checksum header at most"));
        }
        if checksums.is_empty() && headers.contains_key("x-amz-sdk-checksum-algorithm") {
            return Err(s3_error!(
                InvalidRequest,
                "x-amz-sdk-checksum-algorithm comes with an x-amz-checksum header or trailer"
            ));
        }
        Ok(Expected { len, md5, checksums })
    }

    /// The part of an upload whose parts have that checksum: it is computed where the client sends none, and
    /// no other may come.
    pub(super) fn must_have(&mut self, kind: ChecksumKind) -> S3Result<()> {
        match self.checksums.first() {
            None => self.checksums.push((kind, ChecksumFrom::Computed)),
            Some((sent, _)) if *sent == kind => {}
            Some((sent, _)) => {
                let (sent, kind) = (sent.name(), kind.name());
                return Err(s3_error!(
                    InvalidRequest,
                    "The part has a checksum {sent}, and the upload was begun with {kind}"
                ));
            }
        }
        Ok(())
    }

    /// A body of `len` bytes that this store reads itself, of which that checksum is wanted.
    pub(super) fn copied(len: u64, kind: Option<ChecksumKind>) -> Expected {
        let checksums = kind.map(|kind| (kind, ChecksumFrom::Computed)).into_iter().collect();
        Expected { len: i64::try_from(len).ok(), md5: None, checksums }
    }

    /// What computes the checksums.
    pub(super) fn hasher(&self) -> ChecksumHasher {
        let mut extra = ChecksumHasher::default();
        for (kind, _) in &self.checksums {
            match kind {
                ChecksumKind::Crc32 => extra.crc32 = Some(s3s::crypto::Crc32::new()),
                ChecksumKind::Crc32c => extra.crc32c = Some(s3s::crypto::Crc32c::new()),
                ChecksumKind::Crc64Nvme => extra.crc64nvme = Some(s3s::crypto::Crc64Nvme::new()),
                ChecksumKind::Sha1 => extra.sha1 = Some(s3s::crypto::Sha1::new()),
                ChecksumKind::Sha256 => extra.sha256 = Some(s3s::crypto::Sha256::new()),
            }
        }
        extra
    }
}

/// What is computed while the body passes.
struct Digests {
    md5: Md5,
    extra: ChecksumHasher,
    sealer: Option<Sealer>,
}

impl Digests {
    fn new(expected: &Expected, key: Option<&Key>) -> S3Result<Digests> {
        let sealer = key.map(Sealer::new).transpose().map_err(super::encryption::failed)?;
        Ok(Digests { md5: Md5::new(), extra: expected.hasher(), sealer })
    }

    /// Takes a chunk in and gives out what is stored of it. `last`: nothing follows.
    fn pass(&mut self, chunk: Bytes, last: bool) -> Bytes {
        self.update(&chunk);
        let Some(sealer) = &mut self.sealer else { return chunk };
        let mut sealed = BytesMut::with_capacity(chunk.len() + chunk.len() / 1024 + 64);
        sealer.update(&chunk, &mut sealed);
        if last && let Some(sealer) = self.sealer.take() {
            sealer.finish(&mut sealed);
        }
        sealed.freeze()
    }

    fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.extra.update(bytes);
    }
}

/// A chunk on its way: hashed on a blocking thread while the log takes it.
type Passing = JoinHandle<Result<(Digests, Extent, Kept), WriteError>>;

fn pass(store: &Store, mut digests: Digests, chunk: Bytes, last: bool) -> Passing {
    let (backend, receiving) = (Arc::clone(&store.backend), store.receiving.clone());
    let stopped = |_| WriteError::Failed("hashing stopped".into());
    tokio::spawn(async move {
        if digests.sealer.is_some() {
            let sealing = move || (digests.pass(chunk, last), digests);
            let (sealed, digests) = tokio::task::spawn_blocking(sealing).await.map_err(stopped)?;
            let len = sealed.len() as u32;
            let (lsn, _): (Lsn, Lsn) = backend.append(sealed).await?;
            return Ok((digests, Extent { lsn, offset: 0, len }, receiving.begin(lsn)));
        }
        let len = chunk.len() as u32;
        let hashed = chunk.clone();
        let hashing = tokio::task::spawn_blocking(move || {
            digests.update(&hashed);
            digests
        });
        let (lsn, _): (Lsn, Lsn) = backend.append(chunk).await?;
        let kept = receiving.begin(lsn);
        Ok((hashing.await.map_err(stopped)?, Extent { lsn, offset: 0, len }, kept))
    })
}

/// What has become of the chunks so far.
#[derive(Default)]
struct Gathered {
    extents: Vec<Extent>,
    /// From the first of them on.
    kept: Option<Kept>,
}

impl Gathered {
    /// Waits for the chunk on its way, if there is one, and takes the digests back.
    async fn settle(
        &mut self,
        passing: &mut Option<Passing>,
        digests: &mut Option<Digests>,
    ) -> S3Result<Digests> {
        let Some(passing) = passing.take() else {
            return digests.take().ok_or_else(|| answer::internal("the digests are lost"));
        };
        let passed = passing.await.map_err(|_| answer::internal("receiving the body stopped"))?;
        let (digests, extent, kept) = passed.map_err(answer::write)?;
        self.extents.push(extent);
        self.kept.get_or_insert(kept);
        Ok(digests)
    }
}

/// Where the data lies of bodies that are being received: it is nobody's yet, and must not be given up.
#[derive(Clone, Default)]
pub struct Receiving(Arc<Mutex<BTreeMap<Lsn, usize>>>);

impl Receiving {
    /// The first of it.
    pub fn first(&self) -> Option<Lsn> {
        self.0.lock().first_key_value().map(|(lsn, _)| *lsn)
    }

    pub(crate) fn begin(&self, lsn: Lsn) -> Kept {
        *self.0.lock().entry(lsn).or_default() += 1;
        Kept { of: self.clone(), lsn }
    }
}

/// As long as this lives, data from there on is not given up.
pub(crate) struct Kept {
    of: Receiving,
    lsn: Lsn,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut all = self.of.0.lock();
        if let Some(count) = all.get_mut(&self.lsn) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.lsn);
            }
        }
    }
}

/// Takes a body in. `epoch` is the reign under which the request began, `key` what the bytes are sealed with.
pub(super) async fn receive(
    store: &Store,
    epoch: Epoch,
    body: Option<StreamingBlob>,
    expected: Expected,
    key: Option<&Key>,
) -> S3Result<Received> {
    let len = match (expected.len, &body) {
        (Some(len), _) => u64::try_from(len).ok(),
        (None, None) => Some(0),
        // A request without a body need not say that its length is zero.
        (None, Some(body)) => body.remaining_length().exact().map(|len| len as u64),
    };
    let len = len.ok_or_else(|| s3_error!(MissingContentLength))?;
    if len > BODY_MAX {
        return Err(s3_error!(EntityTooLarge, "One request carries at most 5 GiB; use a multipart upload"));
    }
    let wanted_md5 = expected.md5.as_deref().map(content_md5).transpose()?;
    let inline = len <= INLINE_MAX as u64;
    let _share = store.budget.share(len).await?;

    let mut digests = Some(Digests::new(&expected, key)?);
    let mut passing: Option<Passing> = None;
    let mut gathered = Gathered::default();
    let mut filling = BytesMut::with_capacity(len.min(CHUNK_LEN as u64) as usize);
    let mut size = 0;
    let mut body = body;
    // Of the pace: where it was counted from, and what had come by then.
    let mut counted = (tokio::time::Instant::now(), 0);
    while let Some(body) = body.as_mut() {
        let piece = match tokio::time::timeout_at(counted.0 + WINDOW, body.next()).await {
            Err(_) => return Err(s3_error!(RequestTimeout, "The body stalled; nothing was stored")),
            Ok(None) => break,
            Ok(Some(piece)) => piece.map_err(|e| answer::body(&e))?,
        };
        size += piece.len() as u64;
        if size - counted.1 >= PROGRESS {
            counted = (tokio::time::Instant::now(), size);
        }
        if size > len {
            return Err(s3_error!(InvalidRequest, "The body is longer than announced; nothing was stored"));
        }
        let mut piece = &piece[..];
        while !piece.is_empty() {
            let taken = piece.len().min(CHUNK_LEN - filling.len());
            filling.extend_from_slice(&piece[..taken]);
            piece = &piece[taken..];
            // What comes last is kept back: the end of what is sealed is sealed with it.
            if filling.len() == CHUNK_LEN && size - (piece.len() as u64) < len {
                let digests = gathered.settle(&mut passing, &mut digests).await?;
                let chunk = std::mem::take(&mut filling).freeze();
                passing = Some(pass(store, digests, chunk, false));
                filling.reserve((len - (size - piece.len() as u64)).min(CHUNK_LEN as u64) as usize);
            }
        }
    }
    if size != len {
        return Err(s3_error!(IncompleteBody, "The body is shorter than announced; nothing was stored"));
    }
    let mut digests = gathered.settle(&mut passing, &mut digests).await?;
    let mut inline_bytes = Bytes::new();
    if inline {
        inline_bytes = digests.pass(filling.freeze(), true);
    } else if !filling.is_empty() {
        passing = Some(pass(store, digests, filling.freeze(), true));
        digests = gathered.settle(&mut passing, &mut None).await?;
    }
    let Gathered { extents, kept } = gathered;
    let source = if inline { Source::Inline } else { Source::Extents { epoch, extents } };
    let md5: [u8; 16] = digests.md5.finalize().into();
    if wanted_md5.is_some_and(|wanted| wanted != md5) {
        return Err(s3_error!(BadDigest, "Content-MD5 is not the body's; nothing was stored"));
    }
    let checksums = compare(expected.checksums, digests.extra)?;
    Ok(Received { source, inline: inline_bytes, size, md5, checksums, _kept: kept })
}

fn content_md5(base64: &str) -> S3Result<[u8; 16]> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).ok();
    bytes
        .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
        .ok_or_else(|| s3_error!(InvalidDigest, "Content-MD5 is no MD5 in base64"))
}

/// The value of that kind.
fn value(kind: ChecksumKind, computed: &s3s::dto::Checksum) -> Option<&String> {
    let value = match kind {
        ChecksumKind::Crc32 => &computed.checksum_crc32,
        ChecksumKind::Crc32c => &computed.checksum_crc32c,
        ChecksumKind::Crc64Nvme => &computed.checksum_crc64nvme,
        ChecksumKind::Sha1 => &computed.checksum_sha1,
        ChecksumKind::Sha256 => &computed.checksum_sha256,
    };
    value.as_ref()
}

/// What was computed, where nobody said what it should be.
pub(super) fn computed(kind: Option<ChecksumKind>, hasher: ChecksumHasher) -> Vec<Checksum> {
    let computed = hasher.finalize();
    let one = kind.and_then(|kind| {
        let base64 = value(kind, &computed)?.clone();
        Some(Checksum { kind, base64, scope: ChecksumScope::FullObject })
    });
    one.into_iter().collect()
}

/// Compares what was computed with what head or trailer say.
fn compare(expected: Vec<(ChecksumKind, ChecksumFrom)>, computed: ChecksumHasher) -> S3Result<Vec<Checksum>> {
    let computed = computed.finalize();
    let mut verified = Vec::new();
    for (kind, from) in expected {
        let actual = value(kind, &computed).ok_or_else(|| answer::internal("a checksum is lost"))?;
        let name = kind.header();
        let said = match from {
            ChecksumFrom::Computed => Some(actual.clone()),
            ChecksumFrom::Head(value) => Some(value),
            ChecksumFrom::Trailer(trailers) => trailers
                .read(|t| t.get(name).and_then(|v| v.to_str().ok()).map(|v| v.trim().to_owned()))
                .flatten(),
        };
        let said =
            said.ok_or_else(|| s3_error!(InvalidRequest, "The announced trailer {name} is missing"))?;
        if *actual != said {
            return Err(s3_error!(BadDigest, "{name} is not the body's; nothing was stored"));
        }
        verified.push(Checksum { kind, base64: said, scope: ChecksumScope::FullObject });
    }
    Ok(verified)
}
