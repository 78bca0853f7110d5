//! Two hundred addresses cost hardly more time than one.

use std::time::{Duration, Instant};

use holdfast_vip::gate::OPEN;
use holdfast_vip::{Addresses, Announcer, Prober, VipSpec};

use crate::gate::for_each_form;
use crate::two_hosts::{Asker, PATIENCE, THERE, on_two_hosts, serve_echo, until, vip};

const MOST: usize = 200;
const LONG: Duration = Duration::from_secs(60);

fn vips(count: usize) -> Vec<VipSpec> {
    (0..count).map(|n| vip(&format!("10.77.0.{}/24", 20 + n))).collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn many_addresses_are_claimed_announced_and_released_together() {
    on_two_hosts(async |_hosts| {
        let mut claims = Vec::new();
        for count in [1, 20, MOST] {
            let addresses = Addresses::open(vips(count)).await.unwrap();
            let announcer = Announcer::open(&vips(count));
            let (mut claim, mut announce, mut refresh, mut release) = (vec![], vec![], vec![], vec![]);
            for _ in 0..9 {
                let begun = Instant::now();
                addresses.claim(LONG).await.unwrap();
                claim.push(begun.elapsed());
                let begun = Instant::now();
                assert!(announcer.announce_all(addresses.specs()).is_empty());
                announce.push(begun.elapsed());
                let begun = Instant::now();
                addresses.refresh(LONG).await.unwrap();
                refresh.push(begun.elapsed());
                assert!(addresses.observe().await.unwrap().iter().all(|state| state.present));
                let begun = Instant::now();
                addresses.release().await.unwrap();
                release.push(begun.elapsed());
                assert!(addresses.observe().await.unwrap().iter().all(|state| !state.present));
            }
            claims.push(median(claim));
            eprintln!(
                "{count} addresses, medians: claim {:?}, announce {:?}, refresh {:?}, release {:?}",
                claims.last().unwrap(),
                median(announce),
                median(refresh),
                median(release)
            );
        }
        // One after the other with a look before each, as one address at a time would be, it took this long.
        let begun = Instant::now();
        for spec in vips(MOST) {
            Addresses::open(vec![spec]).await.unwrap().claim(LONG).await.unwrap();
        }
        let singly = begun.elapsed();
        eprintln!("{MOST} addresses one by one: {singly:?}");
        assert!(claims[2] < singly, "{:?} together, {singly:?} one by one", claims[2]);
    });
}

#[test]
fn many_addresses_are_probed_in_one_window() {
    on_two_hosts(async |hosts| {
        let prober = Prober::open(&vips(MOST)).await;
        let window = Duration::from_millis(150);
        let begun = Instant::now();
        let result = prober.probe(3, window).await;
        eprintln!("{MOST} addresses probed in {:?}", begun.elapsed());
        assert!(result.is_free(), "{result:?}");
        let last = vips(MOST).pop().unwrap();
        hosts.there.give(&[&last.address.to_string()]).await;
        let result = prober.probe(3, PATIENCE).await;
        assert_eq!(result.conflicts.len(), 1, "{result:?}");
        assert_eq!(result.conflicts[0].spec, last);
    });
}

#[test]
fn the_gate_covers_all_of_many_addresses() {
    for_each_form(async |form, hosts| {
        let specs = vips(MOST);
        let addresses = Addresses::open(specs.clone()).await.unwrap();
        let gate = form.open(&specs, &[9000]);
        addresses.claim(LONG).await.unwrap();
        let mut asker = hosts.there(|| Asker::new(THERE.parse().unwrap()));
        let ends = [&specs[0], &specs[MOST / 2], &specs[MOST - 1]];
        let served: Vec<_> = ends.iter().map(|spec| (spec.ip(), serve_echo(spec.ip())).into()).collect();
        for _ in 0..2 {
            for at in &served {
                assert!(!asker.ask(*at, Duration::from_millis(50)).await, "{form:?}: {at} is shut");
            }
            gate.allow_address_until(OPEN).unwrap();
            for at in &served {
                until("it answers", async || asker.ask(*at, Duration::from_millis(200)).await).await;
            }
            let begun = Instant::now();
            for _ in 0..20 {
                gate.allow_address_until(holdfast_vip::boottime_ns() + 10_000_000_000).unwrap();
            }
            eprintln!("{form:?}: moving the deadline of {MOST} addresses takes {:?}", begun.elapsed() / 20);
            assert!(asker.ask(served[1], PATIENCE).await);
            gate.close().unwrap();
        }
        gate.detach().unwrap();
    });
}
