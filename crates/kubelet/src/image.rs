//! Images: what a container runs.
//!
//! Built in are the echo server, network tools, the cluster DNS and the host's own root; all other names mean images of the
//! cluster's store.

use std::path::PathBuf;
use std::sync::Arc;

use dyad_images::manifest::Run;
use dyad_images::{Name, Root};
use k8s_openapi::api::core::v1::Container;

use crate::sandbox::root::PROGRAM;

/// An image by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Image {
    /// `dyad/echo`: answers who asked whom.
    Echo,
    /// `dyad/tools`: sleeps, so that one can look around.
    Tools,
    /// `dyad/dns`: the cluster DNS.
    Dns,
    /// `host:` or `host:PROGRAM`: the host's root, read-only.
    Host(Option<String>),
    /// Any other.
    Stored(Name),
}

impl Image {
    /// Reads a reference; of those that are built in tag, digest and the registries one might write before `dyad/` are of
    /// no interest. The error is that of a reference which is none.
    pub(crate) fn parse(reference: &str) -> Result<Self, String> {
        if let Some(program) = reference.strip_prefix("host:") {
            return Ok(Self::Host((!program.is_empty()).then(|| program.to_owned())));
        }
        let name = reference.split('@').next().unwrap_or_default();
        // A colon after the last slash starts a tag; one before it is a registry's port.
        let name = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => name,
        };
        let name =
            ["docker.io/", "localhost/"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        match name {
            "dyad/echo" => Ok(Self::Echo),
            "dyad/tools" => Ok(Self::Tools),
            "dyad/dns" => Ok(Self::Dns),
            _ => reference.parse().map(Self::Stored).map_err(|problem| {
                format!("Failed to apply default image tag {reference:?}: couldn't parse image name {reference:?}: {problem}")
            }),
        }
    }

    /// The words to run: `command` stands for the image's entry point, `args` for its arguments; a command without
    /// arguments leaves the image's out. Both are expanded already. `run` is what a stored image says of itself.
    pub(crate) fn argv(
        &self,
        run: &Run,
        command: Vec<String>,
        args: Vec<String>,
    ) -> Result<Vec<String>, String> {
        let own = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let (entry, default) = match self {
            Self::Echo => (own(&[PROGRAM, "internal", "echo"]), Vec::new()),
            Self::Tools => (Vec::new(), own(&[PROGRAM, "internal", "pause"])),
            Self::Dns => (own(&[PROGRAM, "dns"]), Vec::new()),
            Self::Host(program) => (program.iter().cloned().collect(), Vec::new()),
            Self::Stored(_) => {
                (run.entrypoint.clone().unwrap_or_default(), run.cmd.clone().unwrap_or_default())
            }
        };
        let (entry, default) = if command.is_empty() { (entry, default) } else { (command, Vec::new()) };
        let argv: Vec<String> =
            entry.into_iter().chain(if args.is_empty() { default } else { args }).collect();
        match (argv.is_empty(), self) {
            (false, _) => Ok(argv),
            (true, Self::Stored(_)) => Err("no command specified: the image has none".into()),
            (true, _) => Err("no command: set command, or name a program as host:PROGRAM".into()),
        }
    }
}

/// An image that a container can be started from.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// Which.
    pub(crate) image: Image,
    /// By what the status names it.
    pub(crate) id: String,
    /// What it says of itself.
    pub(crate) run: Run,
    /// Where it is unpacked, and stays while this is held; nothing for what is built in.
    pub(crate) root: Option<Arc<Root>>,
}

impl Ready {
    /// One that is built in.
    pub(crate) fn built_in(image: Image, reference: &str) -> Self {
        Self { image, id: format!("dyad://{reference}"), run: Run::default(), root: None }
    }

    /// Where it is unpacked.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.path().to_owned())
    }
}

/// The reference of a container's image; empty if there is none.
pub(crate) fn reference(container: &Container) -> &str {
    container.image.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_what_is_built_in_and_nothing_else() {
        let host = |program: &str| Ok(Image::Host((!program.is_empty()).then(|| program.to_owned())));
        for (reference, want) in [
            ("dyad/echo", Ok(Image::Echo)),
            ("dyad/echo:latest", Ok(Image::Echo)),
            ("docker.io/dyad/tools:v1@sha256:00", Ok(Image::Tools)),
            ("localhost/dyad/tools", Ok(Image::Tools)),
            ("dyad/dns:0.1.0", Ok(Image::Dns)),
            ("host:", host("")),
            ("host:/bin/sleep", host("/bin/sleep")),
        ] {
            assert_eq!(Image::parse(reference), want, "{reference}");
        }
        for reference in ["nginx", "registry:5000/dyad/echo", "dyad/echoes"] {
            assert_eq!(Image::parse(reference), Ok(Image::Stored(reference.parse().unwrap())), "{reference}");
        }
        assert_eq!(
            Image::parse("dyad/").unwrap_err(),
            "Failed to apply default image tag \"dyad/\": couldn't parse image name \"dyad/\": invalid reference format"
        );
    }

    #[test]
    fn command_and_args_replace_as_in_kubernetes() {
        let run = Run {
            entrypoint: Some(vec!["entry".into()]),
            cmd: Some(vec!["default".into(), "words".into()]),
            ..Run::default()
        };
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (image, command, args, want) in [
            ("dyad/echo", "", "", "/run/dyad/bin/dyad internal echo"),
            ("dyad/echo", "", "--port 80", "/run/dyad/bin/dyad internal echo --port 80"),
            ("dyad/echo", "sh", "", "sh"),
            ("dyad/tools", "", "", "/run/dyad/bin/dyad internal pause"),
            ("dyad/tools", "", "http x", "http x"),
            (
                "dyad/dns",
                "",
                "--conf /etc/coredns/Corefile",
                "/run/dyad/bin/dyad dns --conf /etc/coredns/Corefile",
            ),
            ("dyad/tools", "sh -c", "ls", "sh -c ls"),
            ("host:sleep", "", "5", "sleep 5"),
            ("host:", "ls", "", "ls"),
            ("app", "", "", "entry default words"),
            ("app", "", "x", "entry x"),
            ("app", "sh", "", "sh"),
            ("app", "sh", "x", "sh x"),
        ] {
            let argv = Image::parse(image).unwrap().argv(&run, words(command), words(args)).unwrap();
            assert_eq!(argv.join(" "), want, "{image} {command} {args}");
        }
        assert!(Image::Host(None).argv(&run, Vec::new(), Vec::new()).is_err());
    }
}
