//! Which controllers run, in the words of kube-controller-manager's `--controllers`.

use std::fmt;
use std::str::FromStr;

/// Their names there; the scheduler is a program of its own there and is called as that is.
pub const NAMES: [&str; 20] = [
    "bootstrap-signer-controller",
    "certificatesigningrequest-signing-controller",
    "cronjob-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "kube-scheduler",
    "namespace-controller",
    "node-ipam-controller",
    "node-lifecycle-controller",
    "persistentvolume-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "resourcequota-controller",
    "service-cidr-controller",
    "statefulset-controller",
];

/// A choice among [`NAMES`]: `*` for all of them, `name` for one, `-name` for all but one, `-*` for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(Vec<String>);

/// A name that no controller has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no controller: use *, or a list of names, each with - in front to leave it out, from {names}",
    names = NAMES.join(", ")
)]
pub struct UnknownController {
    name: String,
}

impl Selection {
    /// Whether this one is to run. The first word about it counts, as in Kubernetes.
    pub fn has(&self, name: &str) -> bool {
        let named = self.0.iter().find_map(|word| match word.strip_prefix('-') {
            Some(without) => (without == name).then_some(false),
            None => (word == name).then_some(true),
        });
        named.unwrap_or_else(|| self.0.iter().any(|word| word == "*"))
    }

    /// Whether none of these is to run.
    pub fn is_empty(&self) -> bool {
        NAMES.iter().all(|name| !self.has(name))
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self(vec!["*".to_owned()])
    }
}

impl FromStr for Selection {
    type Err = UnknownController;

    fn from_str(text: &str) -> Result<Self, UnknownController> {
        let words: Vec<String> = text.split(',').map(|word| word.trim().to_owned()).collect();
        let known = |word: &&String| {
            let name = word.strip_prefix('-').unwrap_or(word);
            name == "*" || NAMES.contains(&name)
        };
        match words.iter().find(|word| !known(word)) {
            Some(unknown) => Err(UnknownController { name: unknown.clone() }),
            None => Ok(Self(words)),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_kube_controller_manager_reads_them() {
        let cases = [
            ("*", true, true),
            ("-*", false, false),
            ("*,-job-controller", true, false),
            ("job-controller", false, true),
            ("-job-controller,*", true, false),
            ("job-controller,-job-controller", false, true),
            ("kube-scheduler", false, false),
        ];
        for (text, deployment, job) in cases {
            let selection: Selection = text.parse().unwrap();
            let has = (selection.has("deployment-controller"), selection.has("job-controller"));
            assert_eq!(has, (deployment, job), "{text}");
            assert_eq!(selection.to_string(), text);
            assert_eq!(selection.is_empty(), text == "-*");
        }
        for text in ["", "jobs", "*,-jobs", "-"] {
            let error = text.parse::<Selection>().unwrap_err().to_string();
            assert!(error.contains("is no controller") && error.contains("job-controller"), "{error}");
        }
    }
}
