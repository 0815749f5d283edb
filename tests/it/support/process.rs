//! Child processes that never outlive the tests.
//!
//! A test may end by a panic, a time-out of the runner or kill -9, and none of these runs a
//! destructor. So children get a parent-death signal. The kernel sends that when the *thread* that
//! forked ends, and a test's thread ends early: one thread that lives as long as the process forks
//! all children.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

use super::programs;

type Fork = Box<dyn FnOnce() + Send>;

fn forker() -> mpsc::Sender<Fork> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Fork>>> = OnceLock::new();
    let sender = FORKER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Fork>();
        std::thread::Builder::new()
            .name("forker".to_owned())
            .spawn(move || receiver.iter().for_each(|fork| fork()))
            .expect("a thread");
        Mutex::new(sender)
    });
    sender.lock().expect("no panic while held").clone()
}

/// A server of a test.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a program under an unprivileged user if this is root (PostgreSQL insists), that gets
    /// `death` when this process ends. Its output goes to `log`.
    pub(crate) fn start(program: PathBuf, arguments: Vec<String>, death: &str, log: &Path) -> Self {
        let mut command = Command::new(programs::setpriv());
        command.arg("--pdeathsig").arg(death);
        if let Some(user) = unprivileged() {
            command.arg("--reuid").arg(user.uid.to_string());
            command.arg("--regid").arg(user.gid.to_string()).arg("--clear-groups");
        }
        let output = std::fs::File::create(log).expect("a log file");
        let errors = output.try_clone().expect("a second handle");
        command.arg("--").arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let (sender, receiver) = mpsc::channel();
        let fork: Fork = Box::new(move || {
            sender.send(command.spawn()).expect("the test waits for its child");
        });
        forker().send(fork).expect("the forker lives as long as the process");
        let child = receiver.recv().expect("the forker answers").expect("the program starts");
        Self { child }
    }

    /// Sends a signal, e.g. SIGSTOP.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("the child is there");
    }

    /// Its process and all below it.
    pub(crate) fn family(&self) -> Vec<i32> {
        let mut family = vec![i32::try_from(self.child.id()).expect("a pid")];
        let mut looked_at = 0;
        while let Some(parent) = family.get(looked_at).copied() {
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            looked_at += 1;
        }
        family
    }

    /// Kills it at once and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // A stopped or already ended process can be killed as well as any other.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_some()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Somebody who is not root, if this is root.
pub(crate) fn unprivileged() -> Option<User> {
    if !Uid::effective().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).ok().flatten();
    let user = named("postgres").or_else(|| named("nobody"));
    assert!(user.is_some(), "PostgreSQL refuses root, and there is no user `postgres` or `nobody`");
    user
}

/// A folder for one server, below cargo's folder for temporary files of tests, owned by whom the
/// servers run as. Folders of processes that are gone are removed.
pub(crate) fn folder(name: &str) -> PathBuf {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let all = scratch();
    let own = all.join(format!("{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&own).expect("a folder for a server");
    give_away(&own);
    own
}

/// Below the system's folder for temporary files, since an unprivileged user must be able to get
/// there, which the project's own folder may not allow.
pub(crate) fn scratch() -> PathBuf {
    static SWEPT: OnceLock<PathBuf> = OnceLock::new();
    SWEPT
        .get_or_init(|| {
            let uid = Uid::effective();
            let all = std::env::temp_dir().join(format!("entrepot-it-{uid}"));
            std::fs::create_dir_all(&all).expect("a folder for temporary files");
            for entry in std::fs::read_dir(&all).expect("it was just made").flatten() {
                let name = entry.file_name();
                let pid = name.to_str().and_then(|name| name.split('-').next()?.parse().ok());
                let is_gone = |pid: i32| kill(Pid::from_raw(pid), None).is_err();
                if pid.is_some_and(is_gone) {
                    drop(std::fs::remove_dir_all(entry.path()));
                }
            }
            all
        })
        .clone()
}

/// Makes whom the servers run as the owner of a path.
pub(crate) fn give_away(path: &Path) {
    if let Some(user) = unprivileged() {
        let (uid, gid) = (Some(user.uid.as_raw()), Some(user.gid.as_raw()));
        std::os::unix::fs::chown(path, uid, gid).expect("root may give files away");
    }
}
