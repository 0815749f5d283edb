//! Passwords of a local deployment: made once, kept in files that only this user can read.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

use crate::config::Secret;

/// 256 bits, written as hexadecimal digits: needs no quoting anywhere.
const SECRET_BYTES: usize = 32;

/// Makes a folder that only this user can enter.
pub(crate) fn private_dir(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Reads a secret, or makes it when there is none yet.
pub(crate) fn secret(path: &Path) -> anyhow::Result<Secret> {
    if !path.exists() {
        write_private(path, random_hex().as_bytes())?;
    }
    Secret::from_file(path).map_err(anyhow::Error::msg)
}

/// Reads the secret that signs webhooks, or makes it: `whsec_` and base64, of which hexadecimal digits
/// are a part.
pub(crate) fn webhook_secret(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    write_private(path, format!("whsec_{}", random_hex()).as_bytes())
}

fn random_hex() -> String {
    let bytes: [u8; SECRET_BYTES] = crate::runtime::secret_bytes();
    hex::encode(bytes)
}

/// Writes a file that only this user can read; a reader never sees half of it.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
