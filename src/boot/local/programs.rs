//! Finds the programs that a deployment runs, and says how to get one that is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::clocks;
use crate::config;

/// PostgreSQL's oldest major version that will do.
const POSTGRES_MAJOR_MIN: u32 = 15;
/// Older servers lose acknowledged messages or streams in more ways than this program allows for.
const NATS_VERSION_MIN: (u32, u32) = (2, 12);
/// The first with the converters that read a token.
const HAPROXY_VERSION_MIN: (u32, u32) = (2, 5);

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// PostgreSQL's folder.
    pub(crate) postgres: PostgresBin,
    pub(crate) nats_server: PathBuf,
    pub(crate) haproxy: PathBuf,
    /// Runs a child with a parent-death signal and as another user.
    pub(crate) setpriv: PathBuf,
    /// What makes clocks that can be set, where that was asked for.
    pub(crate) fake_clocks: Option<PathBuf>,
    /// This program.
    pub(crate) entrepot: PathBuf,
}

/// A folder with `postgres` and `initdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostgresBin {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
}

impl Programs {
    /// Finds everything, or says what is missing and how to get it.
    pub(crate) fn find(named: &config::Programs, fake_clocks: bool) -> anyhow::Result<Self> {
        Ok(Self {
            postgres: PostgresBin::find(named.postgres_bin.as_deref())?,
            nats_server: find_nats(named.nats_server.as_deref())?,
            haproxy: find_haproxy(named.haproxy.as_deref())?,
            setpriv: in_path("setpriv").ok_or_else(|| missing("setpriv (util-linux)"))?,
            fake_clocks: fake_clocks.then(clocks::library).transpose()?,
            entrepot: std::env::current_exe().context("this program's own path")?,
        })
    }
}

impl PostgresBin {
    /// The named folder, or the newest on the machine.
    pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<Self> {
        if let Some(folder) = named {
            let bin = Self::look(folder).with_context(|| {
                format!("[programs] postgres_bin: no postgres and initdb in {}", folder.display())
            })?;
            anyhow::ensure!(
                bin.major >= POSTGRES_MAJOR_MIN,
                "[programs] postgres_bin: {} has PostgreSQL {}; {POSTGRES_MAJOR_MIN} or later is needed",
                folder.display(),
                bin.major
            );
            return Ok(bin);
        }
        let mut folders = Vec::new();
        if let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") {
            folders.extend(entries.flatten().map(|entry| entry.path().join("bin")));
        }
        folders.extend(in_path("postgres").and_then(|path| path.parent().map(Path::to_owned)));
        folders
            .iter()
            .filter_map(|folder| Self::look(folder))
            .filter(|bin| bin.major >= POSTGRES_MAJOR_MIN)
            .max_by_key(|bin| bin.major)
            .ok_or_else(|| missing("PostgreSQL 15 or later"))
    }

    fn look(folder: &Path) -> Option<Self> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let (major, _) = version(&folder.join("postgres"), "--version")?;
        Some(Self { folder: folder.to_owned(), major })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn find_nats(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let candidates = match named {
        Some(path) => vec![path.to_owned()],
        None => tools("nats-server").into_iter().chain(in_path("nats-server")).collect(),
    };
    candidates
        .into_iter()
        .find(|path| version(path, "--version").is_some_and(|found| found >= NATS_VERSION_MIN))
        .ok_or_else(|| missing("nats-server 2.12 or later"))
}

fn find_haproxy(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let candidates = match named {
        Some(path) => vec![path.to_owned()],
        // Debian puts it where only root's PATH leads.
        None => {
            in_path("haproxy").into_iter().chain([PathBuf::from("/usr/sbin/haproxy")]).collect()
        }
    };
    candidates
        .into_iter()
        .find(|path| version(path, "-v").is_some_and(|found| found >= HAPROXY_VERSION_MIN))
        .ok_or_else(|| missing("HAProxy 2.5 or later"))
}

fn missing(what: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "{what} was not found. Run `make build` in the project's folder, which installs it, or name \
         its path under [programs] in the configuration"
    )
}

/// A program that set-up fetched: in `.tools` above the current directory or above this executable
/// (`target/release/entrepot` works from anywhere).
fn tools(name: &str) -> Vec<PathBuf> {
    let from = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    from.iter()
        .flatten()
        .flat_map(|path| path.ancestors())
        .map(|folder| folder.join(".tools").join(name))
        .filter(|path| path.is_file())
        .collect()
}

/// Finds a program in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = crate::runtime::environment("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first two numbers of what a program says about its version.
fn version(program: &Path, argument: &str) -> Option<(u32, u32)> {
    let output = Command::new(program).arg(argument).output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let digits = text.find(|character: char| character.is_ascii_digit())?;
    let mut numbers = text[digits..].split(|character: char| !character.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0);
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", (15, 18)),
            ("postgres (PostgreSQL) 18beta1\n", (18, 0)),
            ("nats-server: v2.15.1\n", (2, 15)),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", (2, 6)),
        ] {
            assert_eq!(parse_version(text), Some(version), "{text}");
        }
        assert_eq!(parse_version("no number"), None);
    }

    #[test]
    fn a_missing_program_is_told_with_what_to_do() {
        let error = find_nats(Some(Path::new("/nowhere/nats-server"))).unwrap_err().to_string();
        assert!(error.contains("nats-server 2.12") && error.contains("make build"), "{error}");
        let error = PostgresBin::find(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(error.contains("/nowhere"), "{error}");
    }
}
