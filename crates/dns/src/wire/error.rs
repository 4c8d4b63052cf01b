//! What can be wrong with a packet or a name.

/// Why bytes are not a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something reaches past the end of the packet, or of its record.
    #[error("the message ends too early")]
    Truncated,
    /// A name does not end within its bounds, or its pointers do not lead backwards (RFC 1035 section 4.1.4).
    #[error("a name has a pointer that does not lead backwards")]
    Pointer,
    /// The two top bits of a label's length are 01 or 10 (RFC 6891 section 5).
    #[error("a name has a label of an unknown type")]
    LabelType,
    /// More than 255 bytes (RFC 1035 section 2.3.4).
    #[error("a name is longer than 255 bytes")]
    NameTooLong,
    /// A record has more data than its type allows.
    #[error("a record has bytes left over")]
    Excess,
    /// There are two OPT records, or one where none may be (RFC 6891 section 6.1.1).
    #[error("the OPT record is misplaced, repeated or malformed")]
    Opt,
}

/// Why a text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing, or nothing between two dots.
    #[error("a label is empty")]
    EmptyLabel,
    /// More than 63 bytes (RFC 1035 section 2.3.4).
    #[error("a label is longer than 63 bytes")]
    LabelTooLong,
    /// More than 255 bytes (RFC 1035 section 2.3.4).
    #[error("the name is longer than 255 bytes")]
    NameTooLong,
    /// A backslash must be followed by three digits up to 255, or by one other character (RFC 1035 section 5.1).
    #[error("a backslash is not followed by three digits up to 255 or by another character")]
    Escape,
}
