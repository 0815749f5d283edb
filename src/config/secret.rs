//! Secrets: read from files or the environment, never printed.

use std::fmt;
use std::path::Path;

/// The longest secret file that is read, in bytes: a key or a password; more is the wrong file.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// A password or key. Its debug form hides it, so that it can't get into a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text that is already in memory.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret file; white space at its end is not part of the secret.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| {
            let path = path.display();
            format!(
                "cannot read the secret file {path} ({error}); create it, readable by this user"
            )
        };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > SECRET_BYTES_MAX {
            return Err(format!("{} is too large for a secret ({size} bytes)", path.display()));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let text = text.trim_end();
        if text.is_empty() {
            return Err(format!("the secret file {} is empty", path.display()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Reads a secret from an environment variable, if it is set.
    pub fn from_environment(variable: &str) -> Option<Self> {
        crate::runtime::environment(variable).filter(|text| !text.is_empty()).map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
