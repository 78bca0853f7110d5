//! A package of Debian's: an archive of `ar` with two archives of `tar` in it (deb(5)).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};

use crate::About;
use crate::contents::{Contents, DESCRIPTION, MAINTAINER, SUMMARY};

/// Run by dpkg.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes the package into `out`; says where it is.
pub(crate) fn build(contents: &Contents, about: &About, architecture: &str, out: &Path) -> Result<PathBuf> {
    let file = out.join(format!("holdfast_{}_{architecture}.deb", about.version));
    let mut archive = ar::Builder::new(File::create(&file).with_context(|| file.display().to_string())?);
    let control = control(contents, about, architecture)?;
    let data = data(contents, about)?;
    for (name, bytes) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", data)]
    {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(about.date.into());
        archive.append(&header, bytes.as_slice())?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(file)
}

fn control(contents: &Contents, about: &About, architecture: &str) -> Result<Vec<u8>> {
    let kib = contents.files.iter().map(|file| file.content.len().div_ceil(1024)).sum::<usize>();
    let description = DESCRIPTION.replace('\n', "\n ");
    let control = format!(
        "Package: holdfast\nVersion: {}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\nInstalled-Size: {kib}\n\
         Section: admin\nPriority: optional\nDepends: libc6 (>= 2.34), libgcc-s1, init-system-helpers, systemd\n\
         Recommends: fence-agents\nDescription: {SUMMARY}\n {description}\n",
        about.version,
    );
    let mut sums = String::new();
    for file in &contents.files {
        sums += &format!("{}  {}\n", hex::encode(Md5::digest(&file.content)), file.path);
    }
    let mut tar = Tar::new(about.date);
    tar.directory("./")?;
    tar.file("./control", 0o644, control.as_bytes())?;
    tar.file("./md5sums", 0o644, sums.as_bytes())?;
    for script in SCRIPTS {
        tar.file(&format!("./{script}"), 0o755, contents.script(&format!("deb/{script}"))?.as_bytes())?;
    }
    tar.finish()
}

fn data(contents: &Contents, about: &About) -> Result<Vec<u8>> {
    let mut tar = Tar::new(about.date);
    tar.directory("./")?;
    for directory in contents.directories() {
        tar.directory(&format!("./{directory}/"))?;
    }
    for file in &contents.files {
        tar.file(&format!("./{}", file.path), file.mode, &file.content)?;
    }
    tar.finish()
}

/// A compressed archive whose bytes depend on what is in it alone.
struct Tar {
    builder: tar::Builder<GzEncoder<Vec<u8>>>,
    date: u32,
}

impl Tar {
    fn new(date: u32) -> Tar {
        let gzip = flate2::GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        Tar { builder: tar::Builder::new(gzip), date }
    }

    /// Paths begin with `./`, as dpkg writes them itself; the library would take that off.
    fn header(&self, path: &str, mode: u32, size: u64, kind: tar::EntryType) -> Result<tar::Header> {
        let mut header = tar::Header::new_gnu();
        let name = &mut header.as_old_mut().name;
        let place =
            name.get_mut(..path.len()).with_context(|| format!("{path} is too long for the archive"))?;
        place.copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.date.into());
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        Ok(header)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let header = self.header(path, 0o755, 0, tar::EntryType::Directory)?;
        Ok(self.builder.append(&header, &[][..])?)
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let header = self.header(path, mode, content.len() as u64, tar::EntryType::Regular)?;
        Ok(self.builder.append(&header, content)?)
    }

    fn finish(self) -> Result<Vec<u8>> {
        let mut gzip = self.builder.into_inner()?;
        gzip.flush()?;
        Ok(gzip.finish()?)
    }
}
