//! Manual pages and completions, from the program's own definitions.

use std::io::Write;

use anyhow::Result;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use flate2::{Compression, GzBuilder};
use holdfast_agent::cli::args::Cli;
use holdfast_config::reference::{Block, reference};
use roff::{Roff, bold, italic, roman};

/// A path below a directory of its kind, and what is in it.
pub(crate) type Document = (String, Vec<u8>);

/// The commands that only an administrator of the host uses: section 8.
const OF_ADMINISTRATORS: [&str; 4] = ["agent", "init", "join", "sweep"];

/// `man1/holdfast.1` and a page for each command, `man8/` for those of administrators.
pub(crate) fn pages() -> Result<Vec<Document>> {
    let mut all = Vec::new();
    let mut root = Cli::command();
    root.build();
    page(&root, "holdfast", "1", &mut all)?;
    for command in shown(&root) {
        let section = if OF_ADMINISTRATORS.contains(&command.get_name()) { "8" } else { "1" };
        with_its_own(command, "holdfast", section, &mut all)?;
    }
    all.push(("man5/holdfast.hcl.5".to_owned(), of_configuration()));
    Ok(all)
}

/// The file that a member is configured by, key by key.
fn of_configuration() -> Vec<u8> {
    let mut page = Roff::new();
    page.control("TH", ["HOLDFAST.HCL", "5", "", "", "Holdfast"]);
    page.control("SH", ["NAME"]);
    page.text([roman("holdfast.hcl - the configuration of a member of a Holdfast cluster")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/holdfast/holdfast.hcl")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The file is written in HCL, and may be read by root alone where it has a secret in it. "),
        bold("holdfast config check"),
        roman(" says what is wrong with it, and explains what it means, the timers that follow from it included. A duration is a number of seconds, or a text with a unit: \"250ms\", \"5s\", \"1h\". A size is a number of bytes, or a text: \"64MiB\", \"50MB\". A running agent reads secrets and the others' addresses anew on SIGHUP ("),
        bold("systemctl reload holdfast"),
        roman("); everything else waits for a restart."),
    ]);
    for block in reference() {
        describe(&mut page, &block);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("holdfast"),
        roman("(1), "),
        bold("holdfast-agent"),
        roman("(8), examples in /usr/share/doc/holdfast"),
    ]);
    page.render().into_bytes()
}

fn describe(page: &mut Roff, block: &Block) {
    page.control("SH", [block.path.to_uppercase().as_str()]);
    page.text([bold(block.head), roman(" ... }")]);
    page.control("PP", []);
    page.text([roman(block.text)]);
    for key in &block.keys {
        page.control("TP", []);
        let default = if key.default.is_empty() { String::new() } else { format!("  ({})", key.default) };
        page.text([bold(key.name), roman(" = "), italic(key.form), roman(default)]);
        page.text([roman(key.text)]);
    }
}

fn shown(of: &Command) -> impl Iterator<Item = &Command> {
    of.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help")
}

/// The page of a command and those of its own commands.
fn with_its_own(command: &Command, above: &str, section: &str, all: &mut Vec<Document>) -> Result<()> {
    let name = format!("{above}-{}", command.get_name());
    page(command, &name, section, all)?;
    shown(command).try_for_each(|own| with_its_own(own, &name, section, all))
}

fn page(command: &Command, name: &str, section: &str, all: &mut Vec<Document>) -> Result<()> {
    let spoken = name.replace('-', " ");
    // Names of commands live as long as the program; this one soon ends.
    let named: &'static str = name.to_owned().leak();
    let command = command.clone().name(named).bin_name(spoken).disable_help_subcommand(true);
    let man = Man::new(command).section(section).title(name.to_uppercase()).manual("Holdfast");
    let mut text = Vec::new();
    man.render(&mut text)?;
    all.push((format!("man{section}/{name}.{section}"), text));
    Ok(())
}

/// For bash, zsh and fish, where each looks for them below `/usr/share`.
pub(crate) fn completions() -> Vec<Document> {
    let places = [
        (Shell::Bash, "bash-completion/completions/holdfast"),
        (Shell::Zsh, "zsh/site-functions/_holdfast"),
        (Shell::Fish, "fish/vendor_completions.d/holdfast.fish"),
    ];
    let script = |shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut text);
        text
    };
    places.into_iter().map(|(shell, path)| (path.to_owned(), script(shell))).collect()
}

/// As manual pages lie on a disk; the same bytes each time.
pub(crate) fn compressed(text: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(text)?;
    Ok(gzip.finish()?)
}
