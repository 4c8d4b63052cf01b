//! Which translators work: names are made for a prefix only while somebody carries what is sent to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use dyad_net::Pref64;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::corefile::Corefile;

/// Between two looks at a translator.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The translators of a Corefile that say how to ask for their health, by prefix.
pub(super) struct Translators(Arc<BTreeMap<String, (SocketAddr, AtomicBool)>>);

impl Translators {
    pub(super) fn new(corefile: &Corefile) -> Self {
        let all = corefile.servers.iter().filter_map(|server| server.dns64.as_ref());
        let prefixes = all.flat_map(|dns64| &dns64.prefixes);
        // Until it has been asked, one is believed to work: a server that starts makes nobody's names shorter.
        let watched =
            prefixes.filter_map(|prefix| Some((prefix.prefix.to_string(), (prefix.health?, true.into()))));
        Self(Arc::new(watched.collect()))
    }

    pub(super) fn usable(&self) -> Arc<dyn Fn(Pref64) -> bool + Send + Sync> {
        let translators = self.0.clone();
        Arc::new(move |prefix| {
            translators.get(&prefix.to_string()).is_none_or(|(_, is_well)| is_well.load(Relaxed))
        })
    }

    /// Looks after them from now on.
    pub(super) fn watch(self, tasks: &mut JoinSet<()>) {
        for (prefix, (at, _)) in &*self.0 {
            let (translators, prefix, at) = (self.0.clone(), prefix.clone(), *at);
            tasks.spawn(async move {
                let Some((_, is_well)) = translators.get(&prefix) else { return };
                loop {
                    let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(at)).await;
                    let now = connected.is_ok_and(|stream| stream.is_ok());
                    match (is_well.swap(now, Relaxed), now) {
                        (true, false) => {
                            warn!(%prefix, %at, "its translator does not answer: no addresses are made with it");
                        }
                        (false, true) => info!(%prefix, %at, "its translator answers again"),
                        (true, true) | (false, false) => {}
                    }
                    tokio::time::sleep(LOOK).await;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::Disk;

    #[tokio::test]
    async fn a_prefix_is_used_while_its_translator_takes_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let text = format!(
            ". {{\nforward . 192.0.2.1\ndns64 {{\nprefix 64:ff9b::/96 health {at}\nprefix 64:ff9b:1::/96\n}}\n}}"
        );
        let corefile = Corefile::parse("Corefile", &text, &Disk::default()).unwrap();
        let translators = Translators::new(&corefile);
        let usable = translators.usable();
        let [watched, other] = ["64:ff9b::/96", "64:ff9b:1::/96"].map(|text| text.parse::<Pref64>().unwrap());
        assert!(usable(watched) && usable(other));
        let mut tasks = JoinSet::new();
        translators.watch(&mut tasks);
        drop(listener);
        let until = async |wanted| {
            while usable(watched) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), until(false)).await.unwrap();
        assert!(usable(other), "nobody says how it is");
        let _listener = tokio::net::TcpListener::bind(at).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), until(true)).await.unwrap();
    }
}
