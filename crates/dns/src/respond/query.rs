//! Queries as they come.

use super::reply::Reply;
use super::{Client, MIN_UDP_SIZE, Rules, Transport, UDP_SIZE, cookie};
use crate::wire::{Class, Error, HEADER, Header, MAX_MESSAGE, MAX_NAME, Opcode, Rcode, Reader, Rtype};
use crate::zone::QueryName;

const NSID: u16 = 3;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const EXTENDED_ERROR: u16 = 15;
/// Bytes of an OPT record without options, and of an option without data.
pub(super) const OPT: usize = 11;
const OPTION: usize = 4;
/// Bytes of a cookie with the server's part.
const FULL_COOKIE: usize = 24;
/// As many of an identifier are given.
const MAX_NSID: usize = 64;

/// A query with one question.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) header: Header,
    pub(super) name: QueryName,
    pub(super) rtype: Rtype,
    pub(super) class: Class,
    /// The question as it stands in the packet.
    pub(super) question: &'a [u8],
    pub(super) edns: Option<AskedEdns<'a>>,
}

/// What matters of the query's OPT record.
#[derive(Debug, Default)]
pub(super) struct AskedEdns<'a> {
    pub(super) version: u8,
    size: u16,
    pub(super) dnssec_ok: bool,
    nsid: bool,
    pub(super) keepalive: bool,
    pub(super) cookie: Option<(&'a [u8; 8], &'a [u8])>,
}

/// Why there is no query.
#[derive(Debug)]
pub(super) enum Unanswerable<'a> {
    /// Too short, or a response: whoever answers it may start a storm.
    Dropped,
    Refused {
        header: Header,
        question: &'a [u8],
        rcode: Rcode,
    },
}

impl<'a> Query<'a> {
    pub(super) fn read(packet: &'a [u8]) -> Result<Self, Unanswerable<'a>> {
        let mut reader = Reader::new(packet);
        let header = Header::read(&mut reader).map_err(|_| Unanswerable::Dropped)?;
        let counts = reader.array::<8>().map_err(|_| Unanswerable::Dropped)?;
        if header.response {
            return Err(Unanswerable::Dropped);
        }
        let refused = |question, rcode| Unanswerable::Refused { header, question, rcode };
        let [0, 1, records @ ..] = counts else {
            let rcode = if header.opcode == Opcode::QUERY { Rcode::FORMERR } else { Rcode::NOTIMP };
            return Err(refused(&[], rcode));
        };
        let read = |reader: &mut Reader<'_>| -> Result<_, Error> {
            Ok((QueryName::read(reader)?, Rtype(reader.u16()?), Class(reader.u16()?)))
        };
        let asked = read(&mut reader);
        let question = if asked.is_ok() { &packet[HEADER..reader.position()] } else { &[] };
        if header.opcode != Opcode::QUERY {
            return Err(refused(question, Rcode::NOTIMP));
        }
        let (name, rtype, class) = asked.map_err(|_| refused(question, Rcode::FORMERR))?;
        let edns = match records {
            [0, 0, 0, 0, 0, 0] => None,
            [a, b, c, d, high, low] => {
                let before = [[a, b], [c, d]].map(|count| usize::from(u16::from_be_bytes(count)));
                let additional = u16::from_be_bytes([high, low]).into();
                let edns = read_edns(&mut reader, before.iter().sum(), additional);
                edns.map_err(|_| refused(question, Rcode::FORMERR))?
            }
        };
        Ok(Self { header, name, rtype, class, question, edns })
    }

    /// Bytes the response may have.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match (transport, &self.edns) {
            (Transport::Tcp, _) => MAX_MESSAGE,
            (Transport::Udp, None) => MIN_UDP_SIZE.into(),
            (Transport::Udp, Some(edns)) => edns.size.clamp(MIN_UDP_SIZE, UDP_SIZE).into(),
        }
    }

    /// Whether the client shows a cookie that we made for it.
    pub(super) fn has_our_cookie(&self, rules: &Rules, client: &Client) -> bool {
        let cookie = self.edns.as_ref().and_then(|edns| edns.cookie);
        let known = |(ours, server): (&[u8; 8], &[u8])| {
            let secret = rules.cookie_secret.as_ref()?;
            Some(cookie::is_valid(secret, ours, server, client.peer.ip(), client.now))
        };
        cookie.and_then(known).unwrap_or(false)
    }

    /// Bytes of the OPT record that answers the query's.
    pub(super) fn opt_size(&self, rules: &Rules, transport: Transport) -> usize {
        let Some(edns) = &self.edns else { return 0 };
        let option = |given: bool, size: usize| if given { OPTION + size } else { 0 };
        OPT + option(edns.gives_nsid(rules), nsid(rules).len())
            + option(edns.keepalive && transport == Transport::Tcp, 2)
            + option(edns.cookie.is_some() && rules.cookie_secret.is_some(), FULL_COOKIE)
    }

    /// Answers the query's OPT record, if it has one (RFC 6891 section 6.1.1).
    pub(super) fn put_opt(
        &self,
        reply: &mut Reply<'_>,
        rules: &Rules,
        client: &Client,
        rcode: Rcode,
        error: Option<u16>,
    ) {
        let Some(edns) = &self.edns else { return };
        reply.opt(UDP_SIZE, rcode, edns.dnssec_ok, |options| {
            if edns.gives_nsid(rules) {
                options.put(NSID, &[nsid(rules)]);
            }
            if edns.keepalive && client.transport == Transport::Tcp {
                options.put(KEEPALIVE, &[&rules.keepalive.to_be_bytes()]);
            }
            if let (Some((ours, _)), Some(secret)) = (edns.cookie, &rules.cookie_secret) {
                let server = cookie::make(secret, ours, client.peer.ip(), client.now);
                options.put(COOKIE, &[ours, &server]);
            }
            if let Some(code) = error {
                options.put(EXTENDED_ERROR, &[&code.to_be_bytes()]);
            }
        });
    }
}

impl AskedEdns<'_> {
    pub(super) fn gives_nsid(&self, rules: &Rules) -> bool {
        self.nsid && !rules.nsid.is_empty()
    }
}

pub(super) fn nsid(rules: &Rules) -> &[u8] {
    &rules.nsid[..rules.nsid.len().min(MAX_NSID)]
}

/// Finds the OPT record among `additional` ones, after `before` others.
fn read_edns<'a>(
    reader: &mut Reader<'a>,
    before: usize,
    additional: usize,
) -> Result<Option<AskedEdns<'a>>, Error> {
    let mut found = None;
    for number in 0..before + additional {
        let length = reader.name_into(&mut [0; MAX_NAME])?;
        let (rtype, size, [_, version, flags, _]) = (Rtype(reader.u16()?), reader.u16()?, reader.array()?);
        let data = reader.u16()?;
        let data = reader.take(data.into())?;
        if rtype == Rtype::OPT {
            if found.is_some() || number < before || length != 1 {
                return Err(Error::Opt);
            }
            let mut edns = AskedEdns { version, size, dnssec_ok: flags & 0x80 != 0, ..AskedEdns::default() };
            edns.read_options(&mut Reader::new(data))?;
            found = Some(edns);
        }
    }
    Ok(found)
}

impl<'a> AskedEdns<'a> {
    fn read_options(&mut self, options: &mut Reader<'a>) -> Result<(), Error> {
        while !options.is_empty() {
            let (code, length) = (options.u16()?, options.u16()?);
            let data = options.take(length.into())?;
            match code {
                NSID => self.nsid = true,
                KEEPALIVE => self.keepalive = true,
                COOKIE => {
                    let (client, server) = data.split_first_chunk::<8>().ok_or(Error::Opt)?;
                    if !server.is_empty() && !(8..=32).contains(&server.len()) {
                        return Err(Error::Opt);
                    }
                    self.cookie = self.cookie.or(Some((client, server)));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
