//! Other software that follows the role, by the examples of the package: HAProxy, and a PostgreSQL on a disk that both
//! hosts reach. What the examples tell an operator to do is done here as they say it.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use holdfast_agent::lab::settings::{VIP, WITNESS};
use holdfast_integration::hosts::{Host, Hosts, Image, NOW, PATIENCE, SHARED_DISK, promise_on_hosts};
use holdfast_integration::stage::LIMIT;

use crate::steps::Story;

const EXAMPLES: &str = "/usr/share/doc/holdfast/examples";
const HOOKS: &str = "/usr/share/doc/holdfast/hooks";
const DATABASE: &str = "postgresql@15-main.service";

#[test]
fn haproxy_follows_the_role_with_tls_in_front_of_the_store() {
    promise_on_hosts(Image::Services, |hosts| {
        hosts.install_all(NOW)?;
        for host in data_hosts(hosts) {
            host.run("systemctl disable --now haproxy")?;
            host.run(&format!("install -m 755 {HOOKS}/post-failover.sh /etc/holdfast/"))?;
            let example = host.read(&format!("{EXAMPLES}/pair-with-haproxy.hcl"))?;
            let lines = indented(&example, "frontend s3")?;
            let config = host.read("/etc/haproxy/haproxy.cfg")?;
            host.write("/etc/haproxy/haproxy.cfg", &format!("{config}\n{lines}"))?;
            host.run(
                "cd /etc/haproxy && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=s3 -keyout key -out crt \
                 && cat crt key >s3.pem && haproxy -c -f haproxy.cfg",
            )?;
        }
        hosts.set_up(NOW, "pair-with-haproxy.hcl", |_, text| text)?;
        let mut story = Story::begin(hosts)?;
        proxied(hosts, hosts.cluster().wait_for_primary(LIMIT)?.as_str())?;
        story.step("a switchover", |primary, standby| {
            hosts.host(primary)?.run("holdfast ha failover")?;
            proxied(hosts, standby)
        })?;
        story.step("the primary loses its power", |primary, standby| {
            hosts.host(primary)?.cut_power()?;
            proxied(hosts, standby)?;
            hosts.host(primary)?.boot()
        })?;
        story.step("an HAProxy that does not start on the standby", |primary, standby| {
            let host = hosts.host(standby)?;
            host.run("mv /etc/haproxy/haproxy.cfg /etc/haproxy/kept")?;
            // The order is carried out or refused; the role ends where the proxy runs.
            let said = hosts.host(primary)?.try_run("holdfast ha failover")?;
            println!("with a proxy that cannot start, `ha failover` says: {}", said.to_string().trim());
            proxied(hosts, primary)?;
            host.run("mv /etc/haproxy/kept /etc/haproxy/haproxy.cfg").map(drop)
        })?;
        // The hook told somebody each time, and the history has what it said.
        for host in data_hosts(hosts) {
            let history = host.run("holdfast ha history")?.stdout;
            let ran = "hook post_failover_script (primary) ended well";
            ensure!(history.contains(ran), "{} ran no hook: {history}", host.name());
        }
        story.end()
    });
}

#[test]
fn a_database_is_on_one_host_alone_and_what_it_stored_moves_along() {
    promise_on_hosts(Image::Services, |hosts| {
        hosts.install_all(NOW)?;
        for host in data_hosts(hosts) {
            for hook in ["pre-failover.sh", "post-failover.sh", "postgresql-check.sh"] {
                host.run(&format!("install -m 755 {HOOKS}/{hook} /etc/holdfast/"))?;
            }
            let example = host.read(&format!("{EXAMPLES}/pair-with-postgresql.hcl"))?;
            ensure!(example.contains("echo manual > /etc/postgresql/15/main/start.conf"), "{example}");
            host.run(&format!(
                "systemctl stop postgresql {DATABASE} && echo manual > /etc/postgresql/15/main/start.conf"
            ))?;
            // The line of fstab as a unit: in a container systemd makes none of a line that names a device.
            host.run("mkdir -p /srv/database")?;
            host.write(
                "/etc/systemd/system/srv-database.mount",
                &format!("[Mount]\nWhat={SHARED_DISK}\nWhere=/srv/database\nType=ext4\n"),
            )?;
            host.run(&format!(
                "mkdir -p /etc/systemd/system/{DATABASE}.d /etc/systemd/system/holdfast.service.d"
            ))?;
            host.write(
                &format!("/etc/systemd/system/{DATABASE}.d/override.conf"),
                &indented(&example, "[Unit]")?,
            )?;
            ensure!(example.contains("TimeoutStopSec=60."), "{example}");
            host.write("/etc/systemd/system/holdfast.service.d/stop.conf", "[Service]\nTimeoutStopSec=60\n")?;
            host.run("sed -i \"s|^data_directory.*|data_directory = '/srv/database/main'|\" /etc/postgresql/15/main/postgresql.conf")?;
            host.run("systemctl daemon-reload")?;
        }
        let first = hosts.host("a")?;
        first.run(&format!(
            "mkfs.ext4 -q -O mmp {SHARED_DISK} && mount {SHARED_DISK} /srv/database && \
             cp -a /var/lib/postgresql/15/main /srv/database/ && umount /srv/database"
        ))?;
        // No fence device is here: the lock of the file system alone keeps a second server away from the disk.
        hosts.set_up(NOW, "pair-with-postgresql.hcl", |_, text| without_fences(&text))?;
        let mut story = Story::begin(hosts)?;
        let primary = hosts.cluster().wait_for_primary(LIMIT)?;
        on_one_host(hosts, &primary)?;
        sql(hosts.host(&primary)?, "create table kept (what text)")?;
        let mut rows = 0;
        let mut stored = |name: &str, before: &str| -> Result<()> {
            on_one_host(hosts, name)?;
            rows += 1;
            sql(hosts.host(name)?, &format!("insert into kept values ('{before}')"))?;
            let count = sql(hosts.host(name)?, "select count(*) from kept")?;
            ensure!(count.trim() == rows.to_string(), "after {before}, {name} has {count} rows of {rows}");
            Ok(())
        };
        story.step("a switchover", |primary, standby| {
            stored(primary, "anything")?;
            hosts.host(primary)?.run("holdfast ha failover")?;
            hosts.cluster().wait_until("the switchover", PATIENCE, |all| {
                all.iter().any(|s| s.node == standby && s.is_primary())
            })?;
            stored(standby, "a switchover")
        })?;
        story.step("systemctl stop on the primary", |primary, standby| {
            hosts.host(primary)?.run("systemctl stop holdfast")?;
            hosts.cluster().wait_for_primary(PATIENCE)?;
            stored(standby, "a stop")?;
            hosts.host(primary)?.run("systemctl start holdfast").map(drop)
        })?;
        story.step(
            "a database that dies: its check fails, and the other host takes over",
            |primary, standby| {
                hosts.host(primary)?.run(&format!("systemctl kill --kill-who=all -s KILL {DATABASE}"))?;
                hosts.cluster().wait_until("the handover", PATIENCE, |all| {
                    all.iter().any(|s| s.node == standby && s.is_primary())
                })?;
                stored(standby, "a crash")
            },
        )?;
        story.step("the primary loses its power", |primary, standby| {
            hosts.host(primary)?.cut_power()?;
            hosts.cluster().wait_until("the failover", PATIENCE, |all| {
                all.iter().any(|s| s.node == standby && s.is_primary())
            })?;
            stored(standby, "a power cut")?;
            hosts.host(primary)?.boot()
        })?;
        story.step("a note that forbids the standby to take over", |primary, standby| {
            hosts.host(standby)?.run("echo 'ask Ann' > /etc/holdfast/no-takeover")?;
            let said = hosts.host(primary)?.try_run("holdfast ha failover")?;
            println!("with a veto, `ha failover` says: {}", said.to_string().trim());
            stored(primary, "a veto")?;
            let history = hosts.host(standby)?.run("holdfast ha history")?.stdout;
            ensure!(history.contains("ask Ann"), "the history has no veto: {history}");
            hosts.host(standby)?.run("rm /etc/holdfast/no-takeover").map(drop)
        })?;
        story.end()
    });
}

fn data_hosts(hosts: &Hosts) -> impl Iterator<Item = &Host> {
    hosts.all().iter().filter(|host| host.name() != WITNESS)
}

/// The lines of a file that an example shows in its comments, from `first` on, as an operator would copy them.
fn indented(example: &str, first: &str) -> Result<String> {
    let shown = |line: &str| -> Option<String> {
        let line = line.strip_prefix('#')?;
        (line.is_empty() || line.starts_with("   ")).then(|| line.to_owned())
    };
    let lines = example.lines().skip_while(|line| line.trim_start_matches('#').trim() != first);
    let lines: Vec<String> = lines.map_while(shown).collect();
    let indent = lines.first().context("lines to copy")?.find(first).context("its first line")?;
    // A paragraph of the comment itself is indented less.
    let ours = lines
        .iter()
        .take_while(|line| line.is_empty() || line.len() > indent && line[..indent].trim().is_empty());
    Ok(ours.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect())
}

fn without_fences(text: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.lines() {
        inside |= line.starts_with("fence ");
        if !inside {
            kept += &format!("{line}\n");
        }
        inside &= line != "}";
    }
    kept
}

/// The unit runs on `name` alone, and a client is served through it.
fn proxied(hosts: &Hosts, name: &str) -> Result<()> {
    let ask = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 openssl s_client -quiet -connect {VIP}:443 2>/dev/null | grep -a AccessDenied"
    );
    hosts.wait(WITNESS, "an answer of the store by TLS", |host| Ok(host.try_run(&ask)?.status == 0))?;
    runs_on(hosts, "haproxy", name)
}

fn on_one_host(hosts: &Hosts, name: &str) -> Result<()> {
    hosts.wait(name, "an answer of the database", |host| {
        Ok(host.try_run("pg_isready --host=/var/run/postgresql --quiet")?.status == 0)
    })?;
    runs_on(hosts, DATABASE, name)?;
    let mounted: Vec<&str> = data_hosts(hosts)
        .filter(|host| {
            host.is_on() && host.try_run("mountpoint -q /srv/database").is_ok_and(|s| s.status == 0)
        })
        .map(Host::name)
        .collect();
    ensure!(mounted == [name], "/srv/database is mounted on {mounted:?}");
    Ok(())
}

/// Waits until a unit is active on `name` and nowhere else; where the role was just lost it may take its time to stop.
fn runs_on(hosts: &Hosts, unit: &str, name: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let runs: Vec<&str> = data_hosts(hosts)
            .filter(|host| host.is_on())
            .filter(|host| {
                host.try_run(&format!("systemctl is-active {unit}"))
                    .is_ok_and(|s| s.stdout.trim() == "active")
            })
            .map(Host::name)
            .collect();
        if runs == [name] {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{unit} runs on {runs:?}, and {name} is primary");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn sql(host: &Host, line: &str) -> Result<String> {
    Ok(host
        .run(&format!("setpriv --reuid=postgres --regid=postgres --clear-groups psql -qtAX -c \"{line}\""))?
        .stdout)
}
