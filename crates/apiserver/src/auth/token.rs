//! Service account tokens (J60): JSON Web Tokens (RFC 7519) that this server signs with ES256 (RFC 7518 section 3.4)
//! and knows again.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who says so, and for whom unless something else is asked for.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// Where the keys are.
pub(crate) const KEYS_PATH: &str = "/openid/v1/jwks";
/// Longest token that is looked at.
const LONGEST: usize = 16 << 10;

/// A signing key that can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the key for service account tokens can't be used: {0}; remove its file for a new one (tokens given out are then void)"
)]
pub struct TokenKeyError(String);

/// Signs tokens and checks them.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    /// The point of the public key, uncompressed: a 4 and two coordinates.
    point: Vec<u8>,
    id: String,
    random: SystemRandom,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Claims {
    #[serde(default)]
    pub(crate) aud: Vec<String>,
    pub(crate) exp: i64,
    pub(crate) iat: i64,
    pub(crate) iss: String,
    #[serde(default)]
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) kubernetes: Private,
    pub(crate) nbf: i64,
    pub(crate) sub: String,
}

/// What only Kubernetes says in its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Private {
    pub(crate) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
    /// From when on its use is remarkable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warnafter: Option<i64>,
}

/// One very object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

#[derive(Deserialize)]
struct Issuer {
    iss: String,
}

impl TokenKey {
    /// From a key in PEM form (PKCS #8, P-256), as [`Pki::token_key`](crate::pki::Pki::token_key) keeps it.
    ///
    /// # Errors
    ///
    /// If it is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let key = KeyPair::from_pem(pem).map_err(|error| TokenKeyError(error.to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.serialized_der(), &random)
            .map_err(|error| TokenKeyError(error.to_string()))?;
        let id = encode(Sha256::digest(key.subject_public_key_info()));
        Ok(Self { pair, point: key.public_key_raw().to_vec(), id, random })
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
        let said = format!("{}.{}", encode(header.to_string()), encode(claims));
        let signature = self.pair.sign(&self.random, said.as_bytes()).map_err(|error| error.to_string())?;
        Ok(format!("{said}.{}", encode(signature)))
    }

    /// What a token of ours says, whether it is still valid or not; `None` for what is not from here.
    ///
    /// # Errors
    ///
    /// If it says that it is from here, and isn't.
    pub(crate) fn read(&self, token: &str) -> Result<Option<Claims>, String> {
        let foreign = || -> Option<(&str, &str, &str, Vec<u8>)> {
            let mut parts = token.split('.');
            let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
            let said = decode(claims).filter(|_| parts.next().is_none() && token.len() <= LONGEST)?;
            let issuer: Issuer = serde_json::from_slice(&said).ok()?;
            (issuer.iss == ISSUER).then_some((header, claims, signature, said))
        };
        let Some((header, claims, signature, said)) = foreign() else { return Ok(None) };
        let header: Value =
            decode(header).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if header["kid"] != *self.id || header["alg"] != "ES256" {
            return Err("invalid signature, no keys found".into());
        }
        let signed = token.len() - signature.len() - 1;
        let valid = decode(signature).is_some_and(|signature| {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point);
            key.verify(&token.as_bytes()[..signed], &signature).is_ok()
        });
        if !valid || claims.is_empty() {
            return Err("go-jose/go-jose: error in cryptographic primitive".into());
        }
        serde_json::from_slice(&said).map(Some).map_err(|error| error.to_string())
    }

    /// The public key as a JSON Web Key Set (RFC 7517 section 5).
    pub(crate) fn key_set(&self) -> Value {
        let (x, y) = self.point[1..].split_at((self.point.len() - 1) / 2);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": encode(x), "y": encode(y)}]})
    }
}

/// OpenID Connect Discovery 1.0 section 4.2: where to find what one needs to check tokens.
pub(crate) fn discovery(server: &str) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{server}{KEYS_PATH}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests;
