//! An API server without a cluster, on a store in memory: `memory-server DIRECTORY [RANGES [PORT]]`.
//!
//! Certificates and a kubeconfig are written to DIRECTORY; RANGES are the service ranges, the primary family first.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use dyad_apiserver::pki::{Pki, PkiConfig, kubeconfig};
use dyad_apiserver::{Reach, Server, ServerConfig, tls};
use dyad_model::ClusterNet;
use dyad_net::{IpFamily, parse_range_list};
use dyad_store::MemoryStore;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: memory-server DIRECTORY [RANGES [PORT]]")?);
    let ranges = arguments.next().unwrap_or_else(|| "10.96.0.0/16,fd00:10:96::/112".to_owned());
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    let service_ranges = parse_range_list(&ranges)?;
    // Nobody follows the endpoints of the `kubernetes` Service here, but loopback addresses can't be endpoints.
    let advertise = service_ranges.map(|family, _| match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let address = listener.local_addr()?;
    let names = PkiConfig {
        cluster: "memory".to_owned(),
        domain: "cluster.local".to_owned(),
        addresses: Vec::new(),
        dns_names: Vec::new(),
    };
    let pki = Pki::load_or_create(&directory, &names)?;
    let certificate = Arc::new(tls::ServingCertificate::new(&pki.serving()?)?);
    let admin = pki.admin()?;
    let url = format!("https://{address}");
    std::fs::write(directory.join("admin.crt"), &admin.certificate_pem)?;
    std::fs::write(directory.join("admin.key"), &admin.key_pem)?;
    let config = kubeconfig("memory", &url, pki.ca_pem(), &admin);
    std::fs::write(directory.join("kubeconfig"), config.to_string())?;
    let server = Server::start(ServerConfig {
        store: Arc::new(MemoryStore::new()),
        cluster: ClusterNet { service_ranges, node_ports: 30000..=32767 },
        listeners: vec![listener],
        tls: Arc::new(tls::server_config(pki.ca_pem(), certificate)?),
        advertise,
        advertise_port: address.port(),
        tokens: None,
        reach: Reach::new(None, None)?,
        ca_pem: pki.ca_pem().to_owned(),
    })
    .await?;
    println!("{url}");
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
