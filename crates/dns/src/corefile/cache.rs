//! `cache [TTL] [ZONES...] { ... }`.

use std::time::Duration;

use super::lexer::Word;
use super::tree::Directive;
use super::{CorefileError, words};

const OPTIONS: &[&str] =
    &["success", "denial", "prefetch", "serve_stale", "servfail", "disable", "keepttl", "bytes"];

/// About what an answer takes, where a Corefile counts in answers.
const ENTRY: usize = 512;

/// How long answers of a kind hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// At most as many answers.
    pub capacity: usize,
    /// At most this many seconds.
    pub max_ttl: u32,
    /// At least this many seconds.
    pub min_ttl: u32,
    /// Not under these zones.
    pub disabled: Vec<String>,
}

/// When answers are renewed before they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// If they were asked for as often; 0 is never.
    pub amount: u32,
    /// Without a pause as long.
    pub window: Duration,
    /// Once no more than this part of their time is left.
    pub percentage: u8,
}

/// What is remembered of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Of names under these zones.
    pub zones: Vec<String>,
    /// Answers.
    pub success: Keep,
    /// That there is no answer.
    pub denial: Keep,
    /// Renewal.
    pub prefetch: Prefetch,
    /// How long ended answers serve when there are no others (RFC 8767).
    pub serve_stale: Option<Duration>,
    /// Ended answers serve at once, not only after a failure.
    pub stale_at_once: bool,
    /// How long failures are remembered (RFC 9520).
    pub servfail: Duration,
    /// Answers show the time they came with, not what is left of it.
    pub keep_ttl: bool,
    /// Room for all of it.
    pub bytes: usize,
}

impl Default for Cache {
    fn default() -> Self {
        let keep = |max_ttl| Keep { capacity: 9984, max_ttl, min_ttl: 5, disabled: Vec::new() };
        let success = keep(3600);
        Self {
            zones: vec![".".to_owned()],
            bytes: 2 * success.capacity * ENTRY,
            success,
            denial: keep(1800),
            prefetch: Prefetch { amount: 0, window: Duration::from_secs(60), percentage: 10 },
            serve_stale: None,
            stale_at_once: false,
            servfail: Duration::from_secs(5),
            keep_ttl: false,
        }
    }
}

pub(super) fn read(directive: &Directive) -> Result<Cache, CorefileError> {
    let mut read = Cache::default();
    let mut arguments = directive.arguments.as_slice();
    if let [first, rest @ ..] = arguments
        && first.text.parse::<u32>().is_ok()
    {
        let ttl = words::number(first, 0..=604_800)?;
        (read.success.max_ttl, read.denial.max_ttl) = (ttl, ttl.min(1800));
        arguments = rest;
    }
    read.zones = words::zones_or_all(arguments)?;
    let mut bytes = None;
    for (option, arguments) in directive.options() {
        option_of(&mut read, &mut bytes, &directive.name, option, arguments)?;
    }
    let entries = read.success.capacity + read.denial.capacity;
    read.bytes = bytes.unwrap_or((entries * ENTRY).max(1 << 20));
    Ok(read)
}

fn option_of(
    read: &mut Cache,
    bytes: &mut Option<usize>,
    plugin: &Word,
    option: &Word,
    arguments: &[Word],
) -> Result<(), CorefileError> {
    match option.text.as_str() {
        "success" => keep(&mut read.success, option, arguments)?,
        "denial" => keep(&mut read.denial, option, arguments)?,
        "prefetch" => {
            let [amount, rest @ ..] = arguments else {
                return Err(option.error("prefetch needs how often an answer must be asked for"));
            };
            read.prefetch.amount = words::number(amount, 0..=u32::MAX)?;
            for word in rest {
                match word.text.strip_suffix('%') {
                    Some(percent) => {
                        let number = Word { text: percent.to_owned(), ..word.clone() };
                        read.prefetch.percentage = words::number(&number, 10..=90)?;
                    }
                    None => read.prefetch.window = words::duration(word)?,
                }
            }
        }
        "serve_stale" => {
            read.serve_stale = Some(Duration::from_secs(3600));
            read.stale_at_once = true;
            for word in arguments {
                match word.text.as_str() {
                    "verify" => read.stale_at_once = false,
                    "immediate" => read.stale_at_once = true,
                    _ => read.serve_stale = Some(words::duration(word)?),
                }
            }
        }
        "servfail" => {
            read.servfail = words::duration(words::one(option, arguments, "a duration")?)?;
            // RFC 9520 §3.2: not longer than five minutes.
            if read.servfail > Duration::from_secs(300) {
                return Err(
                    option.error("failures are remembered for five minutes at most: write 5m or less")
                );
            }
        }
        "disable" => {
            let [kind, zones @ ..] = arguments else {
                return Err(option.error("disable needs success or denial, and may name zones"));
            };
            let keep = match kind.text.as_str() {
                "success" => &mut read.success,
                "denial" => &mut read.denial,
                _ => return Err(words::unknown(option, kind, &["success", "denial"])),
            };
            keep.disabled.extend(words::zones_or_all(zones)?);
        }
        "keepttl" => {
            words::none(option, arguments)?;
            read.keep_ttl = true;
        }
        "bytes" => *bytes = Some(words::size(words::one(option, arguments, "a size")?)?),
        _ => return Err(words::unknown(plugin, option, OPTIONS)),
    }
    Ok(())
}

fn keep(keep: &mut Keep, option: &Word, arguments: &[Word]) -> Result<(), CorefileError> {
    let [capacity, times @ ..] = arguments else {
        return Err(option.error(format!("{} needs how many answers to keep", option.text)));
    };
    keep.capacity = words::number(capacity, 0..=100_000_000)?;
    if let [max, rest @ ..] = times {
        keep.max_ttl = words::number(max, 0..=604_800)?;
        if let Some(min) = words::at_most_one(option, rest)? {
            keep.min_ttl = words::number(min, 0..=604_800)?;
        }
    }
    // The least time never lengthens beyond the most.
    keep.min_ttl = keep.min_ttl.min(keep.max_ttl);
    Ok(())
}
