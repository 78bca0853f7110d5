//! Builds what an operator installs: `cargo package-deb` and `cargo package-rpm`, each in one command and without a
//! network, once the sources are there.
//!
//! What is in a package, and where, is said once in [`contents`]; [`deb`] and [`rpm`] put it into their formats, and
//! [`manual`] writes what comes from the program itself: manual pages and completions. The same sources give the same
//! bytes: times are those of `SOURCE_DATE_EPOCH`, or of the last commit.

mod contents;
mod deb;
mod manual;
mod rpm;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use self::contents::Contents;

/// Builds the packages of Holdfast.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A package for Debian and Ubuntu.
    Deb(PackageArgs),
    /// A package for Fedora, RHEL, SUSE and their kin.
    Rpm(PackageArgs),
    /// Manual pages and completions, into a directory.
    Manual {
        /// The directory.
        dir: PathBuf,
    },
}

#[derive(Args)]
struct PackageArgs {
    /// A program that is built already; otherwise it is built, as released.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the package goes.
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    out: PathBuf,
    /// Its version, where that is not the program's.
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
}

/// What every package says of itself.
struct About {
    version: String,
    /// Seconds since 1970 that every file bears.
    date: u32,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let root = root()?;
    match cli.what {
        What::Deb(args) => package(&root, args, "amd64", deb::build),
        What::Rpm(args) => package(&root, args, "x86_64", rpm::build),
        What::Manual { dir } => {
            for (path, content) in manual::pages()?.into_iter().chain(manual::completions()) {
                let file = dir.join(path);
                fs::create_dir_all(file.parent().context("a page without a directory")?)?;
                fs::write(&file, content).with_context(|| file.display().to_string())?;
            }
            println!("{}", dir.display());
            Ok(())
        }
    }
}

fn package(
    root: &Path,
    args: PackageArgs,
    architecture: &str,
    build: impl Fn(&Contents, &About, &str, &Path) -> Result<PathBuf>,
) -> Result<()> {
    ensure!(
        env::consts::ARCH == "x86_64",
        "packages are built for x86_64 alone today; this machine is {}",
        env::consts::ARCH
    );
    let binary = match args.binary {
        Some(binary) => binary,
        None => release_build(root)?,
    };
    let about = About { version: args.version, date: source_date(root)? };
    let contents = Contents::gather(&root.join("packaging"), &binary)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let file = build(&contents, &about, architecture, &args.out)?;
    println!("{}", file.display());
    Ok(())
}

/// The root of the sources.
fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the sources have no root")?;
    if !root.join("packaging/holdfast.service").is_file() {
        bail!("the sources are not in {} any more: run this from where they are", root.display());
    }
    Ok(root.to_owned())
}

fn release_build(root: &Path) -> Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "-p", "holdfast-agent", "--bin", "holdfast"])
        .current_dir(root)
        .status()
        .context("cargo")?;
    ensure!(built.success(), "the program was not built");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release/holdfast"))
}

/// When the sources were what they are: `SOURCE_DATE_EPOCH`, or the last commit.
fn source_date(root: &Path) -> Result<u32> {
    if let Ok(date) = env::var("SOURCE_DATE_EPOCH") {
        return date.parse().with_context(|| format!("SOURCE_DATE_EPOCH is no time in seconds: {date}"));
    }
    let said = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root).output();
    let text = said.ok().filter(|said| said.status.success()).map(|said| said.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .trim()
        .parse()
        .context("these sources are in no git repository: set SOURCE_DATE_EPOCH to a time in seconds")
}
