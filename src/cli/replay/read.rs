//! A file of any of the three forms, as bytes.
//!
//! The form is told by the first bytes, not by the name: a renamed file is common, a wrong magic
//! number is not. The whole text is held in memory, because it is read twice (once to learn how the
//! file writes its numbers and dates, once for the rows) and a year of a shop is tens of megabytes.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

/// The longest text that is read, in bytes. Twenty times a year of the largest known history; a file
/// beyond it is a mistake or a decompression bomb, and is refused before it fills the memory.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// The largest window of a zstd frame, in bytes: what `zstd --ultra -22` uses. The decoder keeps
/// one window in memory.
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The text of a file: as it is, or unpacked when it is gzip or zstd.
pub(super) fn text_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let packed = std::fs::read(path)
        .with_context(|| format!("cannot read {}: name an existing file", path.display()))?;
    let text = unpack(&packed).with_context(|| {
        format!("{} cannot be unpacked: it is damaged or cut short", path.display())
    })?;
    if text.is_empty() {
        bail!("{} is empty: it needs a header line and invoice lines", path.display());
    }
    Ok(text)
}

fn unpack(packed: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    if packed.starts_with(&ZSTD_MAGIC) {
        // One file may hold several frames, one after the other.
        let mut rest = packed;
        while !rest.is_empty() {
            let mut frame =
                StreamingDecoder::new_with_max_window_size(&mut rest, ZSTD_WINDOW_BYTES_MAX)?;
            read_bounded(&mut frame, &mut text)?;
        }
    } else if packed.starts_with(&GZIP_MAGIC) {
        read_bounded(&mut MultiGzDecoder::new(packed), &mut text)?;
    } else {
        read_bounded(&mut &*packed, &mut text)?;
    }
    Ok(text)
}

fn read_bounded(source: &mut impl Read, text: &mut Vec<u8>) -> anyhow::Result<()> {
    let room = TEXT_BYTES_MAX.saturating_sub(text.len() as u64);
    source.by_ref().take(room + 1).read_to_end(text)?;
    if text.len() as u64 > TEXT_BYTES_MAX {
        bail!("it holds more than {TEXT_BYTES_MAX} bytes: split it by date and replay the parts");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn three_forms_hold_the_same_text() {
        let text = b"InvoiceNo\n536365\n";
        let zstd = ruzstd::encoding::compress_to_vec(
            &text[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(unpack(text).unwrap(), text);
        assert_eq!(unpack(&gzip(text)).unwrap(), text);
        assert_eq!(unpack(&zstd).unwrap(), text);
        let twice = [zstd.clone(), zstd].concat();
        assert_eq!(unpack(&twice).unwrap(), [&text[..], &text[..]].concat());
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let packed = gzip(&[b'a'; 10_000]);
        assert!(unpack(&packed[..packed.len() - 9]).is_err());
        let error = text_of(Path::new("/nonexistent/orders.csv")).unwrap_err();
        assert!(error.to_string().contains("name an existing file"), "{error}");
    }
}
