//! Worlds of the simulator with one fault, until a rule breaks.

use std::io::Read as _;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use entrepot::mutants::VARIABLE;
use entrepot::sim::plan::{Plan, Size};
use entrepot::sim::run;

/// The argument that makes this program play.
pub(crate) const COMMAND: &str = "play";
/// A world takes some fifty milliseconds, and all of them two minutes on a busy machine. A fault that ends
/// none of them is caught: it is told as such.
const LIMIT: Duration = Duration::from_mins(5);
/// Between looks at a process that plays.
const LOOK: Duration = Duration::from_millis(20);
/// The exit code of a process that saw a rule break.
const FOUND: u8 = 2;

/// What came of it.
pub(crate) struct Played {
    /// How many worlds were played.
    pub(crate) seeds: u64,
    /// The rule and what was seen.
    pub(crate) found: Option<String>,
}

/// Plays up to `seeds` worlds in a process of their own, with a fault or without.
pub(crate) fn in_process(fault: Option<&str>, seeds: u64) -> Result<Played, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args([COMMAND, &seeds.to_string()]).stdout(Stdio::piped()).env_remove(VARIABLE);
    command.envs(fault.map(|name| (VARIABLE, name)));
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if began.elapsed() < LIMIT => std::thread::sleep(LOOK),
            None => {
                child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
                return Ok(Played { seeds: 0, found: Some("worlds that don't end".to_owned()) });
            }
        }
    };
    let mut said = String::new();
    let output = child.stdout.as_mut().ok_or("no output")?;
    output.read_to_string(&mut said).map_err(|error| error.to_string())?;
    match status.code() {
        Some(0) => Ok(Played { seeds, found: None }),
        Some(code) if code == i32::from(FOUND) => {
            let (seed, what) = said.split_once(' ').ok_or("an answer without a seed")?;
            let seeds = seed.parse().map_err(|_| "a seed that is no number")?;
            Ok(Played { seeds, found: Some(what.trim_end().to_owned()) })
        }
        _ => Ok(Played { seeds: 0, found: Some(format!("the process ended: {status}")) }),
    }
}

/// Plays seeds from 1 on all processors. Prints the lowest seed in which a rule broke, and what was seen.
pub(crate) fn worlds(seeds: u64) -> ExitCode {
    let (next, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let play = || {
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > seeds {
                return;
            }
            let outcome = run(&Plan::draw(seed, Size::default()), false);
            if let Some(violation) = outcome.violation {
                stop.store(true, Ordering::Relaxed);
                let code = violation.invariant.map_or("-", |invariant| invariant.code());
                let what = format!("{code}: {}", violation.what.replace('\n', " "));
                let mut found = found.lock().expect("nothing panics while it holds the lock");
                if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                    *found = Some((seed, what));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    match found.into_inner().expect("nothing panics while it holds the lock") {
        None => ExitCode::SUCCESS,
        Some((seed, what)) => {
            println!("{seed} {what}");
            ExitCode::from(FOUND)
        }
    }
}
