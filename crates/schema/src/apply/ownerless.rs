//! Objects that are to have no owners: a client says so with an empty list of them, or with one that is nobody.
//!
//! An empty list is not part of the canonical form of an object, so it is looked for in what the client sent.

use serde_json::{Map, Value};

/// Whether an object asks for it.
pub(super) fn is_asked_for(object: &Value) -> bool {
    let owners = object["metadata"]["managedFields"].as_array();
    owners.is_some_and(|list| match list.as_slice() {
        [] => true,
        [one] => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    })
}

/// Keeps an empty list of owners in the canonical form of an object.
pub(crate) fn keep(sent: &Value, canonical: &mut Value) {
    let owners = &sent["metadata"]["managedFields"];
    if let (Some([]), Some(meta)) =
        (owners.as_array().map(Vec::as_slice), canonical["metadata"].as_object_mut())
    {
        meta.insert("managedFields".to_owned(), owners.clone());
    }
}

/// The same for a body that was read as it came.
pub fn keep_from_body(body: &[u8], canonical: &mut Value) {
    // Few clients name owners at all, so that the body is rarely read again.
    if std::str::from_utf8(body).is_ok_and(|text| text.contains("\"managedFields\""))
        && let Ok(sent) = serde_json::from_slice(body)
    {
        keep(&sent, canonical);
    }
}
