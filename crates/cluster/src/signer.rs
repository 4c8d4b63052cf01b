//! The cluster's authority, as the controller of certificates asks it.

use std::sync::Arc;

use dyad_apiserver::pki::{self, Pki, Request};
use dyad_controllers::Wanted;

/// Signs with the keys of this cluster.
pub(crate) struct Signer(pub(crate) Arc<Pki>);

impl dyad_controllers::Signer for Signer {
    fn wanted(&self, request: &[u8]) -> Result<Wanted, String> {
        let request = Request::parse_pem(request)?;
        Ok(Wanted {
            dns: request.dns.len(),
            addresses: request.addresses.len(),
            emails: request.emails.len(),
            uris: request.uris.len(),
            name: request.common_name,
            groups: request.organizations,
        })
    }

    fn sign(&self, request: &[u8], usages: &[String], seconds: Option<u64>) -> Result<String, String> {
        self.0.sign(&Request::parse_pem(request)?, usages, seconds)
    }

    fn detached(&self, content: &str, id: &str, secret: &str) -> String {
        pki::detached(content, id, secret)
    }

    fn is_over(&self, certificates: &[u8], now: i64) -> bool {
        pki::ends(certificates).is_some_and(|ends| ends < now)
    }
}
