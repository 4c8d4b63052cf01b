//! Tokens of service accounts: given out on request, known again as long as what they are bound to is there (J60, J61).

use dyad_model::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::Body;
use super::options::WriteOptions;
use super::write::{Scope, meta_text, refuse_if_any};
use super::{Registry, ownership, values};
use crate::auth::token::{Claims, ISSUER, Private, Reference, TokenKey};
use crate::auth::{AUTHENTICATED, UserInfo};
use crate::status::{About, ApiError};

const KIND: (&str, &str, &str) = ("authentication.k8s.io", "v1", "TokenRequest");
const ABOUT: About<'_> = About { group: KIND.0, resource: "TokenRequest", kind: KIND.2, name: "" };
/// What is asked for if nothing is.
const LIFETIME: i64 = 3600;
const LIFETIME_MIN: i64 = 600;
const LIFETIME_MAX: i64 = 1 << 32;
/// What admission asks for, for tokens in pods; they are good for a year, for clients that do not read them anew.
pub(super) const POD_LIFETIME: i64 = 3607;
const POD_LIFETIME_EXTENDED: i64 = 365 * 86_400;
/// How far clocks may differ, in seconds.
const LEEWAY: i64 = 60;

/// Who shows a token.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) user: UserInfo,
    /// For whom of those asked for it is.
    pub(crate) audiences: Vec<String>,
}

/// What a token is bound to.
#[derive(Default)]
struct Bound {
    pod: Option<Reference>,
    secret: Option<Reference>,
    node: Option<Reference>,
}

impl Registry {
    /// Gives out a token of the account that the scope is about.
    pub(crate) fn request_token(
        &self,
        scope: Scope<'_>,
        body: &Body,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let Some(key) = &self.token_key else {
            return Err(ApiError::unavailable("this server has no key for service account tokens"));
        };
        let mut request = body.decode_kind(KIND, options.field_validation, warnings)?;
        for (field, wanted) in [("name", scope.name), ("namespace", scope.namespace)] {
            let given = meta_text(&request, field);
            if !given.is_empty() && given != wanted {
                let what = if field == "name" { "name" } else { "namespace" };
                let text = format!("must match the service account {what} if specified");
                let error = FieldError::invalid(format!("metadata.{field}"), given, text);
                return Err(ApiError::invalid(About { name: scope.name, ..ABOUT }, &[error]));
            }
        }
        let account = self
            .builtin("", "serviceaccounts")
            .cache
            .get(&format!("{}/{}", scope.namespace, scope.name))
            .ok_or_else(|| ApiError::not_found(scope.about()))?;
        let uid = meta_text(&request, "uid");
        if !uid.is_empty() && *uid != *account.meta.uid {
            let why = format!(
                "the UID in the token request ({uid}) does not match the UID of the service account ({})",
                account.meta.uid
            );
            return Err(ApiError::conflict(About { name: scope.name, ..ABOUT }, &why));
        }
        let now = Timestamp::now();
        let asked = request["spec"].clone();
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(LIFETIME);
        request["spec"]["expirationSeconds"] = seconds.into();
        ownership::note(KIND, "token", &mut request, &options.manager, &values::time(now))?;
        for (key, value) in [
            ("name", scope.name),
            ("namespace", scope.namespace),
            ("uid", &account.meta.uid),
            ("creationTimestamp", &values::time(now)),
        ] {
            request["metadata"][key] = value.into();
        }
        let spec = &mut request["spec"];
        if spec["audiences"].as_array().is_none_or(Vec::is_empty) {
            spec["audiences"] = json!([ISSUER]);
        }
        refuse_if_any(ABOUT, &lifetime_errors(seconds))?;
        self.check_node_request(scope, &asked)?;
        let bound = self.bound(scope, &request["spec"]["boundObjectRef"])?;
        let audiences: Vec<String> = strings(&request["spec"]["audiences"]);
        let extended =
            bound.pod.is_some() && seconds == POD_LIFETIME && audiences.iter().all(|of| of == ISSUER);
        let begin = now.as_second();
        let claims = Claims {
            aud: audiences,
            exp: begin + if extended { POD_LIFETIME_EXTENDED } else { seconds },
            iat: begin,
            iss: ISSUER.into(),
            jti: values::uid(),
            kubernetes: Private {
                namespace: scope.namespace.into(),
                node: bound.node,
                pod: bound.pod,
                secret: bound.secret,
                serviceaccount: Reference { name: scope.name.into(), uid: (*account.meta.uid).into() },
                warnafter: extended.then_some(begin + seconds),
            },
            nbf: begin,
            sub: format!("system:serviceaccount:{}:{}", scope.namespace, scope.name),
        };
        let token = key.sign(&claims).map_err(ApiError::internal)?;
        let ends = Timestamp::from_second(begin + seconds).map_err(ApiError::internal)?;
        request["status"] = json!({"token": token, "expirationTimestamp": values::time(ends)});
        Ok(request)
    }

    fn bound(&self, scope: Scope<'_>, wanted: &Value) -> Result<Bound, ApiError> {
        if wanted.is_null() {
            return Ok(Bound::default());
        }
        let text = |key: &str| wanted[key].as_str().unwrap_or_default();
        let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
        let plural = match (version, kind) {
            ("v1", "Pod") => "pods",
            ("v1", "Secret") => "secrets",
            ("v1", "Node") => "nodes",
            _ => {
                let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
                let why = format!("cannot bind token to object of type {version}, Kind={kind}");
                return Err(ApiError::bad_request(why));
            }
        };
        let served = self.builtin_served("", plural);
        let key = served.resource.cache_key(scope.namespace, name);
        let found = served.resource.cache.get(&key).ok_or_else(|| ApiError::not_found(served.about(name)))?;
        let reference = Reference { name: name.into(), uid: (*found.meta.uid).into() };
        let mut bound = Bound::default();
        match plural {
            "pods" => {
                let pod = found.bare();
                if pod["spec"]["serviceAccountName"] != scope.name {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        scope.name
                    )));
                }
                let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
                bound.node = node.map(|node| {
                    let known = self.builtin("", "nodes").cache.get(node);
                    let uid = known.map(|known| (*known.meta.uid).into()).unwrap_or_default();
                    Reference { name: node.into(), uid }
                });
                bound.pod = Some(reference);
            }
            "secrets" => bound.secret = Some(reference),
            _ => bound.node = Some(reference),
        }
        let uid = text("uid");
        if !uid.is_empty() && *uid != *found.meta.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(ApiError::conflict(About { group: "", resource: kind, kind, name }, &why));
        }
        Ok(bound)
    }

    /// Who shows this token to one of `audiences`; `None` if it is no token of ours.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn bearer(&self, token: &str, audiences: &[String]) -> Result<Option<Bearer>, String> {
        let Some(claims) =
            self.token_key.as_deref().map(|key: &TokenKey| key.read(token)).transpose()?.flatten()
        else {
            let legacy = self.legacy_bearer(token, audiences)?;
            return Ok(legacy.or_else(|| self.bootstrap_bearer(token, audiences)));
        };
        let own = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let common: Vec<String> = claims.aud.iter().filter(|of| wanted.contains(of)).cloned().collect();
        if common.is_empty() {
            let quoted = dyad_model::rbac::quoted;
            return Err(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted(&claims.aud),
                quoted(wanted)
            ));
        }
        self.check_claims(&claims, Timestamp::now().as_second())?;
        Ok(Some(Bearer { user: user(claims), audiences: common }))
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), String> {
        if now > claims.exp + LEEWAY {
            return Err("service account token has expired".into());
        }
        if now + LEEWAY < claims.nbf {
            return Err("service account token is not valid yet".into());
        }
        let Private { namespace, node, pod, secret, serviceaccount, .. } = &claims.kubernetes;
        match self.still_there("serviceaccounts", namespace, serviceaccount, now) {
            There::Yes => {}
            There::No => return Err(format!("serviceaccounts {:?} not found", serviceaccount.name)),
            There::Another(uid) => {
                let claimed = &serviceaccount.uid;
                return Err(format!("service account UID ({uid}) does not match claim ({claimed})"));
            }
            There::Going => {
                return Err(format!("service account {namespace}/{} has been deleted", serviceaccount.name));
            }
        }
        // The node of a pod says where the pod ran, and binds to nothing.
        let node = node.as_ref().filter(|_| pod.is_none());
        let bound =
            [("pods", "pod", pod.as_ref()), ("secrets", "secret", secret.as_ref()), ("nodes", "node", node)];
        for (plural, kind, reference) in bound {
            let Some(reference) = reference else { continue };
            match self.still_there(plural, namespace, reference, now) {
                There::Yes => {}
                There::Another(uid) => {
                    let (shown, claimed) = (if kind == "pod" { "pod" } else { kind }, &reference.uid);
                    let what = if kind == "secret" { "Secret" } else { shown };
                    return Err(format!(
                        "{what} UID ({uid}) does not match service account {kind} ref claim ({claimed})"
                    ));
                }
                There::No | There::Going => return Err("service account token has been invalidated".into()),
            }
        }
        Ok(())
    }

    fn still_there(&self, plural: &str, namespace: &str, reference: &Reference, now: i64) -> There {
        let resource = self.builtin("", plural);
        let Some(stored) = resource.cache.get(&resource.cache_key(namespace, &reference.name)) else {
            return There::No;
        };
        if *stored.meta.uid != *reference.uid {
            return There::Another((*stored.meta.uid).into());
        }
        let object = stored.bare();
        let deleted =
            object["metadata"]["deletionTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        match deleted {
            Some(at) if at.as_second() < now - LEEWAY => There::Going,
            _ => There::Yes,
        }
    }
}

/// What has become of an object.
enum There {
    Yes,
    No,
    /// One of its name, with this uid.
    Another(String),
    /// It should be gone by now.
    Going,
}

fn lifetime_errors(seconds: i64) -> Vec<FieldError> {
    let text = match seconds {
        ..LIFETIME_MIN => "may not specify a duration less than 10 minutes",
        LIFETIME_MIN..=LIFETIME_MAX => return Vec::new(),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    vec![FieldError::invalid("spec.expirationSeconds", seconds, text)]
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The user that a token stands for.
fn user(claims: Claims) -> UserInfo {
    let Private { namespace, node, pod, serviceaccount, .. } = claims.kubernetes;
    let mut said = vec![("credential-id", format!("JTI={}", claims.jti))];
    for (kind, reference) in [("pod", pod), ("node", node)] {
        let Some(reference) = reference else { continue };
        let (name, uid) = if kind == "pod" { ("pod-name", "pod-uid") } else { ("node-name", "node-uid") };
        said.extend([(name, reference.name), (uid, reference.uid)]);
    }
    let extra = said.into_iter().filter(|(_, value)| !value.is_empty());
    UserInfo {
        name: claims.sub,
        uid: serviceaccount.uid,
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}"),
            AUTHENTICATED.into(),
        ],
        extra: extra
            .map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value]))
            .collect(),
    }
}
