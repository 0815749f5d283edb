//! Clocks that can be wrong: with `entrepot up --fake-clocks` each region's server reads the time through libfaketime,
//! which adds what stands in a file of the region. Only the time of day is changed; nothing that waits or
//! measures notices. PostgreSQL keeps the machine's clock: nothing that is decided asks for it.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::layout::Layout;
use crate::types::RegionId;

/// How often a server looks at its file, in seconds: at every reading of the clock it would cost more than the
/// reading.
const LOOK_EVERY_S: &str = "1";

/// The variant for programs with threads. Debian puts it in a folder of the machine's architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The library, or what to install.
pub(crate) fn library() -> anyhow::Result<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/local/lib")];
    if let Ok(entries) = std::fs::read_dir("/usr/lib") {
        folders.extend(entries.flatten().map(|entry| entry.path()));
    }
    let found = folders.into_iter().map(|folder| folder.join(LIBRARY)).find(|path| path.is_file());
    found.context(
        "--fake-clocks needs libfaketime, which was not found: install the package libfaketime, or start \
         without it",
    )
}

/// Sets a region's clock right and says what its server needs to read it; without a library its clock is the
/// machine's.
pub(crate) fn prepare(
    layout: &Layout,
    library: Option<&Path>,
    region: RegionId,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    let file = layout.clock_file(region);
    let Some(library) = library else {
        if file.exists() {
            std::fs::remove_file(&file)
                .with_context(|| format!("cannot remove {}", file.display()))?;
        }
        return Ok(Vec::new());
    };
    write(&file, 0)?;
    let path = super::effective::path_text;
    Ok(vec![
        ("LD_PRELOAD", path(library)?),
        ("FAKETIME_TIMESTAMP_FILE", path(&file)?),
        ("FAKETIME_CACHE_DURATION", LOOK_EVERY_S.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

/// Whether [`set`] has an effect.
pub(crate) fn can_be_set(data_dir: &Path, region: RegionId) -> bool {
    std::path::absolute(data_dir).is_ok_and(|dir| Layout::new(dir).clock_file(region).exists())
}

/// Puts a region's clock so many seconds ahead of the machine's.
pub(crate) fn set(data_dir: &Path, region: RegionId, ahead_s: i64) -> anyhow::Result<()> {
    anyhow::ensure!(
        can_be_set(data_dir, region),
        "the clock of {region} is the machine's: start the deployment with `entrepot up --fake-clocks`"
    );
    write(&Layout::new(std::path::absolute(data_dir)?).clock_file(region), ahead_s)
}

/// Beside and renamed: half a number would be another time.
fn write(file: &Path, ahead_s: i64) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, format!("{ahead_s:+}\n"))
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_programs_read_can_be_set() {
        let data_dir = std::env::temp_dir().join(format!("entrepot clock {}", std::process::id()));
        let (layout, region) = (Layout::new(data_dir.clone()), "eu-west".parse().unwrap());
        std::fs::create_dir_all(layout.region_dir(region)).unwrap();
        assert!(prepare(&layout, None, region).unwrap().is_empty());
        let refused = set(&data_dir, region, 60).unwrap_err().to_string();
        assert!(refused.contains("--fake-clocks"), "{refused}");

        let environment = prepare(&layout, Some(Path::new("/lib/some.so")), region).unwrap();
        assert!(environment.contains(&("LD_PRELOAD", "/lib/some.so".to_owned())));
        let text = || std::fs::read_to_string(layout.clock_file(region)).unwrap();
        assert_eq!(text(), "+0\n");
        set(&data_dir, region, 3_600).unwrap();
        assert_eq!(text(), "+3600\n");
        // A wrong clock does not outlive the deployment that it was made for.
        prepare(&layout, None, region).unwrap();
        assert!(!can_be_set(&data_dir, region));
        std::fs::remove_dir_all(data_dir).unwrap();
    }
}
