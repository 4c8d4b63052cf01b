//! Images of a test's own making, from Debian's static busybox.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program has this module to itself and uses what it needs of it"
)]

use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// Where the one static program is that images are made of.
const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 34] = [
    "sh", "ls", "cat", "id", "sleep", "echo", "env", "pwd", "touch", "mount", "ps", "wget", "httpd", "nc",
    "tar", "grep", "head", "dd", "tail", "mkdir", "rm", "chmod", "stat", "kill", "true", "false", "hostname",
    "df", "readlink", "find", "test", "seq", "awk", "sed",
];

/// Whether there is something to make images of; says loudly if not.
pub fn can_be_made() -> bool {
    let there = busybox().is_some();
    if !there {
        eprintln!("SKIPPED: no static busybox: install the package busybox-static");
    }
    there
}

fn busybox() -> Option<Vec<u8>> {
    [BUSYBOX, "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok())
}

/// A layer in the making.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    /// Empty.
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// A shell with what goes with it, users `root` and `app` (1000, also in group 10).
    pub fn busybox() -> Self {
        let mut layer =
            Self::new().dir("bin", 0o755, 0).file("bin/busybox", &busybox().expect("busybox"), 0o755, 0);
        for applet in APPLETS {
            layer = layer.entry(EntryType::Link, &format!("bin/{applet}"), &[], "bin/busybox", 0o755, 0);
        }
        layer
            .dir("etc", 0o755, 0)
            .file(
                "etc/passwd",
                b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
                0o644,
                0,
            )
            .file("etc/group", b"root:x:0:\napp:x:1000:\nwheel:x:10:app\n", 0o644, 0)
            .dir("tmp", 0o1777, 0)
            .dir("home/app", 0o755, 1000)
            .entry(EntryType::Symlink, "run", &[], "/var/run", 0o777, 0)
    }

    /// Another directory.
    pub fn dir(self, name: &str, mode: u32, owner: u64) -> Self {
        self.entry(EntryType::Directory, name, &[], "", mode, owner)
    }

    /// Another file.
    pub fn file(self, name: &str, content: &[u8], mode: u32, owner: u64) -> Self {
        self.entry(EntryType::Regular, name, content, "", mode, owner)
    }

    /// Takes away what is below.
    pub fn without(self, name: &str) -> Self {
        let (dir, name) = name.rsplit_once('/').unwrap_or((".", name));
        self.file(&format!("{dir}/.wh.{name}"), b"", 0o644, 0)
    }

    fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        content: &[u8],
        link: &str,
        mode: u32,
        owner: u64,
    ) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(1_700_000_000);
        let done = if link.is_empty() {
            self.0.append_data(&mut header, name, content)
        } else {
            self.0.append_link(&mut header, name, link)
        };
        done.expect("an entry");
        self
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().expect("a layer")
    }
}

fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image in its parts.
pub struct Image {
    /// Layers, the lowest first.
    pub layers: Vec<Vec<u8>>,
    /// Its configuration.
    pub config: Vec<u8>,
}

impl Image {
    /// Of these layers, to be run like that.
    pub fn new(layers: Vec<Layer>, run: Value) -> Self {
        let layers: Vec<Vec<u8>> = layers.into_iter().map(Layer::done).collect();
        let diffs: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({"os": "linux", "config": run, "rootfs": {"type": "layers", "diff_ids": diffs}});
        Self { layers, config: config.to_string().into_bytes() }
    }

    /// What `docker save` would write.
    pub fn save(&self, path: &Path, tags: &[&str]) {
        let names: Vec<String> = (0..self.layers.len()).map(|at| format!("{at}/layer.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).to_string();
        let mut archive = Layer::new().file("config.json", &self.config, 0o644, 0);
        for (name, layer) in names.iter().zip(&self.layers) {
            archive = archive.file(name, layer, 0o644, 0);
        }
        let archive = archive.file("manifest.json", manifest.as_bytes(), 0o644, 0);
        std::fs::write(path, archive.done()).expect("an archive");
    }

    /// Its manifest for a registry, and its blobs by digest.
    pub fn parts(&self) -> (Vec<u8>, Vec<(String, &[u8])>) {
        let part = |bytes: &[u8], kind: &str| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len()});
        let layers: Vec<Value> = self.layers.iter().map(|layer| part(layer, "layer.v1.tar")).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": part(&self.config, "config.v1+json"), "layers": layers});
        let blobs = self.layers.iter().chain([&self.config]).map(|bytes| (digest(bytes), bytes.as_slice()));
        (manifest.to_string().into_bytes(), blobs.collect())
    }
}
