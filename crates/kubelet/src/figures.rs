//! What pods use: processor time and memory of their processes, and what went over their networks.
//!
//! From `/proc`, which every node has; control groups are not there for everybody. Processes of a pod are those below
//! its sandbox, those of a container those below its first process.

use std::collections::BTreeMap;
use std::fs;

/// Ticks of processor time per second in `/proc` (`USER_HZ`, the same on all architectures of Linux).
const TICKS: u64 = 100;

/// What some processes have used, and use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Nanoseconds of processor time.
    pub(crate) cpu: u64,
    /// Bytes in memory.
    pub(crate) memory: u64,
    /// How many there are.
    pub(crate) processes: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.processes += other.processes;
    }
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its number in the namespace below this one, zero if there is none.
    inside: u32,
    usage: Usage,
}

/// All processes, at one time.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    all: BTreeMap<u32, Process>,
    children: BTreeMap<u32, Vec<u32>>,
}

impl Processes {
    /// Looks around; those that go meanwhile are left out.
    pub(crate) fn look() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let found = numbers.filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            Some((pid, parse(&stat, &status)?))
        });
        Self::of(found.collect())
    }

    fn of(all: BTreeMap<u32, Process>) -> Self {
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (pid, process) in &all {
            children.entry(process.parent).or_default().push(*pid);
        }
        Self { all, children }
    }

    /// What a process and all below it use.
    pub(crate) fn below(&self, pid: u32) -> Usage {
        let (mut sum, mut open) = (Usage::default(), vec![pid]);
        while let Some(pid) = open.pop() {
            let Some(process) = self.all.get(&pid) else { continue };
            sum.add(process.usage);
            open.extend(self.children.get(&pid).into_iter().flatten());
        }
        sum
    }

    /// What one process uses.
    pub(crate) fn one(&self, pid: u32) -> Usage {
        self.all.get(&pid).map(|process| process.usage).unwrap_or_default()
    }

    /// The child of `parent` that has the number `inside` in its namespace.
    pub(crate) fn child(&self, parent: u32, inside: u32) -> Option<u32> {
        let mut children = self.children.get(&parent)?.iter();
        children.find(|pid| self.all.get(pid).is_some_and(|process| process.inside == inside)).copied()
    }
}

/// From `/proc/PID/stat` and `/proc/PID/status`.
fn parse(stat: &str, status: &str) -> Option<Process> {
    // The name may hold anything, also parentheses.
    let (_, rest) = stat.rsplit_once(')')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    // From proc(5): the parent is field 4; the times of the process and of children it has waited for 14 to 17.
    let parent = u32::try_from(number(1)?).ok()?;
    let ticks: u64 = [11, 12, 13, 14].into_iter().filter_map(number).sum();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line("VmRSS:").and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let inside = line("NSpid:").and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
    Some(Process {
        parent,
        inside: inside.unwrap_or_default(),
        usage: Usage {
            cpu: ticks * (1_000_000_000 / TICKS),
            memory: kib.unwrap_or_default() * 1024,
            processes: 1,
        },
    })
}

/// Name, received and sent bytes and errors of a network link.
pub(crate) type Link = (String, [u64; 4]);

/// The links of the network namespace of a process, without loopback.
pub(crate) fn links(pid: u32) -> Vec<Link> {
    parse_links(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn parse_links(text: &str) -> Vec<Link> {
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    let links = rows.filter_map(|(name, rest)| {
        let words: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = *words else { return None };
        Some((name.trim().to_owned(), [rx_bytes, rx_errors, tx_bytes, tx_errors]))
    });
    links.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "12 (a) b (c) S 7 12 12 0 -1 4194560 100 200 0 0 5 6 7 8 20 0 1 0 9 10 11";
        let status = "Name:\ta\nVmRSS:\t    2048 kB\nNSpid:\t12\t3\t1\n";
        let want = Process {
            parent: 7,
            inside: 3,
            usage: Usage { cpu: 260_000_000, memory: 2 << 20, processes: 1 },
        };
        assert_eq!(parse(stat, status), Some(want));
        assert_eq!(parse("", ""), None);
        assert_eq!(parse(stat, "").map(|process| process.usage.memory), Some(0));
    }

    #[test]
    fn usage_is_that_of_all_below() {
        let process =
            |parent, inside, cpu| Process { parent, inside, usage: Usage { cpu, memory: 1, processes: 1 } };
        let all = [
            (1, process(0, 0, 1)),
            (2, process(1, 1, 10)),
            (3, process(2, 2, 100)),
            (4, process(1, 0, 1000)),
        ];
        let processes = Processes::of(all.into());
        assert_eq!(processes.below(2), Usage { cpu: 110, memory: 2, processes: 2 });
        assert_eq!(processes.child(2, 2), Some(3));
        assert_eq!(processes.child(2, 9), None);
        assert_eq!(processes.below(9), Usage::default());
    }

    #[test]
    fn links_are_read() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 30 1 4 0 0 0 0 0\n";
        assert_eq!(parse_links(text), [("eth0".to_owned(), [10, 2, 30, 4])]);
    }
}
