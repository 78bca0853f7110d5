//! Ten million objects in one bucket: how long a restart takes, what a page of a listing costs, what index and process
//! weigh, and what clients notice while space is won back at that size.
//!
//! The objects are not put by clients, which would take an hour: while the agent is off, their operations go through
//! the agent's own log and state machine, in large batches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_agent::lab::agent_api;
use holdfast_agent::lab::cluster::{Cluster, Fault};
use holdfast_agent::lab::ledger::Patience;
use holdfast_agent::lab::settings::ClusterSpec;
use holdfast_agent::runtime::log_thread::{self, wall_ms};
use holdfast_agent::runtime::space::SpaceStatus;
use holdfast_heartbeat::{Epoch, Incarnation, Member, NodeId};
use holdfast_integration::stage::LIMIT;
use holdfast_replication::RecordKind;
use holdfast_replication::replica::{Input, Wait};
use holdfast_store::index::Index;
use holdfast_store::machine::Machine;
use holdfast_store::object::{Etag, Traits};
use holdfast_store::op::{Op, Precondition, PutObject, Source};

use super::load::{Work, run};
use super::servers::{self, BUCKET};
use super::{SPAN, STOCK_WITHIN, with_cluster};

/// The host with the store.
const HOST: &str = "a";
/// Objects in the bucket that it is compared with.
const FEW: u64 = 10_000;
/// Operations that one sync covers.
const BATCH: u64 = 20_000;
/// How long a restart may take, with room for one that failed the promise: it is printed then.
const RESTART_LIMIT: Duration = Duration::from_secs(120);
/// Size of an object.
const SIZE: usize = 1;
/// The bucket with few.
const SMALL_BUCKET: &str = "few";

/// Measures with `count` objects.
pub(crate) fn all(binary: &Path, count: u64) -> Result<()> {
    println!("\n{count} objects in one bucket, beside {FEW} in another");
    let spec = ClusterSpec { data_members: 1, ..ClusterSpec::default() };
    with_cluster(binary, spec, |cluster| {
        let running = servers::holdfast(cluster)?;
        let mut few = cluster.target(SMALL_BUCKET);
        few.bucket = SMALL_BUCKET.to_owned();
        few.create_bucket(&cluster.client()?, LIMIT)?;
        let small = load_server(&running.server, SMALL_BUCKET);
        run(&cluster.client()?, &small, Work::Fill(SIZE, FEW), 32, STOCK_WITHIN)?;
        drop(running);
        cluster.inflict(HOST, Fault::PowerOff)?;
        let begun = Instant::now();
        fill(&cluster.dir().join(HOST).join("store"), count)?;
        println!("  filled in {:.0} s", begun.elapsed().as_secs_f64());

        cluster.inflict(HOST, Fault::Heal)?;
        println!("  first start to serving      {:>8.2} s", serving(cluster, Instant::now())?);
        cluster.inflict(HOST, Fault::KillAll)?;
        let begun = Instant::now();
        cluster.inflict(HOST, Fault::Heal)?;
        println!("  SIGKILL, start to serving   {:>8.2} s", serving(cluster, begun)?);
        cluster.inflict(HOST, Fault::PowerOff)?;
        let begun = Instant::now();
        cluster.inflict(HOST, Fault::Heal)?;
        println!("  power-off, start to serving {:>8.2} s", serving(cluster, begun)?);

        let running = servers::holdfast(cluster)?;
        let large = running.server.clone();
        let client = cluster.client()?;
        println!("  resident after the start    {:>8.0} MiB", running.usage()?.rss_mib);
        for (name, server, stock) in
            [("few", &small, FEW), ("many", &large, count), ("few", &small, FEW), ("many", &large, count)]
        {
            let pages = run(&client, server, Work::Page(SIZE, stock), 1, SPAN)?;
            let reads = run(&client, server, Work::Get(SIZE, stock), 32, SPAN)?;
            println!(
                "  {name:<5} page of 1,000 from anywhere p50 {:.2} ms, p99 {:.2} ms;  GET, 32 clients {:.0}/s, p99 {:.1} ms",
                ms(pages.quantile(0.5)),
                ms(pages.quantile(0.99)),
                reads.per_second(),
                ms(reads.quantile(0.99)),
            );
        }
        let usage = running.usage()?;
        println!("  resident, peak              {:>8.0}, {:.0} MiB", usage.rss_mib, usage.peak_mib);
        let space: SpaceStatus = agent_api::get(&cluster.netns(HOST)?, "/api/store/space")?;
        println!("  index {} MiB, log {} MiB", space.index_bytes >> 20, space.log_bytes >> 20);
        reclaim(cluster, &large)?;
        let usage = running.usage()?;
        println!("  resident, peak              {:>8.0}, {:.0} MiB", usage.rss_mib, usage.peak_mib);
        Ok(())
    })
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn load_server(server: &super::load::Server, bucket: &'static str) -> super::load::Server {
    super::load::Server { bucket, ..server.clone() }
}

/// Seconds from `begun` until an object was read.
fn serving(cluster: &Cluster, begun: Instant) -> Result<f64> {
    let target = cluster.target(SMALL_BUCKET);
    cluster.client()?.block_on(|| async {
        use object_store::ObjectStoreExt;
        let s3 = target.client(Patience::NONE)?;
        loop {
            if s3.get(&format!("{SIZE}-00000000").into()).await.is_ok() {
                return Ok(begun.elapsed().as_secs_f64());
            }
            ensure!(begun.elapsed() < RESTART_LIMIT, "nothing was served within {RESTART_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })?
}

/// Puts the objects into the store of a member that is off.
fn fill(dir: &Path, count: u64) -> Result<()> {
    let incarnation = std::fs::read_to_string(dir.join("incarnation"))?;
    let incarnation = Incarnation(u64::from_str_radix(incarnation.trim(), 16)?);
    let me = Member { id: NodeId::new(HOST).context("its name")?, incarnation };
    let (index, _) = Index::open(&dir.join("index"))?;
    let machine = Machine::new(index)?;
    let (mut engine, _) = log_thread::open(
        &dir.join("log"),
        me.clone(),
        machine,
        64 << 20,
        log_thread::Sending::default(),
        false,
    )?;
    let epoch = Epoch(engine.log().last_epoch().0 + 1);
    let mut out = Vec::new();
    engine.ingest([Input::Lead { epoch, members: vec![me], wall_ms: wall_ms() }], &mut out);
    engine.flush(&mut out);
    let mut at = 0;
    while at < count {
        let batch = (at..count.min(at + BATCH)).map(|n| {
            let op = Op::PutObject(Box::new(PutObject {
                bucket: BUCKET.to_owned(),
                key: format!("{SIZE}-{n:08}"),
                traits: Traits::default(),
                size: SIZE as u64,
                etag: Etag { md5: [n as u8; 16], parts: 0 },
                checksums: Vec::new(),
                source: Source::Inline,
                precondition: Precondition::default(),
                wall_ms: wall_ms(),
            }));
            let payload = op.encode(Bytes::from_static(b"x")).expect("a small operation");
            let (reply, _) = tokio::sync::oneshot::channel();
            Input::Submit { kind: RecordKind::Op, payload, wait: Wait::Committed, reply }
        });
        engine.ingest(batch, &mut out);
        engine.flush(&mut out);
        while engine.wants_flush() {
            engine.flush(&mut out);
        }
        out.clear();
        at += BATCH;
        if at % 1_000_000 == 0 {
            eprintln!("  {at} objects");
        }
    }
    ensure!(engine.status().failure.is_none(), "{:?}", engine.status().failure);
    Ok(())
}

/// Makes garbage, has it won back, and prints what clients notice meanwhile.
fn reclaim(cluster: &Cluster, server: &super::load::Server) -> Result<()> {
    let client = cluster.client()?;
    // All but the last round of this is garbage at once: more than a checkpoint of so large an index costs.
    for _ in 0..10 {
        run(&client, server, Work::Fill(16 << 20, 16), 4, STOCK_WITHIN)?;
    }
    let calm = run(&client, server, Work::Put(4 << 10), 4, SPAN)?;
    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, server, over) = (client.clone(), server.clone(), over.clone());
        thread::spawn(move || {
            let mut worst = Duration::ZERO;
            let (mut middle, mut rounds) = (Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) {
                let done = run(&client, &server, Work::Put(4 << 10), 4, Duration::from_secs(1))?;
                worst = worst.max(done.quantile(1.0));
                middle += done.quantile(0.5);
                rounds += 1;
            }
            anyhow::Ok((middle / rounds.max(1), worst))
        })
    };
    let netns = cluster.netns(HOST)?;
    agent_api::post(&netns, "/api/store/space/reclaim", Some(serde_json::json!({})))?;
    let begun = Instant::now();
    let mut most = 0;
    let status = loop {
        let status: SpaceStatus = agent_api::get(&netns, "/api/store/space")?;
        most = most.max(status.running.map_or(0, |running| running.checkpoint_bytes));
        if status.last.is_some() || begun.elapsed() > Duration::from_secs(300) {
            break status;
        }
        thread::sleep(Duration::from_millis(100));
    };
    over.store(true, Ordering::Relaxed);
    let (middle, worst) = writer.join().map_err(|_| anyhow::anyhow!("the writer died"))??;
    println!(
        "  reclaim: {} after {:.0} s, {} MiB won, checkpoint {} MiB; PUT 4 KiB p50 {:.1} ms (calm {:.1}), worst {:.0} ms (calm {:.0})",
        status.last.as_ref().map_or("not over", |last| &last.outcome),
        begun.elapsed().as_secs_f64(),
        status.won_bytes >> 20,
        most >> 20,
        ms(middle),
        ms(calm.quantile(0.5)),
        ms(worst),
        ms(calm.quantile(1.0)),
    );
    Ok(())
}
