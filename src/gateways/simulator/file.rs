//! The ledger's file: one JSON record a line, only ever appended to.
//!
//! A crash can tear the end of the last group, which nobody was answered about: it is cut off and
//! reported. A bad line with good ones after it is damage, and we refuse to go on with it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::books::Record;

/// The longest line we read, far beyond the longest we write: bounds memory on a file that is none of ours.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why the ledger can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refuses.
    #[error("the payment ledger {}: {error}; check that the directory exists and can be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has it.
    #[error("the payment ledger {} is in use by another payment simulator; stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A line in the middle is no record.
    #[error(
        "the payment ledger {}, line {line}: {reason}. Later lines are intact, so this is damage and not a crash's torn end; nothing was changed. Restore the file from a copy, or move it away to begin with empty books",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first bad line.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
}

/// An open ledger, locked, positioned at its end.
pub(super) struct LedgerFile {
    pub(super) file: File,
    pub(super) bytes: u64,
    /// What a crash had torn and we cut off.
    pub(super) cut_bytes: u64,
}

impl LedgerFile {
    /// Opens or creates the file and hands every record to `apply`, oldest first.
    pub(super) fn open(
        path: &Path,
        apply: impl FnMut(&Record<'_>) -> Result<(), &'static str>,
    ) -> Result<Self, OpenError> {
        let io = |error| OpenError::Io { path: path.into(), error };
        let created = !path.exists();
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { path: path.into() });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        let good = read_records(path, &file, apply)?;
        let length = file.metadata().map_err(io)?.len();
        if good < length {
            file.set_len(good).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        file.seek(SeekFrom::Start(good)).map_err(io)?;
        if created {
            sync_directory(path).map_err(io)?;
        }
        Ok(Self { file, bytes: good, cut_bytes: length - good })
    }
}

/// The new file's name must survive a crash too, not only its content.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads whole records; answers the length of the good part.
fn read_records(
    path: &Path,
    file: &File,
    mut apply: impl FnMut(&Record<'_>) -> Result<(), &'static str>,
) -> Result<u64, OpenError> {
    let mut reader = BufReader::with_capacity(LINE_BYTES_MAX, file);
    let mut line = Vec::new();
    let (mut good, mut number) = (0, 0);
    let mut first_bad: Option<(u64, String)> = None;
    loop {
        line.clear();
        read_line(&mut reader, &mut line)
            .map_err(|error| OpenError::Io { path: path.into(), error })?;
        if line.is_empty() {
            return Ok(good);
        }
        number += 1;
        let record = line
            .strip_suffix(b"\n")
            .ok_or_else(|| "the line has no end".to_owned())
            .and_then(|text| serde_json::from_slice::<Record<'_>>(text).map_err(|e| e.to_string()));
        match (record, &first_bad) {
            (Ok(record), None) => match apply(&record) {
                Ok(()) => good += line.len() as u64,
                Err(reason) => {
                    return Err(OpenError::Damaged {
                        path: path.into(),
                        line: number,
                        reason: reason.to_owned(),
                    });
                }
            },
            (Ok(_), Some((line, reason))) => {
                let (line, reason) = (*line, reason.clone());
                return Err(OpenError::Damaged { path: path.into(), line, reason });
            }
            (Err(reason), None) => first_bad = Some((number, reason)),
            (Err(_), Some(_)) => {}
        }
    }
}

/// One line with its end, cut in pieces if it is longer than any record.
fn read_line(reader: &mut BufReader<&File>, line: &mut Vec<u8>) -> std::io::Result<()> {
    while line.len() < LINE_BYTES_MAX {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            break;
        }
        let end = available.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(available.len());
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        if end.is_some() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"operation":"authorize","idempotency_key":"k","reference":"auth_1","amount":{"amount":1,"currency":"EUR"},"state":"authorized","token":"tok_ok","order_reference":"o","at":"2026-01-01T00:00:00Z"}"#;

    fn open(content: &[u8]) -> (Result<(u64, u64), String>, Vec<u8>) {
        let directory = crate::gateways::simulator::tests::scratch();
        let path = directory.join("ledger.jsonl");
        std::fs::write(&path, content).unwrap();
        let mut records = 0;
        let opened = LedgerFile::open(&path, |_| {
            records += 1;
            Ok(())
        });
        let answer = opened.map(|file| (records, file.cut_bytes)).map_err(|e| e.to_string());
        let left = std::fs::read(&path).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
        (answer, left)
    }

    #[test]
    fn a_torn_end_is_cut_off_wherever_it_tore() {
        let whole = format!("{GOOD}\n");
        for cut in 1..GOOD.len() {
            let torn = format!("{whole}{}", &GOOD[..cut]);
            let (answer, left) = open(torn.as_bytes());
            assert_eq!(answer, Ok((1, u64::try_from(cut).unwrap())));
            assert_eq!(left, whole.as_bytes());
        }
        // Lost blocks of a group read as zeros, over several lines.
        let (answer, left) = open(format!("{whole}\0\0\0\n\0\n").as_bytes());
        assert_eq!(answer, Ok((1, 6)));
        assert_eq!(left, whole.as_bytes());
    }

    #[test]
    fn damage_in_the_middle_is_refused_by_line_and_left_alone() {
        let damaged = format!("{GOOD}\n{{\n{GOOD}\n");
        let (answer, left) = open(damaged.as_bytes());
        assert!(answer.unwrap_err().contains("line 2"));
        assert_eq!(left, damaged.as_bytes());
    }

    #[test]
    fn one_ledger_has_one_simulator() {
        let directory = crate::gateways::simulator::tests::scratch();
        let path = directory.join("ledger.jsonl");
        let first = LedgerFile::open(&path, |_| Ok(())).unwrap();
        let second = LedgerFile::open(&path, |_| Ok(())).map(|_| ()).unwrap_err();
        assert!(matches!(second, OpenError::InUse { .. }));
        drop(first);
        LedgerFile::open(&path, |_| Ok(())).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
