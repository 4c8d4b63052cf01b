//! Bootstrap tokens: Secrets in `kube-system` that let who joins the cluster ask for a certificate (J60).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::Registry;
use super::tokens::Bearer;
use crate::auth::token::ISSUER;
use crate::auth::{AUTHENTICATED, UserInfo};

const KIND: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID: usize = 6;
const PASSWORD: usize = 16;

/// `id.password`, each of lower case letters and digits.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, password) = token.split_once('.')?;
    let is = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (is(id, ID) && is(password, PASSWORD)).then_some((id, password))
}

/// Compares all of it, however soon it differs.
fn same(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |all, (l, r)| all | (l ^ r)) == 0
}

fn text(secret: &Value, key: &str) -> String {
    let bytes = secret["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok());
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Further groups, all of which begin as this one.
fn groups(secret: &Value) -> Option<Vec<String>> {
    let said = text(secret, "auth-extra-groups");
    let mut groups: Vec<String> =
        said.split(',').map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
    let valid = |group: &String| {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
            rest.len() <= 256
                && rest.ends_with(letter)
                && rest.chars().all(|c| letter(c) || matches!(c, ':' | '-'))
        })
    };
    if !groups.iter().all(valid) {
        return None;
    }
    groups.push(GROUP.into());
    groups.sort();
    groups.dedup();
    Some(groups)
}

impl Registry {
    /// Who shows this bootstrap token, if it is one that is good, to one of `audiences`.
    pub(super) fn bootstrap_bearer(&self, token: &str, audiences: &[String]) -> Option<Bearer> {
        let (id, password) = parts(token)?;
        if !audiences.is_empty() && !audiences.iter().any(|audience| audience == ISSUER) {
            return None;
        }
        let stored = self.builtin("", "secrets").cache.get(&format!("kube-system/bootstrap-token-{id}"))?;
        let secret = stored.bare();
        let ends = text(&secret, "expiration");
        let lasts = || ends.parse::<Timestamp>().is_ok_and(|ends| ends > Timestamp::now());
        let good = secret["type"] == KIND
            && secret["metadata"]["deletionTimestamp"].is_null()
            && same(&text(&secret, "token-secret"), password)
            && text(&secret, "token-id") == id
            && (ends.is_empty() || lasts())
            && text(&secret, "usage-bootstrap-authentication") == "true";
        let mut groups = groups(&secret).filter(|_| good)?;
        groups.push(AUTHENTICATED.into());
        let user = UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() };
        Some(Bearer { user, audiences: vec![ISSUER.into()] })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn j60_tokens_and_groups_have_a_form() {
        for (token, id) in [
            ("abcdef.0123456789abcdef", Some("abcdef")),
            ("abcdef.0123456789abcde", None),
            ("ABCDEF.0123456789abcdef", None),
            ("abcde.0123456789abcdef", None),
            ("abcdef0123456789abcdef", None),
            ("", None),
        ] {
            assert_eq!(parts(token).map(|(id, _)| id), id, "{token}");
        }
        let of = |said: &str| groups(&json!({"data": {"auth-extra-groups": STANDARD.encode(said)}}));
        assert_eq!(of(""), Some(vec![GROUP.to_owned()]));
        assert_eq!(
            of("system:bootstrappers:kubeadm:default-node-token"),
            Some(vec![GROUP.to_owned(), "system:bootstrappers:kubeadm:default-node-token".to_owned()])
        );
        for wrong in
            ["system:masters", "system:bootstrappers:", "system:bootstrappers:A", "system:bootstrappers:a-"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
