//! Links of what is behind a proxy, led through it: in `Location` headers and in pages.

use std::net::SocketAddr;

/// Attributes of tags that hold links.
const LINKS: [(&str, &[&str]); 29] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
    ("menuitem", &["icon"]),
    ("portal", &["src"]),
    ("image", &["href"]),
];

/// Where links may lead to be led through here.
pub(super) struct Places<'a> {
    /// The path of the proxy.
    pub(super) base: &'a str,
    /// The addresses of what is behind it.
    pub(super) at: &'a [SocketAddr],
    /// The host that the client asked.
    pub(super) asked: &'a str,
}

impl Places<'_> {
    /// A link as it is seen from outside: absolute paths on the same host go below the proxy.
    pub(super) fn led(&self, link: &str) -> String {
        let (host, path) = match link.split_once("://") {
            Some((scheme, rest)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
                rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
                None => ("", link),
            },
        };
        let asked = !host.is_empty() && host == self.asked;
        // Any of its addresses, in whatever spelling: it may have been reached at its second one.
        let behind = || host.parse().is_ok_and(|at| self.at.contains(&at));
        if !(host.is_empty() || asked || behind()) || !path.starts_with('/') {
            return link.to_owned();
        }
        let front = if asked { &link[..link.len() - path.len()] } else { "" };
        if path.starts_with(self.base) {
            return format!("{front}{path}");
        }
        let (path, rest) = path.split_at(path.find(['?', '#']).unwrap_or(path.len()));
        format!("{front}{}{rest}", join(self.base, path))
    }
}

/// Two paths as one, without doubled slashes and steps back; a slash at the end stays.
pub(super) fn join(base: &str, path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') { "/" } else { "" };
    format!("/{}{end}", parts.join("/"))
}

/// A page whose links are led through the proxy. Whatever is not a tag with links stays as it is.
pub(super) fn rewrite(page: &[u8], places: &Places<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 8);
    let mut rest = page;
    while let Some(start) = rest.iter().position(|&byte| byte == b'<') {
        out.extend_from_slice(&rest[..start]);
        rest = &rest[start..];
        if rest.starts_with(b"<!--") {
            let end = find(rest, b"-->").map_or(rest.len(), |at| at + 3);
            out.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let length = tag(rest, places, &mut out);
        rest = &rest[length..];
    }
    out.extend_from_slice(rest);
    out
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// Copies one tag with its links changed; how long it was.
fn tag(text: &[u8], places: &Places<'_>, out: &mut Vec<u8>) -> usize {
    let name_end =
        text[1..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(text.len(), |at| at + 1);
    let name = String::from_utf8_lossy(&text[1..name_end]).to_ascii_lowercase();
    let links = LINKS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, links)| links);
    out.extend_from_slice(&text[..name_end]);
    let mut at = name_end;
    while let Some(&byte) = text.get(at) {
        if byte == b'>' {
            out.push(byte);
            return at + 1;
        }
        if !byte.is_ascii_alphabetic() {
            out.push(byte);
            at += 1;
            continue;
        }
        let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_:".contains(byte);
        let end = at + text[at..].iter().take_while(|byte| is_name(byte)).count();
        let attribute = String::from_utf8_lossy(&text[at..end]).to_ascii_lowercase();
        out.extend_from_slice(&text[at..end]);
        at = end;
        let blanks = |from: usize| text[from..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let equals = at + blanks(at);
        if text.get(equals) != Some(&b'=') {
            continue;
        }
        let value = equals + 1 + blanks(equals + 1);
        out.extend_from_slice(&text[at..value]);
        let quote = text.get(value).copied().filter(|quote| matches!(quote, b'"' | b'\''));
        let (start, stop) = match quote {
            Some(quote) => {
                let length = text[value + 1..].iter().position(|&byte| byte == quote);
                (value + 1, length.map_or(text.len(), |length| value + 1 + length))
            }
            None => {
                let ends = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>';
                (value, text[value..].iter().position(ends).map_or(text.len(), |length| value + length))
            }
        };
        out.extend(quote);
        match std::str::from_utf8(&text[start..stop]) {
            Ok(link) if links.contains(&attribute.as_str()) => {
                out.extend_from_slice(places.led(link).as_bytes())
            }
            _ => out.extend_from_slice(&text[start..stop]),
        }
        at = stop;
        if quote.is_some() && at < text.len() {
            out.extend(quote);
            at += 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind() -> [SocketAddr; 2] {
        ["10.0.0.1:80", "[fd00::1]:80"].map(|at| at.parse().unwrap())
    }

    #[test]
    fn links_to_the_same_host_are_led_through() {
        let behind = behind();
        let places = Places { base: "/api/p/proxy", at: &behind, asked: "localhost:8001" };
        for (link, want) in [
            ("/x", "/api/p/proxy/x"),
            ("/x/?a=/b#/c", "/api/p/proxy/x/?a=/b#/c"),
            ("/api/p/proxy/x", "/api/p/proxy/x"),
            ("x", "x"),
            ("../x", "../x"),
            ("http://10.0.0.1:80/x/", "/api/p/proxy/x/"),
            ("http://[fd00::1]:80/x/", "/api/p/proxy/x/"),
            ("http://[fd00:0::1]:80/x/", "/api/p/proxy/x/"),
            ("//[fd00::1]:80?x", "//[fd00::1]:80?x"),
            ("http://[fd00::1]:81/x/", "http://[fd00::1]:81/x/"),
            ("http://[fd00::2]:80/x/", "http://[fd00::2]:80/x/"),
            ("http://[fd00::1/x/", "http://[fd00::1/x/"),
            ("http://localhost:8001/x", "http://localhost:8001/api/p/proxy/x"),
            ("https://elsewhere/x", "https://elsewhere/x"),
            ("//elsewhere/x", "//elsewhere/x"),
            ("mailto:a@b", "mailto:a@b"),
            ("#top", "#top"),
        ] {
            assert_eq!(places.led(link), want, "{link}");
        }
    }

    #[test]
    fn pages_keep_everything_else() {
        let behind = behind();
        let places = Places { base: "/api/p/proxy", at: &behind, asked: "" };
        for (page, want) in [
            ("<A HREF=\"/x\" class=\"/y\">/z</A>", "<A HREF=\"/api/p/proxy/x\" class=\"/y\">/z</A>"),
            ("<img src='/a' alt=b><p title=/c>", "<img src='/api/p/proxy/a' alt=b><p title=/c>"),
            ("<script src=/s.js></script>a < b", "<script src=/api/p/proxy/s.js></script>a < b"),
            ("<!-- <a href=\"/x\"> --><a>", "<!-- <a href=\"/x\"> --><a>"),
            ("<a href = \"/x\"", "<a href = \"/api/p/proxy/x\""),
            ("<a href=\"/x", "<a href=\"/api/p/proxy/x"),
            ("<", "<"),
            ("<a href", "<a href"),
        ] {
            let found = rewrite(page.as_bytes(), &places);
            assert_eq!(String::from_utf8(found).unwrap(), want);
        }
    }

    #[test]
    fn any_bytes_are_a_page() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let mut random = StdRng::seed_from_u64(5);
        let pieces = ["<", ">", "a", " href", "=", "\"", "'", "/", "<!--", "-->", "\u{e4}", "<img src", "\n"];
        for _ in 0..3000 {
            let length = random.random_range(0..30);
            let page: String = (0..length).map(|_| pieces[random.random_range(0..pieces.len())]).collect();
            let none = Places { base: "", at: &[], asked: "" };
            // With nothing to change in a link, nothing of a page changes but slashes in links.
            let same = rewrite(page.as_bytes(), &none);
            assert!(same.len() <= page.len() + 1, "{page:?}");
            rewrite(page.as_bytes(), &Places { base: "/api/p/proxy", at: &behind(), asked: "" });
        }
    }
}
