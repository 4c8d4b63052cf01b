//! `/logs`: the files of pods' logs, for whoever reads a node.

use std::path::Path;
use std::sync::Arc;

use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};

use super::{Body, full, text};
use crate::worker::Shared;

/// Larger files are given from where their last so many bytes begin.
const FILE_BYTES: u64 = 16 << 20;

pub(super) async fn file(shared: &Arc<Shared>, below: &[&str], is_folder: bool) -> Response<Body> {
    let plain = |part: &&str| !part.is_empty() && !matches!(*part, "." | "..") && !part.contains(['/', '\0']);
    if !below.iter().all(plain) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let path = match below {
        [] => None,
        ["pods", rest @ ..] => {
            Some(rest.iter().fold(shared.config.root_dir.join("pods"), |path, part| path.join(part)))
        }
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let Some(path) = path else { return page(&["pods/".to_owned()]) };
    match tokio::task::spawn_blocking(move || look(&path)).await {
        Ok(Ok(Found::Folder(names))) if is_folder => page(&names),
        Ok(Ok(Found::Folder(_))) => {
            let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
            let last = below.last().copied().unwrap_or_default();
            if let Ok(value) = HeaderValue::from_str(&format!("{last}/")) {
                response.headers_mut().insert(LOCATION, value);
            }
            response
        }
        Ok(Ok(Found::File(bytes))) => full(StatusCode::OK, "text/plain; charset=utf-8", bytes),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

enum Found {
    Folder(Vec<String>),
    File(Vec<u8>),
}

fn look(path: &Path) -> std::io::Result<Found> {
    use std::io::{Read, Seek, SeekFrom};
    // What pods left there leads nowhere else.
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if kind.is_dir() {
        let mut names: Vec<String> =
            std::fs::read_dir(path)?.filter_map(Result::ok).map(|entry| name(&entry.path())).collect();
        names.sort();
        return Ok(Found::Folder(names));
    }
    if !kind.is_file() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FILE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(Found::File(bytes))
}

fn name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if path.is_dir() { name + "/" } else { name }
}

fn page(names: &[String]) -> Response<Body> {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let lines = names.iter().map(|name| format!("<a href=\"{0}\">{0}</a>\n", escape(name)));
    full(StatusCode::OK, "text/html; charset=utf-8", format!("<pre>\n{}</pre>\n", lines.collect::<String>()))
}
