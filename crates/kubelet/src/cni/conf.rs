//! Network configurations: which one of a directory holds, and what of it concerns a runtime.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// What configurations may be called; others in the directory are somebody's notes.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// The versions that plugins are spoken to in, oldest first. Those before 0.3.1 have results of another shape.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network: plugins in the order in which they work on a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List {
    /// Its name, which attachments are kept under.
    pub(crate) name: String,
    /// The version that all its plugins are spoken to in.
    pub(crate) version: String,
    /// Whether `CHECK` may be asked for.
    pub(crate) can_check: bool,
    /// The configuration of each plugin.
    pub(crate) plugins: Vec<Map<String, Value>>,
    /// The whole of it, as a list.
    pub(crate) document: Value,
}

impl List {
    /// Reads a list, or the configuration of one plugin, which is a list of it.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: Value = serde_json::from_slice(text).map_err(|error| format!("not JSON: {error}"))?;
        Self::of(document)
    }

    fn of(document: Value) -> Result<Self, String> {
        let root = document.as_object().ok_or("not a JSON object")?;
        let text = |key: &str| root.get(key).and_then(Value::as_str);
        let name = text("name").filter(|name| !name.is_empty()).ok_or("no name")?.to_owned();
        // It becomes part of a file's name.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            return Err(format!("name: {name:?} has other characters than letters, digits, _ . and -"));
        }
        if root.contains_key("type") && !root.contains_key("plugins") {
            let mut list = Map::new();
            list.insert("name".into(), name.into());
            list.extend(root.get("cniVersion").map(|version| ("cniVersion".to_owned(), version.clone())));
            list.insert("plugins".into(), vec![document.clone()].into());
            return Self::of(list.into());
        }
        let plugins = root.get("plugins").and_then(Value::as_array).ok_or("no plugins")?;
        let plugins = plugins.iter().enumerate().map(|(index, plugin)| {
            let plugin = plugin.as_object().ok_or_else(|| format!("plugins[{index}]: not an object"))?;
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || kind.contains('/') {
                return Err(format!("plugins[{index}].type: {kind:?} is not the name of a plugin"));
            }
            Ok(plugin.clone())
        });
        let plugins = plugins.collect::<Result<Vec<_>, String>>()?;
        if plugins.is_empty() {
            return Err("plugins: there are none".into());
        }
        // A flag, or the word for it, as libcni takes it.
        let disabled = root.get("disableCheck").is_some_and(|value| {
            value
                .as_bool()
                .unwrap_or_else(|| value.as_str().is_some_and(|word| word.eq_ignore_ascii_case("true")))
        });
        let version = version_of(root)?;
        Ok(Self { can_check: !disabled && *version >= *"0.4.0", name, version, plugins, document })
    }

    /// What results of before are handed to `DEL` and `CHECK` for (CNI specification, version 0.4.0).
    pub(crate) fn hands_results_on(&self) -> bool {
        *self.version >= *"0.4.0"
    }

    /// Whether its plugins can be asked how they are (version 1.1.0).
    pub(crate) fn has_status(&self) -> bool {
        *self.version >= *"1.1.0"
    }
}

/// The newest version that the configuration and this runtime have in common.
fn version_of(root: &Map<String, Value>) -> Result<String, String> {
    let one = root.get("cniVersion").and_then(Value::as_str);
    let more =
        root.get("cniVersions").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let wanted: Vec<&str> = one.into_iter().chain(more).collect();
    let found = VERSIONS.iter().rev().find(|version| wanted.contains(version));
    found
        .map(|version| (*version).to_owned())
        .ok_or_else(|| format!("cniVersion: {:?} is none of {}", wanted.join(", "), VERSIONS.join(", ")))
}

/// The network that a directory configures: that of the first file by name. Nothing without a file; an error if that
/// one cannot be used, as for other runtimes.
pub(crate) fn load(dir: &Path) -> Result<Option<List>, String> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| format!("{}: {error}", dir.display()))?,
    };
    let is_configuration = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && path.is_file()
    };
    let first = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_configuration).min();
    let Some(path) = first else { return Ok(None) };
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    List::parse(&text).map(Some).map_err(|problem| format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn configurations_of_one_plugin_are_lists_too() {
        let one = br#"{"cniVersion":"0.3.1","name":"net","type":"ptp","mtu":1400}"#;
        let list = List::parse(one).unwrap();
        assert_eq!((list.name.as_str(), list.version.as_str(), list.can_check), ("net", "0.3.1", false));
        assert_eq!(list.plugins[0]["mtu"], 1400);
        // What is kept of it is read again.
        assert_eq!(List::parse(list.document.to_string().as_bytes()), Ok(list));
    }

    #[test]
    fn versions_and_checks_are_agreed_on() {
        for (text, want) in [
            (r#""cniVersion":"1.0.0""#, Ok(("1.0.0", true))),
            (r#""cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0"]"#, Ok(("1.1.0", true))),
            (r#""cniVersion":"0.4.0","disableCheck":true"#, Ok(("0.4.0", false))),
            (r#""cniVersion":"0.4.0","disableCheck":"True""#, Ok(("0.4.0", false))),
            (r#""cniVersion":"2.0.0""#, Err("cniVersion: \"2.0.0\" is none of")),
            (r#""x":1"#, Err("cniVersion: \"\" is none of")),
        ] {
            let found =
                List::parse(format!(r#"{{"name":"n","plugins":[{{"type":"a"}}],{text}}}"#).as_bytes());
            match (found, want) {
                (Ok(list), Ok(want)) => assert_eq!((list.version.as_str(), list.can_check), want, "{text}"),
                (Err(said), Err(want)) => assert!(said.starts_with(want), "{text}: {said}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, want) in [
            (json!([]), "not a JSON object"),
            (json!({}), "no name"),
            (json!({"name": "a/b", "plugins": []}), "name: \"a/b\""),
            (json!({"name": "a"}), "no plugins"),
            (json!({"name": "a", "plugins": []}), "plugins: there are none"),
            (json!({"name": "a", "plugins": [1]}), "plugins[0]: not an object"),
            (json!({"name": "a", "plugins": [{"type": "../x"}]}), "plugins[0].type: \"../x\""),
        ] {
            let said = List::parse(value.to_string().as_bytes()).unwrap_err();
            assert!(said.starts_with(want), "{value}: {said}");
        }
    }

    #[test]
    fn the_first_file_by_name_counts_and_a_broken_one_hides_the_next() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(&dir.path().join("nowhere")), Ok(None));
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("00-readme.txt", "no configuration");
        assert_eq!(load(dir.path()), Ok(None));
        write("20-b.conflist", r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"x"}]}"#);
        write("10-a.conf", r#"{"cniVersion":"1.0.0","name":"a","type":"x"}"#);
        assert_eq!(load(dir.path()).unwrap().unwrap().name, "a");
        write("10-a.conf", "{");
        assert!(load(dir.path()).unwrap_err().contains("10-a.conf: not JSON"));
    }

    /// Seeded, so that what it finds it finds again.
    #[test]
    fn no_bytes_make_it_panic() {
        let whole = br#"{"cniVersion":"1.0.0","name":"b","disableCheck":"x","plugins":[{"type":"x","capabilities":{"portMappings":true}}]}"#;
        let mut seed = 0x9e37_79b9_u64;
        let mut next = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..2000 {
            let mut text = whole.to_vec();
            for _ in 0..=next(3) {
                let at = next(text.len());
                match next(3) {
                    0 => text.truncate(at.max(1)),
                    1 => text[at] = u8::try_from(next(256)).unwrap(),
                    _ => text.insert(at, br#"[]{},":0"#[next(8)]),
                }
            }
            let _ = List::parse(&text);
        }
    }
}
