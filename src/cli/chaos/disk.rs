//! A full disk: a file takes what is left on the file system that a region has to itself.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::sys::statvfs::statvfs;

use crate::boot::local;
use crate::types::RegionId;

/// A larger file system is somebody's disk, and filling it takes longer than a scenario.
const BYTES_MAX: u64 = 2 << 30;

/// What is written at a time; the last ones of a file system are smaller.
const PIECE_BYTES: usize = 1 << 20;

/// Why a region's disk can't be filled without harm to anybody else.
pub(super) fn obstacle(data_dir: &Path, region: RegionId) -> Option<String> {
    let folder = local::region_folder(data_dir, region).ok()?;
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    let apart = match (device(&folder), device(data_dir)) {
        (Ok(own), Ok(shared)) => own != shared,
        (Err(_), _) | (_, Err(_)) => false,
    };
    let bytes = statvfs(&folder).map_or(u64::MAX, |of| of.blocks() * of.fragment_size());
    if apart && bytes <= BYTES_MAX {
        return None;
    }
    let folder = folder.display();
    Some(format!(
        "{region} has no small disk of its own; before the first `entrepot up`, as root: \
         `mkdir -p {folder} && mount -t tmpfs -o size=600m,mode=755 tmpfs {folder}`"
    ))
}

/// Writes until nothing fits any more.
pub(super) fn fill(data_dir: &Path, region: RegionId) -> anyhow::Result<()> {
    if let Some(obstacle) = obstacle(data_dir, region) {
        bail!(obstacle);
    }
    let path = ballast(data_dir, region)?;
    let zeros = vec![0; PIECE_BYTES];
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&path)?;
        let mut piece = zeros.as_slice();
        while !piece.is_empty() {
            match file.write(piece) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    piece = &piece[..piece.len() / 2];
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    write().with_context(|| format!("cannot fill the disk of {region} with {}", path.display()))
}

/// Gives the room back.
pub(super) fn free(data_dir: &Path, region: RegionId) -> anyhow::Result<()> {
    let path = ballast(data_dir, region)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn ballast(data_dir: &Path, region: RegionId) -> anyhow::Result<PathBuf> {
    Ok(local::region_folder(data_dir, region)?.join("ballast"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_shared_is_not_filled() {
        let data_dir = std::env::temp_dir().join(format!("entrepot disk {}", std::process::id()));
        let region = "eu-west".parse().unwrap();
        std::fs::create_dir_all(local::region_folder(&data_dir, region).unwrap()).unwrap();
        let refused = fill(&data_dir, region).unwrap_err().to_string();
        assert!(
            refused.contains("eu-west has no small disk") && refused.contains("mount"),
            "{refused}"
        );
        assert!(!ballast(&data_dir, region).unwrap().exists());
        free(&data_dir, region).unwrap();
        std::fs::remove_dir_all(data_dir).unwrap();
    }
}
