//! A load of queries: so many under way at once, from one socket.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Queries under way: the server always finds one waiting.
const WINDOW: usize = 64;
/// What takes longer is lost.
const LOST: Duration = Duration::from_millis(200);
/// As much as an answer has without EDNS.
const LONGEST: usize = 512;
/// QR, and the code.
const RESPONSE: u8 = 0x80;
const RCODE: u8 = 0x0f;

/// Asks for the same names again and again.
pub(super) struct Load {
    socket: UdpSocket,
    queries: Vec<Vec<u8>>,
    next: usize,
    /// Whether answers must have records.
    checked: bool,
}

impl Load {
    pub(super) fn new(socket: UdpSocket, queries: Vec<Vec<u8>>, checked: bool) -> Result<Self> {
        socket.set_read_timeout(Some(LOST))?;
        Ok(Self { socket, queries, next: 0, checked })
    }

    /// Asks for each name until there is an answer.
    pub(super) fn warm(&mut self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut buffer = [0; LONGEST];
        for at in 0..self.queries.len() {
            loop {
                ensure!(begun.elapsed() < patience, "it does not answer as it should");
                // Before it listens there is a refusal.
                if self.socket.send(&self.queries[at]).is_ok()
                    && let Ok(length) = self.socket.recv(&mut buffer)
                    && self.is_right(&buffer[..length])
                {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Asks for a while; how many answers there were, and in how many seconds.
    pub(super) fn run(&mut self, time: Duration) -> Result<(u64, f64)> {
        let begun = Instant::now();
        let (mut answers, mut open) = (0, 0);
        let mut buffer = [0; LONGEST];
        while begun.elapsed() < time {
            while open < WINDOW {
                self.socket.send(&self.queries[self.next])?;
                self.next = (self.next + 1) % self.queries.len();
                open += 1;
            }
            let Some(length) = self.wait(&mut buffer)? else {
                open = 0;
                continue;
            };
            self.check(&buffer[..length])?;
            let mut heard = 1;
            // All that has come meanwhile, so that both sides work at the same time.
            while heard < WINDOW
                && let Some(length) = self.look(&mut buffer)?
            {
                self.check(&buffer[..length])?;
                heard += 1;
            }
            answers += heard as u64;
            open = open.saturating_sub(heard);
        }
        let seconds = begun.elapsed().as_secs_f64();
        // The next turn begins with nothing under way.
        while open > 0 && self.wait(&mut buffer)?.is_some() {
            open -= 1;
            answers += 1;
        }
        Ok((answers, seconds))
    }

    fn wait(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.socket.recv(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn look(&self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(Some(length)),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn check(&self, answer: &[u8]) -> Result<()> {
        if !self.is_right(answer) {
            bail!("an answer that is none: {answer:02x?}");
        }
        Ok(())
    }

    fn is_right(&self, answer: &[u8]) -> bool {
        let is_answer = |flags: u8, code: u8, count: [u8; 2]| {
            flags & RESPONSE != 0 && code & RCODE == 0 && count != [0, 0]
        };
        match answer {
            [_, _, flags, code, _, _, high, low, ..] => {
                !self.checked || is_answer(*flags, *code, [*high, *low])
            }
            _ => false,
        }
    }
}
