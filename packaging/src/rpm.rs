//! A package of RPM's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rpm::{BuildConfig, CompressionType, Dependency, FileMode, FileOptions, PackageBuilder};

use crate::About;
use crate::contents::{Contents, DESCRIPTION, LICENSE, MAINTAINER, SUMMARY};

/// Writes the package into `out`; says where it is.
pub(crate) fn build(contents: &Contents, about: &About, architecture: &str, out: &Path) -> Result<PathBuf> {
    // What comes before a release sorts before it: 1.0.0~rc.1.
    let version = about.version.replace('-', "~");
    let config = BuildConfig::v4().compression(CompressionType::Gzip).source_date(about.date);
    let mut package = PackageBuilder::new("holdfast", &version, LICENSE, architecture, SUMMARY);
    package
        .using_config(config)
        .release("1")
        .description(DESCRIPTION)
        .packager(MAINTAINER)
        .build_host("holdfast");
    for file in &contents.files {
        let options = FileOptions::new(format!("/{}", file.path)).mode(FileMode::regular(file.mode as u16));
        package.with_file_contents(file.content.clone(), options).with_context(|| file.path.clone())?;
    }
    package
        .requires(Dependency::greater_eq("glibc", "2.34"))
        .requires(Dependency::any("libgcc_s.so.1()(64bit)"))
        .requires(Dependency::any("systemd"))
        .recommends(Dependency::any("fence-agents-all"))
        .post_install_script(contents.script("rpm/post")?)
        .pre_uninstall_script(contents.script("rpm/preun")?)
        .post_uninstall_script(contents.script("rpm/postun")?);
    let file = out.join(format!("holdfast-{version}-1.{architecture}.rpm"));
    package.build()?.write_file(&file).with_context(|| file.display().to_string())?;
    Ok(file)
}
