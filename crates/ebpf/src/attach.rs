//! Programs and where they are attached.
//!
//! They are attached to the cgroup and to the links themselves, not through descriptors: they stay when this process
//! goes, and are found again by their names. One of ours that is there already is replaced in one step if it is not
//! exactly what it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::map::Map;
use crate::object::Object;
use crate::sys::{self, Load, ProgramInfo};
use crate::{Error, Result, Why};

/// Bytes for the verifier's words.
const LOG: usize = 256 * 1024;
/// How much of the end of them is told.
const TOLD: usize = 600;
/// The section of the program for the links of pods.
const POD_LINK: &str = "classifier";

/// A place for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    /// The section of the object.
    pub(crate) section: &'static str,
    /// `BPF_PROG_TYPE_*`.
    kind: u32,
    /// What it is loaded for: an attach type, or 0 where any will do.
    loaded_for: u32,
    /// The attach type.
    attach: u32,
}

const fn of_sockets(section: &'static str, attach: u32) -> Hook {
    Hook { section, kind: 18, loaded_for: attach, attach }
}

/// All of them; that for links comes last.
pub(crate) const HOOKS: [Hook; 9] = [
    of_sockets("cgroup/connect4", 10),
    of_sockets("cgroup/connect6", 11),
    of_sockets("cgroup/sendmsg4", 14),
    of_sockets("cgroup/sendmsg6", 15),
    of_sockets("cgroup/recvmsg4", 19),
    of_sockets("cgroup/recvmsg6", 20),
    of_sockets("cgroup/getpeername4", 29),
    of_sockets("cgroup/getpeername6", 30),
    Hook { section: POD_LINK, kind: 3, loaded_for: 0, attach: 46 },
];

impl Hook {
    fn is_of_links(self) -> bool {
        self.section == POD_LINK
    }
}

/// A program in the kernel.
#[derive(Debug)]
struct Loaded {
    hook: Hook,
    fd: OwnedFd,
    info: ProgramInfo,
}

/// All programs, in the kernel, with their maps.
#[derive(Debug)]
pub(crate) struct Programs {
    programs: Vec<Loaded>,
}

/// What something was attached to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Cgroup(&'a OwnedFd),
    /// The index of a link in the thread's network namespace.
    Link(u32),
}

impl Place<'_> {
    fn target(self) -> u32 {
        match self {
            Self::Cgroup(fd) => fd.as_raw_fd() as u32,
            Self::Link(index) => index,
        }
    }

    fn has(self, hook: Hook) -> bool {
        matches!(self, Self::Link(_)) == hook.is_of_links()
    }

    /// Whatever is attached there, ours or not: attach types with identifiers. Much cheaper than
    /// [`attach`](Programs::attach), which finds nothing to do as long as this stays the same. Nothing where there is no
    /// such place any more.
    pub(crate) fn present(self) -> Vec<(u32, u32)> {
        let hooks = HOOKS.into_iter().filter(|hook| self.has(*hook));
        let ids =
            hooks.map(|hook| (hook.attach, sys::attached(self.target(), hook.attach).unwrap_or_default()));
        ids.flat_map(|(attach, ids)| ids.into_iter().map(move |id| (attach, id))).collect()
    }

    /// Programs there that have the name of the hook's.
    fn ours(self, hook: Hook, name: &str) -> io::Result<Vec<(OwnedFd, ProgramInfo)>> {
        let mut found = Vec::new();
        for id in sys::attached(self.target(), hook.attach)? {
            let fd = match sys::program_by_id(id) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                fd => fd?,
            };
            let info = sys::program_info(&fd)?;
            if info.name == name {
                found.push((fd, info));
            }
        }
        Ok(found)
    }
}

impl Programs {
    /// Loads all programs of an object; the maps are given by name.
    pub(crate) fn load(object: &Object, maps: &BTreeMap<String, Map>) -> Result<Self> {
        let mut programs = Vec::new();
        for hook in HOOKS {
            let code = object.programs.iter().find(|code| code.section == hook.section);
            let code = code.ok_or_else(|| Error::Object(format!("{} is missing", hook.section)))?;
            let instructions = code.linked(|name| Some(maps.get(name)?.fd().as_raw_fd()))?;
            let what = Load {
                name: &code.name,
                kind: hook.kind,
                attach: hook.loaded_for,
                instructions: &instructions,
                licence: &object.licence,
            };
            let fd = sys::load(what, None).map_err(|source| {
                let mut log = vec![0; LOG];
                // Again, for the words only; it may even succeed now, and is of no use then.
                let _ = sys::load(what, Some(&mut log));
                Error::Verifier { program: code.name.clone(), log: last_words(&log), source }
            })?;
            let info = sys::program_info(&fd).map_err(Error::refused("asking about a program"))?;
            programs.push(Loaded { hook, fd, info });
        }
        Ok(Self { programs })
    }

    /// Makes these programs the only ones of ours in a place, which is never without; whether something had changed.
    pub(crate) fn attach(&self, place: Place<'_>) -> Result<bool> {
        let mut changed = false;
        for Loaded { hook, fd, info } in self.programs.iter().filter(|program| place.has(program.hook)) {
            let failed = || Error::refused(format!("attaching the program {} to {}", info.name, name(place)));
            let mut there = place.ours(*hook, &info.name).map_err(failed())?;
            if there.len() == 1 && there[0].1 == *info {
                continue;
            }
            let replaced = there.pop();
            let flags = if hook.is_of_links() { 0 } else { sys::ALLOW_MULTI };
            let replaced = replaced.as_ref().map(|(fd, _)| fd.as_fd());
            sys::attach(place.target(), fd.as_fd(), hook.attach, flags, replaced).map_err(failed())?;
            for (other, _) in there {
                sys::detach(place.target(), other.as_fd(), hook.attach).map_err(failed())?;
            }
            changed = true;
        }
        Ok(changed)
    }
}

fn name(place: Place<'_>) -> String {
    match place {
        Place::Cgroup(_) => "the cgroup".into(),
        Place::Link(index) => format!("link {index}"),
    }
}

/// Takes all programs of ours from a place.
pub(crate) fn detach(object: &Object, place: Place<'_>) -> Result<()> {
    for hook in HOOKS.into_iter().filter(|hook| place.has(*hook)) {
        let failed = || Error::refused(format!("detaching {} from {}", hook.section, name(place)));
        for code in object.programs.iter().filter(|code| code.section == hook.section) {
            for (fd, _) in place.ours(hook, &code.name).map_err(failed())? {
                sys::detach(place.target(), fd.as_fd(), hook.attach).map_err(failed())?;
            }
        }
    }
    Ok(())
}

/// The maps, by name, of our programs at a cgroup, and of those for links that share a map with them.
pub(crate) fn maps(object: &Object, cgroup: &OwnedFd) -> Result<BTreeMap<String, Map>> {
    let failed = || Error::refused("looking for programs that are there");
    let place = Place::Cgroup(cgroup);
    let (mut ids, mut of_links) = (BTreeSet::new(), "");
    for code in &object.programs {
        let Some(hook) = HOOKS.into_iter().find(|hook| hook.section == code.section) else { continue };
        if place.has(hook) {
            let there = place.ours(hook, &code.name).map_err(failed())?;
            ids.extend(there.into_iter().flat_map(|(_, info)| info.maps));
        } else {
            of_links = &code.name;
        }
    }
    // Links are many, and come and go; all programs there are can be looked through at once.
    let all = if ids.is_empty() { Vec::new() } else { sys::programs().map_err(failed())? };
    for id in all {
        let info = match sys::program_by_id(id).and_then(|fd| sys::program_info(&fd)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            info => info.map_err(failed())?,
        };
        if info.name == of_links && info.maps.iter().any(|map| ids.contains(map)) {
            ids.extend(info.maps);
        }
    }
    let mut found = BTreeMap::new();
    // Newer ones have greater identifiers, and win: they were filled before a program used them.
    for id in ids {
        found.extend(Map::by_id(id)?.map(|map| (map.info().name.clone(), map)));
    }
    Ok(found)
}

/// Whether programs can be attached to links so that they stay.
pub(crate) fn probe_links() -> Result<(), Why> {
    let lo = 1;
    let hook = HOOKS[HOOKS.len() - 1];
    match sys::attached(lo, hook.attach) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(Why::NoTcx),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Why::NotPermitted),
        _ => Ok(()),
    }
}

/// The end of what the verifier said, on one line.
fn last_words(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[end.saturating_sub(TOLD)..end]);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { "it gives no reason".into() } else { lines.join("; ") }
}
