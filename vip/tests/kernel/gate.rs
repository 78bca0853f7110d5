//! The gate in the path of real packets.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use holdfast_vip::gate::{
    self, EbpfGate, Ending, Gate, GateChoice, GateHealth, Hook, NftGate, NoGate, OPEN, Ownership,
    remove_stale,
};
use holdfast_vip::{Addresses, Announcer, Prober, VipSpec, boottime_ns, mac_of};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::two_hosts::{
    Asker, ETH, HERE, PATIENCE, THERE, THERE6, TwoHosts, VIP, VIP6, both_vips, on_two_hosts, real_root,
    serve_echo, until, vip,
};

/// Longer than any round trip here; waited out whenever the gate is expected to be shut.
pub(crate) const SHUT_AFTER: Duration = Duration::from_millis(100);
/// What a busy machine may add between the kernel's look at the clock and ours.
const SLACK: Duration = Duration::from_millis(50);

/// The gate's implementations; each must keep every promise here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Ebpf,
    /// As on kernels before 6.6.
    EbpfClsact,
    Nft,
    /// As on kernels before 6.9: whoever likes can change the table.
    NftUnowned,
}

impl Form {
    const ALL: [Form; 4] = [Form::Ebpf, Form::EbpfClsact, Form::Nft, Form::NftUnowned];

    fn is_ebpf(self) -> bool {
        matches!(self, Form::Ebpf | Form::EbpfClsact)
    }

    pub(crate) fn open(self, specs: &[VipSpec], ports: &[u16]) -> Settled {
        let nft = |ownership| Box::new(NftGate::open_as(specs, ports, ownership).unwrap());
        Settled(match self {
            Form::Ebpf => Box::new(EbpfGate::open(specs, ports).unwrap()),
            Form::EbpfClsact => Box::new(EbpfGate::open_at(Hook::Clsact, specs, ports).unwrap()),
            Form::Nft => {
                let gate = nft(Ownership::WherePossible);
                assert!(gate.is_owned(), "these tests want a kernel that knows owners");
                gate
            }
            Form::NftUnowned => nft(Ownership::Never),
        })
    }
}

/// A gate whose orders are in force when the call returns.
pub(crate) struct Settled(Box<dyn Gate>);

impl Settled {
    fn after(&self, ordered: std::io::Result<()>) -> std::io::Result<()> {
        ordered.and_then(|()| self.0.settle(PATIENCE))
    }

    pub(crate) fn allow_address_until(&self, boottime_ns: u64) -> std::io::Result<()> {
        self.after(self.0.allow_address_until(boottime_ns))
    }

    pub(crate) fn allow_ports_until(&self, boottime_ns: u64) -> std::io::Result<()> {
        self.after(self.0.allow_ports_until(boottime_ns))
    }

    pub(crate) fn close(&self) -> std::io::Result<()> {
        self.after(self.0.close())
    }

    pub(crate) fn check(&self) -> std::io::Result<GateHealth> {
        self.0.check()
    }

    pub(crate) fn repair(&self) -> std::io::Result<GateHealth> {
        self.0.repair()
    }

    pub(crate) fn detach(&self) -> std::io::Result<()> {
        self.0.detach()
    }
}

/// Runs `body` for each form on hosts of its own. eBPF needs real root.
pub(crate) fn for_each_form<F: Future<Output = ()>>(
    body: impl Fn(Form, TwoHosts) -> F + Clone + Send + 'static,
) {
    let forms: &[Form] = match real_root() {
        true => &Form::ALL,
        false => &[Form::Nft, Form::NftUnowned],
    };
    for &form in forms {
        eprintln!("{form:?}");
        let body = body.clone();
        on_two_hosts(move |hosts| body(form, hosts));
    }
}

fn ms(milliseconds: u64) -> u64 {
    milliseconds * 1_000_000
}

/// Claims both addresses here, and gives an asker there with the two questions it may ask.
pub(crate) async fn served(hosts: &TwoHosts) -> (Addresses, [(Asker, SocketAddr); 2]) {
    let addresses = Addresses::open(both_vips()).await.unwrap();
    addresses.claim(Duration::from_secs(60)).await.unwrap();
    let asker = |spec: &holdfast_vip::VipSpec, from: &str| {
        let asker = hosts.there(|| Asker::new(from.parse().unwrap()));
        (asker, SocketAddr::new(spec.ip(), serve_echo(spec.ip())))
    };
    let askers = [asker(&vip(VIP), THERE), asker(&vip(VIP6), THERE6)];
    (addresses, askers)
}

#[test]
fn packets_pass_while_the_gate_is_open_and_stop_when_it_closes() {
    for_each_form(async |form, hosts| {
        let (_addresses, askers) = served(&hosts).await;
        let gate = form.open(&both_vips(), &[]);
        assert!(gate.check().unwrap().is_whole());
        for (mut asker, vip) in askers {
            gate.close().unwrap();
            assert!(!asker.ask(vip, SHUT_AFTER).await, "{vip}: a gate starts shut");
            gate.allow_address_until(OPEN).unwrap();
            for _ in 0..100 {
                assert!(asker.ask(vip, PATIENCE).await, "{vip}");
            }
            gate.close().unwrap();
            assert!(!asker.ask(vip, SHUT_AFTER).await, "{vip}");
        }
        gate.detach().unwrap();
        assert!(!gate.check().unwrap().is_whole());
    });
}

/// Asks without pause and returns when the last answer arrived, once none comes any more.
async fn last_answer(asker: &mut Asker, vip: SocketAddr) -> u64 {
    let mut last = 0;
    while asker.ask(vip, SHUT_AFTER).await {
        last = boottime_ns();
    }
    last
}

#[test]
fn the_gate_closes_at_its_deadline_with_no_further_call() {
    for_each_form(async |form, hosts| {
        let (_addresses, askers) = served(&hosts).await;
        let gate = form.open(&both_vips(), &[]);
        for (mut asker, vip) in askers {
            gate.allow_address_until(OPEN).unwrap();
            assert!(asker.ask(vip, PATIENCE).await);
            let deadline = boottime_ns() + ms(300);
            gate.allow_address_until(deadline).unwrap();
            let last = last_answer(&mut asker, vip).await;
            eprintln!("{vip}: last answer {} us after the deadline", (last as i64 - deadline as i64) / 1000);
            assert!(last < deadline + SLACK.as_nanos() as u64, "an answer passed after the deadline");
            assert!(last + ms(100) > deadline, "the gate closed long before its deadline");
            assert!(!asker.ask(vip, SHUT_AFTER).await, "it stays shut");
        }
    });
}

const CHILD: &str = "HOLDFAST_TEST_GATE_CHILD";
const LEASE: Duration = Duration::from_millis(300);
const RENEW_EVERY: Duration = Duration::from_millis(100);

/// Not a test but the process that others kill or stop: it opens the gate for as long as it is told, or
/// renews a lease for ever.
#[test]
fn a_process_that_opens_the_gate() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (form, for_ms) = told.split_once(' ').unwrap();
    let form = Form::ALL.into_iter().find(|f| format!("{f:?}") == form).unwrap();
    let gate = form.open(&both_vips(), &[]);
    let for_ms: u64 = for_ms.parse().unwrap();
    loop {
        let deadline = boottime_ns() + if for_ms == 0 { LEASE.as_nanos() as u64 } else { ms(for_ms) };
        gate.allow_address_until(deadline).unwrap();
        println!("\ndeadline {deadline}");
        std::io::stdout().flush().unwrap();
        std::thread::sleep(if for_ms == 0 { RENEW_EVERY } else { Duration::from_secs(60) });
    }
}

/// Starts that process, and gives the first deadline that it set.
fn start_child(form: Form, for_ms: u64) -> (Child, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["gate::a_process_that_opens_the_gate", "--exact", "--nocapture"])
        .env(CHILD, format!("{form:?} {for_ms}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let deadline = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("deadline ").map(|ns| ns.parse().unwrap()))
        .expect("the child opens the gate");
    // Whatever else it says is read, so that it does not wait for a reader.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (child, deadline)
}

#[test]
fn the_gate_outlives_a_killed_process_and_shuts_at_its_deadline() {
    for_each_form(async |form, hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        assert!(asker.ask(vip, PATIENCE).await, "without a gate");

        let (mut child, deadline) = start_child(form, 500);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(boottime_ns() < deadline, "the machine is too slow for this test");

        assert!(asker.ask(vip, PATIENCE).await, "open until the deadline, with nobody behind it");
        let last = last_answer(&mut asker, vip).await;
        assert!(last < deadline + SLACK.as_nanos() as u64, "an answer passed after the deadline");
        assert!(last + ms(100) > deadline);

        // The next life takes over, shut; and leaves nothing when it stops cleanly.
        let next = form.open(&both_vips(), &[]);
        assert!(!asker.ask(vip, SHUT_AFTER).await);
        next.allow_address_until(OPEN).unwrap();
        assert!(asker.ask(vip, PATIENCE).await, "the old gate is gone");
        next.detach().unwrap();
        assert!(asker.ask(vip, PATIENCE).await);
    });
}

#[test]
fn a_lease_ends_however_its_holder_is_halted() {
    for_each_form(async |form, hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
            let (mut child, _) = start_child(form, 0);
            // Longer than a lease, so that it lives by renewals.
            let begun = boottime_ns();
            while boottime_ns() < begun + 2 * LEASE.as_nanos() as u64 {
                assert!(asker.ask(vip, PATIENCE).await, "{form:?}: a renewed lease does not end");
            }
            let halted = boottime_ns();
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            let last = last_answer(&mut asker, vip).await;
            eprintln!("{form:?}: last answer {} us after {signal}", (last as i64 - halted as i64) / 1000);
            // A relative timeout may end one lease late, an absolute one may not.
            let most = LEASE * if form.is_ebpf() { 1 } else { 2 };
            assert!(
                last < halted + (most + SLACK).as_nanos() as u64,
                "{form:?}: an answer passed after the lease"
            );
            assert!(last + (RENEW_EVERY / 2).as_nanos() as u64 > halted, "{form:?}: it ended before");
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!asker.ask(vip, SHUT_AFTER).await, "{form:?}: it stays shut");
        }
    });
}

#[test]
fn an_uninstalled_agents_gate_can_be_removed() {
    for_each_form(async |form, hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        drop(form.open(&both_vips(), &[]));
        assert!(!asker.ask(vip, SHUT_AFTER).await, "shut, though nobody holds it");
        remove_stale().unwrap();
        assert!(asker.ask(vip, PATIENCE).await);

        drop(form.open(&both_vips(), &[]));
        let (none, reason) = gate::open(GateChoice::None, &both_vips(), &[], || ());
        assert_eq!((none.name(), reason), (NoGate::new(&[]).name(), None));
        assert!(asker.ask(vip, PATIENCE).await, "choosing no gate removes the one that was left");
    });
}

#[test]
fn an_announcement_cannot_leave_a_shut_gate_and_nor_can_an_answer() {
    for_each_form(async |form, hosts| {
        const FORMER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
        let own = mac_of(ETH).unwrap().octets();
        let bystanders = [vip("10.77.0.101/24"), vip("fd77::65/64")];
        let announcer = Announcer::open(&both_vips());
        let gate = form.open(&both_vips(), &[]);
        for (spec, bystander) in both_vips().iter().zip(&bystanders) {
            let believes = async |ip: IpAddr| hosts.there.neighbour(ip).await == Some(own);
            for known in [spec, bystander] {
                hosts.there.know_neighbour(known.ip(), FORMER).await;
            }
            assert!(announcer.announce(spec).is_err(), "the kernel says that it dropped the frame");
            // Frames arrive in order: once the bystander's is there, the other one will not come.
            announcer.announce(bystander).unwrap();
            until("the bystander is believed", async || believes(bystander.ip()).await).await;
            assert!(!believes(spec.ip()).await, "{spec}");

            gate.allow_address_until(OPEN).unwrap();
            announcer.announce(spec).unwrap();
            until("the open gate lets it out", async || believes(spec.ip()).await).await;
            gate.close().unwrap();
        }
        // Holding the address behind a shut gate, we answer nobody's question for it.
        Addresses::open(both_vips()).await.unwrap().claim(Duration::from_secs(60)).await.unwrap();
        let there = hosts.meanwhile_there(async || {
            Prober::open(&both_vips()).await.probe(3, Duration::from_millis(300)).await
        });
        assert!(there.join().unwrap().is_free());
    });
}

#[test]
fn probes_pass_a_shut_gate_both_ways() {
    for_each_form(async |form, hosts| {
        let _gate = form.open(&both_vips(), &[]);
        for spec in both_vips() {
            crate::probe::probe_each_other(&hosts, &spec).await;
            let prober = Prober::open(std::slice::from_ref(&spec)).await;
            let long = Duration::from_secs(20);
            hosts.there.give(&[&spec.address.to_string()]).await;
            assert_eq!(prober.probe(3, long).await.conflicts.len(), 1, "a holder's answer comes in");
        }
    });
}

#[test]
fn a_standby_can_be_a_client_of_the_address_behind_its_shut_gate() {
    for_each_form(async |form, hosts| {
        let _gate = form.open(&both_vips(), &[]);
        hosts.there.give(&[VIP]).await;
        let mut asker = Asker::new(HERE.parse().unwrap());
        let port = hosts.there(|| serve_echo(vip(VIP).ip()));
        assert!(asker.ask(SocketAddr::new(vip(VIP).ip(), port), PATIENCE).await);
    });
}

/// Whether a TCP connection from there to `to` can be opened and carries a byte each way.
pub(crate) async fn tcp_talks(hosts: &TwoHosts, to: SocketAddr, limit: Duration) -> bool {
    let socket = hosts.there(|| {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        tokio::net::TcpSocket::from_std_stream(socket.into())
    });
    let talk = async {
        let stream = socket.connect(to).await?;
        stream.writable().await?;
        stream.try_write(b"?")?;
        stream.readable().await?;
        let mut answer = [0; 1];
        stream.try_read(&mut answer)
    };
    matches!(tokio::time::timeout(limit, talk).await, Ok(Ok(1)))
}

pub(crate) async fn serve_tcp(address: &str) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let bound = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.into_split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    bound
}

#[test]
fn a_service_port_is_gated_while_other_ports_pass() {
    for_each_form(async |form, hosts| {
        for family in ["10.77.0.1:0", "[fd77::1]:0"] {
            let (gated, free) = (serve_tcp(family).await, serve_tcp(family).await);
            let gate = form.open(&both_vips(), &[gated.port()]);
            assert!(!tcp_talks(&hosts, gated, SHUT_AFTER).await, "{gated}: shut at first");
            assert!(tcp_talks(&hosts, free, PATIENCE).await, "{free}: another port");

            gate.allow_ports_until(OPEN).unwrap();
            assert!(tcp_talks(&hosts, gated, PATIENCE).await, "{gated}: open");
            gate.close().unwrap();
            assert!(tcp_talks(&hosts, gated, PATIENCE).await, "{gated}: closing is about the address");
            gate.allow_ports_until(boottime_ns()).unwrap();
            assert!(!tcp_talks(&hosts, gated, SHUT_AFTER).await, "{gated}: past its deadline");

            // The host may talk to itself: that never leaves it.
            let own = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(gated)).await;
            assert!(own.is_ok_and(|connected| connected.is_ok()));
        }
    });
}

#[test]
fn a_gate_on_an_interface_that_was_made_again_is_missed_and_repaired() {
    for_each_form(async |form, hosts| {
        let gate = form.open(&both_vips(), &[]);
        let index = hosts.here.index_of(ETH).await;
        hosts.here.netlink.link().del(index).execute().await.unwrap();
        assert_eq!(gate.repair().unwrap().missing, [ETH], "nothing to repair yet, and no error");
        hosts.lay_cable().await;
        hosts.here.give(&["10.77.0.1/24", "fd77::1/64"]).await;
        hosts.there.give(&["10.77.0.2/24", "fd77::2/64"]).await;
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        // From Linux 6.16 nftables takes a new interface of the same name in by itself.
        let health = gate.check().unwrap();
        if form.is_ebpf() || !health.is_whole() {
            assert_eq!(
                (health.missing.as_slice(), health.ungated().as_slice()),
                (&[ETH.to_owned()][..], &[ETH][..])
            );
            assert!(gate.repair().unwrap().is_whole());
        }
        assert!(!asker.ask(vip, SHUT_AFTER).await);
        gate.allow_address_until(OPEN).unwrap();
        assert!(asker.ask(vip, PATIENCE).await);
    });
}

/// User and system time of this process so far.
fn cpu_time() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    let spent = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    spent(usage.user_time()) + spent(usage.system_time())
}

/// `cargo test -p holdfast-vip --test kernel -- --ignored --nocapture --test-threads=1`
#[test]
#[ignore = "prints figures and promises nothing"]
fn what_a_renewal_costs() {
    const RENEWALS: u32 = 2000;
    const WATCHED: Duration = Duration::from_secs(10);
    for_each_form(async |form, _hosts| {
        let gate = form.open(&both_vips(), &[9000]);
        let renew = |until: fn() -> u64| {
            gate.0.allow_ports_until(until()).unwrap();
            gate.0.allow_address_until(until()).unwrap();
        };
        let lease = || boottime_ns() + LEASE.as_nanos() as u64;
        let (mut told, mut in_force) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..RENEWALS {
            let begun = std::time::Instant::now();
            renew(lease);
            told += begun.elapsed();
            gate.0.settle(PATIENCE).unwrap();
            in_force += begun.elapsed();
        }
        let (begun, before) = (std::time::Instant::now(), cpu_time());
        while begun.elapsed() < WATCHED {
            renew(lease);
            std::thread::sleep(RENEW_EVERY);
        }
        let renewing = cpu_time() - before;
        let before = cpu_time();
        for _ in 0..RENEWALS {
            gate.check().unwrap();
        }
        let look = (cpu_time() - before) / RENEWALS;
        eprintln!(
            "{form:?}: told in {:?}, in force after {:?}; each {RENEW_EVERY:?}: {:.3} % of a processor; a look {look:?}",
            told / RENEWALS,
            in_force / RENEWALS,
            100.0 * renewing.as_secs_f64() / WATCHED.as_secs_f64(),
        );
    });
}

#[test]
fn renewals_lose_no_packet() {
    for_each_form(async |form, hosts| {
        let (_addresses, [(mut asker, vip), _]) = served(&hosts).await;
        let gate = form.open(&both_vips(), &[]);
        gate.allow_address_until(OPEN).unwrap();
        assert!(asker.ask(vip, PATIENCE).await);
        for _ in 0..5000 {
            gate.allow_address_until(boottime_ns() + ms(300)).unwrap();
            assert!(asker.ask(vip, Duration::from_millis(250)).await);
        }
    });
}

/// With CAP_BPF and without CAP_SYS_ADMIN a program can be attached, and not found again.
#[test]
fn a_gate_that_the_next_life_could_not_take_away_is_not_made() {
    const INSIDE: &str = "HOLDFAST_TEST_CANNOT_FIND_AGAIN";
    if std::env::var_os(INSIDE).is_some() {
        // The second one is the next life: what the first one left must not stand before it.
        for life in 1..=2 {
            let (gate, reason) = gate::open(GateChoice::Auto, &both_vips(), &[], || ());
            let (name, reason) = (gate.name(), reason.unwrap_or_default());
            // At clsact every filter says its name.
            let taken = name == "nftables" && reason.contains("CAP_SYS_ADMIN");
            assert!(taken || name.contains("clsact"), "life {life}: {name}, {reason}");
        }
        return;
    }
    let inside = Command::new("unshare")
        .args(["--net", "setpriv", "--bounding-set=-sys_admin"])
        .arg(std::env::current_exe().unwrap())
        .args(["gate::a_gate_that_the_next_life_could_not_take_away_is_not_made", "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    match inside {
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        Ok(output) if output.status.success() => {}
        _ => eprintln!("skipped: needs root and setpriv"),
    }
}

#[test]
fn where_ebpf_is_not_permitted_nftables_is_taken_and_the_reason_given() {
    const INSIDE: &str = "HOLDFAST_TEST_UNPERMITTED";
    if std::env::var_os(INSIDE).is_some() {
        let (gate, reason) = gate::open(GateChoice::Auto, &both_vips(), &[], || ());
        assert_eq!(gate.name(), "nftables");
        assert_eq!(gate.ending(), Ending::Relative);
        let reason = reason.unwrap();
        assert!(reason.contains("no eBPF") && reason.contains("Operation not permitted"), "{reason}");
        drop(gate);

        let (gate, reason) = gate::open(GateChoice::Ebpf, &both_vips(), &[], || ());
        assert_eq!(gate.name(), NoGate::new(&[]).name(), "what was named is not exchanged");
        assert!(reason.unwrap().contains("Operation not permitted"));
        return;
    }
    let inside = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "gate::where_ebpf_is_not_permitted_nftables_is_taken_and_the_reason_given",
            "--exact",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output();
    match inside {
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
        }
        Ok(output) if output.status.success() => {}
        _ => eprintln!("skipped: needs user namespaces"),
    }
}
