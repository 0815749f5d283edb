//! Finds the servers that the tests run.

use std::path::{Path, PathBuf};

/// `nats-server`: what set-up fetched into `.tools`, else the machine's.
pub(crate) fn nats_server() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/nats-server");
    if fetched.is_file() {
        return fetched;
    }
    in_path("nats-server").expect("no nats-server: run scripts/setup.sh, which fetches it")
}

/// The folder of PostgreSQL's programs, newest version first.
pub(crate) fn postgres_bin() -> PathBuf {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = installed
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    folders.sort();
    let newest = folders.pop().map(|(_, bin)| bin);
    let elsewhere = || Some(in_path("initdb")?.parent()?.to_owned());
    newest.or_else(elsewhere).expect("no PostgreSQL: run scripts/setup.sh, which installs it")
}

/// `setpriv` of util-linux.
pub(crate) fn setpriv() -> PathBuf {
    in_path("setpriv").expect("no setpriv: install util-linux")
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = entrepot::runtime::environment("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}
