//! Which addresses are taken: host-local's format on disk, so that either takes over from the other.
//!
//! ```text
//! /var/lib/cni/networks/NETWORK/
//!   10.1.0.5              taken; who by: CONTAINER, CR LF, INTERFACE
//!   last_reserved_ip.0    the last one given from the first list of ranges
//!   lock                  held (flock) by whoever changes something
//! ```
//!
//! An address is there with its owner or not at all, wherever a process is killed: the file is written under another
//! name and linked. One without an owner is what others left half-written, and counts as free.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::{CniError, Code, Result};

/// Where networks are if nobody says otherwise.
pub const DATA_DIR: &str = "/var/lib/cni/networks";
/// Longer files are none of ours, in bytes.
const LIMIT: u64 = 4096;
/// What is written before it is linked or renamed; the lock's holder has it for itself.
const DRAFT: &str = ".draft";

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The container.
    pub container: String,
    /// The link in it; old files do not say.
    pub ifname: Option<String>,
}

impl Owner {
    /// Reads what is in the file of an address; `None` if that is nobody.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.trim().lines();
        let container = lines.next()?.trim().to_owned();
        let ifname = lines.next().map(|line| line.trim().to_owned()).filter(|name| !name.is_empty());
        (!container.is_empty()).then_some(Self { container, ifname })
    }

    /// Whether a file with the owner `found` is this one's.
    fn has(&self, found: &Self) -> bool {
        self.container == found.container && (found.ifname.is_none() || self.ifname == found.ifname)
    }

    fn text(&self) -> String {
        format!("{}\r\n{}", self.container, self.ifname.as_deref().unwrap_or_default())
    }
}

/// The addresses of one network.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The network's directory, which is made if need be.
    pub fn open(data_dir: &Path, network: &str) -> Result<Self> {
        let dir = data_dir.join(network);
        if !dir.is_dir() {
            fs::create_dir_all(&dir).map_err(CniError::io(format!("making {}", dir.display())))?;
        }
        Ok(Self { dir })
    }

    /// The network's directory, if it is there.
    pub fn existing(data_dir: &Path, network: &str) -> Option<Self> {
        Some(Self { dir: data_dir.join(network) }).filter(|store| store.dir.is_dir())
    }

    /// Waits until nobody else changes anything.
    pub fn lock(&self) -> Result<Locked<'_>> {
        let path = self.dir.join("lock");
        let what = || format!("locking {}", path.display());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(CniError::io(what()))?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(Locked { dir: &self.dir, _file: file }),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(CniError::io(what())(errno.into())),
            }
        }
    }
}

/// The same while nobody else changes anything.
#[derive(Debug)]
pub struct Locked<'a> {
    dir: &'a Path,
    _file: File,
}

impl Locked<'_> {
    /// All addresses that are taken. A name that is no address is nobody's.
    pub fn taken(&self) -> Result<BTreeSet<IpAddr>> {
        let what = || format!("reading {}", self.dir.display());
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(self.dir).map_err(CniError::io(what()))? {
            let entry = entry.map_err(CniError::io(what()))?;
            if let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                taken.insert(ip);
            }
        }
        Ok(taken)
    }

    fn path(&self, ip: IpAddr) -> PathBuf {
        self.dir.join(ip.to_string())
    }

    /// Who has an address. What cannot be read is somebody's, whose it is cannot be told.
    fn owner(&self, ip: IpAddr) -> Found {
        let text = read_short(&self.path(ip));
        match text {
            Ok(text) => Owner::parse(&text).map_or(Found::Nobody, Found::Owner),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nobody,
            Err(_) => Found::Unreadable,
        }
    }

    /// The addresses of an owner, in no order that means anything.
    pub fn of(&self, owner: &Owner) -> Result<Vec<IpAddr>> {
        let mut taken = self.taken()?;
        taken.retain(|ip| matches!(self.owner(*ip), Found::Owner(found) if owner.has(&found)));
        Ok(taken.into_iter().collect())
    }

    /// Takes an address; false if somebody has it.
    pub fn take(&self, ip: IpAddr, owner: &Owner) -> Result<bool> {
        let (draft, path) = (self.dir.join(DRAFT), self.path(ip));
        let what = || format!("reserving {ip} in {}", self.dir.display());
        // It may be linked to an address, if somebody was killed at that moment: never written over.
        remove(&draft).map_err(CniError::io(what()))?;
        fs::write(&draft, owner.text()).map_err(CniError::io(what()))?;
        let mut linked = fs::hard_link(&draft, &path);
        if is_exists(&linked) && matches!(self.owner(ip), Found::Nobody) {
            remove(&path).map_err(CniError::io(what()))?;
            linked = fs::hard_link(&draft, &path);
        }
        remove(&draft).map_err(CniError::io(what()))?;
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true).map_err(CniError::io(what())),
        }
    }

    /// Gives an address back.
    pub fn free(&self, ip: IpAddr) -> Result<()> {
        remove(&self.path(ip)).map_err(CniError::io(format!("releasing {ip} in {}", self.dir.display())))
    }

    /// Gives back all addresses of an owner, and says which.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>> {
        let released = self.of(owner)?;
        released.iter().try_for_each(|ip| self.free(*ip))?;
        Ok(released)
    }

    /// Gives back all addresses but those of `valid` owners, and those nobody knows whose they are.
    pub fn retain(&self, valid: &[Owner]) -> Result<Vec<IpAddr>> {
        let is_stale = |ip: &IpAddr| match self.owner(*ip) {
            Found::Owner(found) => !valid.iter().any(|owner| owner.has(&found)),
            Found::Nobody => true,
            Found::Unreadable => false,
        };
        let stale: Vec<_> = self.taken()?.into_iter().filter(is_stale).collect();
        stale.iter().try_for_each(|ip| self.free(*ip))?;
        Ok(stale)
    }

    /// Gives back addresses that were taken before `time` by owners that are not there any more, as far as they are known
    /// with their links.
    pub fn forget(&self, time: SystemTime, is_there: impl Fn(&Owner) -> bool) -> Result<Vec<IpAddr>> {
        let is_old = |ip: &IpAddr| {
            let written = fs::metadata(self.path(*ip)).and_then(|file| file.modified());
            written.is_ok_and(|written| written < time)
        };
        let is_gone = |ip: &IpAddr| match self.owner(*ip) {
            Found::Owner(found) => found.ifname.is_some() && !is_there(&found),
            Found::Nobody | Found::Unreadable => false,
        };
        let gone: Vec<_> = self.taken()?.into_iter().filter(|ip| is_gone(ip) && is_old(ip)).collect();
        gone.iter().try_for_each(|ip| self.free(*ip))?;
        Ok(gone)
    }

    /// The last address that was given from a list of ranges; what cannot be read is forgotten.
    pub fn last(&self, list: usize) -> Option<IpAddr> {
        read_short(&self.last_path(list)).ok()?.trim().parse().ok()
    }

    /// Notes the last address that was given.
    pub fn set_last(&self, list: usize, ip: IpAddr) -> Result<()> {
        let draft = self.dir.join(DRAFT);
        let written = remove(&draft).and_then(|()| fs::write(&draft, ip.to_string()));
        let path = self.last_path(list);
        let what = format!("writing {}", path.display());
        written.and_then(|()| fs::rename(&draft, &path)).map_err(CniError::io(what))
    }

    fn last_path(&self, list: usize) -> PathBuf {
        self.dir.join(format!("last_reserved_ip.{list}"))
    }

    /// That the directory can be written to, for STATUS.
    pub fn check(&self) -> Result<()> {
        rustix::fs::access(self.dir, rustix::fs::Access::WRITE_OK).map_err(|errno| {
            let msg = format!("{} cannot be written to", self.dir.display());
            CniError::new(Code::NotAvailable, msg).because(errno)
        })
    }
}

enum Found {
    Owner(Owner),
    Nobody,
    Unreadable,
}

fn is_exists(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read_short(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
