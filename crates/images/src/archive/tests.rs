use std::fs;

use serde_json::json;
use tar::{Builder, Header};

use super::*;

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    (folder, store)
}

/// Configuration and layer of an image with one file.
fn parts(content: &str) -> (Vec<u8>, Vec<u8>) {
    let layer = tar(&[("etc/motd", content.as_bytes())]);
    let config = json!({"config": {"Cmd": ["/bin/app"]}, "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    (config.to_string().into_bytes(), layer)
}

fn docker(tags: &[&str], content: &str) -> Vec<u8> {
    let (config, layer) = parts(content);
    let manifest = json!([{"Config": "c.json", "RepoTags": tags, "Layers": ["l/layer.tar"]}]).to_string();
    tar(&[("c.json", &config), ("l/layer.tar", &layer), ("manifest.json", manifest.as_bytes())])
}

fn layout(annotations: serde_json::Value, content: &str) -> Vec<u8> {
    let (config, layer) = parts(content);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let manifest = json!({"schemaVersion": 2,
        "config": {"digest": Digest::of(&config), "size": config.len()},
        "layers": [{"digest": Digest::of(&layer), "size": layer.len()}]})
    .to_string();
    let manifest = manifest.as_bytes();
    let own = crate::manifest::Platform::own().architecture;
    let index = json!({"manifests": [
        {"digest": Digest::of(b"not there"), "platform": {"os": "linux", "architecture": "mips"}},
        {"digest": Digest::of(manifest), "platform": {"os": "linux", "architecture": own}},
    ]})
    .to_string();
    let index = index.as_bytes();
    let top = json!({"manifests": [{"digest": Digest::of(index), "annotations": annotations}]}).to_string();
    tar(&[
        ("index.json", top.as_bytes()),
        (&blob(&config), &config),
        (&blob(&layer), &layer),
        (&blob(manifest), manifest),
        (&blob(index), index),
    ])
}

fn names_of(result: Result<Vec<Image>>) -> Vec<String> {
    result.unwrap().into_iter().map(|image| image.name).collect()
}

#[test]
fn archives_of_both_kinds_are_loaded_under_their_names() {
    let other: Name = "me/other".parse().unwrap();
    for (what, bytes, name, want) in [
        (
            "docker",
            docker(&["app:v1", "app:v2"], "x"),
            None,
            vec!["docker.io/library/app:v1", "docker.io/library/app:v2"],
        ),
        ("docker, named", docker(&[], "x"), Some(&other), vec!["docker.io/me/other:latest"]),
        ("layout", layout(json!({NAME: "registry.test/app:v1"}), "x"), None, vec!["registry.test/app:v1"]),
        (
            "layout of skopeo",
            layout(json!({REF_NAME: "app:v1"}), "x"),
            None,
            vec!["docker.io/library/app:v1"],
        ),
        (
            "layout with a tag",
            layout(json!({REF_NAME: "v1"}), "x"),
            Some(&other),
            vec!["docker.io/me/other:latest"],
        ),
    ] {
        let (_folder, store) = store();
        assert_eq!(names_of(load(&store, &bytes[..], name, |_, _| {})), want, "{what}");
        let image = store.images().unwrap().remove(0);
        let root = store.root(&image).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("etc/motd")).unwrap(), "x", "{what}");
        assert_eq!(store.config(&image).unwrap().run().cmd, Some(vec!["/bin/app".into()]));
    }
}

#[test]
fn what_is_wrong_with_an_archive_is_named() {
    let (config, layer) = parts("x");
    let manifest = |config: &str| json!([{"Config": config, "RepoTags": ["a"], "Layers": ["l"]}]).to_string();
    let two = json!([{"Config": "c", "RepoTags": ["a"], "Layers": []}]).to_string();
    for (what, bytes, want) in [
        ("empty", tar(&[]), "this is no image"),
        ("not a tar", vec![7; 4096], "no archive of images"),
        ("text", b"root:x:0:0:root:/root:/bin/bash\n".repeat(100), "no archive of images"),
        ("cut off", docker(&["a"], "x")[..700].to_vec(), "cut off in file 1"),
        ("cut off, compressed", gzip(&docker(&["a"], "x"))[..200].to_vec(), "cut off"),
        ("no name", docker(&[], "x"), "--as NAME"),
        ("bad name", docker(&["A b"], "x"), "must be lowercase"),
        ("lacks a layer", tar(&[("c", &config), ("manifest.json", manifest("c").as_bytes())]), "\"l\""),
        ("lacks a config", tar(&[("l", &layer), ("manifest.json", manifest("c").as_bytes())]), "\"c\""),
        (
            "layers do not fit",
            tar(&[("c", &config), ("manifest.json", two.as_bytes())]),
            "speaks of 1 layers",
        ),
        ("no manifest", tar(&[("manifest.json", b"{}")]), "manifest.json"),
    ] {
        let (_folder, store) = store();
        let problem = load(&store, &bytes[..], None, |_, _| {}).unwrap_err().to_string();
        assert!(problem.contains(want), "{what}: {problem}");
        assert!(!problem.contains("root:x"), "{what}: the file itself is nobody's business: {problem}");
        assert_eq!(store.images().unwrap(), [], "{what}");
    }
}

#[test]
fn what_nobody_names_or_uses_is_collected() {
    let (_folder, store) = store();
    load(&store, &docker(&["a", "b"], "x")[..], None, |_, _| {}).unwrap();
    load(&store, &docker(&["c"], "y")[..], None, |_, _| {}).unwrap();
    // The archives' own manifest.json files.
    store.collect().unwrap();
    let image = store.find(&"c".parse().unwrap()).unwrap().unwrap();
    let root = store.root(&image).unwrap();
    assert!(
        store.forget("docker.io/library/a:latest").unwrap()
            && !store.forget("docker.io/library/a:latest").unwrap()
    );
    assert_eq!(store.collect().unwrap().blobs, 0, "b has the same content");
    store.forget("docker.io/library/c:latest").unwrap();
    let held = store.hold().unwrap();
    assert_eq!(store.collect().unwrap().blobs, 0, "somebody may need it");
    drop(held);
    let collected = store.collect().unwrap();
    assert_eq!((collected.blobs, collected.roots), (3, 0), "a container runs from it");
    assert!(root.path().join("etc/motd").exists());
    let path = root.path().to_owned();
    drop(root);
    assert_eq!(store.collect().unwrap().roots, 1);
    assert!(!path.exists());
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn content_that_was_changed_is_noticed() {
    let (_folder, store) = store();
    let image = load(&store, &docker(&["a"], "x")[..], None, |_, _| {}).unwrap().remove(0);
    let layer = store.blob(&image.layers[0]);
    let mut bytes = fs::read(&layer).unwrap();
    bytes[512] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let problem = store.root(&image).unwrap_err().to_string();
    assert!(problem.contains("unpacks to"), "{problem}");
    assert_eq!(fs::read_dir(store.dir().join("roots")).unwrap().count(), 0, "nothing half done is left");
    fs::write(store.blob(&image.id), "{}").unwrap();
    assert!(store.images().unwrap_err().to_string().contains("is damaged"));
}

#[test]
fn many_at_once_unpack_an_image_once() {
    let (_folder, store) = store();
    let image = load(&store, &docker(&["a"], "x")[..], None, |_, _| {}).unwrap().remove(0);
    let paths: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..8).map(|_| scope.spawn(|| store.root(&image).unwrap().path().to_owned())).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(paths.iter().all(|path| *path == paths[0] && path.exists()));
}
