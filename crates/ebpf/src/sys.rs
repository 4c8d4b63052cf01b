//! bpf(2), in the kernel's own terms. All that is unsafe about this crate is here.
#![allow(unsafe_code, reason = "rustix has no bpf(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_NEXT_ID: libc::c_int = 11;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const MAP_GET_FD_BY_ID: libc::c_int = 14;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const MAP_UPDATE_BATCH: libc::c_int = 26;

/// `BPF_MAP_TYPE_PERCPU_ARRAY`.
pub(crate) const PERCPU_ARRAY: u32 = 6;
/// `BPF_F_ALLOW_MULTI`: beside programs of others.
pub(crate) const ALLOW_MULTI: u32 = 2;
/// `BPF_F_REPLACE`: in place of one that is there, without a moment between.
pub(crate) const REPLACE: u32 = 4;
/// Programs of one hook that are looked at.
const MAX_PROGRAMS: usize = 64;
/// Maps of one program that are looked at.
const MAX_MAPS: usize = 64;
/// Longest name, with its NUL.
const NAME: usize = 16;

/// Issues a command whose attributes are `attributes`, plain data of the layout of `union bpf_attr`.
///
/// # Safety
///
/// Every pointer among the attributes must be valid for what the command reads and writes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as large as is said; what they point to is the caller's promise.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>() as libc::c_uint)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Likewise, for commands that give a descriptor.
///
/// # Safety
///
/// As for [`bpf`].
unsafe fn bpf_fd<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attributes)? };
    let fd = libc::c_int::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn name_bytes(name: &str) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    bytes.iter_mut().zip(name.bytes().take(NAME - 1)).for_each(|(to, from)| *to = from);
    bytes
}

fn name_text(bytes: [u8; NAME]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What a map is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MapInfo {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
}

pub(crate) fn create_map(info: &MapInfo) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        shape: [u32; 7],
        name: [u8; NAME],
    }
    let shape = [info.kind, info.key_size, info.value_size, info.max_entries, info.flags, 0, 0];
    let mut attributes = Attributes { shape, name: name_bytes(&info.name) };
    // SAFETY: no pointers.
    unsafe { bpf_fd(MAP_CREATE, &mut attributes) }
}

#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: BorrowedFd<'_>, key: &[u8], value: u64) -> Self {
        Self { map: map.as_raw_fd() as u32, zero: 0, key: key.as_ptr() as u64, value, flags: 0 }
    }
}

/// Whether the key is there; `value` is its value then. The caller gives lengths that fit the map.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attributes = Element::new(map, key, value.as_mut_ptr() as u64);
    // SAFETY: `Map` has checked that key and value are as long as the kernel's.
    match unsafe { bpf(MAP_LOOKUP_ELEM, &mut attributes) } {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|_| true),
    }
}

pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attributes = Element::new(map, key, value.as_ptr() as u64);
    // SAFETY: as above; the kernel only reads.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut attributes) }.map(drop)
}

/// Whether the key was there.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attributes = Element::new(map, key, 0);
    // SAFETY: as above.
    match unsafe { bpf(MAP_DELETE_ELEM, &mut attributes) } {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|_| true),
    }
}

#[repr(C)]
struct Batch {
    from: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Sets `count` elements, whose keys and values stand one after the other.
pub(crate) fn update_batch(map: BorrowedFd<'_>, keys: &[u8], values: &[u8], count: u32) -> io::Result<()> {
    let mut attributes = Batch {
        from: 0,
        next: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: `Map` has checked that there are `count` keys and values of the map's sizes; the kernel only reads.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attributes) }.map(drop)
}

/// Reads up to `count` elements from `cursor` on, which is advanced; how many, and whether these were the last.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<u64>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    let (from, mut next) = (*cursor, 0_u64);
    let mut attributes = Batch {
        from: from.as_ref().map_or(0, |from| std::ptr::from_ref(from) as u64),
        next: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: as above, for writing; the cursor of a hash map is 32 bits, less than what it is given.
    let result = unsafe { bpf(MAP_LOOKUP_BATCH, &mut attributes) };
    *cursor = Some(next);
    match result {
        Ok(_) => Ok((attributes.count, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((attributes.count, true)),
        Err(error) => {
            *cursor = from;
            Err(error)
        }
    }
}

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) name: &'a str,
    /// `BPF_PROG_TYPE_*`.
    pub(crate) kind: u32,
    /// `BPF_*` attach type.
    pub(crate) attach: u32,
    pub(crate) instructions: &'a [u8],
    /// With its NUL.
    pub(crate) licence: &'a [u8],
}

/// Loads a program; with `log`, the verifier tells there what it thinks.
pub(crate) fn load(what: Load<'_>, log: Option<&mut [u8]>) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; NAME],
        link: u32,
        attach: u32,
    }
    let is_terminated = what.licence.last() == Some(&0);
    let (Ok(count), true) = (u32::try_from(what.instructions.len() / 8), is_terminated) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (log_size, log) =
        log.map_or((0, 0), |log| (u32::try_from(log.len()).unwrap_or(0), log.as_mut_ptr() as u64));
    let mut attributes = Attributes {
        kind: what.kind,
        count,
        instructions: what.instructions.as_ptr() as u64,
        licence: what.licence.as_ptr() as u64,
        log_level: u32::from(log_size > 0),
        log_size,
        log,
        kernel: 0,
        flags: 0,
        name: name_bytes(what.name),
        link: 0,
        attach: what.attach,
    };
    // SAFETY: instructions, licence and log are as long as is said, and outlive the call.
    unsafe { bpf_fd(PROG_LOAD, &mut attributes) }
}

#[repr(C)]
struct Attachment {
    target: u32,
    program: u32,
    attach: u32,
    flags: u32,
    replaced: u32,
}

/// Attaches to a cgroup (its descriptor) or a link (its index), in place of `replaced` if that is given.
pub(crate) fn attach(
    target: u32,
    program: BorrowedFd<'_>,
    attach: u32,
    flags: u32,
    replaced: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut attributes = Attachment {
        target,
        program: program.as_raw_fd() as u32,
        attach,
        flags: flags | replaced.map_or(0, |_| REPLACE),
        replaced: replaced.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: no pointers.
    unsafe { bpf(PROG_ATTACH, &mut attributes) }.map(drop)
}

/// Detaches what [`attach`] has attached.
pub(crate) fn detach(target: u32, program: BorrowedFd<'_>, attach: u32) -> io::Result<()> {
    let mut attributes =
        Attachment { target, program: program.as_raw_fd() as u32, attach, flags: 0, replaced: 0 };
    // SAFETY: no pointers.
    unsafe { bpf(PROG_DETACH, &mut attributes) }.map(drop)
}

/// The identifiers of the programs attached to a cgroup or a link.
pub(crate) fn attached(target: u32, attach: u32) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attributes {
        target: u32,
        attach: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        zero: u32,
        // What newer kernels may write behind it.
        rest: [u64; 4],
    }
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut attributes = Attributes {
        target,
        attach,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS as u32,
        zero: 0,
        rest: [0; 4],
    };
    // SAFETY: there is room for as many identifiers as is said; the other pointers are null.
    unsafe { bpf(PROG_QUERY, &mut attributes) }?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

fn by_id(command: libc::c_int, id: u32) -> io::Result<OwnedFd> {
    let mut attributes = [id, 0, 0];
    // SAFETY: no pointers.
    unsafe { bpf_fd(command, &mut attributes) }
}

/// The identifiers of all programs in the kernel.
pub(crate) fn programs() -> io::Result<Vec<u32>> {
    let (mut attributes, mut found) = ([0_u32; 3], Vec::new());
    loop {
        // SAFETY: no pointers.
        match unsafe { bpf(PROG_GET_NEXT_ID, &mut attributes) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            result => drop(result?),
        }
        // The first word is where to begin, the second the next one there.
        attributes[0] = attributes[1];
        found.push(attributes[0]);
    }
}

pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(PROG_GET_FD_BY_ID, id)
}

pub(crate) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    by_id(MAP_GET_FD_BY_ID, id)
}

/// Asks about what a descriptor stands for. `T` is the beginning of the kernel's structure.
///
/// # Safety
///
/// Pointers in `info` must be valid for what the kernel writes there.
unsafe fn info<T>(of: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut attributes = Attributes {
        fd: of.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the structure is as long as is said; what it points to is the caller's promise.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attributes) }.map(drop)
}

pub(crate) fn map_info(map: &impl AsFd) -> io::Result<MapInfo> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        name: [u8; NAME],
    }
    let mut found = Info::default();
    // SAFETY: no pointers.
    unsafe { info(map.as_fd(), &mut found) }?;
    Ok(MapInfo {
        id: found.id,
        name: name_text(found.name),
        kind: found.kind,
        key_size: found.key_size,
        value_size: found.value_size,
        max_entries: found.max_entries,
        flags: found.flags,
    })
}

/// What a program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramInfo {
    pub(crate) name: String,
    /// The kernel's digest of its instructions; it is the same whatever maps they use.
    pub(crate) tag: [u8; 8],
    /// The maps it uses, sorted.
    pub(crate) maps: Vec<u32>,
}

pub(crate) fn program_info(program: &impl AsFd) -> io::Result<ProgramInfo> {
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by: u32,
        map_count: u32,
        map_ids: u64,
        name: [u8; NAME],
    }
    let mut maps = vec![0_u32; MAX_MAPS];
    let mut found = Info { map_count: MAX_MAPS as u32, map_ids: maps.as_mut_ptr() as u64, ..Info::default() };
    // SAFETY: there is room for as many identifiers as is said; lengths of zero mean no instructions.
    unsafe { info(program.as_fd(), &mut found) }?;
    maps.truncate(found.map_count as usize);
    maps.sort_unstable();
    Ok(ProgramInfo { name: name_text(found.name), tag: found.tag, maps })
}

/// Lets the process lock memory: kernels before 5.11 count maps as such.
pub(crate) fn lift_memory_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Where it fails, what needs it fails with words of its own.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}
