use std::net::{IpAddr, TcpListener};

use dyad_apiserver::pki::{PkiConfig, kubeconfig};
use dyad_apiserver::{Reach, Server, ServerConfig, tls};
use dyad_model::ClusterNet;
use dyad_store::MemoryStore;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::Api;
use kube::api::PostParams;

use super::*;

fn pki(directory: &Path) -> Pki {
    let config =
        PkiConfig { cluster: "t".into(), domain: "d".into(), addresses: Vec::new(), dns_names: Vec::new() };
    Pki::load_or_create(directory, &config).unwrap()
}

/// A server of its own, asked by a client whose certificate is another one in between.
#[tokio::test]
async fn j60_a_client_goes_on_under_its_new_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let pki = pki(&directory.path().join("pki"));
    let serving = Arc::new(ServingCertificate::new(&pki.serving().unwrap()).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let service_ranges = dyad_net::parse_range_list("10.96.0.0/16").unwrap();
    let advertise = service_ranges.map(|_, _| IpAddr::from([192, 0, 2, 1]));
    let server = Server::start(ServerConfig {
        store: Arc::new(MemoryStore::new()),
        cluster: ClusterNet { service_ranges, node_ports: 30000..=32767 },
        listeners: vec![listener],
        tls: Arc::new(tls::server_config(pki.ca_pem(), serving).unwrap()),
        advertise,
        advertise_port: 6443,
        tokens: None,
        reach: Reach::new(None, None).unwrap(),
        ca_pem: String::new(),
    });
    let server = server.await.unwrap();
    let path = directory.path().join("kubeconfig");
    let write = |user: &str| {
        let identity = pki.issue_client(user, "system:nodes").unwrap();
        let text = kubeconfig("t", &format!("https://{address}"), pki.ca_pem(), &identity).to_string();
        std::fs::write(&path, text).unwrap();
    };
    write("system:node:a");
    let mut renewing = Renewing::open(&path, "test").await.unwrap();
    let client = renewing.client();
    let asked = async || {
        let reviews = Api::<SelfSubjectReview>::all(client.clone());
        let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
        review.status.unwrap().user_info.unwrap().username.unwrap()
    };
    assert_eq!(asked().await, "system:node:a");
    assert!(!renewing.renew().await.unwrap());
    write("system:node:b");
    assert!(renewing.renew().await.unwrap());
    assert_eq!(asked().await, "system:node:b", "the same client, another certificate");
    std::fs::write(&path, "nonsense").unwrap();
    assert!(renewing.renew().await.is_err());
    assert_eq!(asked().await, "system:node:b");
    server.shutdown().await;
}

#[test]
fn j60_a_kubelet_serves_with_what_is_in_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let pki = pki(&directory.path().join("pki"));
    let file = |name: &str| directory.path().join(name);
    let write = |identity: &Identity| {
        std::fs::write(file("crt"), &identity.certificate_pem).unwrap();
        std::fs::write(file("key"), &identity.key_pem).unwrap();
    };
    std::fs::write(file("ca"), pki.ca_pem()).unwrap();
    write(&pki.node_serving("n1", &[]).unwrap());
    let files = Served { certificate: file("crt"), key: file("key"), authorities: file("ca") };
    let mut serving = Serving::open(files).unwrap();
    assert!(!serving.renew().unwrap());
    write(&pki.node_serving("n2", &[]).unwrap());
    assert!(serving.renew().unwrap());
    // Half of what is to come.
    std::fs::write(file("key"), pki.node_serving("n3", &[]).unwrap().key_pem).unwrap();
    assert!(serving.renew().is_err());
    write(&pki.node_serving("n3", &[]).unwrap());
    assert!(serving.renew().unwrap());
}
