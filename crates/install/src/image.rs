//! The image that nodes run: two static programs and nothing else.

use std::io::Write;
use std::path::Path;

use dyad_images::build::{Build, Entry};
use dyad_images::{Digest, Name};

use crate::Error;

/// What the image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// The program `dyad`.
    pub dyad: &'a Path,
    /// The program `dyad-cni`.
    pub cni: &'a Path,
    /// What they are for, in Go's words: `amd64`, `arm64`.
    pub architecture: &'a str,
}

/// The name of the image of a version, as the manifests have it.
pub fn name(version: &str) -> String {
    format!("dyad:{version}")
}

/// Writes it as an archive for `dyad image load`, `ctr images import`, `docker load` and `skopeo copy`.
pub fn write(programs: Programs<'_>, version: &str, compress: bool, to: impl Write) -> Result<Digest, Error> {
    write_with(programs, &[], version, compress, to)
}

/// The same with more in it: what programs need that are not static.
pub fn write_with(
    programs: Programs<'_>,
    more: &[(&str, Entry<'_>)],
    version: &str,
    compress: bool,
    to: impl Write,
) -> Result<Digest, Error> {
    let name: Name = name(version).parse().map_err(Error::Refused)?;
    let folder = Entry::Directory(0o755);
    let entries = [
        ("dyad", Entry::File(programs.dyad, 0o755)),
        ("dyad-cni", Entry::File(programs.cni, 0o755)),
        ("etc", folder.clone()),
        ("etc/passwd", Entry::Text("root:x:0:0:root:/:/dyad\nnobody:x:65532:65532:nobody:/:/dyad\n")),
        ("etc/group", Entry::Text("root:x:0:\nnobody:x:65532:\n")),
        ("run", folder.clone()),
        ("tmp", Entry::Directory(0o1777)),
        ("var", folder),
        // Runtimes name namespaces of pods by this path.
        ("var/run", Entry::Link("/run")),
    ];
    let entries = [&entries[..], more].concat();
    let labels = [
        ("org.opencontainers.image.title", "dyad"),
        ("org.opencontainers.image.version", version),
        ("org.opencontainers.image.licenses", "Apache-2.0"),
        ("org.opencontainers.image.source", env!("CARGO_PKG_REPOSITORY")),
    ];
    let build = Build {
        name: &name,
        architecture: programs.architecture,
        entries: &entries,
        entrypoint: &["/dyad"],
        labels: &labels,
        compress,
    };
    Ok(build.write(to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_the_name_that_manifests_ask_for() {
        let folder = tempfile::tempdir().unwrap();
        let (dyad, cni) = (folder.path().join("dyad"), folder.path().join("dyad-cni"));
        std::fs::write(&dyad, "one").unwrap();
        std::fs::write(&cni, "other").unwrap();
        let mut archive = Vec::new();
        let programs = Programs { dyad: &dyad, cni: &cni, architecture: "amd64" };
        write(programs, "0.1.0+dirty", true, &mut archive).expect_err("a tag has no plus");
        archive.clear();
        write(programs, "0.1.0", true, &mut archive).unwrap();
        let objects = crate::manifests(
            &crate::Values::default(),
            &crate::Facts { version: "0.1.0".into(), ..crate::Facts::default() },
        )
        .unwrap();
        let agent = objects.iter().find(|one| one["kind"] == "DaemonSet").unwrap();
        assert_eq!(agent["spec"]["template"]["spec"]["containers"][0]["image"], name("0.1.0"));
    }
}
