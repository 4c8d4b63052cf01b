//! Bootstrap tokens: removed when they are over, and the ConfigMap `kube-public/cluster-info`, from which who joins learns
//! whom to trust, is signed with each (RFC 7515, detached).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::certificates::Authority;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

const TOKENS: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const INFO: &str = "cluster-info";
const KIND: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const SIGNATURE: &str = "jws-kubeconfig-";

pub(crate) fn start(world: &Shared, authority: &Authority, tasks: &mut JoinSet<()>) {
    let tokens: Arc<Cache<Secret>> = Arc::default();
    let infos: Arc<Cache<ConfigMap>> = Arc::default();
    let (signer, cleaner) = (world.acting("bootstrap-signer"), world.acting("token-cleaner"));
    let cleaning = Cleaner { client: cleaner.client.clone(), tokens: Arc::clone(&tokens) };
    spawn(tasks, cleaning, |queue| {
        let queue = queue.clone();
        tokens.on_change(move |_, new| {
            if let Some(token) = new.filter(|secret| is_token(secret)) {
                queue.add(Key::of(token));
            }
        });
    });
    let signing = Signing {
        client: signer.client.clone(),
        authority: authority.clone(),
        tokens: Arc::clone(&tokens),
        infos: Arc::clone(&infos),
    };
    spawn(tasks, signing, |queue| {
        let (by_token, by_info) = (queue.clone(), queue.clone());
        let key = || Key::new(PUBLIC, INFO);
        tokens.on_change(move |old, new| {
            if [old, new].into_iter().flatten().any(is_token) {
                by_token.add(key());
            }
        });
        infos.on_change(move |_, new| {
            if new.is_some_and(|info| info.name_any() == INFO) {
                by_info.add(key());
            }
        });
    });
    let client = signer.client.clone();
    tasks.spawn(async move { tokens.follow(Api::namespaced(client, TOKENS)).await });
    let client = signer.client.clone();
    tasks.spawn(async move { infos.follow(Api::namespaced(client, PUBLIC)).await });
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(KIND)
}

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// How long a token is good for: for ever if nothing is said; not at all if what is said is no time.
fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    match text(secret, "expiration") {
        "" => None,
        said => {
            Some(said.parse::<Timestamp>().map_or(Duration::ZERO, |ends| {
                Duration::try_from(ends.duration_since(now)).unwrap_or_default()
            }))
        }
    }
}

/// What a kubeconfig is signed with: the identifier and the secret of a token that is meant for it.
fn key(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let (id, password) = (text(secret, "token-id"), text(secret, "token-secret"));
    let usable = is_token(secret)
        && !id.is_empty()
        && !password.is_empty()
        && secret.metadata.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)) == Some(id)
        && text(secret, "usage-bootstrap-signing") == "true"
        && left(secret, now) != Some(Duration::ZERO);
    usable.then_some((id, password))
}

/// What the ConfigMap should hold.
fn signed<'a>(
    data: &BTreeMap<String, String>,
    tokens: impl Iterator<Item = &'a Secret>,
    now: Timestamp,
    sign: impl Fn(&str, &str, &str) -> String,
) -> BTreeMap<String, String> {
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    if let Some(content) = data.get("kubeconfig") {
        let keys = tokens.filter_map(|secret| key(secret, now));
        wanted.extend(keys.map(|(id, password)| (format!("{SIGNATURE}{id}"), sign(content, id, password))));
    }
    wanted
}

struct Cleaner {
    client: Client,
    tokens: Arc<Cache<Secret>>,
}

impl Controller for Cleaner {
    const NAME: &'static str = "token-cleaner";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(token) = self.tokens.get(key).filter(|secret| is_token(secret)) else { return Ok(None) };
        let left = left(&token, Timestamp::now());
        if left != Some(Duration::ZERO) {
            return Ok(left);
        }
        let preconditions = Preconditions { uid: token.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        Api::<Secret>::namespaced(self.client.clone(), TOKENS).delete(&key.name, &params).await?;
        Ok(None)
    }
}

struct Signing {
    client: Client,
    authority: Authority,
    tokens: Arc<Cache<Secret>>,
    infos: Arc<Cache<ConfigMap>>,
}

impl Controller for Signing {
    const NAME: &'static str = "bootstrap-signer";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(info) = self.infos.get(key) else { return Ok(None) };
        let (tokens, now) = (self.tokens.all(), Timestamp::now());
        let data = info.data.clone().unwrap_or_default();
        let wanted = signed(&data, tokens.iter().map(Arc::as_ref), now, |content, id, password| {
            self.authority.0.detached(content, id, password)
        });
        if wanted != data {
            let changed = ConfigMap { data: Some(wanted), ..ConfigMap::clone(&info) };
            let api = Api::<ConfigMap>::namespaced(self.client.clone(), PUBLIC);
            api.replace(INFO, &PostParams::default(), &changed).await?;
        }
        // A token that ends takes its signature with it; its removal tells of it too.
        Ok(tokens
            .iter()
            .filter(|secret| is_token(secret))
            .filter_map(|secret| left(secret, now))
            .filter(|left| !left.is_zero())
            .min())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::api::ObjectMeta;

    use super::*;

    fn token(id: &str, more: &[(&str, &str)]) -> Secret {
        let said =
            [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let data = said.iter().chain(more);
        let data = data.map(|(key, value)| ((*key).to_owned(), ByteString((*value).into())));
        Secret {
            metadata: ObjectMeta { name: Some(format!("{PREFIX}{id}")), ..ObjectMeta::default() },
            type_: Some(KIND.into()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    #[test]
    fn j60_tokens_that_are_meant_for_it_sign() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let tokens = [
            token("abcdef", &[]),
            token("ghijkl", &[("expiration", "2026-01-01T00:00:01Z")]),
            token("over00", &[("expiration", "2025-12-31T00:00:00Z")]),
            token("never0", &[("expiration", "soon")]),
            token("other0", &[("usage-bootstrap-signing", "false")]),
            token("false0", &[("token-id", "abcdef")]),
        ];
        let data: BTreeMap<String, String> =
            [("kubeconfig", "x"), ("jws-kubeconfig-gone00", "y")].map(|(k, v)| (k.into(), v.into())).into();
        let made =
            signed(&data, tokens.iter(), now, |content, id, password| format!("{content} {id} {password}"));
        let keys: Vec<&str> = made.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "jws-kubeconfig-ghijkl", "kubeconfig"]);
        assert_eq!(made["jws-kubeconfig-abcdef"], "x abcdef 0123456789abcdef");
        assert_eq!(left(&tokens[0], now), None);
        assert_eq!(left(&tokens[1], now), Some(Duration::from_secs(1)));
        assert_eq!([&tokens[2], &tokens[3]].map(|token| left(token, now)), [Some(Duration::ZERO); 2]);
    }
}
