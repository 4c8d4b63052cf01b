//! Kernel switches under `/proc/sys`, of the calling thread's network namespace.
//!
//! Call these inside [`netns::within`](crate::netns::within) to reach another namespace.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::{Error, Result};

/// Where they are, if not in `/proc/sys`, which containers see read-only: another mount of it, of which `net` is enough.
const ROOT: &str = "DYAD_SYSCTLS";

fn path(key: &str) -> PathBuf {
    static OF_NETWORK: OnceLock<PathBuf> = OnceLock::new();
    let of_network =
        OF_NETWORK.get_or_init(|| std::env::var_os(ROOT).unwrap_or_else(|| "/proc/sys".into()).into());
    if key.starts_with("net/") { of_network.join(key) } else { PathBuf::from("/proc/sys").join(key) }
}

/// The value of `key`, written as a path: `net/ipv4/ip_forward`.
pub fn read(key: &str) -> Result<String> {
    let value = fs::read_to_string(path(key)).map_err(Error::io(format!("reading sysctl {key}")))?;
    Ok(value.trim_end().to_owned())
}

/// Sets `key` to `value`; leaves it alone if it has that value, so that a read-only `/proc` is no error then.
pub fn write(key: &str, value: &str) -> Result<()> {
    if read(key).is_ok_and(|now| now == value) {
        return Ok(());
    }
    fs::write(path(key), value).map_err(Error::io(format!("setting sysctl {key} to {value}")))
}

/// What a node needs to route for its pods: forwarding in both families, and no strict reverse path check, which
/// would drop service traffic that comes back another way. Loose (2) still refuses sources without any route.
pub const FORWARDING: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "2"),
];

/// Sets [`FORWARDING`].
pub fn forward() -> Result<()> {
    FORWARDING.iter().try_for_each(|(key, value)| write(key, value))
}

/// The keys called `name` in the directories of `dir`: `forwarding` in `net/ipv4/conf`, of every link.
pub fn of_each(dir: &str, name: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(path(dir)).map_err(Error::io(format!("listing sysctls of {dir}")))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.map(|link| format!("{dir}/{link}/{name}")).collect())
}
