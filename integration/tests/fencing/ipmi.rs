//! A management controller that speaks IPMI over the network: `ipmi_sim` of Debian's `openipmi`, which asks a program
//! for the power (ipmi_lan(5), `chassis_control`).

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holdfast_agent::lab::cluster::write_private;
use holdfast_agent::lab::world::Machine;
use holdfast_integration::stage::write_program;

use super::Controllers;

/// Of IPMI 2.0 it is 20, and of its simulator 16 with the end.
pub(crate) const LONGEST_PASSWORD: usize = 15;

/// Where the controller listens, on the loopback of the host that runs the agent.
const PORT: u16 = 9623;

/// Answers `get power` from a file, and hands `set power` on to who carries out orders.
const CHASSIS: &str = r#"#!/bin/sh
# Called as: chassis ADDRESS get WHAT... | chassis ADDRESS set WHAT VALUE...
dir=$(dirname "$0")
shift
case "$1" in
get)
    while shift && [ $# -gt 0 ]; do
        case "$1" in
        power) echo "power:$(cat "$dir/power-HOST" 2>/dev/null || echo 1)" ;;
        *) echo "$1:0" ;;
        esac
    done
    ;;
set)
    shift
    while [ $# -gt 1 ]; do
        if [ "$1" = power ]; then
            echo "$2" >"$dir/order-HOST.new" && mv "$dir/order-HOST.new" "$dir/order-HOST"
        fi
        shift 2
    done
    ;;
esac
"#;

/// What the simulated controller consists of: next to nothing.
const HARDWARE: &str = "mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
";

/// Whether everything of it is on this machine. Says so if it is not.
pub(crate) fn is_installed() -> bool {
    let missing: Vec<&str> = ["/usr/sbin/fence_ipmilan", "/usr/bin/ipmitool", "/usr/bin/ipmi_sim"]
        .into_iter()
        .filter(|program| !Path::new(program).exists())
        .collect();
    if !missing.is_empty() {
        // Past the harness, which keeps what a test that passes says.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: the real fence agent, for want of {}: apt-get install fence-agents ipmitool openipmi",
            missing.join(", ")
        );
    }
    missing.is_empty()
}

/// The controller of one host.
pub(crate) struct Controller {
    dir: PathBuf,
    secret: PathBuf,
}

impl Controller {
    /// Writes what the controller of `host` needs into the directory of `controllers`.
    pub(crate) fn of(controllers: &Controllers, host: &str, password: &str) -> Controller {
        let dir = controllers.dir.path().to_owned();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        write_program(&dir.join("chassis"), &CHASSIS.replace("HOST", host)).unwrap();
        write("sim.emu", HARDWARE);
        write("lan.conf", &lan(&dir, password));
        let secret = dir.join("for-ipmi");
        write_private(&secret, password).unwrap();
        std::fs::create_dir(dir.join("ipmi-state")).unwrap();
        Controller { dir, secret }
    }

    /// The block of a member that may switch `member` off.
    pub(crate) fn block(&self, member: &str) -> String {
        format!(
            r#"fence "ipmi-{member}" {{
  agent = "fence_ipmilan"
  member = "{member}"
  timeout = 20
  params {{
    ip = "127.0.0.1"
    ipport = {PORT}
    username = "holdfast"
    password_file = "{}"
    lanplus = true
    # The simulator does not tell which ciphers it has, and ipmitool would ask for 14 s.
    cipher = 3
  }}
}}
"#,
            self.secret.display()
        )
    }

    /// Runs it on `machine`, until that one is taken down.
    pub(crate) fn start(&self, machine: &Machine) -> Result<()> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let argv =
            ["/usr/bin/ipmi_sim", "-n", "-c", &at("lan.conf"), "-f", &at("sim.emu"), "-s", &at("ipmi-state")];
        machine.start_process(&argv.map(str::to_owned), &[], "ipmi_sim.log").context("ipmi_sim")?;
        Ok(())
    }
}

fn lan(dir: &Path, password: &str) -> String {
    let ways = "none md2 md5 straight";
    format!(
        r#"name "holdfast"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {PORT}
    priv_limit admin
    allowed_auths_callback {ways}
    allowed_auths_user {ways}
    allowed_auths_operator {ways}
    allowed_auths_admin {ways}
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{}/chassis 0x20"
  user 1 true "" "none" user 10 {ways}
  user 2 true "holdfast" "{password}" admin 10 {ways}
"#,
        dir.display()
    )
}
