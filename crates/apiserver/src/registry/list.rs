//! Lists: consistent, at least as new as asked for, or exactly at a revision; whole or in pages (J20 to J25).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dyad_store::StoreError;
use serde::{Deserialize, Serialize};

use super::Registry;
use super::options::{ListOptions, VersionMatch};
use super::resource::Resource;
use super::stored::{Selection, Stored};
use super::write::Scope;
use crate::status::ApiError;

/// How long a request waits for a revision that has not come yet (J23).
const FUTURE_WAIT: Duration = Duration::from_secs(3);
/// Objects read from the store at once while looking for those that match.
const PAGE_READ: usize = 500;

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) items: Vec<Arc<Stored>>,
    pub(crate) rev: u64,
    /// Token of the next page, empty if there is none.
    pub(crate) token: String,
    /// How many objects are behind this page, if that is known.
    pub(crate) remaining: Option<usize>,
}

/// What a continue token says.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    /// Revision of the first page, or -1: the newest.
    rv: i64,
    /// Where the next page starts, relative to what is listed.
    start: String,
}

impl Token {
    fn encode(rev: i64, start: &str) -> String {
        let token = Self { v: "meta.k8s.io/v1".to_owned(), rv: rev, start: start.to_owned() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).expect("a struct of strings and numbers"))
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let invalid = |why: String| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|error| invalid(error.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(invalid(format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 || token.rv < -1 {
            return Err(invalid(
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
            ));
        }
        if token.start.is_empty() {
            return Err(invalid("encoded start key empty (version meta.k8s.io/v1)".to_owned()));
        }
        Ok(token)
    }
}

impl Registry {
    /// One object, at least as new as `resource_version` asks (J21).
    pub(crate) async fn get(
        &self,
        scope: Scope<'_>,
        resource_version: Option<u64>,
    ) -> Result<Arc<Stored>, ApiError> {
        self.until_as_new_as(resource_version).await?;
        let resource = scope.resource();
        resource
            .cache
            .get(&resource.cache_key(scope.namespace, scope.name))
            .ok_or_else(|| ApiError::not_found(scope.about()))
    }

    /// A list, or one page of it.
    pub(crate) async fn list(&self, resource: &Resource, options: &ListOptions) -> Result<Listed, ApiError> {
        if !options.token.is_empty() {
            let token = Token::decode(&options.token)?;
            let rev = u64::try_from(token.rv).ok();
            return match self.read_page(resource, &options.selection, rev, &token.start, options.limit) {
                Err(StoreError::Compacted { .. }) => {
                    Err(ApiError::continue_expired(Token::encode(-1, &token.start)))
                }
                page => Ok(page?),
            };
        }
        let exact = match (options.version_match, options.resource_version) {
            (VersionMatch::Exact, rev) => rev,
            // As it was before there was a resourceVersionMatch.
            (VersionMatch::Unset, Some(rev)) if rev > 0 && options.limit > 0 => Some(rev),
            _ => None,
        };
        if let Some(rev) = exact {
            self.until_as_new_as(Some(rev)).await?;
            return match self.read_page(resource, &options.selection, Some(rev), "", options.limit) {
                Err(StoreError::Compacted { .. }) => {
                    Err(ApiError::expired("The resourceVersion for the provided list is too old."))
                }
                page => Ok(page?),
            };
        }
        self.until_as_new_as(options.resource_version).await?;
        Ok(self.list_cached(resource, options))
    }

    /// Waits until the caches are as new as a request demands: unset means as new as the store is now.
    pub(crate) async fn until_as_new_as(&self, resource_version: Option<u64>) -> Result<(), ApiError> {
        let current = self.store.current_rev();
        let wanted = resource_version.unwrap_or(current);
        match tokio::time::timeout(FUTURE_WAIT, self.until_applied(wanted)).await {
            Ok(result) => result,
            Err(_) if wanted > current => Err(ApiError::rev_too_large(wanted, self.store.current_rev())),
            Err(_) => Err(ApiError::unavailable("the watch cache does not keep up with the store")),
        }
    }

    fn list_cached(&self, resource: &Resource, options: &ListOptions) -> Listed {
        // Read before the snapshot: everything up to here is in it.
        let applied = self.applied();
        let snapshot = resource.cache.snapshot(&options.selection.namespace);
        let rev = applied.max(snapshot.rev);
        let mut items = snapshot.items;
        if options.selection.selects() {
            items.retain(|stored| options.selection.matches(&stored.meta));
        }
        let mut listed = Listed { items, rev, token: String::new(), remaining: None };
        if options.limit > 0 && listed.items.len() > options.limit {
            if !options.selection.selects() {
                listed.remaining = Some(listed.items.len() - options.limit);
            }
            listed.items.truncate(options.limit);
            if let Some(last) = listed.items.last() {
                let key = if options.selection.namespace.is_empty() {
                    resource.cache_key(&last.meta.namespace, &last.meta.name)
                } else {
                    last.meta.name.to_string()
                };
                listed.token = Token::encode(i64::try_from(rev).unwrap_or(-1), &format!("{key}\0"));
            }
        }
        listed
    }

    /// Reads objects as they were at `rev` (or now), from `start` on.
    fn read_page(
        &self,
        resource: &Resource,
        selection: &Selection,
        rev: Option<u64>,
        start: &str,
        limit: usize,
    ) -> Result<Listed, StoreError> {
        let prefix = match selection.namespace.as_str() {
            "" => resource.prefix.clone(),
            namespace => format!("{}{namespace}/", resource.prefix),
        };
        let mut from = format!("{prefix}{start}").into_bytes();
        let mut listed = Listed { items: Vec::new(), rev: 0, token: String::new(), remaining: None };
        let mut at_rev = rev;
        loop {
            let (page, read_rev) = self.store.range(prefix.as_bytes(), Some(&from), at_rev, PAGE_READ)?;
            // All further pieces are of the same moment.
            at_rev = Some(read_rev);
            listed.rev = read_rev;
            let last_piece = page.len() < PAGE_READ;
            for kv in page {
                from.clone_from(&kv.key.to_vec());
                let stored = match Stored::load(resource, &kv.key, &kv.value, kv.mod_rev, &self.cluster) {
                    Ok(stored) if selection.matches(&stored.meta) => stored,
                    Ok(_) => continue,
                    Err(error) => {
                        tracing::error!(%error, "left out of a list");
                        continue;
                    }
                };
                if limit > 0 && listed.items.len() == limit {
                    let key = String::from_utf8_lossy(&from[prefix.len()..]).into_owned();
                    // The object that did not fit is where the next page starts.
                    listed.token = Token::encode(i64::try_from(listed.rev).unwrap_or(-1), &key);
                    if !selection.selects() {
                        let rest = self.store.range(prefix.as_bytes(), Some(&from), at_rev, 0)?;
                        listed.remaining = Some(rest.0.len());
                    }
                    return Ok(listed);
                }
                listed.items.push(Arc::new(stored));
            }
            if last_piece {
                return Ok(listed);
            }
            from.push(0);
        }
    }
}
