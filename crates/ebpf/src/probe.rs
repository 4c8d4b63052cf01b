//! Whether this machine can run the eBPF data plane.

use std::io;

use crate::attach::Programs;
use crate::map::Map;
use crate::object::Object;
use crate::sys::{self, MapInfo};
use crate::{Error, Result, Why};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;

/// Whether this process, on this machine, can load the programs; if not, why. Tries it, and leaves nothing.
///
/// The redirect between pods may be missing all the same: see [`redirect`].
pub fn probe() -> Result<(), Why> {
    if cfg!(target_endian = "big") {
        return Err(Why::ByteOrder);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.lines().any(|line| line.contains(" - cgroup2 ")) {
        return Err(Why::NoCgroup);
    }
    let smallest = MapInfo {
        name: "dyad_probe".into(),
        kind: ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        ..MapInfo::default()
    };
    match sys::create_map(&smallest) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Err(Why::NotBuilt),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Why::NotPermitted),
        _ => {}
    }
    let refused = |error: Error| match error {
        Error::Refused { source, .. } | Error::Verifier { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Why::NotPermitted
        }
        Error::Verifier { program, log, source } => {
            Why::Refused { program, reason: format!("{source}; {log}") }
        }
        Error::Unavailable(why) => why,
        other => Why::Refused { program: "dyad".into(), reason: other.to_string() },
    };
    let object = Object::built_in().map_err(refused)?;
    let small =
        |info: &MapInfo| Ok((info.name.clone(), Map::create(&MapInfo { max_entries: 64, ..info.clone() })?));
    let maps = object.maps.iter().map(small).collect::<Result<_>>().map_err(refused)?;
    Programs::load(&object, &maps).map(drop).map_err(refused)
}

/// Whether packets between pods can be redirected, too. Without it they take the way through the node's stack.
pub fn redirect() -> Result<(), Why> {
    crate::attach::probe_links()
}
