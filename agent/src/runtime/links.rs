//! Judges this host's own links: the interfaces of the virtual addresses and `monitor_links`, and
//! whether one of `monitor_gateways` answers.
//!
//! The kernel says when a carrier changes (netlink). A gateway is asked by ARP or neighbour discovery on each
//! of those links, and by ICMP echo wherever the routes lead: one beyond the link answers only the latter.
//! Whatever changes is told at once; a gateway must be missed in [`MISSED`] rounds one after the other.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use holdfast_vip::{Prober, Watch, echo, link_up};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::node::event::Event;

/// The carriers are looked at this often even if the kernel says nothing: a notice may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The same while the kernel's notices cannot be had.
const LOOK_WITHOUT_NOTICES: Duration = Duration::from_millis(100);
/// How often the gateways are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// How many times it is asked within that.
const ASKS: u32 = 3;
/// Rounds in a row in which no gateway answers before the network counts as lost: a router that is busy with
/// something else must not move the role.
const MISSED: u32 = 2;

/// Starts the thread. Says something when the judgement changes.
pub fn spawn(
    interfaces: Vec<String>,
    gateways: Vec<IpAddr>,
    report: impl Fn(Event) + Send + 'static,
) -> std::io::Result<()> {
    if interfaces.is_empty() && gateways.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("links".into()).spawn(move || {
        let judged = RefCell::new(Judged::default());
        let say = |change: &dyn Fn(&mut Judged)| {
            let mut judged = judged.borrow_mut();
            change(&mut judged);
            if let Some(event) = judged.news() {
                report(event);
            }
        };
        let carriers = watch_carriers(&interfaces, |down| say(&|judged| judged.down.clone_from(&down)));
        let asking =
            ask_gateways(&interfaces, &gateways, |silent| say(&|judged| judged.silent.clone_from(&silent)));
        runtime.block_on(async { tokio::join!(carriers, asking) });
    })?;
    Ok(())
}

/// What is known of the links.
#[derive(Default)]
struct Judged {
    /// Links without a carrier.
    down: Vec<String>,
    /// The gateways, while none of them answers.
    silent: Vec<IpAddr>,
    said: String,
}

impl Judged {
    /// What is to be told, if it is not what was told last.
    fn news(&mut self) -> Option<Event> {
        let detail = match (self.down.as_slice(), self.silent.as_slice()) {
            ([], []) => String::new(),
            ([], silent) => format!("none of the gateways answers ({})", join(silent)),
            (down, _) => format!("no carrier on {}", join(down)),
        };
        if detail == self.said {
            return None;
        }
        self.said.clone_from(&detail);
        Some(Event::LinksJudged { good: detail.is_empty(), detail })
    }
}

/// Tells which of the interfaces have no carrier, at first and whenever something may have changed.
async fn watch_carriers(interfaces: &[String], tell: impl Fn(Vec<String>)) {
    if interfaces.is_empty() {
        return;
    }
    let mut warned = false;
    let mut watch = None;
    loop {
        if watch.is_none() {
            match Watch::open(Vec::new(), interfaces).await {
                Ok(opened) => watch = Some(opened),
                Err(error) if !std::mem::replace(&mut warned, true) => {
                    tracing::warn!(%error, "the kernel's notices about links cannot be had; looking ten times a second instead");
                }
                Err(_) => {}
            }
        }
        // After the subscription, so that nothing is missed in between.
        tell(interfaces.iter().filter(|name| !link_up(name)).cloned().collect());
        match &mut watch {
            None => sleep(LOOK_WITHOUT_NOTICES).await,
            Some(notices) => {
                let failed = tokio::select! {
                    notice = notices.next() => notice.is_err(),
                    () = sleep(LOOK_AGAIN) => false,
                };
                if failed {
                    watch = None;
                    sleep(LOOK_WITHOUT_NOTICES).await;
                }
            }
        }
    }
}

/// Tells the gateways while none of them answers, and nothing when one does.
async fn ask_gateways(interfaces: &[String], gateways: &[IpAddr], tell: impl Fn(Vec<IpAddr>)) {
    if gateways.is_empty() {
        return;
    }
    let prober = Prober::open(&[]).await;
    let mut schedule = interval(ASK_EVERY);
    schedule.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        schedule.tick().await;
        let mut answered = false;
        for gateway in gateways {
            answered = answered || answers(&prober, interfaces, *gateway).await;
        }
        missed = if answered { 0 } else { missed + 1 };
        if answered || missed >= MISSED {
            tell(if answered { Vec::new() } else { gateways.to_vec() });
        }
    }
}

/// Whether a gateway answers in one way or the other.
async fn answers(prober: &Prober, interfaces: &[String], gateway: IpAddr) -> bool {
    let on_link = async {
        for interface in interfaces {
            if prober.probe_ip(interface, gateway, ASKS, ANSWER_WITHIN).await {
                return true;
            }
        }
        false
    };
    either(on_link, echo(gateway, ASKS, ANSWER_WITHIN)).await
}

/// True as soon as one of the two is, false when both are not.
async fn either(a: impl Future<Output = bool>, b: impl Future<Output = bool>) -> bool {
    tokio::pin!(a, b);
    tokio::select! {
        yes = &mut a => yes || b.await,
        yes = &mut b => yes || a.await,
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(judged: &mut Judged) -> Option<(bool, String)> {
        judged.news().map(|event| match event {
            Event::LinksJudged { good, detail } => (good, detail),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn only_changes_are_told_and_a_carrier_before_a_gateway() {
        let mut judged = Judged::default();
        assert_eq!(news(&mut judged), None, "good links are no news");
        judged.silent = vec!["10.0.0.254".parse().unwrap()];
        assert_eq!(news(&mut judged), Some((false, "none of the gateways answers (10.0.0.254)".into())));
        judged.down = vec!["eth1".into()];
        assert_eq!(news(&mut judged), Some((false, "no carrier on eth1".into())));
        assert_eq!(news(&mut judged), None);
        judged.silent.clear();
        assert_eq!(news(&mut judged), None);
        judged.down.clear();
        assert_eq!(news(&mut judged), Some((true, String::new())));
    }

    #[tokio::test]
    async fn one_yes_is_enough_and_does_not_wait_for_the_other() {
        let yes = || std::future::ready(true);
        let no = || std::future::ready(false);
        assert!(either(yes(), std::future::pending()).await);
        assert!(either(std::future::pending(), yes()).await);
        assert!(either(no(), yes()).await && either(yes(), no()).await);
        assert!(!either(no(), no()).await);
    }
}
