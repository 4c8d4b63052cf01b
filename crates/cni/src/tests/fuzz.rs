//! Bytes from outside, mutated: an answer or an error, never a panic.

use super::*;

const ROUNDS: usize = 4_000;

fn generator() -> StdRng {
    StdRng::seed_from_u64(0x6479_6164)
}

/// Changes a few bytes, or cuts, doubles and mixes what is there.
fn mutate(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    const TELLING: &[u8] = b"{}[]\",:/0129.-\\\r\n\0\xff;= ntfeE";
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let (at, to) = (rng.random_range(0..bytes.len()), rng.random_range(0..bytes.len()));
        match rng.random_range(0..5) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] = *TELLING.choose(rng).unwrap(),
            2 => drop(bytes.drain(at.min(to)..at.max(to))),
            3 => bytes.insert(at, *TELLING.choose(rng).unwrap()),
            _ => {
                let part = bytes[at.min(to)..at.max(to)].to_vec();
                bytes.splice(at..at, part);
            }
        }
        bytes.truncate(8 * 1024);
    }
}

fn sample() -> Value {
    config(json!({
        "ipMasq": true, "mtu": 1400, "bridge": "cni0", "vlan": 5, "snat": true,
        "vlanTrunk": [{ "minID": 10, "maxID": 20, "id": 5 }],
        "conditionsV4": ["!", "-s", "10.0.0.0/8", "-i", "eth0"], "conditionsV6": ["ip6 daddr != fd00::/8 iifname", "wl*"],
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9" }], [{ "subnet": "fd00::/64" }]],
                  "routes": [{ "dst": "::/0", "gw": "fd00::1" }] },
        "args": { "cni": { "ips": ["10.0.0.5"] } },
        "runtimeConfig": { "portMappings": [{ "hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "::" }],
                           "bandwidth": { "ingressRate": 1000000, "ingressBurst": 1000 }, "mac": "0a:58:0a:01:00:05" },
        "prevResult": { "cniVersion": "1.1.0", "interfaces": [{ "name": "v0" }, { "name": "eth0", "sandbox": "/x" }],
                        "ips": [{ "address": "10.0.0.5/24", "interface": 1 }], "routes": [{ "dst": "0.0.0.0/0" }], "dns": {} },
        "cni.dev/valid-attachments": [{ "containerID": "a", "ifname": "eth0" }],
    }))
}

/// Everything that reads a configuration.
fn read_all(request: &Request) {
    let _ = request.config.previous().map(|previous| previous.map(|result| result.to_json(Version::V0_3_1)));
    let _ = (request.valid(), local::data_dir(request));
    for kind in [Kind::Shared, Kind::Routed] {
        if let Ok(found) = local::Local::of(request, kind) {
            let given = found.sets.iter().filter_map(|set| set.next(None, &BTreeSet::new()));
            assert!(given.count() <= found.sets.len());
        }
    }
    let _ = routed::Settings::of(request);
    plugin::read_fields(request);
}

#[test]
fn configurations() {
    let mut rng = generator();
    for _ in 0..ROUNDS {
        let mut bytes = sample().to_string().into_bytes();
        mutate(&mut rng, &mut bytes);
        // What would be read from disk may be anywhere.
        let Ok(config) = NetConf::parse(&bytes) else { continue };
        let command = Command::ALL.choose(&mut rng).unwrap().as_str();
        let variable = |name: &str| Some(if name == "CNI_COMMAND" { command } else { "x" }.into());
        if let Ok(request) = Request::new(|name| variable(name).filter(|_| name != "CNI_ARGS"), config) {
            read_all(&request);
        }
    }
}

#[test]
fn arguments_in_the_environment() {
    let mut rng = generator();
    for _ in 0..ROUNDS {
        let mut bytes = b"IgnoreUnknown=1;IP=10.0.0.5;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b".to_vec();
        mutate(&mut rng, &mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(pairs) = request::parse_args(&text) {
            assert!(pairs.iter().all(|(key, _)| !key.is_empty()));
        }
        let _ = host::parse_mac("mac", &text);
    }
}

#[test]
fn files_of_addresses() {
    let mut rng = generator();
    for _ in 0..ROUNDS {
        let mut bytes = b"0123456789abcdef\r\neth0".to_vec();
        mutate(&mut rng, &mut bytes);
        if let Some(owner) = Owner::parse(&String::from_utf8_lossy(&bytes)) {
            assert!(!owner.container.is_empty() && owner.ifname.as_deref() != Some(""));
        }
        let mut bytes = b"nameserver 10.0.0.10\nsearch a b\noptions ndots:5\n".to_vec();
        mutate(&mut rng, &mut bytes);
        let _ = local::resolv_conf(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn documents_of_the_socket() {
    let mut rng = generator();
    let request = request_with("ADD", sample(), &[]).unwrap();
    let answers = [Ok(None), Ok(Some(sample())), Err(CniError::new(Code::Io, "a").because("b"))];
    for _ in 0..ROUNDS {
        let mut bytes = wire::encode_request(&request);
        mutate(&mut rng, &mut bytes);
        let _ = wire::decode_request(&bytes).map(|request| read_all(&request));
        let mut bytes = wire::encode_answer(answers.choose(&mut rng).unwrap());
        mutate(&mut rng, &mut bytes);
        let _ = wire::decode_answer(&bytes);
    }
}
