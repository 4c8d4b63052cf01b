//! Servers that are this program: the cluster's DNS, the bare echo, and an upstream. Each ends with its standard input.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dyad_dns::serve::{self, Settings, Source};
use dyad_net::IpFamily;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::{SERVER_CPU, loopback, pin};

/// What makes this program such a server.
pub(crate) const WORKER: &str = "internal-dns";
/// Bytes of a header, and of a question's type and class.
const HEADER: usize = 12;
const KIND: usize = 4;
const TTL: u32 = 3600;

/// Is such a server, until its standard input ends.
pub(crate) fn work(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words {
        ["serve", port, upstream, kubeconfig] => {
            // Threads that it starts are on the same CPU.
            pin(SERVER_CPU)?;
            ours(port.parse()?, upstream.parse()?, Path::new(kubeconfig))
        }
        ["echo", port] => {
            pin(SERVER_CPU)?;
            answer(port.parse()?, |packet| Some(packet.into()))
        }
        ["upstream", port] => answer(port.parse()?, upstream),
        _ => bail!("{arguments:?}: no such server"),
    }
}

/// As `dyad dns` is.
fn ours(port: u16, upstream: u16, kubeconfig: &Path) -> Result<()> {
    let corefile = format!(
        ".:{port} {{\n\
         kubernetes cluster.local in-addr.arpa ip6.arpa {{\npods insecure\nfallthrough in-addr.arpa ip6.arpa\n}}\n\
         forward . 127.0.0.1:{upstream}\n\
         cache 3600\n\
         }}\n"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let settings = Settings {
            source: Source::Text("Corefile".into(), corefile),
            variables: BTreeMap::new(),
            client: Some(kube::Client::try_from(config)?),
            listen: IpFamily::BOTH.map(loopback).to_vec(),
            service: None,
            workers: 1,
            rate: None,
            listening: Box::new(|_| {}),
        };
        let ended = tokio::task::spawn_blocking(until_the_end);
        Ok(serve::run(settings, async { drop(ended.await) }).await?)
    })
}

/// Says something to each packet; one thread for each family.
fn answer(port: u16, say: fn(&[u8]) -> Option<Cow<'_, [u8]>>) -> Result<()> {
    for family in IpFamily::BOTH {
        let socket = UdpSocket::bind(SocketAddr::new(loopback(family), port))?;
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            loop {
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                if let Some(answer) = say(&packet[..length]) {
                    // A datagram that is lost is asked for again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
    }
    until_the_end()
}

/// Nothing comes: whoever started this holds the other end, or is gone.
fn until_the_end() -> Result<()> {
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("waiting for the end")?;
    Ok(())
}

/// Every name has one address.
fn upstream(query: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut at = HEADER;
    while *query.get(at)? > 0 {
        at += usize::from(query[at]) + 1;
    }
    let question = query.get(HEADER..at + 1 + KIND)?;
    let kind = question.last_chunk::<KIND>()?;
    let address = match u16::from_be_bytes([kind[0], kind[1]]) {
        1 => vec![192, 0, 2, 1],
        28 => [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1]].concat(),
        _ => Vec::new(),
    };
    let count = u8::from(!address.is_empty());
    // QR, AA, RD and RA; one question, perhaps an answer, nothing else.
    let header = [query[0], query[1], 0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
    let mut answer = [&header, question].concat();
    if count > 0 {
        let length = [0, address.len() as u8];
        answer.extend([&[0xc0, HEADER as u8][..], kind, &TTL.to_be_bytes(), &length, &address].concat());
    }
    Some(answer.into())
}
