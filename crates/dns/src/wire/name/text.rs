//! Names as people write them (RFC 1035 section 5.1).

use std::fmt;
use std::str::FromStr;

use super::{Name, NameError};

impl FromStr for Name {
    type Err = NameError;

    /// Names are absolute, with or without a dot at the end.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "." {
            return Ok(Self::root());
        }
        let mut labels = vec![Vec::new()];
        let mut bytes = text.bytes();
        let mut ended = false;
        while let Some(byte) = bytes.next() {
            if std::mem::take(&mut ended) {
                labels.push(Vec::new());
            }
            let byte = match byte {
                b'.' => {
                    ended = true;
                    continue;
                }
                b'\\' => escaped(&mut bytes)?,
                byte => byte,
            };
            labels.last_mut().expect("there is always one").push(byte);
        }
        Self::from_labels(labels)
    }
}

fn escaped(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut digit = || bytes.next().filter(u8::is_ascii_digit).ok_or(NameError::Escape);
    let value =
        [first, digit()?, digit()?].iter().fold(0, |value, digit| value * 10 + u16::from(digit - b'0'));
    u8::try_from(value).map_err(|_| NameError::Escape)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::fmt::Write as _;

        let mut text = String::with_capacity(self.as_wire().len());
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        text.extend(['\\', char::from(*byte)]);
                    }
                    b'!'..=b'~' => text.push(char::from(*byte)),
                    byte => write!(text, "\\{byte:03}")?,
                }
            }
            text.push('.');
        }
        f.pad(if self.is_root() { "." } else { &text })
    }
}
