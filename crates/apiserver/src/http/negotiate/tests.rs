//! What 1.36 answers to these headers, tried at a real one.

use super::*;

const PROTOBUF: &str = protobuf::CONTENT_TYPE;

fn offer(protobuf: bool, list: Option<bool>) -> Offer<'static> {
    let kind = dyad_schema::kinds::all().iter().find(|row| row.kind == "Namespace").unwrap();
    Offer { protobuf, list, kind }
}

#[test]
fn j10_alternatives_are_walked_in_order() {
    let metadata = |format: &str, kind: &str| format!("{format};as={kind};g=meta.k8s.io;v=v1");
    let table = |version: &str| format!("application/json;as=Table;v={version};g=meta.k8s.io");
    #[rustfmt::skip]
    let cases = [
        (String::new(), Some((Format::Json, Form::Whole))),
        ("*/*".into(), Some((Format::Json, Form::Whole))),
        ("application/yaml".into(), Some((Format::Yaml, Form::Whole))),
        (PROTOBUF.into(), Some((Format::Protobuf, Form::Whole))),
        (format!("{PROTOBUF},application/json"), Some((Format::Protobuf, Form::Whole))),
        (format!("application/json,{PROTOBUF}"), Some((Format::Json, Form::Whole))),
        (format!("{PROTOBUF};q=0.5,application/json;q=0.9"), Some((Format::Json, Form::Whole))),
        (format!("{PROTOBUF};stream=watch"), Some((Format::Protobuf, Form::Whole))),
        ("text/html".into(), None),
        ("text/html, */*;q=0.1".into(), Some((Format::Json, Form::Whole))),
        ("*/*, application/yaml;q=0.1".into(), Some((Format::Yaml, Form::Whole))),
        ("*".into(), None),
        ("application/*".into(), None),
        ("application/x-yaml".into(), None),
        ("application/cbor".into(), None),
        ("application/json;q=0".into(), Some((Format::Json, Form::Whole))),
        ("application/json;sv=v1".into(), Some((Format::Json, Form::Whole))),
        ("application/json;sv=v2".into(), None),
        ("application/json;stream=x".into(), None),
        ("application/json;as=;v=v1".into(), None),
        ("application/json;profile=x".into(), Some((Format::Json, Form::Whole))),
        (format!("{},{},application/json", table("v1"), table("v1beta1")), Some((Format::Json, Form::Table("v1")))),
        (format!("{},application/json", table("v1beta1")), Some((Format::Json, Form::Table("v1beta1")))),
        (format!("{},application/json", table("v2")), Some((Format::Json, Form::Whole))),
        (format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io"), None),
        (format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{}", table("v1")), Some((Format::Json, Form::Table("v1")))),
        (metadata(PROTOBUF, "PartialObjectMetadataList"), Some((Format::Protobuf, Form::Metadata("v1")))),
        (metadata("application/json", "PartialObjectMetadata"), None),
        ("application/json;stream=watch".into(), Some((Format::Json, Form::Whole))),
    ];
    for (accept, want) in cases {
        assert_eq!(object(&accept, offer(true, Some(true))).ok(), want, "{accept}");
    }
}

#[test]
fn custom_kinds_have_no_protobuf_but_their_metadata_has() {
    let only = |accept: &str| object(accept, offer(false, Some(true)));
    assert_eq!(
        only(PROTOBUF).unwrap_err().to_string(),
        "only the following media types are accepted: application/json, application/yaml, \
         application/vnd.kubernetes.protobuf"
    );
    assert_eq!(only(&format!("{PROTOBUF},application/json")).unwrap(), (Format::Json, Form::Whole));
    let metadata = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    assert_eq!(only(&metadata).unwrap(), (Format::Protobuf, Form::Metadata("v1")));
    assert_eq!(error(PROTOBUF), Format::Protobuf);
}

#[test]
fn refusals_are_word_for_word() {
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let three = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let streams = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    #[rustfmt::skip]
    let cases = [
        ("text/html", Some(false), format!("406: Not Acceptable\n\nAvailable representations: {three}")),
        ("text/html", Some(true), format!("406: Not Acceptable\n\nAvailable representations: {three}, {streams}")),
        ("application/json;v=v1", Some(true), format!("only the following media types are accepted: {three}")),
        ("application/yaml", None, format!("only the following media types are accepted: {streams}")),
        (one, Some(true), "you requested PartialObjectMetadata, but the requested object is a list (*core.NamespaceList)".into()),
        (list, Some(false), "you requested PartialObjectMetadataList, but the requested object is not a list (*core.Namespace)".into()),
    ];
    for (accept, list, want) in cases {
        let refused = object(accept, offer(true, list)).unwrap_err();
        assert_eq!((refused.code().as_u16(), refused.to_string()), (406, want), "{accept}");
    }
    assert!(object(one, offer(true, Some(false))).is_ok() && object(list, offer(true, Some(true))).is_ok());
}

#[test]
fn j2_the_first_supported_discovery_is_chosen() {
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer";
    let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    assert!(discovery(&format!("{aggregated},{beta},application/json")).unwrap().1);
    assert!(!discovery(&format!("{beta},application/json")).unwrap().1);
    assert!(!discovery("application/json").unwrap().1);
    assert_eq!(discovery(PROTOBUF).unwrap(), (Format::Protobuf, false));
    assert_eq!(discovery(beta).unwrap_err().code(), 406);
}

#[test]
fn any_header_is_answered() {
    let pieces =
        ["application/json", "*", "/", ";", "=", ",", "q=", "0.5", " ", "as=Table", "\u{e9}", "v", PROTOBUF];
    let mut seed = 7_usize;
    for _ in 0..2000 {
        let mut accept = String::new();
        for _ in 0..seed % 9 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            accept.push_str(pieces[(seed >> 33) % pieces.len()]);
        }
        seed = seed.wrapping_add(1);
        let _ = (object(&accept, offer(true, None)), discovery(&accept), error(&accept), plain(&accept));
    }
}
