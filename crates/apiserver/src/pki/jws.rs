//! Signatures of texts that are not in them (RFC 7515 appendix F), by which bootstrap tokens vouch for `cluster-info`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::json;

/// A signature of `content` with a secret that both sides know, under the name `id`.
pub fn detached(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let said = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, said.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kubeadm` checks it.
    #[test]
    fn j60_the_signature_is_detached_and_of_the_text() {
        let made = detached("content", "abcdef", "0123456789abcdef");
        let (header, signature) = made.split_once("..").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(header).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        let said = format!("{header}.{}", URL_SAFE_NO_PAD.encode("content"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        hmac::verify(&key, said.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    }
}
