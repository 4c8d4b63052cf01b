use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use tar::{Builder, Header};

use super::*;

enum Made<'a> {
    Dir(&'a str),
    File(&'a str, &'a str),
    Symlink(&'a str, &'a str),
    Link(&'a str, &'a str),
    Device(&'a str),
}
use Made::{Device, Dir, File, Link, Symlink};

fn layer(entries: &[Made<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        let (name, content, link, kind, mode) = match entry {
            Dir(name) => (name, "", "", EntryType::Directory, 0o755),
            File(name, content) => (name, *content, "", EntryType::Regular, 0o4644),
            Symlink(name, to) => (name, "", *to, EntryType::Symlink, 0o777),
            Link(name, to) => (name, "", *to, EntryType::Link, 0o644),
            Device(name) => (name, "", "", EntryType::Char, 0o644),
        };
        // As a hostile builder would: past the checks of the library.
        let bytes = header.as_old_mut();
        bytes.name[..name.len()].copy_from_slice(name.as_bytes());
        bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn put(dir: &Path, entries: &[Made<'_>]) -> io::Result<Digest> {
    unpack(&layer(entries)[..], dir, &mut Limits::default())
}

/// Every path below a directory, with what files hold.
fn seen(dir: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let shown = path.strip_prefix(dir).unwrap().display().to_string();
            found.push(if kind.is_dir() {
                open.push(path);
                format!("{shown}/")
            } else if kind.is_file() {
                format!("{shown}={}", fs::read_to_string(path).unwrap())
            } else {
                format!("{shown}->{}", fs::read_link(path).unwrap_or_default().display())
            });
        }
    }
    found.sort();
    found
}

#[test]
fn layers_lie_on_each_other_as_the_image_specification_says() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let base = [
        Dir("./"),
        Dir("usr/"),
        Dir("usr/lib/"),
        File("usr/lib/a", "1"),
        File("usr/lib/b", "1"),
        Symlink("lib", "usr/lib"),
        Dir("gone/"),
        File("gone/x", ""),
        Dir("cleared/"),
        File("cleared/old", ""),
        Dir("turned/"),
        File("turned/x", ""),
    ];
    put(dir, &base).unwrap();
    let over = [
        File("lib/a", "2"),
        File(".wh.gone", ""),
        File("cleared/new", "n"),
        File("cleared/.wh..wh..opq", ""),
        File("usr/lib/.wh.b", ""),
        File("turned", "file"),
        Link("hard", "lib/a"),
        Device("console"),
    ];
    put(dir, &over).unwrap();
    let want = [
        "cleared/",
        "cleared/new=n",
        "hard=2",
        "lib->usr/lib",
        "turned=file",
        "usr/",
        "usr/lib/",
        "usr/lib/a=2",
    ];
    assert_eq!(seen(dir), want);
    let found = fs::metadata(dir.join("usr/lib/a")).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, found.mtime(), found.nlink()), (0o4644, 1_000_000, 2));
    assert_eq!(fs::metadata(dir.join("usr/lib")).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "mine").unwrap();
    let up = "../outside";
    let absolute = outside.to_str().unwrap().to_owned();
    let rows: [(&str, Vec<Made<'_>>); 8] = [
        ("dots", vec![File("../outside/evil", "")]),
        ("dots inside", vec![File("a/../../outside/evil", "")]),
        ("link up", vec![Symlink("l", up), File("l/evil", "")]),
        ("absolute link", vec![Symlink("l", &absolute), File("l/evil", "")]),
        ("whiteout through a link", vec![Symlink("l", &absolute), File("l/.wh.secret", "")]),
        ("opaque through a link", vec![Symlink("l", &absolute), File("l/.wh..wh..opq", "")]),
        ("hard link out", vec![Link("h", "../outside/secret"), File("h", "over")]),
        ("hard link through a link", vec![Symlink("l", &absolute), Link("h", "l/secret"), File("h", "over")]),
    ];
    for (what, entries) in rows {
        let dir = folder.path().join("in");
        fs::create_dir(&dir).unwrap();
        // Refused or done inside, either is fine.
        let _ = put(&dir, &entries);
        assert_eq!(seen(&outside), ["secret=mine"], "{what}");
        fs::remove_dir_all(&dir).unwrap();
    }
    // The file that a link stands for is not written through: the link is replaced.
    let dir = folder.path().join("in");
    fs::create_dir(&dir).unwrap();
    put(&dir, &[Symlink("l", "/etc/passwd"), File("l", "own")]).unwrap();
    assert_eq!(seen(&dir), ["l=own"]);
    put(&dir, &[File(".wh...", ""), File(".wh..", "")]).unwrap();
    assert_eq!(seen(&dir), ["l=own"], "whiteouts of `.` and `..` mean nothing");
    symlink(&outside, dir.join("d")).unwrap();
    put(&dir, &[Dir("d/"), File("d/x", "")]).unwrap();
    assert_eq!(seen(&outside), ["secret=mine"], "a directory takes a link's place");
}

#[test]
fn limits_hold() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = layer(&[File("a", "0123456789"), File("b", "")]);
    for (limits, want) in [
        (Limits { bytes: 100, entries: 10 }, "unpacks to more"),
        (Limits { bytes: 1 << 20, entries: 1 }, "more files"),
    ] {
        let problem = unpack(&bytes[..], folder.path(), &mut { limits }).unwrap_err().to_string();
        assert!(problem.contains(want), "{problem}");
    }
    let deep = "d/".repeat(45);
    assert!(put(folder.path(), &[Dir(&deep)]).is_ok());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(2 << 20);
    header.set_cksum();
    let mut long = header.as_bytes().to_vec();
    long.resize(512 + (2 << 20), b'x');
    assert!(unpack(&long[..], folder.path(), &mut Limits::default()).is_err());
}

#[test]
fn every_compression_unpacks_to_one_digest() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let plain = layer(&[File("a", "content")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
    for bytes in [plain.clone(), gzip.finish().unwrap(), zstd] {
        let digest = unpack(&bytes[..], folder.path(), &mut Limits::default()).unwrap();
        assert_eq!(digest, Digest::of(&plain));
        assert_eq!(seen(folder.path()), ["a=content"]);
    }
}

/// Layers whose bytes were changed at random do no harm: nothing outside changes, nothing panics.
#[test]
fn damaged_layers_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let good = layer(&[
        Dir("a/"),
        File("a/b", "content"),
        Symlink("l", "a"),
        Link("h", "a/b"),
        File("a/.wh..wh..opq", ""),
        File(".wh.l", ""),
    ]);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut refused, mut taken) = (0, 0);
    for round in 0..600 {
        let mut bytes = good.clone();
        let (mut header, mut changed) = (Header::new_old(), 0);
        for _ in 0..=next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
            changed = at / 512 * 512;
        }
        if round % 2 == 0 && changed + 512 <= bytes.len() {
            // With a checksum that fits, so that more than the checksum is looked at.
            header.as_mut_bytes().copy_from_slice(&bytes[changed..changed + 512]);
            header.set_cksum();
            bytes[changed..changed + 512].copy_from_slice(header.as_bytes());
        }
        let dir = folder.path().join("in");
        fs::create_dir(&dir).unwrap();
        let limits = &mut Limits { bytes: 1 << 20, entries: 100 };
        match unpack(&bytes[..], &dir, limits) {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
        crate::root::remove_tree(&dir).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    assert!(refused > 100 && taken > 50, "{refused} refused, {taken} taken");
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}
