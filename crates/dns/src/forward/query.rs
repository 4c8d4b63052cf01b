//! What is sent to an upstream, and whether what comes back is its answer (RFC 5452 §9, RFC 7873 §5.3).

use crate::respond::UDP_SIZE;
use crate::wire::{Cookie, Edns, EdnsOption, HEADER, Header, Message, Name, Opcode, Question, Rcode};

/// A query under way.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) message: Message,
    /// The case of letters must come back as it went (0x20).
    pub(super) case: bool,
    cookie: Option<[u8; 8]>,
}

/// What a packet is to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Its answer.
    Answer(Box<Message>),
    /// Its answer but for the case of letters: from somebody who guesses, or who does not keep it.
    OtherCase,
    /// Nothing to do with it.
    Bogus,
}

impl Outgoing {
    /// The query for an upstream: nothing of the client in it but the question, RD, CD, DO and AD; no client subnet.
    pub(super) fn new(query: &Message, question: &Question, id: u16, edns: bool) -> Self {
        let dnssec_ok = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        let header = Header {
            checking_disabled: query.header.checking_disabled,
            // RFC 6840 §5.7: this asks for AD as DO does.
            authentic_data: query.header.authentic_data,
            recursion_desired: query.header.recursion_desired,
            ..Header::query(id)
        };
        let mut message = Message::new(header, Some(question.clone()));
        message.edns = edns.then(|| Edns { udp_size: UDP_SIZE, dnssec_ok, ..Edns::default() });
        Self { message, case: false, cookie: None }
    }

    /// The case of each letter by a bit of what `random` gives.
    pub(super) fn with_random_case(mut self, random: &dyn Fn() -> u64) -> Self {
        let Some(question) = self.message.questions.first_mut() else { return self };
        let mut wire = question.name.as_wire().to_vec();
        let (mut bits, mut left) = (0, 0);
        // Lengths of labels are below 64, where there are no letters.
        for byte in wire.iter_mut().filter(|byte| byte.is_ascii_alphabetic()) {
            if left == 0 {
                (bits, left) = (random(), 64);
            }
            *byte = if bits & 1 == 1 { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
            (bits, left) = (bits >> 1, left - 1);
        }
        if let Ok(name) = Name::from_wire(&wire) {
            question.name = name;
            self.case = true;
        }
        self
    }

    /// With a cookie: ours, and the upstream's if we have one.
    pub(super) fn with_cookie(mut self, client: [u8; 8], server: Box<[u8]>) -> Self {
        if let Some(edns) = &mut self.message.edns {
            edns.options.push(EdnsOption::Cookie(Cookie { client, server }));
            self.cookie = Some(client);
        }
        self
    }

    /// What `packet` is to the query.
    pub(super) fn check(&self, packet: &[u8]) -> Incoming {
        let id = self.message.header.id.to_be_bytes();
        if packet.len() < HEADER || packet[..2] != id {
            return Incoming::Bogus;
        }
        let Ok(answer) = Message::parse(packet) else { return Incoming::Bogus };
        if !answer.header.response || answer.header.opcode != Opcode::QUERY {
            return Incoming::Bogus;
        }
        let cookie = answer.edns.as_ref().and_then(Edns::cookie).map(|cookie| cookie.client);
        // RFC 7873 §5.3: a cookie that is not ours is from somebody else.
        if cookie.is_some_and(|cookie| Some(cookie) != self.cookie) {
            return Incoming::Bogus;
        }
        match (self.message.question(), answer.question()) {
            (Some(asked), Some(answered)) if asked == answered => {
                if self.case && asked.name.as_wire() != answered.name.as_wire() {
                    return Incoming::OtherCase;
                }
                Incoming::Answer(Box::new(answer))
            }
            // Who does not understand the query may not repeat it (RFC 6891 §7).
            (_, None) if answer.questions.is_empty() && answer.header.rcode == Rcode::FORMERR => {
                Incoming::Answer(Box::new(answer))
            }
            _ => Incoming::Bogus,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rtype;

    fn query() -> Message {
        Message::new(Header::query(1), Some(Question::new("www.Example.org.".parse().unwrap(), Rtype::AAAA)))
    }

    fn outgoing() -> Outgoing {
        let query = query();
        let outgoing = Outgoing::new(&query, &query.questions[0], 0x1234, true);
        outgoing.with_random_case(&|| 0b1011).with_cookie([7; 8], Box::default())
    }

    #[test]
    fn nothing_of_the_client_goes_out_but_what_changes_the_answer() {
        let mut query = query();
        let secret = EdnsOption::Other(8, Box::new([0, 1, 24, 0, 192, 0, 2]));
        query.edns = Some(Edns { udp_size: 4096, dnssec_ok: true, options: vec![secret], version: 0 });
        query.header.checking_disabled = true;
        let out = Outgoing::new(&query, &query.questions[0], 9, true).message;
        assert_eq!(out.header, Header { checking_disabled: true, ..Header::query(9) });
        assert_eq!(out.edns, Some(Edns { udp_size: 1232, dnssec_ok: true, ..Edns::default() }));
        assert_eq!(Outgoing::new(&query, &query.questions[0], 9, false).message.edns, None);
    }

    #[test]
    fn the_case_of_letters_is_by_chance() {
        let out = outgoing();
        assert_eq!(out.message.questions[0].name.to_string(), "WWw.Example.org.");
        let mut calls = std::cell::Cell::new(0);
        let long = Message::new(
            Header::query(1),
            Some(Question::new(
                "a".repeat(63).parse::<Name>().unwrap().child("b".repeat(63)).unwrap(),
                Rtype::A,
            )),
        );
        let out = Outgoing::new(&long, &long.questions[0], 1, true).with_random_case(&|| {
            calls.set(calls.get() + 1);
            u64::MAX
        });
        assert_eq!(*calls.get_mut(), 2, "126 letters take 126 bits");
        assert_eq!(
            out.message.questions[0].name.to_string(),
            format!("{}.{}.", "B".repeat(63), "A".repeat(63))
        );
    }

    #[test]
    fn rfc_5452_9_1_what_is_believed() {
        let out = outgoing();
        let good = || out.message.response(Rcode::NOERROR);
        let check = |change: &dyn Fn(&mut Message)| {
            let mut answer = good();
            change(&mut answer);
            out.check(&answer.to_bytes())
        };
        let answered = |incoming: Incoming| matches!(incoming, Incoming::Answer(_));
        assert!(answered(check(&|_| ())));
        assert_eq!(check(&|answer| answer.header.id ^= 1), Incoming::Bogus);
        assert_eq!(check(&|answer| answer.header.response = false), Incoming::Bogus);
        assert_eq!(check(&|answer| answer.header.opcode = Opcode::NOTIFY), Incoming::Bogus);
        assert_eq!(check(&|answer| answer.questions[0].rtype = Rtype::A), Incoming::Bogus);
        assert_eq!(
            check(&|answer| answer.questions[0].name = "www.example.net.".parse().unwrap()),
            Incoming::Bogus
        );
        assert_eq!(check(&|answer| answer.questions.clear()), Incoming::Bogus);
        assert_eq!(
            check(&|answer| answer.questions[0].name = answer.questions[0].name.to_lowercase()),
            Incoming::OtherCase
        );
        let cookie = |client| {
            Some(Edns {
                options: vec![EdnsOption::Cookie(Cookie { client, server: Box::new([1; 8]) })],
                ..Edns::default()
            })
        };
        assert!(answered(check(&|answer| answer.edns = cookie([7; 8]))));
        assert_eq!(check(&|answer| answer.edns = cookie([8; 8])), Incoming::Bogus);
        assert!(answered(check(&|answer| {
            answer.questions.clear();
            answer.header.rcode = Rcode::FORMERR;
        })));
        assert_eq!(out.check(&[]), Incoming::Bogus);
        assert_eq!(out.check(&good().to_bytes()[..20]), Incoming::Bogus);
    }
}
