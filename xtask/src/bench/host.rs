//! The machine that all of this runs on.

use std::fs;
use std::thread;

use serde_json::{Value, json};

/// CPUs that this process may use.
pub(crate) fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// What the results depend on. What is not known is null.
pub(crate) fn json() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let model = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory_mib = memory
        .as_deref()
        .and_then(|memory| memory.strip_suffix(" kB")?.parse::<u64>().ok())
        .map(|kib| kib >> 10);
    let kernel = read("/proc/sys/kernel/osrelease");
    json!({
        "cpus": cpus(),
        "cpu": model,
        "memory_mib": memory_mib,
        "kernel": kernel.trim_end(),
    })
}

/// How many processes wanted a CPU over the last minute, on average: a host that others work on measures
/// nothing.
pub(crate) fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next()?.parse().ok()
}

/// The value in the first line `key: value`.
fn field(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: A: B\nmodel name\t: C\n";
        assert_eq!(field(text, "model name").as_deref(), Some("A: B"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let host = json();
        assert!(host["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
        assert!(host["memory_mib"].as_u64().is_some_and(|mib| mib > 0));
        assert!(load().is_some());
    }
}
