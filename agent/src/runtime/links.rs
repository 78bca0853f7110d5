//! Judges this host's own links: the interfaces of the virtual addresses and `monitor_links`, and
//! whether one of `monitor_gateways` answers.

use std::net::IpAddr;
use std::time::Duration;

use holdfast_vip::{Prober, link_up};

use crate::node::event::Event;

/// How often the carriers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the gateways are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);
/// How many times it is asked within that.
const ASKS: u32 = 3;

/// Starts the thread. Says something when the judgement changes.
pub fn spawn(
    interfaces: Vec<String>,
    gateways: Vec<IpAddr>,
    report: impl Fn(Event) + Send + 'static,
) -> std::io::Result<()> {
    if interfaces.is_empty() && gateways.is_empty() {
        return Ok(());
    }
    std::thread::Builder::new().name("links".into()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async move {
            let prober = Prober::open(&[]).await;
            let mut said = String::new();
            let mut asked: Option<(tokio::time::Instant, bool)> = None;
            loop {
                let down: Vec<_> = interfaces.iter().filter(|name| !link_up(name)).cloned().collect();
                let reached = if gateways.is_empty() || !down.is_empty() {
                    true
                } else if let Some((_, answer)) = asked.filter(|(at, _)| at.elapsed() < ASK_EVERY) {
                    answer
                } else {
                    let answer = any_answers(&prober, &interfaces, &gateways).await;
                    asked = Some((tokio::time::Instant::now(), answer));
                    answer
                };
                let detail = match (down.as_slice(), reached) {
                    ([], true) => String::new(),
                    ([], false) => format!("none of the gateways answers ({})", join(&gateways)),
                    (down, _) => format!("no carrier on {}", join(down)),
                };
                if detail != said {
                    said.clone_from(&detail);
                    report(Event::LinksJudged { good: detail.is_empty(), detail });
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    })?;
    Ok(())
}

async fn any_answers(prober: &Prober, interfaces: &[String], gateways: &[IpAddr]) -> bool {
    for gateway in gateways {
        for interface in interfaces {
            if prober.probe_ip(interface, *gateway, ASKS, ANSWER_WITHIN).await {
                return true;
            }
        }
    }
    false
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
