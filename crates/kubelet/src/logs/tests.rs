use std::io::Write;

use super::*;

fn line(second: u32, stream: &str, tag: char, text: &str) -> String {
    format!("2026-01-02T03:04:{second:02}.000000000Z {stream} {tag} {text}\n")
}

fn read(path: &Path, options: Options) -> String {
    let mut reader = LogReader::open(path, options).unwrap();
    rest(&mut reader)
}

fn rest(reader: &mut LogReader) -> String {
    let mut text = Vec::new();
    loop {
        let part = reader.read().unwrap();
        if part.is_empty() {
            return String::from_utf8(text).unwrap();
        }
        text.extend(part);
    }
}

#[test]
fn j55_options_choose_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let text = [
        line(1, "stdout", 'F', "one"),
        line(2, "stderr", 'F', "two"),
        line(3, "stdout", 'P', "thr"),
        line(3, "stdout", 'F', "ee"),
        line(4, "stdout", 'F', ""),
    ];
    std::fs::write(&path, text.concat() + "2026-01-02T03:04:05.0Z stdout").unwrap();
    let all = Options::default();
    let since = Some("2026-01-02T03:04:03Z".parse().unwrap());
    #[rustfmt::skip]
    let cases = [
        ("all", all.clone(), "one\ntwo\nthree\n\n"),
        ("tail", Options { tail: Some(1), ..all.clone() }, "\n"),
        ("tail of none", Options { tail: Some(0), ..all.clone() }, ""),
        ("tail of more than there is", Options { tail: Some(9), ..all.clone() }, "one\ntwo\nthree\n\n"),
        ("since", Options { since, ..all.clone() }, "three\n\n"),
        ("limit", Options { limit: Some(6), ..all.clone() }, "one\ntw"),
        ("stream", Options { stream: Some("stderr"), ..all.clone() }, "two\n"),
        ("timestamps", Options { timestamps: true, since, ..all.clone() },
            "2026-01-02T03:04:03.000000000Z three\n2026-01-02T03:04:04.000000000Z \n"),
    ];
    for (name, options, want) in cases {
        assert_eq!(read(&path, options), want, "{name}");
    }
}

#[test]
fn a_log_that_is_put_aside_is_read_to_its_end_and_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    std::fs::write(aside(&path), line(1, "stdout", 'F', "oldest")).unwrap();
    std::fs::write(&path, line(2, "stdout", 'F', "older")).unwrap();
    let mut old = File::options().append(true).open(&path).unwrap();
    let mut reader = LogReader::open(&path, Options::default()).unwrap();
    assert_eq!(rest(&mut reader), "oldest\nolder\n");
    std::fs::rename(&path, aside(&path)).unwrap();
    old.write_all(line(3, "stdout", 'F', "late").as_bytes()).unwrap();
    std::fs::write(&path, line(4, "stdout", 'F', "new")).unwrap();
    assert_eq!(rest(&mut reader), "late\nnew\n");
    assert_eq!(read(&path, Options { tail: Some(2), ..Options::default() }), "late\nnew\n");
    assert_eq!(read(&path, Options { tail: Some(1), ..Options::default() }), "new\n");
    assert_eq!(rest(&mut reader), "");
}

#[test]
fn long_logs_have_last_lines_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.log");
    let lines = (0..30_000).map(|number| line(number % 60, "stdout", 'F', &format!("line {number}")));
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    let last = read(&path, Options { tail: Some(20_000), ..Options::default() });
    assert_eq!(last.lines().count(), 20_000);
    assert!(last.starts_with("line 10000\n") && last.ends_with("line 29999\n"));
}
