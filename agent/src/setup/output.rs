//! `holdfast init --output`: the files of every member, for whoever distributes them by other means.
//!
//! Uses no network and looks at no host: everything is said by flags.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use super::pending::Secrets;
use super::place::{self, Readers};
use super::plan::{Member, Plan, is_name};
use super::questions::{NAMES, parse_vip};
use super::token::Role;
use super::{Usage, say, state_dir};
use crate::cli::args::InitArgs;

/// What an argument `NAME=ADDRESS` says.
fn named(flag: &str, text: &str) -> Result<(String, IpAddr), Usage> {
    let parts = text.split_once('=').and_then(|(name, ip)| Some((name, ip.parse().ok()?)));
    let Some((name, ip)) = parts else {
        return Err(Usage::new(format!("{flag} {text:?}: write it as NAME=ADDRESS, such as b=10.0.0.2")));
    };
    if !is_name(name) {
        return Err(Usage::new(format!("{flag} {text:?}: {NAMES}")));
    }
    Ok((name.to_owned(), ip))
}

fn needed<'a, T>(value: &'a Option<T>, flag: &str) -> Result<&'a T, Usage> {
    value.as_ref().ok_or_else(|| Usage::new(format!("--output looks at no host: say {flag} too")))
}

/// The cluster that the flags describe.
fn plan(args: &InitArgs) -> Result<Plan> {
    let own = (needed(&args.node, "--node NAME")?.clone(), *needed(&args.address, "--address ADDRESS")?);
    if !is_name(&own.0) {
        return Err(Usage::new(format!("--node {:?}: {NAMES}", own.0)).into());
    }
    let interface = needed(&args.interface, "--interface NAME")?;
    let (ip, prefix) = parse_vip(needed(&args.vip, "--vip ADDRESS/PREFIX")?)?;
    let prefix = *needed(&prefix, "the prefix in --vip ADDRESS/PREFIX")?;
    if args.peer.len() + 1 != usize::from(args.members) {
        let message = format!(
            "--members {} needs {} other data members, and --peer NAME=ADDRESS was said {} times",
            args.members,
            args.members - 1,
            args.peer.len()
        );
        return Err(Usage::new(message).into());
    }
    if args.witness && args.witness_at.is_none() {
        return Err(Usage::new("--output looks at no host: say --witness-at NAME=ADDRESS").into());
    }
    if args.members == 3 && args.witness_at.is_some() {
        return Err(Usage::new(
            "three data members have a majority without a witness; leave --witness-at out",
        )
        .into());
    }
    let mut members = vec![(own, Role::Data)];
    for peer in &args.peer {
        members.push((named("--peer", peer)?, Role::Data));
    }
    if let Some(witness) = &args.witness_at {
        members.push((named("--witness-at", witness)?, Role::Witness));
    }
    let data_state = args.dirs.state_dir.clone().unwrap_or_else(|| state_dir(Role::Data));
    let data_dir = args.dirs.data_dir.clone().unwrap_or_else(|| data_state.join("store"));
    let member = |((name, address), role): ((String, IpAddr), Role)| {
        let is_data = role == Role::Data;
        Member {
            name,
            role,
            address,
            interface: is_data.then(|| interface.clone()),
            state_dir: if is_data { data_state.clone() } else { state_dir(role) },
            data_dir: is_data.then(|| data_dir.clone()),
        }
    };
    Ok(Plan {
        vip: IpNet::new(ip, prefix)?,
        two_node: args.two_node,
        gateway: args.gateway,
        members: members.into_iter().map(member).collect(),
    })
}

/// Writes the files of every member to `dir/NAME/`.
pub(super) fn run(args: &InitArgs, dir: &Path) -> Result<ExitCode> {
    let plan = plan(args)?;
    plan.check()?;
    let there = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("look into {}", dir.display())),
    };
    if there {
        bail!(
            "{} is not empty, and no file is ever replaced; name another directory. Nothing was written",
            dir.display()
        );
    }
    let secrets = Secrets::generate().context("make the secrets of the cluster")?;
    for member in &plan.members {
        let own = dir.join(&member.name);
        fs::DirBuilder::new()
            .recursive(true)
            .create(&own)
            .with_context(|| format!("make {}", own.display()))?;
        for file in secrets.files(&plan, member) {
            place::write(&own.join(&file.name), &file.text, Readers::Owner)?;
        }
        place::load(&own.join(place::config_name(member.role)), member.role, &member.name)?;
        let to = match member.role {
            Role::Data => "to /etc/holdfast, mode 600; then: systemctl enable --now holdfast",
            Role::Witness => {
                "to /etc/holdfast, root:holdfast-witness, mode 640; then: systemctl enable --now holdfast-witness"
            }
        };
        say(&format!("{}: copy {} {to}", member.name, own.join("*").display()));
    }
    say(&format!("Clients will use {}. The secrets of the cluster are in these files.", plan.endpoint()));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn args(words: &str) -> Box<InitArgs> {
        let words = ["holdfast", "init"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).unwrap().command {
            Command::Init(args) => args,
            _ => unreachable!("it is init"),
        }
    }

    const WHOLE: &str = "--output out --node a --address 10.0.0.1 --interface eth0 --vip 10.0.0.100/24 --peer b=10.0.0.2 --witness-at w=10.0.0.3";

    #[test]
    fn every_member_gets_its_files_and_none_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let args = args(WHOLE);
        run(&args, &out).unwrap();
        for (name, files) in [
            ("a", &["holdfast.hcl", "root-secret", "secret"][..]),
            ("b", &["holdfast.hcl", "root-secret", "secret"]),
            ("w", &["secret", "witness.hcl"]),
        ] {
            let mut there: Vec<_> = fs::read_dir(out.join(name)).unwrap().map(Result::unwrap).collect();
            there.sort_by_key(fs::DirEntry::file_name);
            assert!(
                there.iter().all(|entry| entry.metadata().unwrap().permissions().mode() & 0o777 == 0o600)
            );
            let there: Vec<_> = there.iter().map(|entry| entry.file_name().into_string().unwrap()).collect();
            assert_eq!(there, files, "{name}");
        }
        let secret = |name: &str| fs::read(out.join(name).join("secret")).unwrap();
        assert_eq!((secret("a"), secret("a")), (secret("b"), secret("w")));
        assert!(run(&args, &out).unwrap_err().to_string().contains("not empty"));
    }

    #[test]
    fn what_is_missing_is_named_by_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for (without, names) in [
            ("--node a", "--node NAME"),
            ("--address 10.0.0.1", "--address ADDRESS"),
            ("--interface eth0", "--interface NAME"),
            ("--vip 10.0.0.100/24", "--vip ADDRESS/PREFIX"),
            ("--peer b=10.0.0.2", "--peer NAME=ADDRESS"),
        ] {
            let error = run(&args(&WHOLE.replace(without, "")), &out).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(names), "{error}");
        }
        for (what, instead) in
            [("/24", ""), ("b=10.0.0.2", "b"), ("b=", "../b="), ("--peer", "--members 3 --peer")]
        {
            let error = run(&args(&WHOLE.replace(what, instead)), &out).unwrap_err();
            assert!(error.is::<Usage>(), "{error}");
        }
        let error = run(&args(&WHOLE.replace("b=", "a=")), &out).unwrap_err();
        assert!(error.to_string().contains("would be called a"), "{error}");
        assert!(!out.exists());
    }
}
