//! A marker in a file.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::ports::{Mark, Marker, MarkerError};

/// One small JSON file, replaced as a whole. It must not lie on the database's disk, nor be restored with it.
#[derive(Debug, Clone)]
pub struct FileMarker {
    path: PathBuf,
}

impl FileMarker {
    /// At this path, in a folder that exists.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, MarkerError> {
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || work(&path)).await;
        let error = |reason: String| MarkerError { place: self.path.display().to_string(), reason };
        done.map_err(|ended| error(ended.to_string()))?.map_err(|failed| error(failed.to_string()))
    }
}

#[async_trait]
impl Marker for FileMarker {
    async fn read(&self) -> Result<Option<Mark>, MarkerError> {
        self.run(|path| match std::fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .await
    }

    async fn write(&self, mark: &Mark) -> Result<(), MarkerError> {
        let text = serde_json::to_vec(mark).expect("a mark has a JSON form");
        self.run(move |path| {
            // Several processes of a region may share the file.
            let next = path.with_extension(format!("next-{}", std::process::id()));
            let mut file = File::create(&next)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&next, path)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escrow::Voter;
    use crate::replication::Position;

    #[tokio::test]
    async fn what_was_written_last_is_read_and_a_broken_file_is_no_marker() {
        let path =
            std::env::temp_dir().join(format!("entrepot marker {}.json", std::process::id()));
        let marker = FileMarker::new(path.clone());
        assert_eq!(marker.read().await.unwrap(), None);
        let mark = |sequence| Mark {
            database: "7/00000001".to_owned(),
            head: Position { sequence, ..Position::START },
            voter: Voter { votes: 3, ..Voter::UNKNOWN },
        };
        for sequence in [1, 2] {
            marker.write(&mark(sequence)).await.unwrap();
            assert_eq!(marker.read().await.unwrap(), Some(mark(sequence)));
        }
        std::fs::write(&path, "half a fi").unwrap();
        assert!(marker.read().await.is_err());
        std::fs::remove_file(path).unwrap();
    }
}
