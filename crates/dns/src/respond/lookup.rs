//! The same answers as messages, for the slow path.

use super::answer::{Answer, Answering};
use super::query::Query;
use super::reply::Reply;
use crate::wire::{Header, MAX_MESSAGE, Message, Name, Question, Rcode};
use crate::zone::Snapshot;

/// What the snapshot says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// The response.
    pub message: Message,
    /// The name that the answer's last alias leads to, if that is not known here.
    pub chase: Option<Name>,
}

/// Answers a question of class IN from the snapshot; `None` if it is for others to answer.
pub fn lookup(snapshot: &Snapshot, question: &Question, random: u32) -> Option<Local> {
    let packet = Message::new(Header::query(0), Some(question.clone())).to_bytes();
    let query = Query::read(&packet).ok()?;
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, query.header, query.question, MAX_MESSAGE);
    let empty = reply.mark();
    let answering = Answering { snapshot, rtype: question.rtype, random, synthesize: false };
    let (_, answer) = answering.answer(&query.name, &mut reply);
    let (rcode, chase) = match answer {
        Answer::Here(rcode) => (rcode, None),
        Answer::Chase(name) => (Rcode::NOERROR, Some(name)),
        Answer::NotReady | Answer::Looping => (Rcode::SERVFAIL, None),
        Answer::Elsewhere | Answer::Minimal => return None,
    };
    if rcode == Rcode::SERVFAIL {
        reply.back_to(empty);
    }
    reply.set_authoritative(rcode != Rcode::SERVFAIL);
    reply.finish(rcode);
    Some(Local { message: Message::parse(&out).ok()?, chase })
}
