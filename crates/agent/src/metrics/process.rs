//! What every process shows of itself, from `/proc` (proc(5)). What can't be read is left out.

use std::fs;

use super::text::Text;

/// Clock ticks per second in `/proc/self/stat`: `USER_HZ`, the same on all architectures we run on.
const TICKS: f64 = 100.0;

pub(super) fn write(text: &mut Text) {
    let mut show = |name: &str, is_counter, help: &str, value: Option<f64>| {
        let Some(value) = value else { return };
        let sample = [(String::new(), value)];
        if is_counter { text.counter(name, help, sample) } else { text.gauge(name, help, sample) }
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field, the name, may hold anything, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    show("process_cpu_seconds_total", true, "Total user and system CPU time spent in seconds.", cpu);
    let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok());
    let started = booted.zip(field(22)).map(|(booted, ticks)| booted + ticks / TICKS);
    let help = "Start time of the process since unix epoch in seconds.";
    show("process_start_time_seconds", false, help, started);
    show("process_virtual_memory_bytes", false, "Virtual memory size in bytes.", field(23));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| {
        let kibibytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
        Some(kibibytes.trim().parse::<f64>().ok()? * 1024.0)
    });
    show("process_resident_memory_bytes", false, "Resident memory size in bytes.", resident);
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    show("process_open_fds", false, "Number of open file descriptors.", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<f64>().ok());
    show("process_max_fds", false, "Maximum number of open file descriptors.", most);
}
