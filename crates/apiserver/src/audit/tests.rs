//! Policies row by row, files as they are rotated, and memory that stays bounded.

use std::fs;
use std::time::Duration;

use super::log::{Log, Rotation};
use super::policy::{Level, Policy, Stage};
use crate::auth::{Attributes, ResourceTarget, Target, UserInfo};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: [system:kube-proxy]
  verbs: [watch]
  resources: [{group: "", resources: [endpoints, services]}]
- level: None
  userGroups: [system:authenticated]
  nonResourceURLs: ["/api*", "/version"]
- level: Request
  resources: [{group: "", resources: [configmaps]}]
  namespaces: [kube-system]
- level: RequestResponse
  resources: [{group: "", resources: [pods, "*/status", "services/*", secrets]}, {group: "batch"}]
  omitStages: [ResponseStarted]
  omitManagedFields: false
- level: Request
  resources: [{group: apps, resources: [deployments], resourceNames: [web]}]
- level: Metadata
"#;

#[test]
fn the_first_rule_that_is_about_a_request_decides() {
    let policy = Policy::read(POLICY).unwrap();
    let (proxy, jane) = (UserInfo::new("system:kube-proxy", &[]), UserInfo::new("jane", &[]));
    let resource = |group, resource, subresource, namespace, name| {
        Target::Resource(ResourceTarget { group, resource, subresource, namespace, name, node: "" })
    };
    #[rustfmt::skip]
    let cases = [
        (&proxy, "watch", resource("", "services", "", "", ""), Level::None),
        (&proxy, "list", resource("", "endpoints", "", "", ""), Level::Metadata),
        (&jane, "watch", resource("", "endpoints", "", "", ""), Level::Metadata),
        // As there, what is below a resource is it too.
        (&jane, "watch", resource("", "services", "", "", ""), Level::RequestResponse),
        (&jane, "get", Target::Path("/api/v1"), Level::None),
        (&jane, "get", Target::Path("/version"), Level::None),
        (&jane, "get", Target::Path("/healthz"), Level::Metadata),
        (&jane, "get", resource("", "pods", "", "a", "p"), Level::RequestResponse),
        (&jane, "get", resource("", "pods", "log", "a", "p"), Level::Metadata),
        (&jane, "patch", resource("", "pods", "status", "a", "p"), Level::RequestResponse),
        (&jane, "get", resource("", "services", "proxy", "a", "p"), Level::RequestResponse),
        (&jane, "get", resource("batch", "jobs", "", "a", "p"), Level::RequestResponse),
        (&jane, "get", resource("apps", "deployments", "", "a", "web"), Level::Request),
        (&jane, "get", resource("apps", "deployments", "", "a", "db"), Level::Metadata),
        // Whatever the policy says.
        (&jane, "get", resource("", "secrets", "", "a", "p"), Level::Metadata),
        (&jane, "update", resource("", "configmaps", "", "kube-system", "p"), Level::Metadata),
    ];
    for (user, verb, target, level) in cases {
        let attributes = Attributes { verb, target };
        assert_eq!(policy.of(Some(user), &attributes).level, level, "{verb} {target:?}");
    }
    let pods = Attributes { verb: "get", target: resource("", "pods", "", "a", "p") };
    let decided = policy.of(Some(&jane), &pods);
    assert_eq!(decided.omit, [Stage::RequestReceived, Stage::ResponseStarted]);
    assert!(!decided.omit_managed_fields, "the rule is asked first");
    let other = Attributes { verb: "get", target: Target::Path("/healthz") };
    assert!(policy.of(None, &other).omit_managed_fields);
    assert_eq!(Policy::default().of(None, &other).level, Level::Metadata);
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    let with = |rules: &str| format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
    for (text, why) in [
        ("x: [".to_owned(), "can't be read"),
        ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]\n".to_owned(), "apiVersion: audit.k8s.io/v1"),
        (with("[]"), "has no rules"),
        (with("[{}]"), "can't be read"),
        (with("[{level: Everything}]"), "can't be read"),
        (with("[{level: None, omitStages: [Never]}]"), "can't be read"),
        (with("[{level: None, nonResourceURLs: [api]}]"), "must begin with a '/'"),
        (with("[{level: None, nonResourceURLs: ['/a*b']}]"), "can only be the last"),
        (with("[{level: None, nonResourceURLs: ['/a'], namespaces: [x]}]"), "cannot apply to both"),
        (with("[{level: None, resources: [{group: apps/v1}]}]"), "leave out the version"),
        (with("[{level: None, resources: [{group: '', resourceNames: [x]}]}]"), "at least one entry"),
    ] {
        let error = Policy::read(&text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

fn lines(directory: &std::path::Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn files_are_begun_anew_and_old_ones_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    for old in ["audit-2001-01-01T00-00-00.000.log", "audit-2001-01-01T00-00-00.log", "other.log"] {
        fs::write(directory.path().join(old), "old\n").unwrap();
    }
    fs::write(&path, "before\n").unwrap();
    let rotation = Rotation { max_age: 10, max_backups: 2, max_size: 20 };
    let log = Log::open(path.clone(), rotation).unwrap();
    for number in 0..10 {
        log.put(format!("line {number:04}\n").into_bytes()).await;
    }
    drop(log);
    let files = lines(directory.path());
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"other.log") && names.contains(&"audit-2001-01-01T00-00-00.log"), "{names:?}");
    assert!(!names.contains(&"audit-2001-01-01T00-00-00.000.log"), "ten days are over: {names:?}");
    let backups: Vec<_> =
        files.iter().filter(|(name, _)| name.starts_with("audit-20") && name.len() == 33).collect();
    assert_eq!(backups.len(), 2, "{names:?}");
    let whole = backups.iter().map(|(_, text)| text.as_str()).collect::<String>()
        + &fs::read_to_string(&path).unwrap();
    assert_eq!(whole, (5..10).map(|number| format!("line {number:04}\n")).collect::<String>());
    use std::os::unix::fs::PermissionsExt;
    // What was there keeps its mode; what is new is its owner's alone.
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A disk that does not take anything: a pipe that nobody reads.
#[tokio::test]
async fn a_disk_that_stands_still_takes_no_more_than_its_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let log = Log::open(path, Rotation { max_age: 0, max_backups: 0, max_size: 0 }).unwrap();
    let line = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        log.put_now(line.clone());
    }
    // At most what is being written, twice the room at worst, and what waits.
    assert!(log.lost() >= 64 - 2 * 16 - 1, "{}", log.lost());
    let waited = tokio::time::timeout(Duration::from_secs(30), log.put(line)).await;
    assert!(waited.is_ok(), "nobody waits for ever");
    // Lets the writer finish.
    let drain = std::thread::spawn(move || {
        let mut reader = reader;
        let mut buffer = vec![0; 1 << 20];
        while std::io::Read::read(&mut reader, &mut buffer).is_ok_and(|count| count > 0) {}
    });
    drop(log);
    drop(drain);
}
