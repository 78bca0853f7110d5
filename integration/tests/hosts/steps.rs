//! A step of a story: something happens to hosts under load, and afterwards all is as if it had not.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_agent::lab::ledger::{Ledger, Load, LoadSpec, Patience, Target};
use holdfast_agent::lab::twins::Twins;
use holdfast_integration::hosts::{Hosts, PATIENCE};
use holdfast_integration::measure::{all_there, no_twins};

/// Acknowledged writes before something happens, and after all is well again.
const WRITES: usize = 30;
/// Few writers who pause: what is looked for is what was acknowledged and is lost, not how much can be written.
const LOAD: LoadSpec = LoadSpec {
    writers: 4,
    size: 4096,
    seed: 1,
    pace: Duration::from_millis(5),
    patience: Patience::NONE,
    threads: 1,
};

/// A story on hosts: its steps, and everything that was acknowledged in them.
pub(crate) struct Story<'a> {
    hosts: &'a Hosts,
    target: Target,
    ledgers: Vec<Ledger>,
    twins: Twins,
}

impl<'a> Story<'a> {
    /// Begins with hosts that serve already.
    pub(crate) fn begin(hosts: &'a Hosts) -> Result<Story<'a>> {
        Story::begin_at(hosts, hosts.target("story"))
    }

    /// The same where the key of the S3 root user is `secret`.
    pub(crate) fn begin_with(hosts: &'a Hosts, secret: &str) -> Result<Story<'a>> {
        Story::begin_at(hosts, Target { secret_key: secret.to_owned(), ..hosts.target("story") })
    }

    fn begin_at(hosts: &'a Hosts, target: Target) -> Result<Story<'a>> {
        hosts.wait_well()?;
        target.create_bucket(&hosts.cluster().client()?, PATIENCE)?;
        Ok(Story { hosts, target, ledgers: Vec::new(), twins: Twins::watch(hosts.cluster())? })
    }

    /// Does `event`, given the primary and the standby, while clients write. Then waits until all is well, writes get
    /// through, and everything that was acknowledged is there. Returns what the clients were told.
    pub(crate) fn step(
        &mut self,
        name: &str,
        event: impl FnOnce(&str, &str) -> Result<()>,
    ) -> Result<&Ledger> {
        let began = Instant::now();
        let cluster = self.hosts.cluster();
        let primary = self.hosts.wait_well().with_context(|| format!("before: {name}"))?;
        let spec = LoadSpec { seed: self.ledgers.len() as u64 + 1, ..LOAD };
        let load = Load::start(&cluster.client()?, &self.target, spec);
        let story = || -> Result<()> {
            load.wait_for_more(WRITES, PATIENCE)?;
            event(&primary, cluster.other_than(&primary))?;
            self.hosts.wait_well()?;
            load.wait_for_more(WRITES, PATIENCE)
        };
        let told = story();
        let ledger = load.stop()?;
        told.with_context(|| format!("in: {name}"))?;
        all_there(cluster, &self.target, &ledger).with_context(|| format!("after: {name}"))?;
        println!(
            "{name}: {} acknowledged, longest gap {} ms, {:.1} s in all",
            ledger.acknowledged.len(),
            ledger.longest_gap().as_millis(),
            began.elapsed().as_secs_f32()
        );
        self.ledgers.push(ledger);
        self.ledgers.last().context("the step's ledger")
    }

    /// Looks whether everything is there that was acknowledged in any step.
    pub(crate) fn look(&self) -> Result<()> {
        ensure!(!self.ledgers.is_empty(), "a story without a step proves nothing");
        self.ledgers.iter().try_for_each(|ledger| all_there(self.hosts.cluster(), &self.target, ledger))
    }

    /// Ends it: all that was acknowledged in any step is there, and at no time did two hosts serve on the address.
    pub(crate) fn end(self) -> Result<()> {
        self.look().context("in the end")?;
        let evidence = self.twins.stop()?;
        no_twins(self.hosts.cluster(), &evidence)
    }
}
