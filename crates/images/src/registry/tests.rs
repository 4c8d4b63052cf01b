use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::manifest::Platform;

type Content = BTreeMap<String, Vec<u8>>;
type Answer = dyn Fn(&str, usize, &BTreeMap<String, String>) -> (u16, Vec<u8>) + Send + Sync;

/// A registry that answers as it is told: path, how often that was asked for before, headers.
struct Registry {
    address: String,
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Registry {
    fn new(
        at: &str,
        answer: impl Fn(&str, usize, &BTreeMap<String, String>) -> (u16, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let (counts, answer): (_, Arc<Answer>) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, counts, answer) = (stream.unwrap(), Arc::clone(&counts), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &counts, &*answer));
            }
        });
        Self { address, asked }
    }

    fn asked(&self, path: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(known, _)| known.contains(path))
            .map(|(_, count)| count)
            .sum()
    }

    fn name(&self, rest: &str) -> Name {
        format!("{}/{rest}", self.address).parse().unwrap()
    }
}

fn serve(mut stream: std::net::TcpStream, counts: &Mutex<BTreeMap<String, usize>>, answer: &Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let headers = lines.take_while(|line| !line.is_empty()).filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_lowercase(), value.trim().to_owned()))
    });
    let headers = headers.collect();
    let before = {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(path.clone()).or_insert(0);
        *count += 1;
        *count - 1
    };
    let (status, body) = answer(&path, before, &headers);
    let head = format!(
        "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nContent-Type: {}\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
         Connection: close\r\n\r\n",
        body.len(),
        crate::manifest::MANIFEST
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Content of an image by path: an index over a manifest with one layer.
fn content() -> Content {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    layer.append_data(&mut header, "motd", &b"hi"[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    let config = json!({"rootfs": {"diff_ids": [Digest::of(&layer)]}}).to_string().into_bytes();
    let manifest = json!({"schemaVersion": 2, "config": {"digest": Digest::of(&config), "size": config.len()},
        "layers": [{"digest": Digest::of(&layer), "size": layer.len()}]});
    let manifest = manifest.to_string().into_bytes();
    let platform = Platform::own();
    let index =
        json!({"schemaVersion": 2, "manifests": [{"digest": Digest::of(&manifest), "platform": platform}]});
    let index = index.to_string().into_bytes();
    let mut all = BTreeMap::from([("/v2/".to_owned(), b"{}".to_vec())]);
    for (bytes, place) in
        [(&layer, "blobs"), (&config, "blobs"), (&manifest, "manifests"), (&index, "manifests")]
    {
        all.insert(format!("/v2/team/app/{place}/{}", Digest::of(bytes)), bytes.clone());
    }
    all.insert("/v2/team/app/manifests/v1".into(), index);
    all
}

fn found(content: &Content, path: &str) -> (u16, Vec<u8>) {
    match content.get(path) {
        Some(bytes) => (200, bytes.clone()),
        None => {
            (404, br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#.to_vec())
        }
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("images")).unwrap();
    (folder, store)
}

async fn get(store: &Store, name: &Name, settings: &Settings) -> std::result::Result<Image, String> {
    pull(store, name, settings, &Credentials::default(), &|_| {}).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_image_is_pulled_once_in_either_family() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let all = content();
        let registry = Registry::new(at, move |path, _, _| found(&all, path));
        let (_folder, store) = store();
        let (name, settings) = (registry.name("team/app:v1"), Settings::default());
        let pulls = (0..4).map(|_| get(&store, &name, &settings));
        let images: Vec<Image> =
            futures::future::join_all(pulls).await.into_iter().map(std::result::Result::unwrap).collect();
        assert_eq!(registry.asked("/blobs/"), 2, "{at}: each blob once");
        let image = &images[0];
        let source = image.source.clone().unwrap();
        assert_eq!(image.reference(), name.at(&source).to_string());
        assert_eq!(store.find(&name.at(&source)).unwrap().as_ref(), Some(image));
        assert_eq!(std::fs::read_to_string(store.root(image).unwrap().path().join("motd")).unwrap(), "hi");
        // By its digest, and what is there already is not asked for.
        get(&store, &name.at(&source), &settings).await.unwrap();
        assert_eq!(registry.asked("/blobs/"), 2);
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_is_wrong_is_not() {
    let all = content();
    let is_blob = |path: &str| path.contains("/blobs/");
    let changed = |mut bytes: Vec<u8>| {
        bytes[0] ^= 1;
        bytes
    };
    type Row = (&'static str, Box<Answer>, std::result::Result<usize, &'static str>);
    let own = |work: fn(&Content, &str, usize) -> (u16, Vec<u8>)| -> Box<Answer> {
        let all = all.clone();
        Box::new(move |path: &str, before: usize, _: &BTreeMap<String, String>| work(&all, path, before))
    };
    let cut: Box<Answer> = {
        let all = all.clone();
        Box::new(move |path: &str, before: usize, _: &BTreeMap<String, String>| {
            let (status, bytes) = found(&all, path);
            (status, if is_blob(path) && before == 0 { changed(bytes) } else { bytes })
        })
    };
    let wrong: Box<Answer> = {
        let all = all.clone();
        Box::new(move |path: &str, _: usize, _: &BTreeMap<String, String>| {
            let (status, bytes) = found(&all, path);
            (status, if path.ends_with("/v1") { br#"{"config": "#.to_vec() } else { bytes })
        })
    };
    let rows: [Row; 5] = [
        (
            "busy at first",
            own(|all, path, before| if before == 0 { (503, Vec::new()) } else { found(all, path) }),
            Ok(4),
        ),
        ("damaged on the way", cut, Ok(4)),
        ("not there", own(|_, path, _| found(&BTreeMap::new(), path)), Err("not found")),
        (
            "not allowed",
            own(|_, path, _| if path == "/v2/" { (200, Vec::new()) } else { (401, Vec::new()) }),
            Err("pull access denied"),
        ),
        ("no manifest", wrong, Err("no manifest")),
    ];
    for (what, answer, want) in rows {
        let registry = Registry::new("127.0.0.1:0", answer);
        let (_folder, store) = store();
        let name = registry.name("team/app:v1");
        let result = get(&store, &name, &Settings::default()).await;
        match want {
            Ok(asked) => {
                result.unwrap();
                assert_eq!(registry.asked("/blobs/"), asked, "{what}");
            }
            Err(text) => {
                let problem = result.unwrap_err();
                assert!(
                    problem.contains(text) && problem.contains("failed to pull and unpack image"),
                    "{what}: {problem}"
                );
                assert_eq!(registry.asked("/manifests/v1"), 1, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn mirrors_are_asked_first_and_credentials_are_shown_in_turn() {
    let all = content();
    let mirror = Registry::new("127.0.0.1:0", |path, _, _| found(&BTreeMap::new(), path));
    let registry = Registry::new("[::1]:0", move |path, _, headers| {
        let basic = headers.get("authorization").map(String::as_str);
        // `me:right` in base64.
        if basic == Some("Basic bWU6cmlnaHQ=") { found(&all, path) } else { (401, Vec::new()) }
    });
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("hosts/registry.test");
    std::fs::create_dir_all(&dir).unwrap();
    let text = format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", registry.address, mirror.address);
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
    let config = folder.path().join("config.json");
    let auths = json!({"auths": {"registry.test/team": {"username": "me", "password": "wrong"},
        "registry.test": {"username": "me", "password": "right"}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    let settings = Settings { hosts: vec![folder.path().join("hosts")], docker_config: Some(config) };
    let (_folder, store) = store();
    let name: Name = "registry.test/team/app:v1".parse().unwrap();
    get(&store, &name, &settings).await.unwrap();
    assert!(mirror.asked("/manifests/v1") > 0 && registry.asked("/manifests/v1") > 1);
    let other: Name = "registry.test/team/app:v2".parse().unwrap();
    let problem = get(&store, &other, &Settings { docker_config: None, ..settings }).await.unwrap_err();
    assert!(problem.contains("not found") && problem.contains("pull access denied"), "{problem}");
}
