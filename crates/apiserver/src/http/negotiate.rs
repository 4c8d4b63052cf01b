//! What the client wants to read: `Accept` headers with their parameters (J2, J10, J13, J14).

use crate::status::ApiError;

/// Content types of answers.
const WRITABLE: [&str; 2] = ["application/json", "application/yaml"];

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// What of an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object as it is.
    Whole,
    /// A row of a table (J14).
    Table,
    /// PartialObjectMetadata (J13).
    Metadata,
}

/// An alternative of an `Accept` header.
struct Range<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    fn get(&self, key: &str) -> &'a str {
        self.parameters.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }

    fn format(&self) -> Option<Format> {
        match self.media {
            "application/json" | "*/*" | "application/*" => Some(Format::Json),
            "application/yaml" | "application/x-yaml" => Some(Format::Yaml),
            _ => None,
        }
    }

    fn quality(&self) -> f32 {
        self.get("q").parse().unwrap_or(1.0)
    }
}

/// The alternatives, best first. An absent header accepts everything.
fn ranges(accept: &str) -> Vec<Range<'_>> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut ranges: Vec<Range<'_>> = accept
        .split(',')
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters = parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.trim(), v.trim()));
            Range { media, parameters: parameters.collect() }
        })
        .filter(|range| range.quality() > 0.0)
        .collect();
    // Stable: of equals, the first one said is the first one meant.
    ranges.sort_by(|a, b| b.quality().total_cmp(&a.quality()));
    ranges
}

/// The first alternative for objects that can be answered.
pub(crate) fn object(accept: &str) -> Result<(Format, Form), ApiError> {
    ranges(accept)
        .iter()
        .find_map(|range| {
            let format = range.format()?;
            let form = match (range.get("as"), range.get("g"), range.get("v")) {
                ("", _, _) => Form::Whole,
                ("Table", "meta.k8s.io", "v1") => Form::Table,
                ("PartialObjectMetadata" | "PartialObjectMetadataList", "meta.k8s.io", "v1") => {
                    Form::Metadata
                }
                _ => return None,
            };
            Some((format, form))
        })
        .ok_or_else(|| ApiError::not_acceptable(&WRITABLE))
}

/// The first alternative for discovery: whether the aggregated document is wanted (J2).
pub(crate) fn discovery(accept: &str) -> Result<(Format, bool), ApiError> {
    ranges(accept)
        .iter()
        .find_map(|range| {
            let format = range.format()?;
            match (range.get("as"), range.get("g"), range.get("v")) {
                ("", _, _) => Some((format, false)),
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some((format, true)),
                _ => None,
            }
        })
        .ok_or_else(|| ApiError::not_acceptable(&WRITABLE))
}

/// How an error is written: never refused, JSON if nothing fits.
pub(crate) fn error(accept: &str) -> Format {
    ranges(accept).iter().find_map(Range::format).unwrap_or(Format::Json)
}

/// Whether JSON is acceptable, for documents that have no other form.
pub(crate) fn accepts_json(accept: &str) -> bool {
    ranges(accept).iter().any(|range| range.format() == Some(Format::Json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j10_alternatives_are_walked_in_order() {
        #[rustfmt::skip]
        let cases = [
            ("", Some((Format::Json, Form::Whole))),
            ("*/*", Some((Format::Json, Form::Whole))),
            ("application/yaml", Some((Format::Yaml, Form::Whole))),
            ("application/vnd.kubernetes.protobuf,application/json", Some((Format::Json, Form::Whole))),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some((Format::Json, Form::Table))),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", Some((Format::Json, Form::Whole))),
            ("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((Format::Json, Form::Metadata))),
            ("application/yaml;q=0.5, application/json", Some((Format::Json, Form::Whole))),
            ("application/json;stream=watch", Some((Format::Json, Form::Whole))),
        ];
        for (accept, want) in cases {
            assert_eq!(object(accept).ok(), want, "{accept}");
        }
    }

    #[test]
    fn j2_the_first_supported_discovery_is_chosen() {
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer";
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        assert!(discovery(&format!("{aggregated},{beta},application/json")).unwrap().1);
        assert!(!discovery(&format!("{beta},application/json")).unwrap().1);
        assert!(!discovery("application/json").unwrap().1);
        assert_eq!(discovery(beta).unwrap_err().code(), 406);
    }
}
