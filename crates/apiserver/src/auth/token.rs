//! Service account tokens (J60): JSON Web Tokens (RFC 7519) that this server signs with ES256 or RS256 (RFC 7518 sections
//! 3.4 and 3.3) and knows again.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::pki::der;

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
    pair: Pair,
    /// Keys whose tokens are taken, the own one first.
    known: Vec<Known>,
    random: SystemRandom,
}

enum Pair {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

/// A public key.
struct Known {
    id: String,
    algorithm: &'static str,
    /// As *ring* checks with it: an uncompressed point (a 4 and two coordinates), or an RSAPublicKey.
    public: Vec<u8>,
    /// As others check with it (RFC 7517).
    shown: Value,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.known[0].id).finish_non_exhaustive()
    }
}

impl Known {
    /// From a SubjectPublicKeyInfo.
    fn read(der: &[u8]) -> Result<Self, String> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).map_err(|error| error.to_string())?;
        let id = encode(Sha256::digest(der));
        let public = info.subject_public_key.data.to_vec();
        let (algorithm, shown) = match info.parsed() {
            Ok(PublicKey::EC(point)) if point.data().len() == 65 => {
                let (x, y) = point.data()[1..].split_at(32);
                (
                    "ES256",
                    json!({"use": "sig", "kty": "EC", "kid": id, "crv": "P-256", "alg": "ES256",
                    "x": encode(x), "y": encode(y)}),
                )
            }
            Ok(PublicKey::RSA(key)) => {
                let bare =
                    |number: &[u8]| encode(&number[number.iter().take_while(|byte| **byte == 0).count()..]);
                (
                    "RS256",
                    json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256",
                    "n": bare(key.modulus), "e": bare(key.exponent)}),
                )
            }
            _ => return Err("it is neither an RSA key nor one on P-256".into()),
        };
        Ok(Self { id, algorithm, public, shown })
    }

    fn verifies(&self, said: &[u8], signature: &[u8]) -> bool {
        let checked = match self.algorithm {
            "ES256" => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public).verify(said, signature),
            _ => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public).verify(said, signature),
        };
        checked.is_ok()
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
    /// From a private key in PEM form: on P-256 (PKCS #8), as [`Pki::token_key`](crate::pki::Pki::token_key) keeps it, or
    /// RSA (PKCS #8 or PKCS #1), as other tools make them.
    ///
    /// # Errors
    ///
    /// If it is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let random = SystemRandom::new();
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| TokenKeyError(error.to_string()))?;
        let refused = |error: ring::error::KeyRejected| TokenKeyError(error.to_string());
        let rsa = match &key {
            PrivateKeyDer::Pkcs1(key) => Some(RsaKeyPair::from_der(key.secret_pkcs1_der()).map_err(refused)?),
            PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
            _ => None,
        };
        let (pair, info) = match (rsa, &key) {
            (Some(pair), _) => {
                let info = der::rsa_info(pair.public().as_ref());
                (Pair::Rsa(Box::new(pair)), info)
            }
            (None, PrivateKeyDer::Pkcs8(key)) => {
                let der = key.secret_pkcs8_der();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random);
                let pair = pair.map_err(refused)?;
                let info = der::p256_info(pair.public_key().as_ref());
                (Pair::Ec(Box::new(pair)), info)
            }
            _ => return Err(TokenKeyError("it is neither PKCS #8 nor PKCS #1".into())),
        };
        Ok(Self { pair, known: vec![Known::read(&info).map_err(TokenKeyError)?], random })
    }

    /// Takes tokens of these public keys too, PEM: those of a key that was replaced, for instance.
    ///
    /// # Errors
    ///
    /// If one of them is no such key.
    pub fn and_known(mut self, pem: &str) -> Result<Self, TokenKeyError> {
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()) {
            let key = key.map_err(|error| TokenKeyError(error.to_string()))?;
            let known = Known::read(&key).map_err(TokenKeyError)?;
            if self.known.iter().all(|own| own.id != known.id) {
                self.known.push(known);
            }
        }
        Ok(self)
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        self.sign_value(&serde_json::to_vec(claims).map_err(|error| error.to_string())?)
    }

    /// A token that says this.
    pub(crate) fn sign_value(&self, claims: &[u8]) -> Result<String, String> {
        let own = &self.known[0];
        let header = json!({"alg": own.algorithm, "kid": own.id});
        let said = format!("{}.{}", encode(header.to_string()), encode(claims));
        let signature = match &self.pair {
            Pair::Ec(pair) => {
                let signed = pair.sign(&self.random, said.as_bytes());
                signed.map(|signature| signature.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, said.as_bytes(), &mut signature)
                    .map(|()| signature)
            }
        };
        let signature = signature.map_err(|error| error.to_string())?;
        Ok(format!("{said}.{}", encode(signature)))
    }

    /// What a token of ours says, whether it is still valid or not; `None` for what is not from here.
    ///
    /// # Errors
    ///
    /// If it says that it is from here, and isn't.
    pub(crate) fn read(&self, token: &str) -> Result<Option<Claims>, String> {
        let Some(said) = self.read_of(ISSUER, token)? else { return Ok(None) };
        serde_json::from_slice(&said).map(Some).map_err(|error| error.to_string())
    }

    /// What a token of this issuer says, once its signature is known to be one of ours.
    pub(crate) fn read_of(&self, issuer: &str, token: &str) -> Result<Option<Vec<u8>>, String> {
        let foreign = || -> Option<(&str, &str, Vec<u8>)> {
            let mut parts = token.split('.');
            let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
            let said = decode(claims).filter(|_| parts.next().is_none() && token.len() <= LONGEST)?;
            let read: Issuer = serde_json::from_slice(&said).ok()?;
            (read.iss == issuer).then_some((header, signature, said))
        };
        let Some((header, signature, said)) = foreign() else { return Ok(None) };
        let header: Value =
            decode(header).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let key = self.known.iter().find(|key| header["kid"] == *key.id && header["alg"] == key.algorithm);
        let key = key.ok_or("invalid signature, no keys found")?;
        let signed = token.len() - signature.len() - 1;
        match decode(signature).is_some_and(|signature| key.verifies(&token.as_bytes()[..signed], &signature))
        {
            true => Ok(Some(said)),
            false => Err("go-jose/go-jose: error in cryptographic primitive".into()),
        }
    }

    /// The public keys as a JSON Web Key Set (RFC 7517 section 5).
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": self.known.iter().map(|key| &key.shown).collect::<Vec<_>>()})
    }

    /// What they sign with.
    pub(crate) fn algorithms(&self) -> BTreeSet<&'static str> {
        self.known.iter().map(|key| key.algorithm).collect()
    }
}

/// OpenID Connect Discovery 1.0 section 4.2: where to find what one needs to check tokens.
pub(crate) fn discovery(server: &str, algorithms: &BTreeSet<&str>) -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{server}{KEYS_PATH}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
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
