//! One supervisor per data directory.
//!
//! The lock is the kernel's (flock), so it is gone with the process that holds it, however that ended.
//! The file holds the pid, for messages and for `entrepot down`.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;

/// Held while a deployment runs.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; `Err(pid)` inside is the supervisor that holds it.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Result<Self, i32>> {
        let context = || format!("cannot use {}", path.display());
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(context)?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).with_context(context)?;
                write!(file, "{}", std::process::id()).with_context(context)?;
                Ok(Ok(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).with_context(context)?;
                Ok(Err(text.trim().parse().unwrap_or(0)))
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(context),
        }
    }

    /// The pid of the supervisor that runs on this file now, if one does.
    pub(crate) fn holder(path: &Path) -> Option<i32> {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Ok(()) | Err(TryLockError::Error(_)) => None,
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text).ok()?;
                text.trim().parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_learns_who_the_first_is() {
        let path = std::env::temp_dir().join(format!("entrepot-lock-{}", std::process::id()));
        assert_eq!(Lock::holder(&path), None);
        let lock = Lock::take(&path).unwrap().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Lock::take(&path).unwrap().unwrap_err(), me);
        assert_eq!(Lock::holder(&path), Some(me));
        drop(lock);
        assert_eq!(Lock::holder(&path), None);
        drop(Lock::take(&path).unwrap().unwrap());
        std::fs::remove_file(path).unwrap();
    }
}
