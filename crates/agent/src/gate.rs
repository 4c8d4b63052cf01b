//! Pods wait here before their containers start, until what concerns them is in the kernel: no packet of theirs passes
//! before the policies that isolate them (H15).

use std::collections::BTreeMap;
use std::time::Duration;

use dyad_program::Name;
use dyad_program::policy::Pod;
use tokio::sync::{mpsc, oneshot};

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
}

#[derive(Debug)]
struct Started {
    uid: String,
    pod: Pod,
}

impl Pods {
    /// A pod is about to start: how it is.
    pub(crate) fn arrived(&mut self, name: Name, uid: String, pod: Pod, ready: oneshot::Sender<()>) -> Pod {
        self.waiting.push(ready);
        self.started.insert(name, Started { uid, pod: pod.clone() });
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
}
