//! `apiServer.extraArgs` of the file that describes a cluster: flags of kube-apiserver that mean something here, those of
//! the audit log.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dyad_apiserver::audit::{AuditConfig, Policy};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The audit log as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuditSpec {
    /// Where it is; `-` is the control plane's own output.
    pub path: PathBuf,
    /// What is written of what; metadata of everything if not given.
    pub policy: Option<PathBuf>,
    /// Days.
    pub max_age: Option<u32>,
    /// Files.
    pub max_backups: Option<u32>,
    /// Megabytes.
    pub max_size: Option<u32>,
}

impl AuditSpec {
    /// Reads `apiServer`, `extraArgs` being a map, or a list of names and values as in kubeadm's newer files.
    pub(crate) fn parse(value: &Value, warnings: &mut Vec<String>) -> Result<Option<Self>> {
        let mut flags = Vec::new();
        for (key, value) in value.as_object().context("apiServer: expected a map")? {
            match (key.as_str(), value) {
                ("extraArgs", Value::Object(map)) => {
                    flags.extend(map.iter().map(|(name, value)| (name.clone(), value.clone())));
                }
                ("extraArgs", Value::Array(list)) => flags.extend(
                    list.iter()
                        .map(|one| (one["name"].as_str().unwrap_or_default().into(), one["value"].clone())),
                ),
                ("extraArgs", _) => bail!("apiServer.extraArgs: expected a map of flags"),
                (other, _) => warnings
                    .push(format!("apiServer.{other} has no meaning for a Dyad cluster and is ignored")),
            }
        }
        let mut spec = Self::default();
        for (name, value) in flags {
            let field = format!("apiServer.extraArgs.{name}");
            let text = match &value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => bail!("{field}: expected a string, not {other}"),
            };
            let count = || {
                let parsed = text.parse::<u32>();
                parsed.map(Some).with_context(|| format!("{field}: {text:?} is not a number from 0 up"))
            };
            match name.as_str() {
                "audit-log-path" => spec.path = absolute(&text)?,
                "audit-policy-file" => spec.policy = Some(absolute(&text)?),
                "audit-log-maxage" => spec.max_age = count()?,
                "audit-log-maxbackup" => spec.max_backups = count()?,
                "audit-log-maxsize" => spec.max_size = count()?,
                _ => warnings.push(format!("{field} has no meaning for a Dyad cluster and is ignored")),
            }
        }
        if spec.path.as_os_str().is_empty() {
            if spec != Self::default() {
                bail!(
                    "apiServer.extraArgs: there is no audit log without audit-log-path: add it, or remove the others"
                );
            }
            return Ok(None);
        }
        // What is wrong with it should be known before anything is made.
        spec.config()?;
        Ok(Some(spec))
    }

    /// For the API server; the policy is read.
    pub(crate) fn config(&self) -> Result<AuditConfig> {
        let default = AuditConfig::new(&self.path);
        let policy = match &self.policy {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("can't read the audit policy {}", path.display()))?;
                Policy::read(&text).with_context(|| path.display().to_string())?
            }
            None => default.policy,
        };
        Ok(AuditConfig {
            policy,
            max_age: self.max_age.unwrap_or(default.max_age),
            max_backups: self.max_backups.unwrap_or(default.max_backups),
            max_size: self.max_size.unwrap_or(default.max_size),
            path: default.path,
        })
    }
}

/// The control plane runs elsewhere.
fn absolute(text: &str) -> Result<PathBuf> {
    if text == "-" {
        return Ok(text.into());
    }
    std::path::absolute(Path::new(text)).with_context(|| format!("{text:?} is not a path"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn flags_are_those_of_kube_apiserver() {
        let read = |value: Value| {
            let mut warnings = Vec::new();
            AuditSpec::parse(&value, &mut warnings)
                .map(|spec| (spec, warnings.len()))
                .map_err(|error| format!("{error:#}"))
        };
        let spec = AuditSpec {
            path: "/x/audit.log".into(),
            max_age: Some(3),
            max_backups: Some(2),
            max_size: Some(1),
            policy: None,
        };
        let map = json!({"audit-log-path": "/x/audit.log", "audit-log-maxage": "3", "audit-log-maxbackup": 2,
            "audit-log-maxsize": "1", "v": "5"});
        assert_eq!(read(json!({"extraArgs": map, "timeoutForControlPlane": "1m"})), Ok((Some(spec), 2)));
        let list = json!([{"name": "audit-log-path", "value": "-"}]);
        assert_eq!(read(json!({"extraArgs": list})).unwrap().0.unwrap().path, Path::new("-"));
        assert_eq!(read(json!({})), Ok((None, 0)));
        for (flags, why) in [
            (json!({"audit-log-maxage": "3"}), "no audit log without audit-log-path"),
            (
                json!({"audit-log-path": "-", "audit-log-maxage": "x"}),
                "audit-log-maxage: \"x\" is not a number",
            ),
            (
                json!({"audit-log-path": "-", "audit-policy-file": "/does/not/exist"}),
                "can't read the audit policy",
            ),
            (json!({"audit-log-path": []}), "expected a string"),
        ] {
            let error = read(json!({"extraArgs": flags})).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
