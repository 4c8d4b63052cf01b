//! Pods wait here before their containers start, until what concerns them is in the kernel: no packet of theirs passes
//! before the policies that isolate them (H15).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dyad_program::Name;
use dyad_program::policy::Pod;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

pub(crate) mod notes;

use notes::Note;

/// How long a pod waits before it is told to try again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many pods may wait to be heard.
const QUEUE: usize = 64;

/// A pod that is about to start.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) name: Name,
    pub(crate) uid: String,
    pub(crate) pod: Pod,
    /// Answered when the kernel is ready for it.
    pub(crate) ready: oneshot::Sender<()>,
}

/// The end of the one who starts pods.
#[derive(Clone, Debug)]
pub struct Gate(mpsc::Sender<Arrival>);

/// The agent's end.
#[derive(Debug)]
pub struct Arrivals(pub(crate) mpsc::Receiver<Arrival>);

/// Why a pod can't start yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's rules are not ready for the pod; it will be tried again")]
pub struct NotReady;

/// A gate, both ends of it.
pub fn gate() -> (Gate, Arrivals) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Gate(sender), Arrivals(receiver))
}

impl Gate {
    /// Waits until the kernel is ready for a pod of this node, which has its addresses but may not have told the API.
    pub async fn pass(&self, namespace: &str, name: &str, uid: &str, pod: Pod) -> Result<(), NotReady> {
        let (ready, heard) = oneshot::channel();
        let arrival = Arrival { name: Name::new(namespace, name), uid: uid.to_owned(), pod, ready };
        let passed = async {
            self.0.send(arrival).await.map_err(|_| NotReady)?;
            heard.await.map_err(|_| NotReady)
        };
        tokio::time::timeout(PATIENCE, passed).await.unwrap_or(Err(NotReady))
    }
}

/// Pods that have started, but whose addresses the API has not told of yet.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    started: BTreeMap<Name, Started>,
    waiting: Vec<oneshot::Sender<()>>,
    /// Where those that have started are noted, and as what.
    file: Option<PathBuf>,
    noted: Vec<Note>,
    has_complained: bool,
}

#[derive(Debug)]
struct Started {
    uid: String,
    pod: Pod,
    /// Whether that is from an agent before.
    is_noted: bool,
}

impl Pods {
    /// Those that the agent before has noted; from now on they are noted there.
    pub(crate) fn noted_in(run_dir: Option<&Path>) -> Self {
        let file = run_dir.map(notes::file);
        let noted = file.as_deref().map(notes::read).unwrap_or_default();
        let started = |note: &Note| {
            let Note { namespace, name, uid, ips } = note.clone();
            let pod = Pod { namespace: (*namespace).into(), ips, ..Pod::default() };
            (Name::new(&namespace, &name), Started { uid, pod, is_noted: true })
        };
        Self { started: noted.iter().map(started).collect(), noted, file, ..Self::default() }
    }

    /// Notes those that have started; the kernel is ready for them.
    pub(crate) fn note(&mut self) {
        let Some(file) = &self.file else { return };
        let note = |(name, Started { uid, pod, .. }): (&Name, &Started)| Note {
            namespace: name.namespace().to_owned(),
            name: name.name().to_owned(),
            uid: uid.clone(),
            ips: pod.ips.clone(),
        };
        let notes: Vec<Note> = self.started.iter().map(note).collect();
        if notes == self.noted {
            return;
        }
        match notes::write(file, &notes) {
            Ok(()) => (self.noted, self.has_complained) = (notes, false),
            // Pods start all the same.
            Err(error) if !std::mem::replace(&mut self.has_complained, true) => {
                warn!(file = %file.display(), %error, "can't note which pods have just started");
            }
            Err(_) => {}
        }
    }

    /// These are all that the API has: others that an agent before has noted went while nobody heard of it.
    pub(crate) fn listed(&mut self, names: &BTreeSet<Name>) {
        self.started.retain(|name, started| !started.is_noted || names.contains(name));
    }

    /// A pod is about to start: how it is.
    pub(crate) fn arrived(&mut self, name: Name, uid: String, pod: Pod, ready: oneshot::Sender<()>) -> Pod {
        self.waiting.push(ready);
        self.started.insert(name, Started { uid, pod: pod.clone(), is_noted: false });
        pod
    }

    /// The API tells of a pod, by its name and identity: how it is.
    pub(crate) fn heard(&mut self, name: &Name, uid: &str, heard: Option<Pod>) -> Option<Pod> {
        let Some(started) = self.started.get(name) else { return heard };
        match heard {
            // It ended, or another one that had the name did.
            None if started.uid != uid => Some(started.pod.clone()),
            // The API does not know its addresses yet; all else it knows better.
            Some(pod) if started.uid == uid && pod.ips.is_empty() => {
                Some(Pod { ips: started.pod.ips.clone(), ..pod })
            }
            heard => {
                self.started.remove(name);
                heard
            }
        }
    }

    /// Whether a pod has started that the API may not tell of yet.
    pub(crate) fn is_arriving(&self, name: &Name) -> bool {
        self.started.contains_key(name)
    }

    /// Lets all go on who wait.
    pub(crate) fn answer(&mut self) {
        for ready in self.waiting.drain(..) {
            // One that has gone away waits no more.
            let _ = ready.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_from_the_start_until_the_api_tells_them() {
        let name = Name::new("default", "a");
        let with = |ips: &[&str], label: &str| Pod {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            namespace: label.into(),
            ..Pod::default()
        };
        let started = || {
            let mut pods = Pods::default();
            let (ready, _) = oneshot::channel();
            pods.arrived(name.clone(), "1".into(), with(&["10.0.0.1"], "old"), ready);
            pods
        };
        let mut pods = started();
        assert_eq!(
            pods.heard(&name, "1", Some(with(&[], "new"))),
            Some(with(&["10.0.0.1"], "new")),
            "not told yet"
        );
        assert_eq!(pods.heard(&name, "0", None), Some(with(&["10.0.0.1"], "old")), "its predecessor went");
        assert_eq!(
            pods.heard(&name, "1", Some(with(&["10.0.0.1"], "new"))),
            Some(with(&["10.0.0.1"], "new"))
        );
        assert!(!pods.is_arriving(&name), "told");
        assert_eq!(started().heard(&name, "1", None), None, "it went itself");
        let other = started().heard(&name, "2", Some(with(&["10.0.0.2"], "next")));
        assert_eq!(other, Some(with(&["10.0.0.2"], "next")), "another one has the name");
    }

    #[test]
    fn the_next_agent_knows_which_pods_have_just_started() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = Some(dir.path());
        let pod = |ips: &[&str]| Pod {
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            namespace: "default".into(),
            ..Pod::default()
        };
        let named = |name: &str| Name::new("default", name);
        let mut pods = Pods::noted_in(run_dir);
        for name in ["a", "b"] {
            pods.arrived(named(name), "1".into(), pod(&["10.0.0.1", "fd00::1"]), oneshot::channel().0);
        }
        pods.note();
        let mut next = Pods::noted_in(run_dir);
        next.listed(&[named("a")].into());
        assert_eq!([named("a"), named("b")].map(|name| next.is_arriving(&name)), [true, false]);
        assert_eq!(next.heard(&named("a"), "1", Some(pod(&[]))), Some(pod(&["10.0.0.1", "fd00::1"])));
        next.arrived(named("c"), "1".into(), pod(&["10.0.0.3"]), oneshot::channel().0);
        next.listed(&[].into());
        assert!(next.is_arriving(&named("c")), "newer than the list");
        // Once the API tells, there is nothing to note.
        next.heard(&named("c"), "1", Some(pod(&["10.0.0.3"])));
        next.note();
        assert_eq!(notes::read(&notes::file(dir.path())), []);
        std::fs::write(notes::file(dir.path()), "[{").unwrap();
        assert!(Pods::noted_in(run_dir).started.is_empty(), "damaged");
        notes::cleanup(dir.path());
        assert!(!notes::file(dir.path()).exists());
        Pods::default().note();
    }
}
