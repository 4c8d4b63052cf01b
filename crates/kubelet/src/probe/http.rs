//! The question of `httpGet` probes.

use http::Uri;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::site::{Site, spoken};

/// Most bytes of an answer that are read; its head is what counts.
const ANSWER_BYTES: u64 = 4096;
/// Most redirects that are followed.
const REDIRECTS: usize = 10;

/// What is asked for, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    is_https: bool,
    at: Site,
    path: String,
}

impl Place {
    fn url(&self) -> String {
        format!("{}://{}{}", if self.is_https { "https" } else { "http" }, self.at, self.path)
    }

    /// Where a `Location` leads (RFC 9110, 10.2.2), if that is on the same host, in whatever spelling.
    fn follow(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if !location.contains("://") && !location.starts_with("//") {
            let base = self.path.split('?').next().unwrap_or_default();
            let path = match location.as_bytes().first() {
                Some(b'/') => location.to_owned(),
                Some(b'?') | None => format!("{base}{location}"),
                Some(_) => format!("{}/{location}", base.rsplit_once('/').map_or("", |(dir, _)| dir)),
            };
            return Some(Self { path, ..self.clone() });
        }
        let scheme = if self.is_https { "https" } else { "http" };
        let absolute =
            if location.starts_with("//") { format!("{scheme}:{location}") } else { location.to_owned() };
        let uri: Uri = absolute.parse().ok()?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        self.at.is_called(uri.host()?).then(|| Self { is_https, at: self.at.with_port(port), path })
    }
}

/// Asks somebody. Redirects on the same host are followed; one that leads elsewhere is an answer.
pub(super) async fn get(get: &HTTPGetAction, at: Site) -> Result<(), String> {
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let is_https = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let mut place = Place { is_https, at, path: format!("{slash}{path}") };
    for _ in 0..=REDIRECTS {
        let failed = |problem: String| format!("Get {:?}: {problem}", place.url());
        let answer = fetch(get, &place).await.map_err(failed)?;
        let (code, location) = head(&answer).ok_or_else(|| failed("the answer is not HTTP".into()))?;
        let next = match code {
            301 | 302 | 303 | 307 | 308 => location.and_then(|location| place.follow(&location)),
            200..=399 => None,
            _ => return Err(format!("HTTP probe failed with statuscode: {code}")),
        };
        match next {
            Some(next) => place = next,
            None => return Ok(()),
        }
    }
    Err(format!("Get {:?}: stopped after {REDIRECTS} redirects", place.url()))
}

async fn fetch(get: &HTTPGetAction, place: &Place) -> Result<Vec<u8>, String> {
    let stream = place.at.connect().await?;
    let answer = async {
        stream.set_nodelay(true)?;
        let request = request(get, place);
        if place.is_https {
            let name = place.at.server_name()?;
            exchange(super::tls::connector()?.connect(name, stream).await?, &request).await
        } else {
            exchange(stream, &request).await
        }
    };
    answer.await.map_err(|error: std::io::Error| spoken(&error))
}

/// Sends a request and reads the beginning of the answer.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut stream = stream.take(ANSWER_BYTES);
    match stream.read_to_end(&mut answer).await {
        // The head is what counts; how the connection ends is not.
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

/// The request's text; the probe's own headers replace ours.
fn request(get: &HTTPGetAction, place: &Place) -> String {
    let mut text = format!("GET {} HTTP/1.1\r\n", place.path);
    let own = get.http_headers.as_deref().unwrap_or_default();
    let defaults = [
        ("Host", place.at.to_string()),
        ("User-Agent", "kube-probe/1.36".to_owned()),
        ("Accept", "*/*".to_owned()),
    ];
    for (name, value) in &defaults {
        if !own.iter().any(|header| header.name.eq_ignore_ascii_case(name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in own {
        text.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    text.push_str("Connection: close\r\n\r\n");
    text
}

/// Status and `Location` of an answer.
fn head(answer: &[u8]) -> Option<(u16, Option<String>)> {
    let text = String::from_utf8_lossy(answer);
    let mut lines = text.split("\r\n");
    let code = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let mut fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let location = fields.find(|(name, _)| name.eq_ignore_ascii_case("location"));
    Some((code, location.map(|(_, value)| value.trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_on_the_same_host_in_either_family() {
        #[rustfmt::skip]
        let rows = [
            // asked for,   location,                       leads to
            ("fd00::5",     "/there?x#y",                   Some("http://[fd00::5]:8080/there?x")),
            ("fd00::5",     "there",                        Some("http://[fd00::5]:8080/a/there")),
            ("fd00::5",     "?x",                           Some("http://[fd00::5]:8080/a/b?x")),
            ("fd00::5",     "http://[fd00:0:0::5]:8081",    Some("http://[fd00::5]:8081/")),
            ("fd00::5",     "https://[fd00::5]/s",          Some("https://[fd00::5]:443/s")),
            ("fd00::5",     "//[fd00::5]/s",                Some("http://[fd00::5]:80/s")),
            ("fd00::5",     "http://[fd00::6]:8080/",       None),
            ("10.0.0.5",    "http://[fd00::5]:8080/",       None),
            ("10.0.0.5",    "http://10.0.0.5/x",            Some("http://10.0.0.5:80/x")),
            ("web.x",       "http://WEB.x:81/x",            Some("http://web.x:81/x")),
            ("web.x",       "http://10.0.0.5/",             None),
            ("10.0.0.5",    "http://web.x/",                None),
            ("10.0.0.5",    "ftp://10.0.0.5/",              None),
            ("10.0.0.5",    "http://[nonsense/",            None),
        ];
        for (host, location, want) in rows {
            let at = Site::new(host, 8080, Vec::new());
            let place = Place { is_https: false, at, path: "/a/b?c".into() };
            let got = place.follow(location).map(|place| place.url());
            assert_eq!(got.as_deref(), want, "{host} {location}");
        }
    }

    /// Whatever a pod answers, nobody but the pod is asked next.
    #[test]
    fn nonsense_leads_nowhere_else() {
        let at = Site::new("::1", 80, vec![std::net::Ipv6Addr::LOCALHOST.into()]);
        let place = Place { is_https: false, at, path: "/".into() };
        let pieces = [
            "http", "s", ":", "//", "/", "[", "::1", "]", "10.0.0.1", "?", "#", "..", "\r\n", "\u{e4}", " ",
            "80",
        ];
        let mut dice = crate::probe::tests::dice();
        for _ in 0..5000 {
            let known = !dice().is_multiple_of(8);
            let mut answer = if known { b"HTTP/1.1 302 X\r\nLocation: ".to_vec() } else { Vec::new() };
            for _ in 0..dice() % 12 {
                answer.extend(pieces[dice() % pieces.len()].as_bytes());
            }
            if let Some((_, Some(location))) = head(&answer)
                && let Some(next) = place.follow(&location)
            {
                assert_eq!(next.at.with_port(80), place.at, "{location:?}");
            }
        }
    }
}
