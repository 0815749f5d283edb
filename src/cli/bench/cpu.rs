//! Who used the processors, from `/proc`.
//!
//! Servers, databases, brokers and this generator share the machine, so a rate says little without
//! what each of them spent for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

/// A clock tick of `/proc`: the kernel shows a hundredth of a second on every Linux platform.
const TICK_US: u64 = 10_000;

/// The executable of regions, simulator, supervisor and this generator.
const OURS: &str = "entrepot";

/// Programs of others that a deployment runs.
const OTHERS_OF_A_DEPLOYMENT: [&str; 3] = ["postgres", "nats-server", "haproxy"];

/// What the machine does besides; a measurement is good when this is little.
const EVERYTHING_ELSE: &str = "everything else";

/// CPU time of every process so far.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    processes: BTreeMap<u32, Process>,
}

#[derive(Debug)]
struct Process {
    name: String,
    parent: u32,
    us: u64,
}

/// CPU microseconds by kind of process.
pub(super) type Usage = BTreeMap<String, u64>;

impl Snapshot {
    /// Looks at every process; none, where there is no `/proc`.
    pub(super) fn take() -> Self {
        let Ok(entries) = fs::read_dir("/proc") else { return Self::default() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let processes = pids.filter_map(|pid: u32| Some((pid, Process::read(pid)?)));
        Self { processes: processes.collect() }
    }

    /// What was used since an earlier look, by processes that are still there.
    pub(super) fn since(&self, before: &Self) -> Usage {
        let mut usage = Usage::new();
        for (pid, process) in &self.processes {
            let earlier = before.processes.get(pid).map_or(0, |earlier| earlier.us);
            let used = process.us.saturating_sub(earlier);
            if used > 0 {
                *usage.entry(self.label(*pid, process)).or_default() += used;
            }
        }
        usage
    }

    /// `serve us-east`, `postgres us-east`, `nats-server us-east`: the region is read from the command
    /// line, of the parent for PostgreSQL's backends. What is no part of a deployment is one label.
    fn label(&self, pid: u32, process: &Process) -> String {
        let mut arguments = arguments(pid);
        let parent = self.processes.get(&process.parent);
        if parent.is_some_and(|parent| parent.name == process.name && process.name == "postgres") {
            arguments = self::arguments(process.parent);
        }
        let name = match process.name.as_str() {
            OURS => arguments.get(1).map_or(OURS, String::as_str),
            name if OTHERS_OF_A_DEPLOYMENT.contains(&name) => name,
            _ => return EVERYTHING_ELSE.to_owned(),
        };
        match region(&arguments) {
            Some(region) => format!("{name} {region}"),
            None => name.to_owned(),
        }
    }
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may contain anything, parentheses too.
        let (head, tail) = stat.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self { name: name.to_owned(), parent, us: (number(11)? + number(12)?) * TICK_US })
    }
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let parts = bytes.split(|&byte| byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// `--region NAME`, or the folder after `regions` in a path.
fn region(arguments: &[String]) -> Option<String> {
    let named = arguments.iter().position(|argument| argument == "--region");
    if let Some(at) = named {
        return arguments.get(at + 1).cloned();
    }
    arguments.iter().find_map(|argument| {
        let mut parts = Path::new(argument).components().map(Component::as_os_str);
        parts.find(|part| *part == "regions")?;
        Some(parts.next()?.to_str()?.to_owned())
    })
}

/// How many processors there are.
pub(super) fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_burns_time() {
        let before = Snapshot::take();
        let pid = std::process::id();
        let own = |snapshot: &Snapshot| snapshot.processes[&pid].us;
        let mut number = 1u64;
        while own(&Snapshot::take()) <= own(&before) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(!Snapshot::take().since(&before).is_empty());
    }

    #[test]
    fn regions_are_read_from_command_lines() {
        let arguments = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let serve = arguments("entrepot serve --config x --region eu-west");
        assert_eq!(region(&serve).as_deref(), Some("eu-west"));
        let postgres = arguments("postgres -D /d/.entrepot/regions/us-east/postgres");
        assert_eq!(region(&postgres).as_deref(), Some("us-east"));
        assert_eq!(region(&arguments("haproxy -f x")), None);
    }
}
