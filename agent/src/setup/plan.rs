//! What each member's configuration says: pure, from what was answered and who joined.
//!
//! The text is what an operator would have written, comments included, and it passes the configuration's own check
//! before anybody sees it. It never names a secret: that stands in a file of its own.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use holdfast_config::{Config, Mode};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::token::Role;

/// Where every data member's stream listens; heartbeats are one further.
pub(super) const REPLICATION_PORT: u16 = 9001;
/// Where heartbeats are received.
const HEARTBEAT_PORT: u16 = 9002;
/// Where S3 clients go.
pub(super) const S3_PORT: u16 = 9000;
/// The S3 root user.
pub(super) const ROOT_ACCESS_KEY: &str = "admin";
/// The first data member's priority, and how much further each next one is: room for another one between.
const PRIORITY_STEP: usize = 50;

/// What two members do when one falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Take over when every path is silent, the own network is good and nobody answers for the address.
    Probe,
    /// Wait for an operator.
    Manual,
}

/// One member, as it will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its own address.
    pub address: IpAddr,
    /// The interface that carries the virtual address there; none on a witness.
    pub interface: Option<String>,
    /// Where votes and epoch are.
    pub state_dir: PathBuf,
    /// Where log and index are; none on a witness.
    pub data_dir: Option<PathBuf>,
}

/// A cluster, as it will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The virtual address with the prefix of its network.
    pub vip: IpNet,
    /// What a pair without a witness does. Of no meaning otherwise.
    pub two_node: Policy,
    /// A gateway that answers, by which a member of a pair tells whether it is the one that is cut off.
    pub gateway: Option<IpAddr>,
    /// The host of `holdfast init` first, then the other data members, then the witness.
    pub members: Vec<Member>,
}

/// Where the shared secret stands in a configuration.
#[derive(Clone, Copy)]
enum Secrets {
    /// In files beside it.
    Files,
    /// A stand-in within it, to check what is not written yet.
    StandIn,
}

impl Plan {
    /// The data members, in the order of preference.
    fn data(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Data)
    }

    /// The member of that name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Neither has a majority when the other one is lost.
    fn is_pair(&self) -> bool {
        self.members.len() == 2
    }

    /// Where S3 clients go.
    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", SocketAddr::new(self.vip.addr(), S3_PORT))
    }

    /// The configuration of `member`, whose secrets are in the files `secret` and `root-secret` beside it.
    pub(super) fn config(&self, member: &Member) -> String {
        self.text(member, Secrets::Files).expect("writing to a string cannot fail")
    }

    /// Has the configuration's own reader check what every member would get.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn check(&self) -> Result<()> {
        for (at, member) in self.members.iter().enumerate() {
            if self.members[..at].iter().any(|other| other.name == member.name) {
                bail!(
                    "two members would be called {}; give one of them another name with --node",
                    member.name
                );
            }
            let text = self.text(member, Secrets::StandIn).expect("writing to a string cannot fail");
            let loaded = Config::parse("holdfast.hcl", &text);
            loaded.with_context(|| format!("the configuration of {} would not be accepted", member.name))?;
        }
        Ok(())
    }

    fn text(&self, member: &Member, secrets: Secrets) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        self.write_head(&mut out, member)?;
        let rank = self.data().position(|other| other.name == member.name);
        let (mode, why) = match rank {
            None => ("witness", "votes and remembers; holds neither data nor address"),
            Some(0) => ("primary", "stands first in a new cluster; from then on the role is elected"),
            Some(_) => ("replica", "a preference for the start of a new cluster; the role is elected"),
        };
        writeln!(out, "replication {{")?;
        writeln!(out, "  mode            = {:<12} # {why}", quoted(mode))?;
        writeln!(out, "  node_id         = {:<12} # never changes", quoted(&member.name))?;
        writeln!(out, "  listen_addr     = {}", endpoint(member.address, REPLICATION_PORT))?;
        let others = self.data().filter(|other| other.name != member.name);
        writeln!(out, "  peer_addrs      = [{}]", endpoints(others, REPLICATION_PORT))?;
        if rank.is_some() {
            let witnesses: Vec<&Member> =
                self.members.iter().filter(|other| other.role == Role::Witness).collect();
            if !witnesses.is_empty() {
                writeln!(out, "  witness_addrs   = [{}]", endpoints(witnesses.into_iter(), HEARTBEAT_PORT))?;
            }
        }
        match secrets {
            Secrets::Files => writeln!(out, "  secret_key_file = \"secret\"     # the same on all members")?,
            Secrets::StandIn => writeln!(out, "  secret_key = \"stands in for the secret of the members\"")?,
        }
        writeln!(out, "  state_dir       = {}", quoted_path(&member.state_dir))?;
        writeln!(out, "\n  ha {{")?;
        match rank {
            Some(rank) => self.write_ha(&mut out, member, rank)?,
            None => writeln!(out, "    enabled = true")?,
        }
        writeln!(out, "  }}\n}}\n")?;
        if let Some(data_dir) = &member.data_dir {
            let any: IpAddr = match self.vip {
                IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            writeln!(out, "store {{")?;
            writeln!(out, "  data_dir             = {}", quoted_path(data_dir))?;
            writeln!(out, "  listen               = {}", endpoint(any, S3_PORT))?;
            writeln!(out, "  root_access_key      = {}", quoted(ROOT_ACCESS_KEY))?;
            match secrets {
                Secrets::Files => {
                    writeln!(out, "  root_secret_key_file = \"root-secret\" # the same on all data members")?
                }
                Secrets::StandIn => writeln!(out, "  root_secret_key = \"stands in for the root user's\"")?,
            }
            writeln!(out, "}}\n")?;
        }
        writeln!(out, "# On this host alone: `holdfast ha status` asks here.")?;
        writeln!(out, "api {{\n  listen = \"127.0.0.1:8080\"\n}}")?;
        Ok(out)
    }

    fn write_head(&self, out: &mut String, member: &Member) -> std::fmt::Result {
        let what = match member.role {
            Role::Data => "A data member",
            Role::Witness => "The witness",
        };
        writeln!(out, "# {what} of a Holdfast cluster, written by `holdfast init`. Its members:")?;
        for other in &self.members {
            let what = match other.role {
                Role::Data => "data",
                Role::Witness => "witness",
            };
            writeln!(out, "#   {} {}, {what}", other.name, other.address)?;
        }
        writeln!(
            out,
            "# `holdfast config check` explains it. After a change: systemctl restart, one member at a time."
        )?;
        writeln!(out)
    }

    fn write_ha(&self, out: &mut String, member: &Member, rank: usize) -> std::fmt::Result {
        writeln!(out, "    enabled  = true")?;
        writeln!(out, "    priority = {:<16} # lower is preferred", (rank + 1) * PRIORITY_STEP)?;
        let interface = member.interface.as_deref().unwrap_or_default();
        if self.is_pair() {
            match self.two_node {
                Policy::Probe => {
                    writeln!(
                        out,
                        "\n    # Two members have no majority once one is lost. The survivor takes over when every heartbeat"
                    )?;
                    writeln!(
                        out,
                        "    # path is silent, its own network is good, and nobody answers for the virtual address. A witness"
                    )?;
                    writeln!(
                        out,
                        "    # on any third machine is better. \"manual\" waits for an operator instead."
                    )?;
                    writeln!(out, "    two_node         = \"probe\"")?;
                }
                Policy::Manual => {
                    writeln!(
                        out,
                        "\n    # Two members have no majority once one is lost: the survivor waits for `holdfast ha promote`."
                    )?;
                    writeln!(out, "    two_node         = \"manual\"")?;
                }
            }
            if let Some(gateway) = self.gateway {
                writeln!(out, "    monitor_gateways = [{}]", quoted(&gateway.to_string()))?;
            }
            writeln!(out, "    monitor_links    = [{}]", quoted(interface))?;
        }
        writeln!(out, "\n    # Where clients go: it is on the primary, whoever that is.")?;
        writeln!(out, "    virtual_ip {{")?;
        writeln!(out, "      address   = {}", quoted(&self.vip.to_string()))?;
        writeln!(out, "      interface = {}", quoted(interface))?;
        writeln!(out, "    }}")
    }
}

/// What a member of that role is in its own configuration.
pub(super) fn is_of(role: Role, mode: Mode) -> bool {
    (role == Role::Witness) == (mode == Mode::Witness)
}

/// What a host may be called in the cluster, of what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// By its operator.
    pub chosen: Option<String>,
    /// By itself.
    pub hostname: Option<String>,
    /// What it is for.
    pub role: Role,
}

/// The names of the members, in the same order: as their operators chose; else by their host names where these are all
/// different; else by letters.
pub(super) fn names(called: &[Called]) -> Vec<String> {
    let by_host = |one: &Called| one.chosen.clone().or_else(|| one.hostname.clone());
    let named: Vec<Option<String>> = called.iter().map(by_host).collect();
    let all_different =
        named.iter().enumerate().all(|(at, name)| name.is_some() && !named[..at].contains(name));
    if all_different {
        return named.into_iter().flatten().collect();
    }
    let mut taken: Vec<String> = called.iter().filter_map(|one| one.chosen.clone()).collect();
    let letters = |role| match role {
        Role::Data => ["a", "b", "c", "d", "e", "f"],
        Role::Witness => ["w", "w1", "w2", "w3", "w4", "w5"],
    };
    let name = |one: &Called| {
        one.chosen.clone().unwrap_or_else(|| {
            let free = letters(one.role).into_iter().find(|letter| !taken.iter().any(|name| name == letter));
            let free = free.unwrap_or("member").to_owned();
            taken.push(free.clone());
            free
        })
    };
    called.iter().map(name).collect()
}

/// Longest name of a member, in bytes.
const MOST_NAME: usize = 63;

/// Whether a member may be called so: it names a directory too.
pub(super) fn is_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('.')
}

/// A member's name out of that of its host: the first label, without what no name may have. None where nothing is left,
/// or what every host is called.
pub(super) fn name_of_host(hostname: &str) -> Option<String> {
    let label = hostname.split('.').next().unwrap_or_default();
    let kept: String = label
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        .take(MOST_NAME)
        .collect();
    let kept = kept.trim_matches('-').to_owned();
    (is_name(&kept) && kept != "localhost").then_some(kept)
}

fn endpoint(ip: IpAddr, port: u16) -> String {
    quoted(&SocketAddr::new(ip, port).to_string())
}

fn endpoints<'a>(members: impl Iterator<Item = &'a Member>, port: u16) -> String {
    members.map(|member| endpoint(member.address, port)).collect::<Vec<_>>().join(", ")
}

/// A text as HCL has it, where `${` and `%{` begin what is computed.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '$' | '%' if rest.peek() == Some(&'{') => out.extend([letter, letter]),
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn member(name: &str, role: Role, number: u8) -> Member {
        let data = role == Role::Data;
        Member {
            name: name.to_owned(),
            role,
            address: Ipv4Addr::new(10, 0, 0, number).into(),
            interface: data.then(|| format!("eth{number}")),
            state_dir: if data { "/var/lib/holdfast" } else { "/var/lib/holdfast-witness" }.into(),
            data_dir: data.then(|| "/var/lib/holdfast/store".into()),
        }
    }

    /// A cluster of so many data members, and a witness or not.
    pub(in super::super) fn plan(data: u8, witness: bool) -> Plan {
        let mut members: Vec<Member> = (1..=data)
            .map(|number| member(["a", "b", "c"][usize::from(number) - 1], Role::Data, number))
            .collect();
        members.extend(witness.then(|| member("w", Role::Witness, 9)));
        Plan {
            vip: "10.0.0.100/24".parse().unwrap(),
            two_node: Policy::Probe,
            gateway: Some(Ipv4Addr::new(10, 0, 0, 254).into()),
            members,
        }
    }

    /// What the configuration's own reader makes of it, with its secrets beside it.
    fn loaded(plan: &Plan, name: &str) -> holdfast_config::Loaded {
        let text = plan.text(plan.member(name).unwrap(), Secrets::StandIn).unwrap();
        Config::parse("holdfast.hcl", &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn pair_pair_with_witness_and_three_pass_the_check_without_a_warning() {
        let mut pair_v6 = plan(2, true);
        pair_v6.vip = "fd77::100/64".parse().unwrap();
        pair_v6.members.iter_mut().zip(1..).for_each(|(member, number)| {
            member.address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number).into();
        });
        let mut manual = plan(2, false);
        (manual.two_node, manual.gateway) = (Policy::Manual, None);
        for plan in [plan(2, false), manual, plan(2, true), plan(3, false), pair_v6] {
            plan.check().unwrap();
            for member in &plan.members {
                let loaded = loaded(&plan, &member.name);
                assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
                let config = loaded.config;
                assert_eq!(config.node_id, member.name);
                assert_eq!(config.listen, SocketAddr::new(member.address, REPLICATION_PORT));
                assert!(is_of(member.role, config.mode));
                assert_eq!(config.voters(), plan.members.len());
                assert_eq!(config.state_dir, member.state_dir);
                assert_eq!(config.store.as_ref().map(|store| store.data_dir.clone()), member.data_dir);
                let vips: Vec<_> = config.ha.virtual_ips.iter().map(|vip| vip.address).collect();
                assert_eq!(vips, if member.role == Role::Data { vec![plan.vip] } else { vec![] });
                for peer in &config.peers {
                    let other = plan.members.iter().find(|other| other.address == peer.host).unwrap();
                    assert_eq!(peer.replication.is_some(), other.role == Role::Data);
                }
            }
        }
    }

    #[test]
    fn the_first_member_stands_first_and_the_others_after_it() {
        let plan = plan(3, false);
        let of = |name: &str| loaded(&plan, name).config;
        assert_eq!((of("a").mode, of("b").mode, of("c").mode), (Mode::Primary, Mode::Replica, Mode::Replica));
        assert_eq!([of("a"), of("b"), of("c")].map(|config| config.ha.priority), [50, 100, 150]);
    }

    #[test]
    fn a_configuration_says_where_its_secrets_are_and_never_what() {
        let plan = plan(2, true);
        for member in &plan.members {
            let text = plan.config(member);
            assert!(text.contains("secret_key_file = \"secret\""), "{text}");
            assert_eq!(text.contains("root_secret_key_file = \"root-secret\""), member.role == Role::Data);
            assert!(!text.contains("stands in"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_written() {
        let mut twice = plan(2, true);
        twice.members[1].name = "a".to_owned();
        assert!(twice.check().unwrap_err().to_string().contains("--node"));
        let mut own = plan(2, true);
        own.vip = "10.0.0.2/24".parse().unwrap();
        assert!(format!("{:#}", own.check().unwrap_err()).contains("10.0.0.2"));
    }

    #[test]
    fn hosts_are_called_as_chosen_then_by_their_own_names_then_by_letters() {
        let of = |chosen: Option<&str>, hostname: Option<&str>, role| Called {
            chosen: chosen.map(str::to_owned),
            hostname: hostname.map(str::to_owned),
            role,
        };
        let (d, w) = (Role::Data, Role::Witness);
        let named = |called: &[Called]| names(called).join(" ");
        assert_eq!(
            named(&[of(None, Some("one"), d), of(None, Some("two"), d), of(Some("tie"), Some("one"), w)]),
            "one two tie"
        );
        assert_eq!(
            named(&[of(None, Some("debian"), d), of(None, Some("debian"), d), of(None, Some("debian"), w)]),
            "a b w"
        );
        assert_eq!(named(&[of(None, None, d), of(Some("a"), None, d), of(None, None, d)]), "b a c");
        assert_eq!(name_of_host("srv-1.example.org").as_deref(), Some("srv-1"));
        assert_eq!(name_of_host("_x y").as_deref(), Some("_xy"));
        for none in ["localhost", "localhost.localdomain", "", "--", "ä"] {
            assert_eq!(name_of_host(none), None, "{none:?}");
        }
        assert!(!is_name("..") && !is_name("a/b") && !is_name("") && is_name("a.b_c-9"));
    }

    #[test]
    fn a_path_cannot_say_more_than_a_path() {
        let mut plan = plan(2, false);
        let path = "/srv/a\"b\\c${d}%{e}$f";
        plan.members[0].state_dir = path.into();
        assert_eq!(loaded(&plan, "a").config.state_dir, Path::new(path));
    }
}
