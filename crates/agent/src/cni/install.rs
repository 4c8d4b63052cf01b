//! What the container runtime sees: the plugin, and a configuration once pods can be connected.
//!
//! Everything is written under another name and renamed: a runtime that looks at any moment finds the old or the new. An
//! agent that goes leaves both, so that pods can go while the next one starts.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Cni, RETRY};
use crate::Status;

/// The configuration's file; runtimes take the first by name.
pub(crate) const OURS: &str = "05-dyad.conflist";
/// The network's name, and that of the directory where its addresses are noted.
pub(crate) const NETWORK: &str = "dyad";
/// The executable.
const PLUGIN: &str = "dyad-cni";
/// What it is called as; runtimes call the second for every pod, and most machines have one already.
const NAMES: [&str; 2] = ["dyad", "loopback"];

/// The network as runtimes read it. The newest version that theirs speaks counts; older ones know only the first field.
fn conflist(cni: &Cni) -> String {
    let plugin = json!({
        "type": NAMES[0],
        "socket": cni.socket,
        "ipam": {"dataDir": cni.data_dir},
        "capabilities": {"ips": true, "mac": true, "bandwidth": true},
    });
    let network = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": [plugin],
    });
    format!("{network:#}\n")
}

/// Installs the plugin at once, and the configuration as soon as the node is ready, and keeps both for ever.
pub(super) async fn keep(cni: &Cni, mut status: watch::Receiver<Status>) {
    let mut complaint = String::new();
    loop {
        let is_ready = {
            let status = status.borrow_and_update();
            status.is_ready() && !status.pod_ranges.is_empty()
        };
        let done = install(cni).and_then(|()| if is_ready { announce(cni) } else { Ok(()) });
        match done {
            Ok(()) => complaint.clear(),
            Err(problem) => {
                // Once, not at every try.
                if problem != complaint {
                    warn!(problem, "can't install the CNI plugin; will try again");
                }
                complaint = problem;
            }
        }
        // What somebody deletes comes back.
        let _ = tokio::time::timeout(if is_ready { RETRY * 5 } else { RETRY }, status.changed()).await;
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> String {
    move |error| format!("{what} {}: {error}", path.display())
}

/// The plugin and its names, where they are not what they should be.
fn install(cni: &Cni) -> Result<(), String> {
    let wanted = fs::read(&cni.plugin).map_err(failed("reading the plugin", &cni.plugin))?;
    fs::create_dir_all(&cni.bin_dir).map_err(failed("making", &cni.bin_dir))?;
    let path = cni.bin_dir.join(PLUGIN);
    if fs::read(&path).ok().as_ref() != Some(&wanted) {
        replace(&path, |draft| {
            fs::write(draft, &wanted)?;
            fs::set_permissions(draft, fs::Permissions::from_mode(0o755))
        })?;
        info!(path = %path.display(), "CNI plugin installed");
    }
    for name in NAMES {
        let path = cni.bin_dir.join(name);
        let is_there = if name == NAMES[0] { is_ours(&path) } else { path.exists() };
        if !is_there {
            replace(&path, |draft| symlink(PLUGIN, draft))?;
        }
    }
    Ok(())
}

/// Whether this is a name of our executable.
fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|to| to == Path::new(PLUGIN))
}

/// The configuration, where it is not what it should be.
fn announce(cni: &Cni) -> Result<(), String> {
    let (path, wanted) = (cni.conf_dir.join(OURS), conflist(cni));
    if fs::read_to_string(&path).is_ok_and(|now| now == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&cni.conf_dir).map_err(failed("making", &cni.conf_dir))?;
    replace(&path, |draft| fs::write(draft, &wanted))?;
    info!(path = %path.display(), "the node connects pods");
    Ok(())
}

/// Has `write` make a file, and puts it in the place of another.
fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), String> {
    let mut draft = path.as_os_str().to_owned();
    // Not a name that runtimes read.
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    let written = write(&draft).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.map_err(failed("writing", path))
}

/// Takes all of that back, with the notes of addresses; what is not ours stays.
pub(crate) fn uninstall(cni: &Cni) -> io::Result<()> {
    let absent_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    absent_is_fine(fs::remove_file(cni.conf_dir.join(OURS)))?;
    for path in NAMES.map(|name| cni.bin_dir.join(name)).iter().filter(|path| is_ours(path)) {
        absent_is_fine(fs::remove_file(path))?;
    }
    absent_is_fine(fs::remove_file(cni.bin_dir.join(PLUGIN)))?;
    absent_is_fine(fs::remove_file(&cni.socket))?;
    absent_is_fine(fs::remove_dir_all(cni.data_dir.join(NETWORK)))?;
    // Others' networks stay, and so does where they are.
    let _ = fs::remove_dir(&cni.data_dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cni(dir: &Path) -> Cni {
        let plugin = dir.join("image").join(PLUGIN);
        fs::create_dir_all(plugin.parent().unwrap()).unwrap();
        fs::write(&plugin, "first").unwrap();
        Cni {
            socket: dir.join("cni.sock"),
            conf_dir: dir.join("net.d"),
            bin_dir: dir.join("bin"),
            data_dir: dir.join("networks"),
            plugin,
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_installed_is_replaced_whole_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let cni = cni(dir.path());
        fs::create_dir(&cni.bin_dir).unwrap();
        fs::write(cni.bin_dir.join("loopback"), "somebody else's").unwrap();
        fs::write(cni.bin_dir.join("bridge"), "somebody else's").unwrap();
        install(&cni).unwrap();
        announce(&cni).unwrap();
        assert_eq!(names(&cni.bin_dir), ["bridge", "dyad", "dyad-cni", "loopback"]);
        assert_eq!(fs::read_to_string(cni.bin_dir.join("dyad")).unwrap(), "first");
        assert_eq!(fs::read_to_string(cni.bin_dir.join("loopback")).unwrap(), "somebody else's");
        let network = fs::read(cni.conf_dir.join(OURS)).unwrap();
        let network: serde_json::Value = serde_json::from_slice(&network).unwrap();
        assert_eq!(network["plugins"][0]["type"], "dyad");
        // Another version.
        fs::write(&cni.plugin, "second").unwrap();
        install(&cni).unwrap();
        assert_eq!(fs::read_to_string(cni.bin_dir.join("dyad")).unwrap(), "second");
        let mode = fs::metadata(cni.bin_dir.join(PLUGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        fs::create_dir_all(cni.data_dir.join(NETWORK)).unwrap();
        fs::create_dir_all(cni.data_dir.join("another")).unwrap();
        uninstall(&cni).unwrap();
        assert_eq!(names(&cni.bin_dir), ["bridge", "loopback"]);
        assert_eq!((names(&cni.conf_dir), names(&cni.data_dir)), (Vec::new(), vec!["another".to_owned()]));
        fs::remove_dir(cni.data_dir.join("another")).unwrap();
        uninstall(&cni).unwrap();
        assert!(!cni.data_dir.exists());
    }
}
