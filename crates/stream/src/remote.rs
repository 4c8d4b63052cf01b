//! A command and its standard streams, whichever way they come (J55).

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::channels::{self, Channels, Protocol};
use crate::spdy::session::Gone;
use crate::spdy::{Session, Writer};

/// Protocols of streams over SPDY, the best first; a client names those it knows in `X-Stream-Protocol-Version`.
pub const VERSIONS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// How long a client may take to open the streams it has asked for.
const OPEN_MAX: Duration = Duration::from_secs(30);
/// Longest text on the channel for sizes that says no size yet.
const SIZE_BYTES: usize = 4096;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// What a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It sends input.
    pub stdin: bool,
    /// It takes output.
    pub stdout: bool,
    /// It takes error output; never with a terminal, which has one output only.
    pub stderr: bool,
    /// It has a terminal.
    pub tty: bool,
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// The command has ended with another status than zero.
    Exit {
        /// The status.
        code: i32,
        /// What was run, for people.
        command: Vec<String>,
    },
    /// It could not be done.
    Failed(String),
}

impl Outcome {
    /// As a `Status` object.
    pub fn status(&self) -> Value {
        match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit { code, command } => json!({
                "metadata": {},
                "status": "Failure",
                "message": exit_text(*code, command),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": why}]},
                "code": 500,
            }),
        }
    }

    /// As the protocols before the fourth want it; nothing is to be said of success.
    fn text(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::Exit { code, command } => Some(exit_text(*code, command)),
            Self::Failed(why) => Some(why.clone()),
        }
    }
}

fn exit_text(code: i32, command: &[String]) -> String {
    let command = command.join(" ");
    format!(
        "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
    )
}

/// The client did not do what it said it would.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Streams are missing.
    #[error("the client did not open the {0} stream in time")]
    Missing(&'static str),
}

/// Where output goes.
#[derive(Debug)]
pub struct Sink(Way);

#[derive(Debug)]
enum Way {
    Spdy(Writer),
    Channel(u8, channels::Output),
}

impl Sink {
    /// Sends some; waits while the client takes none.
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        match &self.0 {
            Way::Spdy(writer) => writer.send(bytes).await,
            Way::Channel(channel, output) => output.send(*channel, &bytes).await,
        }
    }

    /// No more will come.
    pub async fn end(self) -> Result<(), Gone> {
        match self.0 {
            Way::Spdy(writer) => writer.end().await,
            Way::Channel(..) => Ok(()),
        }
    }
}

/// The streams of a command.
#[derive(Debug)]
pub struct Remote {
    /// Input, if it was asked for.
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    /// Sizes of the client's terminal, if it has one.
    pub sizes: Option<Sizes>,
    /// Where output goes, if it was asked for.
    pub stdout: Option<Sink>,
    /// Where error output goes, if it was asked for.
    pub stderr: Option<Sink>,
    /// Where is said how it went.
    pub end: End,
}

/// The sizes a terminal gets.
#[derive(Debug)]
pub struct Sizes {
    queue: mpsc::Receiver<Bytes>,
    text: Vec<u8>,
}

impl Sizes {
    fn new(queue: mpsc::Receiver<Bytes>) -> Self {
        Self { queue, text: Vec::new() }
    }

    /// The next one, `None` when no more will come.
    pub async fn next(&mut self) -> Option<Size> {
        loop {
            match first_size(&mut self.text) {
                Some(size) => return Some(size),
                None if self.text.len() > SIZE_BYTES => return None,
                None => self.text.extend_from_slice(&self.queue.recv().await?),
            }
        }
    }
}

/// Takes the first whole size out of a text of JSON objects.
fn first_size(text: &mut Vec<u8>) -> Option<Size> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let taken = values.byte_offset();
    text.drain(..taken);
    let number = |name| value.get(name).and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    Some(Size { width: number("Width").unwrap_or_default(), height: number("Height").unwrap_or_default() })
}

/// Where is said how it went, and the connection with it.
#[derive(Debug)]
pub enum End {
    /// Over SPDY: with a `Status`, or in words for older clients.
    Spdy {
        /// The connection.
        session: Session,
        /// The stream for it.
        error: Writer,
        /// Whether the client understands a `Status`.
        status: bool,
        /// Ends on which nothing is said: closed, they would tell the client that its input is not wanted any more.
        idle: Vec<Writer>,
    },
    /// Over channels.
    Channels(Channels),
}

impl End {
    /// Waits until the client is gone.
    pub async fn closed(&mut self) {
        match self {
            Self::Spdy { session, .. } => session.closed().await,
            Self::Channels(channels) => channels.closed().await,
        }
    }

    /// Says how it went, and ends the connection.
    pub async fn finish(self, outcome: &Outcome) {
        match self {
            Self::Spdy { session, error, status, idle } => {
                let text = if status { Some(outcome.status().to_string()) } else { outcome.text() };
                // A client that is gone does not want to know.
                let _ = error.send(text.unwrap_or_default().into()).await;
                let _ = error.end().await;
                for writer in idle {
                    let _ = writer.end().await;
                }
                session.finish().await;
            }
            Self::Channels(channels) => {
                let text = outcome.status().to_string();
                let _ = channels.output().send(ERROR, text.as_bytes()).await;
                channels.finish().await;
            }
        }
    }
}

impl Remote {
    /// Over the channels of a WebSocket whose handshake is done.
    pub async fn over_channels<T>(io: T, protocol: Protocol, wanted: Wanted) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let inputs = [(STDIN, wanted.stdin), (RESIZE, wanted.tty)];
        let inputs: Vec<u8> =
            inputs.iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| *channel).collect();
        let mut channels = Channels::new(io, protocol, &inputs).await;
        let output = channels.output();
        // An empty message tells clients that somebody is there.
        let first = if wanted.stdout {
            STDOUT
        } else if wanted.stderr {
            STDERR
        } else {
            ERROR
        };
        let _ = output.send(first, &[]).await;
        let sink = |channel, wanted: bool| wanted.then(|| Sink(Way::Channel(channel, output.clone())));
        Self {
            stdin: channels.input(STDIN),
            sizes: channels.input(RESIZE).map(Sizes::new),
            stdout: sink(STDOUT, wanted.stdout),
            stderr: sink(STDERR, wanted.stderr && !wanted.tty),
            end: End::Channels(channels),
        }
    }

    /// Over SPDY in one of [`VERSIONS`]: waits for the streams that were asked for.
    ///
    /// # Errors
    ///
    /// If one does not come.
    pub async fn over_spdy(mut session: Session, version: &str, wanted: Wanted) -> Result<Self, RemoteError> {
        let sized = wanted.tty && matches!(version, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let (mut stdin, mut sizes, mut stdout, mut stderr, mut error) = (None, None, None, None, None);
        let stderr_wanted = wanted.stderr && !wanted.tty;
        let deadline = tokio::time::Instant::now() + OPEN_MAX;
        let mut idle = Vec::new();
        loop {
            let missing = [
                ("error", error.is_none()),
                ("stdin", wanted.stdin && stdin.is_none()),
                ("stdout", wanted.stdout && stdout.is_none()),
                ("stderr", stderr_wanted && stderr.is_none()),
                ("resize", sized && sizes.is_none()),
            ];
            let Some((name, _)) = missing.into_iter().find(|(_, missing)| *missing) else { break };
            let Ok(Some(stream)) = tokio::time::timeout_at(deadline, session.accept()).await else {
                return Err(RemoteError::Missing(name));
            };
            match stream.headers.get("streamtype") {
                "stdin" => {
                    stdin = Some(stream.reader.into_queue());
                    idle.push(stream.writer);
                }
                "resize" => {
                    sizes = Some(Sizes::new(stream.reader.into_queue()));
                    idle.push(stream.writer);
                }
                "stdout" => stdout = Some(Sink(Way::Spdy(stream.writer))),
                "stderr" => stderr = Some(Sink(Way::Spdy(stream.writer))),
                "error" => error = Some(stream.writer),
                _ => {}
            }
        }
        let Some(error) = error else { return Err(RemoteError::Missing("error")) };
        let status = version == VERSIONS[0];
        Ok(Self { stdin, sizes, stdout, stderr, end: End::Spdy { session, error, status, idle } })
    }
}

#[cfg(test)]
mod tests;
