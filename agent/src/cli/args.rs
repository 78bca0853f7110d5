//! The arguments of `holdfast`, and the help that goes with them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::lab::{self, LabArgs};
use crate::setup::Policy;

/// Where an agent answers unless its configuration says otherwise.
pub const DEFAULT_API: &str = "http://127.0.0.1:8080";

/// Keeps an S3 store available on a pair of servers: election, virtual IP, replicated log.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true)]
#[command(after_help = "Exit status: 0 done, 1 refused or failed, 2 usage, 3 the cluster is not healthy.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a member (what the systemd unit starts).
    Agent(AgentArgs),
    /// Take away the virtual addresses and kernel gates that a dead agent left on this host (what the
    /// systemd unit does when it has stopped). Refuses while the agent runs.
    Sweep {
        /// The member's configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Look at a configuration without using it.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// See and steer the cluster, by the agent on this host.
    Ha(HaArgs),
    /// See how the log is replicated, and look after what was set aside.
    Replication(ReplicationArgs),
    /// Users and buckets of the object store.
    Store(StoreArgs),
    /// Set up a new cluster, from this host on: writes its configuration, secrets and unit, and prints a line for each
    /// other host.
    Init(Box<InitArgs>),
    /// Make this host a member of a cluster that `holdfast init` sets up on another one.
    Join(JoinArgs),
    /// Try everything on this machine: a pair, a witness and a client in network namespaces.
    Lab(LabArgs),
    /// The process that watches over a hook.
    #[command(hide = true)]
    HookKeeper(crate::runtime::hooks::keeper::KeeperArgs),
    /// The first process of a host of the lab.
    #[command(hide = true)]
    LabHost(lab::host::HostArgs),
}

/// Arguments of `holdfast init`.
#[derive(Args, Debug)]
#[command(
    long_about = "Set up a new cluster, from this host on.\n\nFinds out what this host has, asks on a terminal for what it cannot find out, and prints one line `holdfast join TOKEN` for each other host. When all of them have joined it writes the configuration, the secrets and, where no package did, the unit of every member, starts them, and waits until all is well. Until then nothing is written.\n\nA token works once, for a limited time, and only while this command runs; it holds no secret of the cluster. Where the command is interrupted after the decision, running it again goes on where it stopped.",
    after_help = "Exit status: 0 done, 1 refused or failed, 2 usage, 3 set up, and not healthy within two minutes."
)]
pub struct InitArgs {
    /// The virtual address for clients, in a network of this host; its prefix is found out. On a terminal a free one is
    /// suggested, and with --yes it is taken.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    pub vip: Option<String>,
    /// The interface for the virtual address [default: that with its network, or that of the default route]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// This host's own address, by which the others reach it [default: the first one of the interface]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// What this member is called [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// There will be a witness, on any third machine: the set-up to prefer for two data members.
    #[arg(long, conflicts_with = "no_witness")]
    pub witness: bool,
    /// There will be no witness.
    #[arg(long)]
    pub no_witness: bool,
    /// How many members have the data, this one included: 2, or 3 without a witness.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=3))]
    pub members: u8,
    /// What a pair without a witness does when one falls silent.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Policy::Probe)]
    pub two_node: Policy,
    /// The gateway by which a pair without a witness tells who is cut off [default: that on the interface, if it answers]
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// The TCP port on which this command waits for the others [default: that of replication, which firewalls let through]
    #[arg(long, value_name = "PORT", default_value_t = 9001, hide_default_value = true)]
    pub port: u16,
    /// How long a token is good, such as 90s, 30m or 2h.
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = crate::setup::duration)]
    pub valid: Duration,
    /// Ask nothing: what is not said is what is suggested.
    #[arg(long)]
    pub yes: bool,
    /// Start nothing, here; `holdfast join` has the same.
    #[arg(long)]
    pub no_start: bool,
    /// Also write the join lines to this file, for this user alone, each behind whom it is for; it is removed at the end.
    #[arg(long, value_name = "FILE")]
    pub tokens_file: Option<PathBuf>,
    /// Instead of all that: write the files of every member to DIR/NAME/, for a configuration management. Uses no network,
    /// and needs --node, --address, --interface, --vip and the other members.
    #[arg(long, value_name = "DIR", conflicts_with = "tokens_file")]
    pub output: Option<PathBuf>,
    /// With --output: another data member. May be given twice.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "output")]
    pub peer: Vec<String>,
    /// With --output: the witness.
    #[arg(long, value_name = "NAME=ADDRESS", requires = "output", conflicts_with = "no_witness")]
    pub witness_at: Option<String>,
    /// Where the files go.
    #[command(flatten)]
    pub dirs: DirArgs,
}

/// Arguments of `holdfast join`.
#[derive(Args, Debug)]
#[command(
    long_about = "Make this host a member of a cluster that `holdfast init` sets up on another one.\n\nConnects with host one, waits until all others have joined too, and writes the configuration and secrets that it gets, checked by this program first. A host that is configured already is left as it is."
)]
pub struct JoinArgs {
    /// What `holdfast init` printed for this host; `-` reads it from standard input. On a terminal it is asked for.
    #[arg(value_name = "TOKEN", env = "HOLDFAST_JOIN_TOKEN", hide_env = true, hide_env_values = true)]
    pub token: Option<String>,
    /// What this member is called [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The interface for the virtual address [default: that with its network]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Start nothing.
    #[arg(long)]
    pub no_start: bool,
    /// Where the files go.
    #[command(flatten)]
    pub dirs: DirArgs,
}

/// Where a member's files go.
#[derive(Args, Clone, Debug)]
pub struct DirArgs {
    /// Where configuration and secrets go; the units look in the default place alone.
    #[arg(long, value_name = "DIR", default_value = "/etc/holdfast")]
    pub config_dir: PathBuf,
    /// Where the member keeps its votes [default: /var/lib/holdfast, /var/lib/holdfast-witness on a witness]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where a data member keeps log and index [default: `store` in the state directory, or as on host one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `holdfast agent`.
#[derive(Args, Debug)]
pub struct AgentArgs {
    /// The member's configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The agent itself, below its supervisor.
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// What `holdfast config` does.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration and explain it, the derived timers included. Changes nothing.
    Check {
        /// The configuration.
        file: PathBuf,
    },
}

/// How to reach the agent, and how to show what it says.
#[derive(Args, Clone, Debug)]
pub struct ApiArgs {
    /// Where the agent's API answers.
    #[arg(long, global = true, value_name = "URL", env = "HOLDFAST_API", default_value = DEFAULT_API)]
    pub api: String,
    /// The API token, where one is configured. Others on this host see arguments for a moment: prefer --token-file.
    #[arg(long, global = true, value_name = "TOKEN", env = "HOLDFAST_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file with the API token; goes before --token.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Who gives the order, for the audit trail: a claim, which nobody checks [default: the user].
    #[arg(long = "as", global = true, value_name = "NAME", env = "HOLDFAST_AS")]
    pub actor: Option<String>,
    /// Print the API's JSON instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Arguments of `holdfast ha`.
#[derive(Args, Debug)]
pub struct HaArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub api: ApiArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: HaCommand,
}

/// What `holdfast ha` does.
#[derive(Debug, Subcommand)]
pub enum HaCommand {
    /// Who is primary, and is all well? Ends with status 3 where it is not.
    Status,
    /// All members: roles, preferences, heartbeat paths in both directions, and who hears whom.
    Cluster,
    /// Look into everything that a failover needs, here and on the others: gate, paths, quorum, who takes over
    /// from whom, and whether an announcement of the virtual address is learned elsewhere. Changes nothing.
    /// Ends with status 3 where something failed.
    Check,
    /// Whether this host's member can be restarted now with one short switchover at most. Ends with status 3, and the
    /// reason, where clients would wait. Packages ask so before they restart a member.
    MayRestart {
        /// Ask the agent of this configuration, wherever its API listens.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Hand the role of primary over, in good order. Run it on the primary.
    Failover {
        /// The member that takes over [default: the most preferred one that is in sync]
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Make this host's member primary.
    Promote {
        /// Do it even if acknowledged writes may be missing here.
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Hand the role back to the most preferred member now, or switch doing so by itself on or off.
    Failback {
        /// Let this member take the role back by itself (until the agent restarts).
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Keep this member from taking the role back by itself (until the agent restarts).
        #[arg(long)]
        disable: bool,
    },
    /// Suspend automatic changes of primary in the whole cluster, for work on networks or hosts.
    Pause,
    /// Take this host's member out for maintenance: it hands over if it is primary, and writes stop
    /// waiting for it.
    Drain,
    /// Say that a member is off, where no fence device can: whoever waits for that goes on. Make sure first; it is
    /// believed.
    FenceConfirmed {
        /// The member that is off.
        #[arg(value_name = "NAME")]
        member: String,
    },
    /// Make the member of this host a new one, while its agent is stopped: it forgets its votes, keeps its log, and is
    /// brought up to date by the primary. Says what that means first.
    Reset {
        /// Its configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/holdfast/holdfast.hcl")]
        config: PathBuf,
        /// Do it.
        #[arg(long)]
        yes: bool,
        /// Do it even if no other member is known to hold every acknowledged byte.
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Who has a vote; give one to a member, take one away, or replace a dead member while the cluster runs. Show one
    /// member, or change how much the one of this host is preferred.
    Members {
        /// What to do [default: show them]
        #[command(subcommand)]
        change: Option<MembersCommand>,
    },
    /// End the pause of the cluster and the drain of this host's member.
    Resume,
    /// Write down what the agent's core was told in the last minutes; prints the file's path.
    Record,
    /// Tell this program's core what a recorded one was told, and show what it decided. Needs no agent.
    #[command(after_help = "Exit status: 0 replayed identically, 1 diverged or not readable.")]
    Replay {
        /// A recording: see `flight` in the state directory, or `holdfast ha record`.
        file: PathBuf,
        /// Every event and every effect.
        #[arg(long)]
        verbose: bool,
    },
    /// Who asked this member for what, when, from where, and what came of it, oldest first.
    #[command(after_help = "Exit status: 1 where a check finds that the trail was changed.")]
    Audit {
        /// The newest N entries only.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Check every line of every file: each must continue the one before it.
        #[arg(long)]
        verify: bool,
        /// Check the files in this state directory instead, without an agent.
        #[arg(long, value_name = "DIR", requires = "verify")]
        dir: Option<PathBuf>,
    },
    /// What happened to this member and why, oldest first.
    History {
        /// The newest N entries only.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
}

/// What `holdfast ha members` does. Each member's configuration says where the others are reached; change that first
/// and reload (`systemctl reload holdfast`).
#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// One member: its role, preference and vote, and its heartbeat paths.
    Show {
        /// Its node_id.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Change how much the member of this host is preferred, until its agent restarts; to keep it, change its
    /// configuration too. With failback_mode = "auto" the role may move by itself.
    Edit {
        /// Its node_id, so that a command on the wrong host changes nothing.
        #[arg(value_name = "NAME")]
        name: String,
        /// The preference: the lower the more.
        #[arg(long, value_name = "N")]
        priority: u32,
    },
    /// Give a vote to a member that is configured everywhere and runs. Run it on the primary.
    Add {
        /// Its node_id.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take the vote of a member that is gone for good. Run it on the primary.
    Remove {
        /// Its node_id.
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Take the vote of a member that is gone for good, and give one to the member that takes its place. Run it on
    /// the primary.
    Replace {
        /// The node_id of the one that is gone.
        #[arg(value_name = "OLD")]
        old: String,
        /// The node_id of the new one.
        #[arg(value_name = "NEW")]
        new: String,
    },
}

/// Arguments of `holdfast replication`.
#[derive(Args, Debug)]
pub struct ReplicationArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub api: ApiArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: ReplicationCommand,
}

/// What `holdfast replication` does.
#[derive(Debug, Subcommand)]
pub enum ReplicationCommand {
    /// The log, its streams, and what was set aside.
    Status,
    /// The numbers alone.
    Stats,
    /// Copy a standby's log anew from the primary. Says what would be transferred and what it means, and changes nothing
    /// without --yes.
    Resync {
        /// Whose log: the member of this host, or of the agent that --api names [default: that one]
        #[arg(value_name = "MEMBER")]
        member: Option<String>,
        /// Do it.
        #[arg(long)]
        yes: bool,
        /// Keep the old copy when the new one is in sync.
        #[arg(long)]
        keep_old_copy: bool,
        /// Give the old copy up before the new one begins, where the disk has no room for both.
        #[arg(long, conflicts_with = "keep_old_copy")]
        drop_old_copy_first: bool,
    },
    /// What was set aside of this member's log: look into it, restore it, delete it.
    Archives {
        /// What to do.
        #[command(subcommand)]
        command: ArchivesCommand,
    },
}

/// What `holdfast replication archives` does.
#[derive(Debug, Subcommand)]
pub enum ArchivesCommand {
    /// All archives of this member, and what each holds.
    List,
    /// Every change that an archive holds, and for each object whether the cluster has it.
    Show {
        /// The archive.
        name: String,
    },
    /// Write the bytes of one object of an archive to a file.
    Get {
        /// The archive.
        name: String,
        /// The object.
        #[arg(value_name = "BUCKET/KEY")]
        object: String,
        /// Its version in the archive, as `show` names it [default: the last that was stored]
        #[arg(long, value_name = "ID")]
        version: Option<String>,
        /// The file, which must not exist.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Store objects of an archive again, as new writes to the primary. What the cluster has already is left alone, so it
    /// may be run again. Removals and changes of buckets and users are not restored.
    #[command(after_help = "Exit status: 1 where an object was not restored and is not there.")]
    Restore {
        /// The archive.
        name: String,
        /// These objects, or all of a bucket with BUCKET/ [default: the last of each key that was not removed
        /// afterwards]
        #[arg(value_name = "BUCKET/KEY")]
        objects: Vec<String>,
        /// This version of the one object that is named.
        #[arg(long, value_name = "ID")]
        version: Option<String>,
        /// Also where the cluster has other content under the key: it is replaced.
        #[arg(long)]
        overwrite: bool,
        /// Make buckets that do not exist; they are the root user's.
        #[arg(long)]
        create_buckets: bool,
        /// Also objects behind a damaged place of the archive, which nothing ties to the log but their own checksums.
        #[arg(long)]
        behind_damage: bool,
    },
    /// Delete an archive. What only it has is lost for ever.
    Delete {
        /// The archive.
        name: String,
        /// Do it. Without this, it says what would be lost.
        #[arg(long)]
        yes: bool,
    },
}

/// Arguments of `holdfast store`.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub api: ApiArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What `holdfast store` does.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Who may use the store. Changes are made on the primary, and are on every member.
    Users {
        /// What to do.
        #[command(subcommand)]
        command: UsersCommand,
    },
    /// What the buckets hold, and how much they may.
    Buckets {
        /// What to do.
        #[command(subcommand)]
        command: BucketsCommand,
    },
    /// How sound the log of this member is: it is read through in the background, and healed from the peer.
    Scrub {
        /// Begin to read it through now.
        #[arg(long)]
        now: bool,
    },
    /// What space the store takes, and how much of it is garbage.
    Space,
    /// Win back now what space can be won, on the primary; every member follows.
    Reclaim,
}

/// What `holdfast store users` does.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// All users.
    List,
    /// One user.
    Show {
        /// The user.
        name: String,
    },
    /// Make a user. Its secret key is printed once, and never again.
    Create {
        /// 1 to 64 characters of A-Z a-z 0-9 . _ @ -
        name: String,
        /// A bucket that it reaches, and how far: BUCKET:read, BUCKET:write or BUCKET:readwrite; `*` at the end of
        /// BUCKET stands for any rest. May be given several times.
        #[arg(long = "access", value_name = "BUCKET:PERMISSION")]
        access: Vec<String>,
        /// Let it make buckets of its own.
        #[arg(long)]
        creates_buckets: bool,
        /// Whose it is: it reaches only that tenant's buckets.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// For people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// By which access lists may name it.
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// Take an access key over from another store; its secret is read from standard input.
        #[arg(long, value_name = "ID")]
        access_key: Option<String>,
    },
    /// Replace the buckets that a user reaches.
    Access {
        /// The user.
        name: String,
        /// BUCKET:read, BUCKET:write or BUCKET:readwrite; none takes all access away.
        #[arg(value_name = "BUCKET:PERMISSION")]
        access: Vec<String>,
    },
    /// Take a user's keys again.
    Enable {
        /// The user.
        name: String,
    },
    /// Refuse a user's keys, without removing it.
    Disable {
        /// The user.
        name: String,
    },
    /// Make a second key for a user, to change keys without a gap. Its secret is printed once.
    CreateKey {
        /// The user.
        name: String,
    },
    /// Remove a key: what is signed with it is refused from then on.
    RemoveKey {
        /// The user.
        name: String,
        /// The access key.
        id: String,
    },
    /// Remove a user that owns no buckets.
    Remove {
        /// The user.
        name: String,
    },
}

/// What `holdfast store buckets` does.
#[derive(Debug, Subcommand)]
pub enum BucketsCommand {
    /// All buckets.
    List,
    /// How much a bucket may hold. 0 takes a limit away.
    Quota {
        /// The bucket.
        name: String,
        /// The most bytes of all versions together.
        #[arg(long, value_name = "N")]
        bytes: Option<u64>,
        /// The most versions, each object being one at least.
        #[arg(long, value_name = "N")]
        objects: Option<u64>,
    },
    /// Give a bucket another owner.
    Owner {
        /// The bucket.
        name: String,
        /// The user, or `root`.
        owner: String,
    },
}
