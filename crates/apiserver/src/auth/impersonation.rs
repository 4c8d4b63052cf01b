//! Acting as someone else: `kubectl --as`.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, ResourceTarget, Target, UNAUTHENTICATED, UserInfo,
};
use crate::status::ApiError;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user that the request wants to be, after `authorizer` has allowed `user` to be each part of it; `user` itself
/// if the request wants nothing.
///
/// # Errors
///
/// 403, or 400 for groups without a user.
pub fn impersonate(
    user: UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, ApiError> {
    let first = |header: &str| values(headers, header).next().filter(|value| !value.is_empty());
    let groups: Vec<String> = values(headers, GROUP).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.entry(percent_decoded(key)).or_default().extend(values(headers, name.as_str()));
        }
    }
    let uid = first(UID);
    let Some(name) = first(USER) else {
        if groups.is_empty() && extra.is_empty() && uid.is_none() {
            return Ok(user);
        }
        return Err(ApiError::bad_request(
            "requested groups, extra data or a UID without impersonating a user",
        ));
    };
    let check = |resource: &str, group: &str, namespace: &str, subresource: &str, name: &str| {
        let target = ResourceTarget { group, resource, subresource, namespace, name, node: "" };
        let attributes = Attributes { verb: "impersonate", target: Target::Resource(target) };
        authorizer.authorize(&user, &attributes).refusal(&user, &attributes).map_or(Ok(()), Err)
    };
    let service_account = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
    match service_account {
        Some((namespace, account)) => check("serviceaccounts", "", namespace, "", account)?,
        None => check("users", "", "", "", &name)?,
    }
    for group in &groups {
        check("groups", "", "", "", group)?;
    }
    for (key, values) in &extra {
        for value in values {
            check("userextras", "authentication.k8s.io", "", key, value)?;
        }
    }
    if let Some(uid) = &uid {
        check("uids", "authentication.k8s.io", "", "", uid)?;
    }
    let groups = completed(groups, &name, service_account.map(|(namespace, _)| namespace));
    Ok(UserInfo { name, uid: uid.unwrap_or_default(), groups, extra })
}

/// The groups asked for, and those that come with being this user.
fn completed(mut groups: Vec<String>, name: &str, namespace: Option<&str>) -> Vec<String> {
    if let (true, Some(namespace)) = (groups.is_empty(), namespace) {
        groups.push("system:serviceaccounts".into());
        groups.push(format!("system:serviceaccounts:{namespace}"));
    }
    let has = |group: &str| groups.iter().any(|own| own == group);
    let implied = if name == ANONYMOUS {
        (!has(UNAUTHENTICATED)).then_some(UNAUTHENTICATED)
    } else {
        (!has(AUTHENTICATED) && !has(UNAUTHENTICATED)).then_some(AUTHENTICATED)
    };
    groups.extend(implied.map(str::to_owned));
    groups
}

fn values<'a>(headers: &'a HeaderMap, header: &str) -> impl Iterator<Item = String> + use<'a> {
    headers.get_all(header).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Keys may hold what header names can't. What is not properly encoded stands for itself.
fn percent_decoded(text: &str) -> String {
    let decoded = || {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            if *first == b'%' {
                let (digits, after) = after.split_at_checked(2)?;
                let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        String::from_utf8(bytes).ok()
    };
    decoded().unwrap_or_else(|| text.to_owned())
}
