//! The log of queries, a line each, as CoreDNS writes it.

use std::net::SocketAddr;
use std::time::Duration;

use tracing::info;

use crate::corefile::{self, Corefile, is_under};
use crate::respond::Client;
use crate::wire::{Message, Rcode};

/// Which queries are logged.
#[derive(Default)]
pub(super) struct Logging(Vec<(u16, Vec<String>, corefile::Log)>);

impl Logging {
    pub(super) fn new(corefile: &Corefile) -> Self {
        let logged = |server: &corefile::Server| {
            let log = server.log.clone()?;
            let port = server.zones.first()?.port;
            Some((port, server.zones.iter().map(|key| key.zone.clone()).collect(), log))
        };
        Self(corefile.servers.iter().filter_map(logged).collect())
    }

    pub(super) fn tell(&self, port: u16, query: &[u8], response: &[u8], client: &Client, took: Duration) {
        let (Ok(query_message), Ok(answer)) = (Message::parse(query), Message::parse(response)) else {
            return;
        };
        let Some(question) = query_message.question() else { return };
        let name = question.name.to_lowercase().to_string();
        let wanted = self.0.iter().any(|(of, zones, log)| {
            *of == port
                && zones.iter().any(|zone| is_under(&name, zone))
                && log.zones.iter().any(|zone| is_under(&name, zone))
                && log.classes.iter().any(|class| class == "all" || class == class_of(&answer))
        });
        if wanted {
            info!(target: "dyad_dns::log", "{}", line(&query_message, query.len(), &answer, response.len(), client, took));
        }
    }
}

/// What CoreDNS calls an answer.
fn class_of(answer: &Message) -> &'static str {
    match answer.header.rcode {
        Rcode::NOERROR if !answer.answers.is_empty() => "success",
        Rcode::NOERROR | Rcode::NXDOMAIN => "denial",
        _ => "error",
    }
}

/// `REMOTE:PORT - ID "TYPE CLASS NAME PROTO SIZE DO BUFSIZE" RCODE FLAGS RSIZE DURATION`.
fn line(
    query: &Message,
    size: usize,
    answer: &Message,
    answer_size: usize,
    client: &Client,
    took: Duration,
) -> String {
    let question = query.question();
    let (rtype, name) = question.map_or_else(Default::default, |question| {
        (question.rtype.to_string(), question.name.to_lowercase().to_string())
    });
    let (dnssec, buffer) = query.edns.as_ref().map_or((false, 512), |edns| (edns.dnssec_ok, edns.udp_size));
    let header = &answer.header;
    let flags = [
        (true, "qr"),
        (header.authoritative, "aa"),
        (header.truncated, "tc"),
        (header.recursion_desired, "rd"),
        (header.recursion_available, "ra"),
        (header.authentic_data, "ad"),
        (header.checking_disabled, "cd"),
    ];
    let flags: Vec<_> = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
    format!(
        "{} - {} \"{rtype} IN {name} {} {size} {dnssec} {buffer}\" {} {} {answer_size} {:.9}s",
        bracketed(client.peer),
        query.header.id,
        client.transport.name(),
        header.rcode.name().unwrap_or("other"),
        flags.join(","),
        took.as_secs_f64(),
    )
}

fn bracketed(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::Transport;
    use crate::wire::{Header, Question, Rtype};

    fn tell(text: &str, name: &str, rcode: Rcode) -> bool {
        let corefile = Corefile::parse("Corefile", text, &corefile::Disk::default()).unwrap();
        let query = Message::new(Header::query(7), Some(Question::new(name.parse().unwrap(), Rtype::AAAA)));
        let answer = query.response(rcode);
        let logging = Logging::new(&corefile);
        let class = class_of(&answer);
        logging.0.iter().any(|(port, zones, log)| {
            *port == 53
                && zones.iter().any(|zone| is_under(name, zone))
                && log.zones.iter().any(|zone| is_under(name, zone))
                && log.classes.iter().any(|wanted| wanted == "all" || wanted == class)
        })
    }

    #[test]
    fn what_a_line_says_and_which_there_are() {
        let peer = "[fd00::7]:4242".parse().unwrap();
        let client = Client { peer, transport: Transport::Udp, now: 0, random: 0 };
        let name = "Web.example.".parse().unwrap();
        let query = Message::new(Header::query(7), Some(Question::new(name, Rtype::AAAA)));
        let answer = query.response(Rcode::NXDOMAIN);
        let text = line(&query, 30, &answer, 40, &client, Duration::from_micros(1500));
        assert_eq!(
            text,
            "[fd00::7]:4242 - 7 \"AAAA IN web.example. udp 30 false 512\" NXDOMAIN qr,rd,ra 40 0.001500000s"
        );
        assert!(tell(". {\nlog\nforward . 192.0.2.1\n}", "a.example.", Rcode::NXDOMAIN));
        assert!(!tell(". {\nforward . 192.0.2.1\n}", "a.example.", Rcode::NXDOMAIN));
        let errors = ". {\nlog example. {\nclass error\n}\nforward . 192.0.2.1\n}";
        assert!(tell(errors, "a.example.", Rcode::SERVFAIL));
        assert!(!tell(errors, "a.example.", Rcode::NXDOMAIN));
        assert!(!tell(errors, "a.test.", Rcode::SERVFAIL));
    }
}
