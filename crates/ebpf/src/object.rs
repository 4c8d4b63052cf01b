//! The built-in object: maps and programs as the compiler has left them.

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};

use crate::sys::MapInfo;
use crate::{Error, Result};

/// What `cargo xtask bpf --write` makes of `bpf/`.
static OBJECT: &[u8] = include_bytes!("../bpf/dyad.bpf.o");

/// `BPF_LD | BPF_IMM | BPF_DW`: the instruction of 16 bytes that loads the address of a map.
const LOAD_MAP: u8 = 0x18;
/// `BPF_PSEUDO_MAP_FD`, as the source register of that instruction.
const FROM_FD: u8 = 1 << 4;

/// A program that has not been loaded.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) name: String,
    pub(crate) section: String,
    instructions: Vec<u8>,
    /// Where in it which map is meant.
    relocations: Vec<(usize, String)>,
}

/// An object file.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) maps: Vec<MapInfo>,
    pub(crate) programs: Vec<Code>,
    pub(crate) licence: Vec<u8>,
}

impl Object {
    /// The one that is built in.
    pub(crate) fn built_in() -> Result<Self> {
        Self::parse(OBJECT)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let damaged = |error: object::Error| Error::Object(error.to_string());
        let wrong = |what: &str| Error::Object(what.into());
        let file = object::File::parse(bytes).map_err(damaged)?;
        let (mut maps, mut programs, mut licence) = (Vec::new(), Vec::new(), Vec::new());
        for section in file.sections() {
            let (name, data) = (section.name().map_err(damaged)?, section.data().map_err(damaged)?);
            if name == "license" {
                licence = data.to_vec();
                continue;
            }
            for symbol in file.symbols().filter(|symbol| {
                symbol.section_index() == Some(section.index()) && symbol.is_global() && symbol.size() > 0
            }) {
                let symbol_name = symbol.name().map_err(damaged)?.to_owned();
                let from = usize::try_from(symbol.address()).map_err(|_| wrong("address of a symbol"))?;
                let size = usize::try_from(symbol.size()).map_err(|_| wrong("size of a symbol"))?;
                let end = from.checked_add(size);
                let body = end.and_then(|end| data.get(from..end)).ok_or_else(|| wrong("end of a symbol"))?;
                if name == "maps" {
                    maps.push(map(symbol_name, body).ok_or_else(|| wrong("size of a map"))?);
                    continue;
                }
                let mut relocations = Vec::new();
                for (at, relocation) in section.relocations() {
                    let RelocationTarget::Symbol(index) = relocation.target() else {
                        return Err(wrong("target of a relocation"));
                    };
                    let target = file.symbol_by_index(index).map_err(damaged)?;
                    let at = usize::try_from(at).ok().and_then(|at| at.checked_sub(from));
                    relocations.extend(at.map(|at| (at, target.name().unwrap_or_default().to_owned())));
                }
                programs.push(Code {
                    name: symbol_name,
                    section: name.to_owned(),
                    instructions: body.to_vec(),
                    relocations,
                });
            }
        }
        if maps.is_empty() || programs.is_empty() || licence.last() != Some(&0) {
            return Err(wrong("maps, programs or licence are missing"));
        }
        Ok(Self { maps, programs, licence })
    }
}

fn map(name: String, definition: &[u8]) -> Option<MapInfo> {
    let (words, rest) = definition.as_chunks::<4>();
    let &[kind, key_size, value_size, max_entries, flags] =
        <&[[u8; 4]; 5]>::try_from(words).ok().filter(|_| rest.is_empty())?;
    let [kind, key_size, value_size, max_entries, flags] =
        [kind, key_size, value_size, max_entries, flags].map(u32::from_le_bytes);
    Some(MapInfo { id: 0, name, kind, key_size, value_size, max_entries, flags })
}

impl Code {
    /// The instructions with the descriptors of maps in them.
    pub(crate) fn linked(&self, fd_of: impl Fn(&str) -> Option<i32>) -> Result<Vec<u8>> {
        let mut instructions = self.instructions.clone();
        for (at, map) in &self.relocations {
            let wrong = || Error::Object(format!("{} refers to {map} in an unknown way", self.name));
            let fd = fd_of(map).ok_or_else(wrong)?;
            let load = instructions.get_mut(*at..*at + 8).filter(|load| load[0] == LOAD_MAP);
            let load = load.ok_or_else(wrong)?;
            load[1] = load[1] & 0x0f | FROM_FD;
            load[4..8].copy_from_slice(&fd.to_le_bytes());
        }
        Ok(instructions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_all_hooks_and_maps() {
        let object = Object::built_in().unwrap();
        let sections: Vec<_> = object.programs.iter().map(|program| program.section.as_str()).collect();
        for hook in crate::attach::HOOKS {
            assert!(sections.contains(&hook.section), "{}", hook.section);
        }
        assert_eq!(sections.len(), crate::attach::HOOKS.len());
        for map in &object.maps {
            assert!(map.name.len() < 16 && map.name.starts_with("dyad_"), "{map:?}");
        }
        assert_eq!(object.licence, b"Apache-2.0\0");
    }

    #[test]
    fn damaged_objects_are_refused() {
        for length in [0, 4, 64, 500, OBJECT.len() / 2, OBJECT.len() - 1] {
            assert!(Object::parse(&OBJECT[..length]).is_err(), "{length}");
        }
    }
}
