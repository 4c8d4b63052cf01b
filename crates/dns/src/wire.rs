//! Messages as they stand in packets (RFC 1035): names, questions, records, EDNS (RFC 6891).
//!
//! Nothing read here can panic or take more than it is given: what is malformed is an [`Error`].

mod codes;
mod edns;
mod error;
mod header;
mod message;
mod name;
mod rdata;
mod read;
mod write;

pub use codes::{Class, Opcode, Rcode, Rtype};
pub use edns::{Cookie, Edns, EdnsOption, ede};
pub use error::{Error, NameError};
pub use header::{HEADER, Header};
pub use message::{Message, Question, Record, Section};
pub use name::{Labels, MAX_LABEL, MAX_NAME, Name};
pub use rdata::{Rdata, Soa, Srv};
pub use read::Reader;
pub use write::{MAX_MESSAGE, Writer};

#[cfg(test)]
pub(crate) mod tests;
