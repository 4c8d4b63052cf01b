//! A Debian package: two tar files in an `ar` archive, see deb(5). Nothing of it runs until somebody enables the unit.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

const UNIT: &str = include_str!("../../../deploy/systemd/dyad-agent.service");
const SETTINGS: &str = include_str!("../../../deploy/systemd/dyad-agent.default");
/// What is not generated: the plugins are no command that people type.
const PLUGINS_PAGE: &str = include_str!("../../../deploy/debian/dyad-cni.1");
const OVERRIDES: &str = include_str!("../../../deploy/debian/lintian-overrides");
/// What runs with changes of the package.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("../../../deploy/debian/postinst")),
    ("prerm", include_str!("../../../deploy/debian/prerm")),
    ("postrm", include_str!("../../../deploy/debian/postrm")),
];
const MAINTAINER: &str = "Dyad <dyad@example.org>";
const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
                         Upstream-Name: dyad\n\nFiles: *\nCopyright: 2026 the authors of Dyad\nLicense: Apache-2.0\n\n\
                         License: Apache-2.0\n On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.\n";

/// A tar file in the making, with the directories that its files need.
struct Tree {
    tar: Builder<GzEncoder<Vec<u8>>>,
    made: Vec<String>,
    bytes: u64,
    time: u64,
}

impl Tree {
    fn new(time: u64) -> Self {
        let tar = Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
        Self { tar, made: Vec::new(), bytes: 0, time }
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, content: &[u8], link: &str) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(content.len() as u64);
        let path = format!("./{path}");
        match kind {
            EntryType::Symlink => self.tar.append_link(&mut header, path, link)?,
            _ => self.tar.append_data(&mut header, path, content)?,
        }
        self.bytes += content.len() as u64;
        Ok(())
    }

    /// Directories above a path.
    fn above(&mut self, path: &str) -> Result<()> {
        for (at, _) in path.match_indices('/') {
            let dir = format!("{}/", &path[..at]);
            if !self.made.contains(&dir) {
                self.entry(EntryType::Directory, &dir, 0o755, &[], "")?;
                self.made.push(dir);
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.above(path)?;
        self.entry(EntryType::Regular, path, mode, content, "")
    }

    fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.above(path)?;
        self.entry(EntryType::Symlink, path, 0o777, &[], to)
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?.finish()?)
    }
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// What a package is made of.
pub(super) struct Contents<'a> {
    pub version: &'a str,
    pub architecture: &'a str,
    /// Where the programs are.
    pub programs: &'a Path,
    /// Where `dyad dist` has written pages and completions.
    pub extras: &'a Path,
    /// Seconds since 1970.
    pub time: u64,
}

/// The changelog that packages have: what has changed is told elsewhere.
fn changelog(version: &str, time: u64) -> Result<String> {
    let time = jiff::Timestamp::from_second(time.try_into()?)?.to_zoned(jiff::tz::TimeZone::UTC);
    let time = jiff::fmt::rfc2822::to_string(&time)?;
    Ok(format!(
        "dyad ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md of the sources.\n\n -- {MAINTAINER}  {time}\n"
    ))
}

/// Writes a package.
pub(super) fn write(to: &Path, of: &Contents<'_>) -> Result<()> {
    let Contents { version, architecture, programs, extras, time } = *of;
    let read = |path: &Path| fs::read(path).with_context(|| format!("can't read {}", path.display()));
    let mut data = Tree::new(time);
    for program in super::PROGRAMS {
        data.file(&format!("usr/bin/{program}"), 0o755, &read(&programs.join(program))?)?;
    }
    // `kubectl dyad ...` runs what is called so.
    data.link("usr/bin/kubectl-dyad", "dyad")?;
    data.file("usr/lib/systemd/system/dyad-agent.service", 0o644, UNIT.as_bytes())?;
    data.file("etc/default/dyad-agent", 0o644, SETTINGS.as_bytes())?;
    for page in super::sorted(&extras.join("man"))? {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        data.file(&format!("usr/share/man/man1/{name}.gz"), 0o644, &gzip(&read(&page)?)?)?;
    }
    data.file("usr/share/man/man1/dyad-cni.1.gz", 0o644, &gzip(PLUGINS_PAGE.as_bytes())?)?;
    data.link("usr/share/man/man1/kubectl-dyad.1.gz", "dyad.1.gz")?;
    for (name, place) in [
        ("dyad", "usr/share/bash-completion/completions/dyad"),
        ("_dyad", "usr/share/zsh/vendor-completions/_dyad"),
        ("dyad.fish", "usr/share/fish/vendor_completions.d/dyad.fish"),
    ] {
        data.file(place, 0o644, &read(&extras.join("completions").join(name))?)?;
    }
    data.file("usr/share/doc/dyad/copyright", 0o644, COPYRIGHT.as_bytes())?;
    data.file("usr/share/doc/dyad/changelog.gz", 0o644, &gzip(changelog(version, time)?.as_bytes())?)?;
    data.file("usr/share/lintian/overrides/dyad", 0o644, OVERRIDES.as_bytes())?;
    let size = data.bytes.div_ceil(1024);
    let mut control = Tree::new(time);
    let text = format!(
        "Package: dyad\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\nSection: net\n\
         Priority: optional\nInstalled-Size: {size}\nHomepage: https://github.com/dyad-net/dyad\n\
         Description: Kubernetes IPv4/IPv6 dual-stack networking\n Local clusters, an agent for the nodes of any cluster, and CNI \
         plugins.\n"
    );
    control.file("control", 0o644, text.as_bytes())?;
    control.file("conffiles", 0o644, b"/etc/default/dyad-agent\n")?;
    for (name, script) in SCRIPTS {
        control.file(name, 0o755, script.as_bytes())?;
    }
    fs::write(
        to,
        archive(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.gz", &control.finish()?),
            ("data.tar.gz", &data.finish()?),
        ]),
    )
    .with_context(|| format!("can't write {}", to.display()))
}

/// An `ar` archive.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        bytes.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, "100644", content.len()).bytes(),
        );
        bytes.extend(*content);
        if content.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_changelog_is_one_of_debian() {
        let text = changelog("1.2.3", 1_796_083_200).unwrap();
        assert!(text.starts_with("dyad (1.2.3) unstable; urgency=medium\n\n  * "), "{text}");
        assert!(text.ends_with("\n -- Dyad <dyad@example.org>  Tue, 1 Dec 2026 00:00:00 +0000\n"), "{text}");
    }

    #[test]
    fn members_begin_at_even_places() {
        let bytes = archive(&[("a", b"1"), ("b", b"22")]);
        assert_eq!(bytes.len(), 8 + 60 + 2 + 60 + 2);
        assert_eq!(&bytes[8..9], b"a");
        assert_eq!(&bytes[8 + 58..8 + 61], b"`\n1");
        assert_eq!(&bytes[70..71], b"b");
    }

    /// Members of an archive, as `ar` finds them.
    fn members(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        bytes = bytes.strip_prefix(b"!<arch>\n").unwrap();
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let text = |from, to| std::str::from_utf8(&bytes[from..to]).unwrap().trim().to_owned();
            let size: usize = text(48, 58).parse().unwrap();
            found.push((text(0, 16), bytes[60..60 + size].to_vec()));
            bytes = &bytes[60 + size + size % 2..];
        }
        found
    }

    #[test]
    fn the_package_has_everything_where_systems_look_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "dyad",
            "dyad-cni",
            "man/dyad.1",
            "completions/dyad",
            "completions/_dyad",
            "completions/dyad.fish",
        ];
        for folder in ["man", "completions"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for name in files {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let package = dir.path().join("dyad.deb");
        let of = Contents {
            version: "1.2.3",
            architecture: "arm64",
            programs: dir.path(),
            extras: dir.path(),
            time: 1_796_083_200,
        };
        write(&package, &of).unwrap();
        let bytes = fs::read(&package).unwrap();
        write(&package, &of).unwrap();
        assert_eq!(bytes, fs::read(&package).unwrap(), "the same files make the same package");
        let members = members(&bytes);
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"], "deb(5) has this order");

        let mut control = tar::Archive::new(flate2::read::GzDecoder::new(&*members[1].1));
        let names: Vec<String> = control
            .entries()
            .unwrap()
            .map(|one| one.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["control", "conffiles", "postinst", "prerm", "postrm"]);

        let mut data = tar::Archive::new(flate2::read::GzDecoder::new(&*members[2].1));
        let mut seen = Vec::new();
        for entry in data.entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let (dir, _) = path.trim_end_matches('/').rsplit_once('/').unwrap_or(("", ""));
            assert!(
                dir.is_empty()
                    || dir == "."
                    || seen.iter().any(|one: &(String, u32)| one.0.trim_end_matches('/') == dir),
                "{path} before its directory"
            );
            assert_eq!(entry.header().mtime().unwrap(), of.time, "{path}");
            seen.push((path, entry.header().mode().unwrap()));
        }
        for (path, mode) in [
            ("usr/bin/dyad", 0o755),
            ("usr/bin/dyad-cni", 0o755),
            ("usr/bin/kubectl-dyad", 0o777),
            ("usr/lib/systemd/system/dyad-agent.service", 0o644),
            ("etc/default/dyad-agent", 0o644),
            ("usr/share/man/man1/dyad.1.gz", 0o644),
            ("usr/share/man/man1/dyad-cni.1.gz", 0o644),
            ("usr/share/doc/dyad/changelog.gz", 0o644),
            ("usr/share/bash-completion/completions/dyad", 0o644),
        ] {
            let is = |one: &(String, u32)| one.0.trim_start_matches("./") == path && one.1 == mode;
            assert!(seen.iter().any(is), "{path}: {seen:?}");
        }
        // Where /lib is a link, as on every Debian since 12, a package must not have it as a directory.
        assert!(seen.iter().all(|(path, _)| !path.trim_start_matches("./").starts_with("lib")), "{seen:?}");
    }
}
