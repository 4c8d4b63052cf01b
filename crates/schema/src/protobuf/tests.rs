//! Protobuf against JSON, over every field of every struct; and against bytes that are nothing.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;

pub(crate) mod random;

use random::Random;

/// Objects of each struct that go around.
const ROUNDS: u64 = 24;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn schema(group: &str, version: &str, kind: &str) -> Schema {
    Schema::for_kind(group, version, kind).unwrap()
}

/// The object that the bytes of a message become.
fn read(kind: &str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    schema("", "v1", kind).from_protobuf(bytes)
}

#[test]
fn j12_every_field_of_every_struct_survives_both_ways() {
    for (name, schema) in random::schemas() {
        let mut missing: HashSet<&str> = schema.root().json.iter().map(|field| field.name).collect();
        if schema.root().is_kind() {
            missing.retain(|field| !matches!(*field, "kind" | "apiVersion"));
        }
        for seed in 0..ROUNDS {
            let object = random::object(&schema, &mut Random(seed));
            missing.retain(|field| object.get(field).is_none());
            let bytes = schema.to_protobuf(&object);
            let back =
                schema.from_protobuf(&bytes).unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
            assert_eq!(back, object, "{name}, seed {seed}");
            assert_eq!(schema.to_protobuf(&back), bytes, "{name}, seed {seed}: one object, one text");
        }
        assert!(missing.is_empty(), "{name}: {missing:?} never had a value, so nothing is proven of them");
    }
}

#[test]
fn j11_bytes_are_those_that_kubernetes_writes() {
    #[rustfmt::skip]
    let rows = [
        // A scalar that is not behind a pointer is there though it is empty, and so is a struct.
        ("Namespace", json!({"metadata": {"name": "a"}}), "0a11 0a0161 1200 1a00 2200 2a00 3200 3800 4200 1200 1a02 0a00"),
        // Keys in order, negative numbers in ten bytes, absent pointers absent.
        ("ConfigMap", json!({"metadata": {}, "data": {"b": "2", "a": ""}, "immutable": false}),
            "0a10 0a00 1200 1a00 2200 2a00 3200 3800 4200 1205 0a0161 1200 1206 0a0162 120132 2000"),
        // Bytes are bytes.
        ("Secret", json!({"metadata": {}, "data": {"k": "AQI="}}),
            "0a10 0a00 1200 1a00 2200 2a00 3200 3800 4200 1207 0a016b 12020102 1a00"),
    ];
    for (kind, object, want) in rows {
        let schema = schema("", "v1", kind);
        assert_eq!(schema.to_protobuf(&object), hex(want), "{kind}");
    }
    let port = schema("", "v1", "Service");
    let object = json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}});
    let bytes = port.to_protobuf(&object);
    // name, protocol, port, targetPort {type, intVal, strVal}, nodePort.
    let want = hex("0a14 0a00 1200 1850 220a 0801 1000 1a0468747470 2800");
    assert!(bytes.windows(want.len()).any(|part| part == want), "{bytes:02x?}");
    assert_eq!(envelope("v1", "Pod", &[1]), hex("6b387300 0a09 0a027631 1203506f64 120101 1a00 2200"));
    let mut frame = Vec::new();
    watch_frame(&mut frame, "ADDED", &[7, 8]);
    assert_eq!(frame, hex("0000000d 0a054144444544 1204 0a020708"));
}

#[test]
fn times_have_seconds_and_microseconds() {
    let lease = schema("coordination.k8s.io", "v1", "Lease");
    let object = json!({
        "metadata": {"creationTimestamp": "2026-11-30T15:53:54Z"},
        "spec": {"renewTime": "2026-11-30T15:53:54.000010Z"},
    });
    let bytes = lease.to_protobuf(&object);
    for want in ["4208 0892b8b6d806 1000", "0892b8b6d806 10904e"] {
        let want = hex(want);
        assert!(bytes.windows(want.len()).any(|part| part == want), "{bytes:02x?}");
    }
    // Nanoseconds of a Time are dropped, as JSON does.
    let with_nanos = hex("0a0a 4208 0892b8b6d806 1007");
    assert_eq!(
        read("ConfigMap", &with_nanos).unwrap()["metadata"]["creationTimestamp"],
        "2026-11-30T15:53:54Z"
    );
    let zero = hex("0a0d 420b 088092b8c398feffffff01");
    assert_eq!(read("ConfigMap", &zero).unwrap(), json!({"metadata": {}}));
    let beyond = hex("0a0c 420a 08ffffffffffffffff7f");
    assert!(read("ConfigMap", &beyond).unwrap_err().to_string().contains("year outside of range"));
}

#[test]
fn what_go_reads_leniently_is_read() {
    // Unknown fields of every wire type, groups among them, are for a newer server.
    let unknown =
        hex("0a03 0a0161 a00601 a1060102030405060708 a20602ffff a306 b30608 01 b406 a406 a50601020304");
    assert_eq!(read("ConfigMap", &unknown).unwrap(), json!({"metadata": {"name": "a"}}));
    // A message in two pieces is one; a scalar counts the last time.
    let pieces = hex("0a03 0a0161 0a05 1a016e 0a00 0a03 0a0162");
    assert_eq!(read("ConfigMap", &pieces).unwrap(), json!({"metadata": {"name": "b", "namespace": "n"}}));
    // Numbers one by one and packed.
    let packed = hex("0a00 1206 7204 2202 0102 2203");
    let groups = read("Pod", &hex("0a00 1208 7206 2202 0102 2003")).unwrap();
    assert_eq!(groups["spec"]["securityContext"]["supplementalGroups"], json!([1, 2, 3]));
    assert!(read("Pod", &packed).is_err(), "a length beyond the message");
    // An entry without a value has the empty one, one without a key the empty key.
    let entries = hex("1203 0a0161 1200");
    assert_eq!(read("ConfigMap", &entries).unwrap()["data"], json!({"a": "", "": ""}));
    // Text that is no text.
    let bytes = hex("0a04 0a0261ff");
    assert_eq!(read("ConfigMap", &bytes).unwrap()["metadata"]["name"], "a\u{fffd}");
}

#[test]
fn what_is_no_message_is_refused_in_the_words_of_go() {
    #[rustfmt::skip]
    let rows = [
        ("0a", "unexpected EOF"),
        ("0a05 0a0161", "unexpected EOF"),
        ("0affffffffffffffffff01", "proto: negative length found during unmarshaling"),
        ("ffffffffffffffffffffff01", "proto: integer overflow"),
        ("0c", "proto: ConfigMap: wiretype end group for non-group"),
        ("00", "proto: ConfigMap: illegal tag 0 (wire type 0)"),
        ("0801", "proto: wrong wireType = 0 for field ObjectMeta"),
        ("a306", "unexpected EOF"),
        ("a706", "proto: illegal wireType 7"),
        ("0a02 0801", "proto: wrong wireType = 0 for field Name"),
    ];
    for (bytes, want) in rows {
        assert_eq!(read("ConfigMap", &hex(bytes)).unwrap_err().to_string(), want, "{bytes}");
    }
    #[rustfmt::skip]
    let envelopes = [
        ("", "empty data"),
        ("7b7d", "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"),
        ("6b387300", "empty body"),
        ("6b3873000a", "unexpected EOF"),
    ];
    for (bytes, want) in envelopes {
        assert_eq!(Envelope::open(&hex(bytes)).unwrap_err().to_string(), want, "{bytes}");
    }
    let policy = schema("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy");
    assert_eq!(policy.from_protobuf(&[]), Err(ProtobufError::NoForm("ClusterNetworkPolicy")));
}

#[test]
fn small_bytes_do_not_become_large_objects() {
    let item = [0x12, 0x00];
    // PodSpec.containers, each of them empty, each a struct with all its fields.
    let containers = item.repeat(400_000);
    let mut spec = Vec::new();
    spec.push(0x12);
    let mut length = containers.len();
    while length >= 0x80 {
        spec.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    spec.push(length as u8);
    spec.extend(containers);
    assert_eq!(read("Pod", &spec), Err(ProtobufError::Size));
}

#[test]
fn any_bytes_are_answered() {
    let kinds: Vec<_> = random::schemas().collect();
    let mut random = Random(1);
    for round in 0..4000 {
        let (name, schema) = &kinds[random.below(kinds.len())];
        let mut bytes = match round % 4 {
            0 => (0..random.below(64)).map(|_| random.next() as u8).collect(),
            _ => schema.to_protobuf(&random::object(schema, &mut random)),
        };
        for _ in 0..random.below(6) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, random.next() as u8),
                _ => bytes[at] ^= 1 << random.below(8),
            }
        }
        if let Ok(object) = schema.from_protobuf(&bytes) {
            let again = schema.from_protobuf(&schema.to_protobuf(&object));
            assert_eq!(again.as_ref(), Ok(&object), "{name}, round {round}");
        }
        let _ = Envelope::open(&[&MAGIC[..], &bytes].concat());
    }
}

#[test]
fn lists_and_self_describing_objects() {
    let pods = [json!({"metadata": {"name": "a"}}), json!({"metadata": {"name": "b"}})];
    let metadata = json!({"resourceVersion": "7", "continue": "x", "remainingItemCount": 3});
    let body = encode_list("v1", "PodList", &metadata, pods.clone()).unwrap();
    let whole = json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": pods});
    assert_eq!(encode_value(&whole).unwrap(), body);
    let envelope = Envelope::open(&body).unwrap();
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "PodList"));
    let back = schema("", "v1", "PodList").from_protobuf(envelope.raw).unwrap();
    assert_eq!(back["items"][1]["metadata"]["name"], "b");
    assert_eq!(back["metadata"], metadata);
    assert_eq!(encode_value(&json!({"kind": "Gateway", "apiVersion": "gateway.networking.k8s.io/v1"})), None);
}
