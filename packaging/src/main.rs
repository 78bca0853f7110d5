//! Builds what an operator installs: `cargo package-deb` and `cargo package-rpm`, each in one command and without a
//! network, once the sources are there.
//!
//! What is in a package, and where, is said once in [`contents`]; [`deb`] and [`rpm`] put it into their formats, and
//! [`manual`] writes what comes from the program itself: manual pages and completions; [`sbom`] says what the program is
//! made of. The same sources give the same bytes, wherever they lie: times are those of `SOURCE_DATE_EPOCH`, or of the last
//! commit, and no path of the machine that builds is left in the program.

mod contents;
mod deb;
mod manual;
mod notes;
mod rpm;
mod sbom;

use std::ffi::OsString;
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
    /// The program alone, as it is in the packages.
    Program,
    /// What the program is made of, as CycloneDX in JSON. It is in the packages too.
    Sbom {
        /// Where it goes.
        #[arg(long, value_name = "DIR", default_value = "target/packages")]
        out: PathBuf,
    },
    /// What the CHANGELOG says of this version, for a release that is tagged with it.
    Notes {
        /// The tag, `v` and the version.
        tag: String,
    },
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
    /// The program was built for tests and not as released: it may be larger.
    #[arg(long, hide = true, requires = "binary")]
    for_tests: bool,
}

/// What the released program may be at most, in bytes. What would make it larger is worth a look: mostly a feature of a
/// library that nobody asked for.
const MAX_PROGRAM_BYTES: u64 = 25_000_000;

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
        What::Program => {
            let binary = release_build(&root)?;
            check_size(&binary)?;
            println!("{}", binary.display());
            Ok(())
        }
        What::Sbom { out } => {
            let about = About { version: env!("CARGO_PKG_VERSION").into(), date: source_date(&root)? };
            let file = out.join(format!("holdfast-{}.cdx.json", about.version));
            fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
            fs::write(&file, sbom::document(&root, &about)?).with_context(|| file.display().to_string())?;
            println!("{}", file.display());
            Ok(())
        }
        What::Notes { tag } => {
            let file = root.join("CHANGELOG.md");
            let changelog = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            print!("{}", notes::of(&changelog, env!("CARGO_PKG_VERSION"), &tag)?);
            Ok(())
        }
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
    if !args.for_tests {
        check_size(&binary)?;
    }
    let contents = Contents::gather(&root.join("packaging"), &binary, sbom::document(root, &about)?)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let file = build(&contents, &about, architecture, &args.out)?;
    println!("{}", file.display());
    Ok(())
}

fn check_size(binary: &Path) -> Result<()> {
    let bytes = fs::metadata(binary).with_context(|| binary.display().to_string())?.len();
    ensure!(
        bytes <= MAX_PROGRAM_BYTES,
        "{} has {bytes} bytes, and the released program may have {MAX_PROGRAM_BYTES}: package one that was built with \
         --release; if it was, `cargo tree -e features -i CRATE` shows who asked for what has come in",
        binary.display()
    );
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

/// Builds the program so that the same sources give the same bytes wherever they, and cargo's copies of libraries, lie.
fn release_build(root: &Path) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "-p", "holdfast-agent", "--bin", "holdfast"])
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", release_flags(root, &target)?)
        .current_dir(root)
        .status()
        .context("cargo")?;
    ensure!(built.success(), "the program was not built");
    Ok(target.join("release/holdfast"))
}

/// What rustc is told beside what the profile says, as cargo takes it from its environment.
fn release_flags(root: &Path, target: &Path) -> Result<OsString> {
    let own_cargo = match env::var_os("CARGO_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    let mut flags = env::var_os("CARGO_ENCODED_RUSTFLAGS").unwrap_or_else(|| {
        env::var_os("RUSTFLAGS").map_or_else(OsString::new, |flags| {
            flags.to_string_lossy().split_whitespace().collect::<Vec<_>>().join("\x1f").into()
        })
    });
    // Of several that fit, rustc takes the last one.
    let registry = own_cargo.join("registry");
    for (from, to) in [(root, "/holdfast"), (target, "/holdfast/target"), (&registry, "/cargo/registry")] {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
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
