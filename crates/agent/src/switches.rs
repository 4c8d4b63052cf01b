//! Switches of the kernel that are changed on a node, and what they were before.
//!
//! A switch is noted before it is changed for the first time. Notes are a file in a run-time directory: after a restart of
//! the machine neither they nor what they are of is there. What somebody else has changed since is theirs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dyad_links::sysctl;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::with_causes;

/// The file's name.
const FILE: &str = "switches.json";
/// How many buckets connection tracking has, for all namespaces: no sysctl, but read and written like one.
pub(crate) const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// What the kernel changes with a switch, to the same: directory and name.
const FOLLOW: [(&str, &str, &str); 2] = [
    ("net/ipv4/ip_forward", "net/ipv4/conf", "forwarding"),
    ("net/ipv6/conf/all/forwarding", "net/ipv6/conf", "forwarding"),
];
/// Whoever forwards listens to no redirects: the kernel turns this one the other way round.
const REDIRECTS: (&str, &str) = ("net/ipv4/ip_forward", "net/ipv4/conf/all/accept_redirects");

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    key: String,
    before: String,
    given: String,
}

/// Switches, with a file of notes if those who clean up are to put them back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switches(Option<PathBuf>);

impl Switches {
    pub(crate) fn noted_in(run_dir: Option<&Path>) -> Self {
        Self(run_dir.map(|dir| dir.join(FILE)))
    }

    /// Sets one, and notes what it was. Without a note it is set all the same: the node has to work.
    pub(crate) fn set(&self, key: &str, value: &str) -> dyad_links::Result<()> {
        if sysctl::read(key).is_ok_and(|now| now == value) {
            return Ok(());
        }
        if let Some(file) = &self.0
            && let Err(problem) = note(file, key, value)
        {
            warn!(problem, key, "can't note what a switch was; a clean-up will leave it as it is");
        }
        sysctl::write(key, value)
    }

    /// Switches on what a node needs to route. In a container that may not, the host will have done so.
    pub(crate) fn forward(&self) {
        // A pod that reaches itself through a Service would be told of a shorter way that there is not.
        let redirects = ["all", "default"].map(|link| format!("net/ipv4/conf/{link}/send_redirects"));
        let mut wanted = sysctl::FORWARDING.into_iter().chain(redirects.iter().map(|key| (&**key, "0")));
        match wanted.try_for_each(|(key, value)| self.set(key, value)) {
            Ok(()) => info!("forwarding is on in both families"),
            Err(error) => {
                warn!(error = with_causes(&error), "can't switch forwarding on; the node must do it");
            }
        }
    }

    /// Puts back what still is as it was set, and forgets it.
    pub(crate) fn restore(&self) {
        let Some(file) = &self.0 else { return };
        let notes = match notes_in(file) {
            Ok(notes) => notes,
            Err(problem) => return warn!(problem, "what switches were is not known; they stay as they are"),
        };
        // All are read first: some of them change others.
        let now = |note: Note| Some((sysctl::read(&note.key).ok()?, note));
        for (now, Note { key, before, given }) in notes.into_iter().filter_map(now).collect::<Vec<_>>() {
            let value = if now == given { &before } else { &now };
            match sysctl::write(&key, value) {
                Ok(()) if now != given && now != before => {
                    info!(key, value, "somebody has changed a switch; it stays")
                }
                Ok(()) if now != *value => info!(key, value, "switch put back"),
                Ok(()) => {}
                Err(error) => warn!(error = with_causes(&error), "can't put a switch back"),
            }
        }
        if let Err(error) = fs::remove_file(file)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(file = %file.display(), %error, "can't delete the notes of switches");
        }
        // It stays where there is something of others, or where it is a container's mount.
        let _ = file.parent().map(fs::remove_dir);
    }
}

/// Notes `key`, which is about to be `value`, and what follows from it.
fn note(file: &Path, key: &str, value: &str) -> Result<(), String> {
    let mut notes = notes_in(file)?;
    let before = notes.clone();
    add(&mut notes, key, value);
    for (_, dir, name) in FOLLOW.iter().filter(|(of, ..)| *of == key) {
        for key in sysctl::of_each(dir, name).map_err(|error| with_causes(&error))? {
            add(&mut notes, &key, value);
        }
    }
    if key == REDIRECTS.0 {
        add(&mut notes, REDIRECTS.1, if value == "0" { "1" } else { "0" });
    }
    if notes == before {
        return Ok(());
    }
    let failed = |error: io::Error| format!("writing {}: {error}", file.display());
    let draft = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(file.parent().unwrap_or(file)).map_err(failed)?;
    let text = serde_json::to_vec_pretty(&notes).map_err(|error| failed(error.into()))?;
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.map_err(failed)
}

/// Notes one. What an agent has set before is not what it was: the first note counts, unless somebody has changed it since.
fn add(notes: &mut Vec<Note>, key: &str, value: &str) {
    // What can't be read isn't there.
    let Ok(now) = sysctl::read(key) else { return };
    match notes.iter_mut().find(|note| note.key == key) {
        Some(note) => {
            if note.given != now {
                note.before = now;
            }
            note.given = value.to_owned();
        }
        None => notes.push(Note { key: key.to_owned(), before: now, given: value.to_owned() }),
    }
}

fn notes_in(file: &Path) -> Result<Vec<Note>, String> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("reading {}: {error}", file.display())),
    };
    let notes: Vec<Note> = serde_json::from_slice(&text)
        .map_err(|error| format!("{} is damaged and is left as it is: {error}", file.display()))?;
    match notes.iter().find(|note| !is_switch(&note.key)) {
        Some(note) => {
            Err(format!("{} is damaged and is left as it is: {:?} is no switch", file.display(), note.key))
        }
        None => Ok(notes),
    }
}

fn is_switch(key: &str) -> bool {
    key == BUCKETS || key.starts_with("net/") && key.split('/').all(|part| !["", ".", ".."].contains(&part))
}

#[cfg(test)]
mod tests;
