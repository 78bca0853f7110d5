//! What `holdfast init` cannot find out: it is taken from the flags, asked on a terminal, or suggested.
//!
//! What a flag says is never asked. Where nobody can be asked, and nobody said that suggestions are to be taken, what is
//! missing is an error that names its flag. The virtual address is probed whoever chose it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use holdfast_vip::{MacAddr, Prober, VipSpec};
use ipnet::IpNet;

use super::discover::{Found, Interface, in_words, interface_towards, interface_with};
use super::plan::is_name;
use super::{Usage, say};
use crate::cli::args::InitArgs;

/// What is known once nothing is left to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answers {
    /// What the operator calls this host's member.
    pub chosen: Option<String>,
    /// This host's own address.
    pub own: IpAddr,
    /// The interface that carries the virtual address here.
    pub interface: String,
    /// The virtual address with the prefix of its network.
    pub vip: IpNet,
    /// How many members have the data.
    pub data_members: usize,
    /// Whether there is a witness.
    pub witness: bool,
    /// The gateway on that interface, or what the operator gave for it.
    pub gateway: Option<IpAddr>,
}

/// Questions to the network about an address, and the time for all of them: as the agent asks before it claims one, with
/// more time for sleepy neighbours.
const PROBES: u32 = 3;
const PROBE_WINDOW: Duration = Duration::from_millis(900);
/// Suggestions that are probed at once.
const MOST_SUGGESTIONS: usize = 8;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A person at a terminal.
    Person,
    /// Nobody; suggestions are taken.
    Suggestions,
    /// Nobody, and nothing that was not said is decided.
    Nobody,
}

impl Asked {
    /// As the flags and the terminal have it.
    pub(super) fn of(yes: bool) -> Asked {
        match yes {
            true => Asked::Suggestions,
            false if io::stdin().is_terminal() => Asked::Person,
            false => Asked::Nobody,
        }
    }
}

/// Finds out everything that is needed to begin.
///
/// # Errors
/// [`Usage`] where something is missing and nobody can be asked; else what does not fit, and what to do.
pub(super) async fn answers(args: &InitArgs, found: &Found, asked: Asked) -> Result<Answers> {
    if let Some(name) = args.node.as_deref().filter(|name| !is_name(name)) {
        return Err(Usage::new(format!("--node {name:?}: {NAMES}")).into());
    }
    // None: a person is asked, after what comes first for him.
    let witness = match (args.members == 3, args.witness, args.no_witness, asked) {
        (true, true, ..) => {
            return Err(Usage::new(
                "--members 3 --witness: three data members have a majority by themselves, and four voters can split in halves; leave one of the two out",
            )
            .into());
        }
        (true, ..) | (.., true, _) => Some(false),
        (_, true, ..) | (.., Asked::Suggestions) => Some(true),
        (.., Asked::Nobody) => {
            return Err(missing("whether there is a witness", "--witness or --no-witness"));
        }
        (.., Asked::Person) => None,
    };
    let given = args.vip.as_deref().map(parse_vip).transpose()?;
    let interface = network(args, given.map(|(ip, _)| ip), found, asked)?;
    let own = match args.address {
        Some(own) => own,
        None => interface.addresses[0].addr(),
    };
    let vip = match (given, asked) {
        (Some((ip, prefix)), _) => {
            let vip = fitting(ip, prefix, interface, own, found)?;
            not_in_use(vip, &interface.name).await?;
            vip
        }
        (None, Asked::Nobody) => return Err(missing("the virtual address", "--vip ADDRESS")),
        (None, Asked::Suggestions) => suggested(interface, own, found).await?.with_context(|| {
            format!(
                "no free address was found in {}; name one: --vip ADDRESS",
                interface.addresses[0].trunc()
            )
        })?,
        (None, Asked::Person) => ask_vip(interface, own, found).await?,
    };
    let witness = match witness {
        Some(witness) => witness,
        None => ask_whether(
            "Will there be a witness, on any third machine? It decides who goes on when the two lose each other.",
            true,
        )?,
    };
    // One on another network says nothing about the way that clients come by.
    let way_out = found.way_out.as_ref().filter(|way_out| way_out.interface == interface.name);
    let gateway = way_out.map(|way_out| way_out.gateway);
    Ok(Answers {
        chosen: args.node.clone(),
        own,
        interface: interface.name.clone(),
        vip,
        data_members: usize::from(args.members),
        witness,
        gateway: args.gateway.or(gateway),
    })
}

/// What the name of a member may be.
pub(super) const NAMES: &str =
    "a member's name has 1 to 63 of the characters A-Z a-z 0-9 . _ - and no dot in front";

fn missing(what: &str, flag: &str) -> anyhow::Error {
    Usage::new(format!(
        "{what} is not known, and nobody can be asked: standard input is no terminal. Say {flag}, or --yes to take what is suggested"
    ))
    .into()
}

/// An address as `--vip` has it, with its prefix where that was said.
pub(super) fn parse_vip(text: &str) -> Result<(IpAddr, Option<u8>)> {
    let wrong =
        || Usage::new(format!("--vip {text:?} is no address; write it as 10.0.0.100, or 10.0.0.100/24"));
    if text.contains('/') {
        let network: IpNet = text.parse().map_err(|_| wrong())?;
        return Ok((network.addr(), Some(network.prefix_len())));
    }
    Ok((text.parse().map_err(|_| wrong())?, None))
}

/// The interface for the virtual address.
fn network<'f>(
    args: &InitArgs,
    vip: Option<IpAddr>,
    found: &'f Found,
    asked: Asked,
) -> Result<&'f Interface> {
    let all = &found.interfaces;
    if all.is_empty() {
        bail!(
            "this host has no Ethernet interface that is up and has an address which others reach. Give it one (see `ip address`), then run this again"
        );
    }
    if let Some(name) = &args.interface {
        return all.iter().find(|interface| interface.name == *name).with_context(|| {
            format!(
                "{name} is no Ethernet interface of this host that is up and has an address; there are: {}",
                in_words(all)
            )
        });
    }
    if let Some(vip) = vip {
        return interface_towards(all, vip).map(|(interface, _)| interface).with_context(|| {
            format!(
                "{vip} is in no network of this host, whose addresses are: {}. The virtual address is one more in a network that clients reach already",
                in_words(all)
            )
        });
    }
    if let Some((interface, _)) = args.address.and_then(|own| interface_with(all, own)) {
        return Ok(interface);
    }
    if let [only] = &all[..] {
        return Ok(only);
    }
    let way_out = found.way_out.as_ref();
    let usual = way_out.and_then(|way_out| all.iter().find(|interface| interface.name == way_out.interface));
    match (asked, usual) {
        (Asked::Person, usual) => ask_interface(all, usual.unwrap_or(&all[0])),
        (Asked::Suggestions, Some(usual)) => Ok(usual),
        (Asked::Suggestions, None) => {
            let message = format!(
                "which network clients come by is not known: this host has no default route, and several networks: {}. Say --interface NAME, or --vip ADDRESS",
                in_words(all)
            );
            Err(Usage::new(message).into())
        }
        (Asked::Nobody, _) => Err(missing(
            &format!("which network clients come by ({})", in_words(all)),
            "--interface NAME, or --vip ADDRESS",
        )),
    }
}

/// The virtual address with its prefix, if it can be one on that interface.
fn fitting(
    ip: IpAddr,
    prefix: Option<u8>,
    interface: &Interface,
    own: IpAddr,
    found: &Found,
) -> Result<IpNet> {
    let network = interface.addresses.iter().find(|address| address.contains(&ip)).with_context(|| {
        let all: Vec<String> =
            interface.addresses.iter().map(|address| address.trunc().to_string()).collect();
        format!("{ip} is not in a network of {}: {}", interface.name, all.join(", "))
    })?;
    if let Some(prefix) = prefix.filter(|prefix| *prefix != network.prefix_len()) {
        bail!(
            "{ip}/{prefix}: the network on {} is {}; write {ip}/{}, or leave the prefix out",
            interface.name,
            network.trunc(),
            network.prefix_len()
        );
    }
    let own_addresses = found.interfaces.iter().flat_map(|interface| &interface.addresses);
    if ip == own || own_addresses.map(IpNet::addr).any(|address| address == ip) {
        bail!("{ip} is this host's own address; the virtual one moves between hosts and is nobody's own");
    }
    if found.way_out.as_ref().is_some_and(|way_out| way_out.gateway == ip) {
        bail!("{ip} is the gateway; the virtual address is one that nobody has");
    }
    if !is_for_a_host(ip, network) {
        bail!("{ip} is the network {} itself, or its broadcast address, and no host's", network.trunc());
    }
    Ok(IpNet::new(ip, network.prefix_len()).expect("the prefix is that of the same family"))
}

/// Whether an address of `network` can be a host's. In networks of two addresses both are.
fn is_for_a_host(ip: IpAddr, network: &IpNet) -> bool {
    network.prefix_len() + 1 >= network.max_prefix_len()
        || ip != network.network() && (ip.is_ipv6() || ip != network.broadcast())
}

/// Free addresses to suggest in a network, the likeliest first: round numbers, which people keep free, then the end.
fn suggestions(network: &IpNet, taken: &[IpAddr]) -> Vec<IpAddr> {
    const ROUND: [u32; 6] = [100, 200, 50, 150, 250, 10];
    let round = ROUND.into_iter().filter_map(|number| match network {
        IpNet::V4(network) => {
            u32::from(network.network()).checked_add(number).map(|ip| Ipv4Addr::from(ip).into())
        }
        IpNet::V6(network) => {
            // Read as people write it: ::100.
            let number = u128::from_str_radix(&number.to_string(), 16).ok()?;
            u128::from(network.network()).checked_add(number).map(|ip| Ipv6Addr::from(ip).into())
        }
    });
    let last = (1..=16).filter_map(|back| match network {
        IpNet::V4(network) => {
            u32::from(network.broadcast()).checked_sub(back).map(|ip| IpAddr::from(Ipv4Addr::from(ip)))
        }
        IpNet::V6(_) => None,
    });
    let mut chosen: Vec<IpAddr> = Vec::new();
    for ip in round.chain(last) {
        if network.contains(&ip)
            && is_for_a_host(ip, network)
            && !taken.contains(&ip)
            && !chosen.contains(&ip)
        {
            chosen.push(ip);
        }
    }
    chosen.truncate(MOST_SUGGESTIONS);
    chosen
}

/// The first suggestion that nobody answers for.
async fn suggested(interface: &Interface, own: IpAddr, found: &Found) -> Result<Option<IpNet>> {
    let network = interface.addresses.iter().find(|address| address.addr() == own);
    let network = network.unwrap_or(&interface.addresses[0]);
    let mut taken: Vec<IpAddr> =
        found.interfaces.iter().flat_map(|interface| &interface.addresses).map(IpNet::addr).collect();
    taken.extend(found.way_out.as_ref().map(|way_out| way_out.gateway));
    let of = |ip| IpNet::new(ip, network.prefix_len()).expect("the prefix is that of the same family");
    let choices: Vec<VipSpec> =
        suggestions(network, &taken).into_iter().map(|ip| VipSpec::new(of(ip), &interface.name)).collect();
    let answers = Prober::default().holders(&choices, PROBES, PROBE_WINDOW).await;
    for (choice, answer) in choices.into_iter().zip(answers) {
        if answer?.is_empty() {
            return Ok(Some(choice.address));
        }
    }
    Ok(None)
}

/// Refuses an address that somebody has.
async fn not_in_use(vip: IpNet, interface: &str) -> Result<()> {
    match holder(vip, interface).await? {
        None => Ok(()),
        Some(mac) => Err(in_use(vip, mac, interface)),
    }
}

fn in_use(vip: IpNet, mac: MacAddr, interface: &str) -> anyhow::Error {
    anyhow!(
        "{} is in use: {mac} answered for it on {interface}. Choose an address that nobody has, and that no DHCP server hands out",
        vip.addr()
    )
}

/// Who else has an address, or is about to take it.
async fn holder(vip: IpNet, interface: &str) -> Result<Option<MacAddr>> {
    let spec = VipSpec::new(vip, interface);
    let probed = Prober::open(&[spec]).await.probe(PROBES, PROBE_WINDOW).await;
    if let Some(conflict) = probed.conflicts.first() {
        return Ok(Some(conflict.mac));
    }
    match probed.unsent.into_iter().next() {
        Some((_, error)) => {
            Err(error).with_context(|| format!("whether {} is free cannot be asked", vip.addr()))
        }
        None => Ok(None),
    }
}

/// Whether the gateway answers an echo, so that its silence can mean something.
pub(super) async fn answers_echo(gateway: IpAddr) -> bool {
    holdfast_vip::echo(gateway, PROBES, PROBE_WINDOW).await
}

async fn ask_vip(interface: &Interface, own: IpAddr, found: &Found) -> Result<IpNet> {
    say("Looking for a free address ...");
    let suggested = suggested(interface, own, found).await?;
    loop {
        let default = suggested.map(|vip| vip.addr().to_string());
        let question = format!(
            "The virtual address for clients, in {}? One that no DHCP server hands out.",
            interface.addresses[0].trunc()
        );
        let text = ask(&question, default.as_deref())?;
        let fits = parse_vip(&text).and_then(|(ip, prefix)| fitting(ip, prefix, interface, own, found));
        let vip = match fits {
            Ok(vip) => vip,
            Err(error) => {
                say(&format!("{error:#}"));
                continue;
            }
        };
        match holder(vip, &interface.name).await? {
            None => return Ok(vip),
            Some(mac) => say(&format!("{:#}", in_use(vip, mac, &interface.name))),
        }
    }
}

fn ask_interface<'f>(all: &'f [Interface], usual: &'f Interface) -> Result<&'f Interface> {
    say(&format!("This host has several networks: {}.", in_words(all)));
    loop {
        let name = ask("By which interface do clients come?", Some(&usual.name))?;
        if let Some(interface) = all.iter().find(|interface| interface.name == name) {
            return Ok(interface);
        }
        say(&format!("There is no {name:?} among them."));
    }
}

fn ask_whether(question: &str, default: bool) -> Result<bool> {
    loop {
        let answer = ask(question, Some(if default { "yes" } else { "no" }))?;
        match answer.to_ascii_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => say("Please answer yes or no."),
        }
    }
}

/// Asks a person. What is shown in brackets is taken where nothing is typed.
pub(super) fn ask(question: &str, default: Option<&str>) -> Result<String> {
    /// Longest answer that is looked at, in bytes.
    const MOST_BYTES: u64 = 4096;
    loop {
        let shown = default.map_or_else(String::new, |default| format!(" [{default}]"));
        print!("{question}{shown} ");
        io::stdout().flush()?;
        let mut line = String::new();
        let read = io::Read::take(io::stdin().lock(), MOST_BYTES).read_line(&mut line)?;
        if read == 0 {
            bail!("the question was not answered, so nothing was written");
        }
        match (line.trim(), default) {
            ("", Some(default)) => return Ok(default.to_owned()),
            ("", None) => {}
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::setup::discover::WayOut;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Interface { name: name.to_owned(), addresses }
    }

    fn found(interfaces: &[Interface], way_out: Option<&str>) -> Found {
        let gateway = "10.0.0.254".parse().unwrap();
        let way_out = way_out.map(|name| WayOut { interface: name.to_owned(), gateway });
        Found { name: None, interfaces: interfaces.to_vec(), way_out }
    }

    fn two(way_out: Option<&str>) -> Found {
        found(
            &[interface("eth0", &["10.0.0.1/24", "fd77::1/64"]), interface("eth1", &["10.1.0.1/16"])],
            way_out,
        )
    }

    fn args(words: &str) -> InitArgs {
        let words = ["holdfast", "init"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Init(args) => *args,
            _ => unreachable!("it is init"),
        }
    }

    fn chosen(words: &str, found: &Found, asked: Asked) -> Result<String, String> {
        let args = args(words);
        let vip = args.vip.as_deref().map(|vip| parse_vip(vip).unwrap().0);
        network(&args, vip, found, asked)
            .map(|one| one.name.clone())
            .map_err(|error| format!("{}{error:#}", if error.is::<Usage>() { "usage: " } else { "" }))
    }

    #[test]
    fn the_network_is_found_out_where_it_can_be() {
        let nobody = |words: &str, found: &Found| chosen(words, found, Asked::Nobody);
        let one = found(&[interface("ens3", &["10.0.0.1/24"])], None);
        assert_eq!(nobody("", &one).unwrap(), "ens3");
        let both = two(Some("eth0"));
        assert_eq!(nobody("--vip 10.1.0.100", &both).unwrap(), "eth1");
        assert_eq!(nobody("--interface eth1", &both).unwrap(), "eth1");
        assert_eq!(nobody("--address 10.1.0.1", &both).unwrap(), "eth1");
        assert_eq!(chosen("", &both, Asked::Suggestions).unwrap(), "eth0");
        let error = nobody("", &both).unwrap_err();
        assert!(error.starts_with("usage: ") && error.contains("--interface NAME"), "{error}");
        let error = chosen("", &two(None), Asked::Suggestions).unwrap_err();
        assert!(error.starts_with("usage: ") && error.contains("eth1 (10.1.0.1/16)"), "{error}");
        assert!(nobody("--interface eth7", &both).unwrap_err().contains("eth0 (10.0.0.1/24, fd77::1/64)"));
        assert!(nobody("--vip 192.168.0.1", &both).unwrap_err().contains("in no network of this host"));
        assert!(nobody("", &found(&[], None)).unwrap_err().contains("no Ethernet interface"));
    }

    #[test]
    fn a_virtual_address_is_one_that_a_host_could_have_and_nobody_has() {
        let found = two(Some("eth0"));
        let of = |text: &str| {
            let (ip, prefix) = parse_vip(text)?;
            fitting(ip, prefix, &found.interfaces[0], "10.0.0.1".parse()?, &found)
        };
        assert_eq!(of("10.0.0.100").unwrap().to_string(), "10.0.0.100/24");
        assert_eq!(of("10.0.0.100/24").unwrap().to_string(), "10.0.0.100/24");
        assert_eq!(of("fd77::100").unwrap().to_string(), "fd77::100/64");
        for (text, says) in [
            ("10.0.0.100/16", "10.0.0.0/24"),
            ("10.1.0.100", "not in a network of eth0"),
            ("10.0.0.1", "own address"),
            ("10.0.0.254", "the gateway"),
            ("10.0.0.0", "itself"),
            ("10.0.0.255", "broadcast"),
            ("10.0.0", "is no address"),
            ("10.0.0.1/99", "is no address"),
        ] {
            let error = format!("{:#}", of(text).unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn suggestions_are_in_the_network_and_nobodys() {
        let of = |network: &str, taken: &[&str]| {
            let taken: Vec<IpAddr> = taken.iter().map(|ip| ip.parse().unwrap()).collect();
            let chosen = suggestions(&network.parse().unwrap(), &taken);
            chosen.into_iter().map(|ip| ip.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("10.0.0.1/24", &["10.0.0.100"])[..2], ["10.0.0.200", "10.0.0.50"]);
        assert_eq!(
            of("10.0.0.18/29", &["10.0.0.18", "10.0.0.22"]),
            ["10.0.0.21", "10.0.0.20", "10.0.0.19", "10.0.0.17"]
        );
        assert!(of("10.0.0.0/31", &["10.0.0.0"]).is_empty());
        assert_eq!(of("fd77::1/64", &[])[0], "fd77::100");
        assert!(of("10.0.0.1/16", &[]).len() <= MOST_SUGGESTIONS);
    }

    #[test]
    fn three_with_a_witness_and_names_that_cannot_be_are_refused() {
        let found = two(Some("eth0"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = |words: &str| {
            let error = runtime.block_on(answers(&args(words), &found, Asked::Nobody)).unwrap_err();
            assert!(error.is::<Usage>(), "{error:#}");
            error.to_string()
        };
        assert!(refused("--members 3 --witness").contains("four voters"));
        assert!(refused("--node a/b --witness").contains("1 to 63"));
        assert!(refused("--vip 10.0.0.100").contains("--witness or --no-witness"));
        assert!(refused("--witness --interface eth0").contains("--vip ADDRESS"));
        assert!(refused("--witness --vip x").contains("10.0.0.100/24"));
    }
}
