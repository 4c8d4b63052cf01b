//! What a runtime asks for: the environment and the configuration.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::conf::is_name;
use crate::store::Owner;
use crate::{CniError, Code, NetConf, Result, Version};

/// What a plugin is to do. VERSION needs none of the rest, and is no command here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// See whether it still is connected.
    Check,
    /// Remove what belongs to no container that is there.
    Gc,
    /// Say whether ADD would work.
    Status,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status];

    /// As it stands in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// The command of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.as_str() == name)
    }

    /// The first version that has it.
    const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}

/// A request, checked: whatever the command needs is there.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The container; empty for GC and STATUS.
    pub container_id: String,
    /// Its namespace; empty where DEL comes after it has gone.
    pub netns: PathBuf,
    /// The link inside; empty for GC and STATUS.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Vec<(String, String)>,
    /// `CNI_PATH`: directories of plugins.
    pub path: OsString,
    /// The configuration.
    pub config: NetConf,
}

impl Request {
    /// From variables, by name, and the configuration.
    pub fn new(variable: impl Fn(&str) -> Option<OsString>, config: NetConf) -> Result<Self> {
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            None => Ok(String::new()),
            Some(Ok(text)) => Ok(text),
            Some(Err(odd)) => Err(environment(name, &format!("{odd:?}"), "is no UTF-8")),
        };
        let name = text("CNI_COMMAND")?;
        let command = Command::parse(&name).ok_or_else(|| {
            environment("CNI_COMMAND", &name, "must be ADD, DEL, CHECK, GC, STATUS or VERSION")
        })?;
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status => &[],
        };
        let missing: Vec<_> = needed
            .iter()
            .copied()
            .filter(|name| variable(name).is_none_or(|value| value.is_empty()))
            .collect();
        if !missing.is_empty() {
            let msg = format!("{} must be set in the environment for {name}", missing.join(", "));
            return Err(CniError::new(Code::InvalidEnvironment, msg));
        }
        let request = Self {
            command,
            container_id: text("CNI_CONTAINERID")?,
            netns: variable("CNI_NETNS").unwrap_or_default().into(),
            ifname: text("CNI_IFNAME")?,
            args: parse_args(&text("CNI_ARGS")?)?,
            path: variable("CNI_PATH").unwrap_or_default(),
            config,
        };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<()> {
        let (command, version) = (self.command, self.config.version);
        if version < command.since() {
            let (name, since) = (command.as_str(), command.since().as_str());
            let msg = format!("cniVersion: {} has no {name}; it needs {since} or newer", version.as_str());
            return Err(CniError::new(Code::IncompatibleVersion, msg));
        }
        if !self.container_id.is_empty() && !is_name(&self.container_id) {
            let way_out = "must be letters and digits, and '_', '.', '-' behind the first";
            return Err(environment("CNI_CONTAINERID", &self.container_id, way_out));
        }
        let is_odd =
            |letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter.is_control();
        if self.ifname.len() > 15 || matches!(&*self.ifname, "." | "..") || self.ifname.contains(is_odd) {
            let way_out =
                "is no name of a link: at most 15 bytes, without '/', ':' and spaces, and not '.' or '..'";
            return Err(environment("CNI_IFNAME", &self.ifname, way_out));
        }
        Ok(())
    }

    /// The value of a key in `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args.iter().find(|(known, _)| known == key).map(|(_, value)| &**value)
    }

    /// Who owns what this request makes.
    pub fn owner(&self) -> Owner {
        Owner { container: self.container_id.clone(), ifname: Some(self.ifname.clone()) }
    }

    /// The attachments that GC is to leave: `cni.dev/valid-attachments`.
    pub fn valid(&self) -> Result<Vec<Owner>> {
        const KEY: &str = "cni.dev/valid-attachments";
        let fields = self.config.fields();
        if fields.get(KEY).is_none() {
            let way_out = "is missing: GC without it would remove every attachment";
            return Err(CniError::new(Code::InvalidConfig, format!("{KEY} {way_out}")));
        }
        let owners = fields.objects(KEY)?;
        let owner = |entry: &crate::Fields<'_>| {
            let text = |key| Ok::<_, CniError>(entry.text(key)?.unwrap_or_default().to_owned());
            Ok(Owner { container: text("containerID")?, ifname: Some(text("ifname")?) })
        };
        owners.iter().map(owner).collect()
    }

    /// The container's namespace, open; it must be another one than the plugin's.
    pub fn open_netns(&self) -> Result<std::os::fd::OwnedFd> {
        let path = self.netns.display();
        let open = dyad_links::netns::open(&self.netns).map_err(|error| {
            let code = match error.is_not_found() {
                true => Code::UnknownContainer,
                false => Code::Io,
            };
            let error = CniError::from(error);
            CniError::new(code, format!("CNI_NETNS: {path} cannot be opened")).because(error.details)
        })?;
        if is_own(&open)? {
            let msg =
                format!("CNI_NETNS: {path} is the namespace this plugin itself is in: give the container's");
            return Err(CniError::new(Code::InvalidEnvironment, msg));
        }
        Ok(open)
    }

    /// The same for DEL: `None` if it is gone, or was never given.
    pub fn netns_if_there(&self) -> Option<std::os::fd::OwnedFd> {
        if self.netns.as_os_str().is_empty() { None } else { self.open_netns().ok() }
    }
}

fn is_own(netns: &std::os::fd::OwnedFd) -> Result<bool> {
    let identity = |path: &Path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    let theirs = rustix::fs::fstat(netns).map(|stat| (stat.st_dev, stat.st_ino));
    let own = identity(Path::new("/proc/thread-self/ns/net"));
    let io = |errno: rustix::io::Errno| CniError::io("comparing network namespaces")(errno.into());
    Ok(theirs.map_err(io)? == own.map_err(io)?)
}

fn environment(name: &str, value: &str, way_out: &str) -> CniError {
    CniError::new(Code::InvalidEnvironment, format!("{name}: {value:?} {way_out}"))
}

/// Reads `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.
pub(crate) fn parse_args(text: &str) -> Result<Vec<(String, String)>> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    let read = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => {
            Err(environment("CNI_ARGS", pair, "must be KEY=VALUE, and pairs be separated by ';'"))
        }
    };
    pairs.map(read).collect()
}
