//! What the client wants to read: `Accept` headers with their parameters (J2, J10, J13, J14).

use dyad_schema::kinds::Kind;
use dyad_schema::protobuf;

use crate::status::ApiError;

/// Content types of answers.
const WRITABLE: [&str; 3] = ["application/json", "application/yaml", protobuf::CONTENT_TYPE];
/// Content types of watches.
const STREAMABLE: [&str; 2] = ["application/json;stream=watch", protobuf::STREAM_CONTENT_TYPE];

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    const ALL: [Self; 3] = [Self::Json, Self::Yaml, Self::Protobuf];

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => WRITABLE[0],
            Self::Yaml => WRITABLE[1],
            Self::Protobuf => WRITABLE[2],
        }
    }

    /// The content type of a watch.
    pub(crate) const fn stream_content_type(self) -> &'static str {
        match self {
            Self::Protobuf => protobuf::STREAM_CONTENT_TYPE,
            other => other.content_type(),
        }
    }
}

/// What of an object is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object as it is.
    Whole,
    /// A row of a table (J14), of meta.k8s.io in this version.
    Table(&'static str),
    /// PartialObjectMetadata (J13), of meta.k8s.io in this version.
    Metadata(&'static str),
}

/// What an object is asked as, word for word.
const AS_ONE: &str = "PartialObjectMetadata";
const AS_LIST: &str = "PartialObjectMetadataList";

/// What the objects of an answer are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer<'a> {
    /// Whether the kind has a protobuf form.
    pub(crate) protobuf: bool,
    /// Whether the answer is a list (`true`) or an object (`false`); a watch is neither.
    pub(crate) list: Option<bool>,
    /// The kind of the objects.
    pub(crate) kind: &'a Kind,
}

/// An alternative of an `Accept` header.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: f64,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Range<'a> {
    /// As goautoneg reads it; `None` for what is no media type.
    fn parse(text: &'a str) -> Option<Self> {
        let space = |text: &'a str| text.trim_matches(' ');
        let (media, rest) = space(text).split_once(';').unwrap_or((space(text), ""));
        let (kind, subtype) = match media.split_once('/') {
            Some((kind, subtype)) if !subtype.is_empty() && !subtype.contains('/') => {
                (space(kind), space(subtype))
            }
            None | Some((_, "")) if space(media.trim_end_matches('/')) == "*" => ("*", "*"),
            _ => return None,
        };
        let mut range = Self { kind, subtype, quality: 1.0, parameters: Vec::new() };
        for (key, value) in rest.split(';').filter_map(|part| part.split_once('=')) {
            if value.is_empty() || value.contains('=') {
                continue;
            }
            match space(key) {
                "q" => range.quality = value.parse().unwrap_or(0.0),
                key => range.parameters.push((key, space(value))),
            }
        }
        Some(range)
    }

    fn get(&self, key: &str) -> &'a str {
        self.parameters.iter().rev().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
    }

    fn takes(&self, format: Format) -> bool {
        let (kind, subtype) = format.content_type().split_once('/').unwrap_or_default();
        (self.kind == kind || (self.kind == "*" && self.subtype == "*"))
            && (self.subtype == subtype || self.subtype == "*")
    }

    /// Whether the objects are wanted as another kind: `(as, g, v)`.
    fn conversion(&self) -> Option<(&'a str, &'a str, &'a str)> {
        let wanted = (self.get("as"), self.get("g"), self.get("v"));
        (wanted != ("", "", "")).then_some(wanted)
    }

    /// Whether it asks for a stream that there is not.
    fn odd_stream(&self, format: Format) -> bool {
        match self.get("stream") {
            "" => false,
            "watch" => format == Format::Yaml,
            _ => true,
        }
    }

    /// Wildcards come last, whatever they are worth.
    fn before(&self, other: &Self) -> bool {
        self.quality > other.quality
            || (self.kind != "*" && other.kind == "*")
            || (self.subtype != "*" && other.subtype == "*")
    }
}

/// The alternatives, best first.
fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = Vec::new();
    for range in accept.split(',').filter_map(Range::parse) {
        // The order is none that a sort could keep to: each goes before those at the end that it comes before.
        let later = ranges.iter().rev().take_while(|last| range.before(last)).count();
        ranges.insert(ranges.len() - later, range);
    }
    ranges
}

/// The first alternative with a format that `fits`; an absent header takes JSON.
fn first<T>(accept: &str, fits: impl Fn(&Range<'_>, Format) -> Option<T>) -> Option<T> {
    let anything = if accept.is_empty() { "*/*" } else { accept };
    ranges(anything).iter().find_map(|range| {
        Format::ALL.into_iter().filter(|format| range.takes(*format)).find_map(|format| fits(range, format))
    })
}

/// What a route lets through at all: something that it names, or `*/*`.
fn check_route(accept: &str, stream: bool) -> Result<(), ApiError> {
    let known = |range: &str| {
        let media = range.split(';').next().unwrap_or_default().trim();
        media == "*/*" || WRITABLE.contains(&media)
    };
    if accept.is_empty() || accept.split(',').any(known) {
        return Ok(());
    }
    let mut available = WRITABLE.to_vec();
    if stream {
        available.extend(STREAMABLE);
    }
    Err(ApiError::not_available(&available))
}

/// The first alternative for objects that can be answered.
pub(crate) fn object(accept: &str, offer: Offer<'_>) -> Result<(Format, Form), ApiError> {
    check_route(accept, offer.list != Some(false))?;
    let chosen = first(accept, |range, format| {
        if range.odd_stream(format) || !matches!(range.get("sv"), "" | "v1") {
            return None;
        }
        let form = match range.conversion() {
            None if format == Format::Protobuf && !offer.protobuf => return None,
            None => Form::Whole,
            Some((kind, "meta.k8s.io", version @ ("v1" | "v1beta1"))) => {
                let version = if version == "v1" { "v1" } else { "v1beta1" };
                match kind {
                    "Table" if format != Format::Protobuf => Form::Table(version),
                    AS_ONE | AS_LIST => Form::Metadata(version),
                    _ => return None,
                }
            }
            Some(_) => return None,
        };
        Some((format, form, range.get("as").to_owned()))
    });
    let (format, form, wanted) = chosen.ok_or_else(|| ApiError::not_acceptable(&WRITABLE))?;
    match (offer.list, wanted.as_str()) {
        (Some(true), AS_ONE) => {
            let why = format!(
                "you requested {AS_ONE}, but the requested object is a list ({})",
                offer.kind.go_type(offer.list == Some(true))
            );
            Err(ApiError::not_acceptable_form(why))
        }
        (Some(false), AS_LIST) => {
            let why = format!(
                "you requested {AS_LIST}, but the requested object is not a list ({})",
                offer.kind.go_type(offer.list == Some(true))
            );
            Err(ApiError::not_acceptable_form(why))
        }
        (None, _) if format == Format::Yaml => Err(ApiError::not_acceptable(&STREAMABLE)),
        _ => Ok((format, form)),
    }
}

/// The first alternative for answers of one form only: a Status, a Scale, a review.
pub(crate) fn plain(accept: &str) -> Result<Format, ApiError> {
    check_route(accept, false)?;
    let chosen = first(accept, |range, format| {
        (range.conversion().is_none() && !range.odd_stream(format)).then_some(format)
    });
    chosen.ok_or_else(|| ApiError::not_acceptable(&WRITABLE))
}

/// The first alternative for discovery: whether the aggregated document is wanted (J2).
pub(crate) fn discovery(accept: &str) -> Result<(Format, bool), ApiError> {
    first(accept, |range, format| match range.conversion() {
        None => Some((format, false)),
        // Protobuf has no form of it here: whoever asks for it can read JSON.
        Some(("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2")) if format == Format::Json => {
            Some((format, true))
        }
        Some(_) => None,
    })
    .ok_or_else(|| ApiError::not_acceptable(&WRITABLE))
}

/// How an error is written: never refused, JSON if nothing fits.
pub(crate) fn error(accept: &str) -> Format {
    let fits = |range: &Range<'_>, format| {
        (range.conversion().is_none() && !range.odd_stream(format)).then_some(format)
    };
    first(accept, fits).unwrap_or(Format::Json)
}

/// Whether JSON is acceptable, for documents that have no other form.
pub(crate) fn accepts_json(accept: &str) -> bool {
    accept.is_empty() || ranges(accept).iter().any(|range| range.takes(Format::Json))
}

#[cfg(test)]
mod tests;
