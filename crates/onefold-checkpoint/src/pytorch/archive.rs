//! The zip container of a checkpoint: where in the file its entries lie.
//!
//! `torch.save` writes an uncompressed zip64 with one folder of arbitrary name:
//! `<folder>/data.pkl` (the pickle), `<folder>/data/<key>` (one entry per storage), `<folder>/byteorder`,
//! `<folder>/version`. Storages are aligned to 64 bytes by torch, but another packer need not do that.
//!
//! Stricter than zip readers in general, so that no two readers can see different contents: the file begins
//! with an entry and ends with its directory (no prefix, no comment), names are unique, entries do not overlap.
//! Checksums are not compared: torch does not do it either and can be told not to write them.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use zip::read::{ArchiveOffset, Config};
use zip::{CompressionMethod, ZipArchive};

use super::error::{TorchError, shown};

/// Newest file format version of PyTorch (`kMaxSupportedFileFormatVersion`).
const KNOWN_VERSION: u32 = 10;
/// Entries of a zip; a model has one per tensor. Bounds what the directory costs in memory.
const MAX_ENTRIES: u64 = 1 << 20;
/// First bytes of an entry.
const LOCAL_HEADER: &[u8] = b"PK\x03\x04";
/// The magic number that opens a checkpoint of the format before 1.6, as the pickled integer of 10 bytes.
const LEGACY_MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The entries of one checkpoint.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    folder: String,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    range: Range<u64>,
    /// Why the bytes in `range` are not the contents: `compressed` or `encrypted`.
    packed: Option<&'static str>,
}

impl<'a> Archive<'a> {
    /// Reads the directory of `bytes`, the whole file, and checks that it is a checkpoint we know.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, TorchError> {
        recognise(bytes)?;
        check_tail(bytes)?;
        let mut entries = list(bytes)?;
        let folder = checkpoint_folder(&entries)?;
        let prefix = format!("{folder}/");
        entries.retain(|name, _| name.starts_with(&prefix));
        let archive = Archive { bytes, folder, entries };
        if archive.range("constants.pkl")?.is_some() {
            return Err(TorchError::TorchScript);
        }
        archive.check_byte_order()?;
        archive.check_version()?;
        Ok(archive)
    }

    /// The bytes of `data.pkl`.
    pub(super) fn pickle(&self) -> Result<&'a [u8], TorchError> {
        self.contents("data.pkl")?.ok_or(TorchError::NoPickle)
    }

    /// Where the entry `path`, relative to the folder, lies in the file.
    pub(super) fn range(&self, path: &str) -> Result<Option<Range<u64>>, TorchError> {
        let Some(entry) = self.entries.get(&self.full_name(path)) else { return Ok(None) };
        match entry.packed {
            Some(how) => Err(TorchError::NotStored { entry: shown(&self.full_name(path)), how }),
            None => Ok(Some(entry.range.clone())),
        }
    }

    /// Name of an entry inside the zip.
    pub(super) fn full_name(&self, path: &str) -> String {
        format!("{}/{path}", self.folder)
    }

    fn contents(&self, path: &str) -> Result<Option<&'a [u8]>, TorchError> {
        let Some(range) = self.range(path)? else { return Ok(None) };
        let slice =
            (|| self.bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?))();
        Ok(Some(slice.expect("list() checked that every entry ends inside the file")))
    }

    fn check_byte_order(&self) -> Result<(), TorchError> {
        match self.contents("byteorder")? {
            None | Some(b"little") => Ok(()),
            Some(other) => Err(TorchError::ByteOrder { found: shown(&String::from_utf8_lossy(other)) }),
        }
    }

    fn check_version(&self) -> Result<(), TorchError> {
        let Some(version) = self.contents("version")? else { return Ok(()) };
        let text = String::from_utf8_lossy(version.get(..16).unwrap_or(version));
        match text.trim().parse::<u32>() {
            Ok(1..=KNOWN_VERSION) => Ok(()),
            _ => Err(TorchError::Version { found: shown(&text), known: KNOWN_VERSION }),
        }
    }
}

/// Says what the file is if it is not a zip.
fn recognise(bytes: &[u8]) -> Result<(), TorchError> {
    if bytes.starts_with(LOCAL_HEADER) {
        return Ok(());
    }
    let head = bytes.get(..64).unwrap_or(bytes);
    if head.windows(LEGACY_MAGIC.len()).any(|window| window == LEGACY_MAGIC) {
        return Err(TorchError::Legacy);
    }
    let found = match head {
        [] => "the file is empty",
        [0x80, 2..=5, ..] => "a bare pickle; save the state dict with torch.save",
        [b'P', b'K', ..] => "a zip without contents, or with something in front of them",
        [_, _, _, _, _, _, _, _, b'{', ..] => "it looks like safetensors; name it *.safetensors",
        _ if head.starts_with(b"version https://git-lfs") => "a Git LFS pointer; run `git lfs pull`",
        _ if head.starts_with(b"GGUF") => "a GGUF file; use the checkpoint it was made from",
        _ => "unknown first bytes",
    };
    Err(TorchError::NotTorch { found })
}

/// Checks the records that end the file before the zip library sees them: it searches backwards for something
/// that fits and takes memory for as many entries as a record claims. With a last record that fits exactly it
/// looks no further.
fn check_tail(bytes: &[u8]) -> Result<(), TorchError> {
    let tail = Tail::read(bytes).ok_or_else(|| damaged("the file does not end with a zip directory"))?;
    if tail.entries > MAX_ENTRIES {
        return Err(TorchError::TooLarge { what: "zip entries", found: tail.entries, limit: MAX_ENTRIES });
    }
    if tail.start.checked_add(tail.size) != Some(tail.end) {
        return Err(damaged("its directory is not where the last record says"));
    }
    Ok(())
}

/// The zip directory: bytes `start .. start + size`, which must end at `end`, where the closing records begin.
struct Tail {
    entries: u64,
    start: u64,
    size: u64,
    end: u64,
}

impl Tail {
    /// `None` if the records do not lie exactly at the end of the file.
    fn read(bytes: &[u8]) -> Option<Self> {
        let at = bytes.len().checked_sub(22)?;
        let record = bytes.get(at..).filter(|r| r.starts_with(b"PK\x05\x06"))?;
        let locator =
            at.checked_sub(20).and_then(|l| bytes.get(l..at)).filter(|l| l.starts_with(b"PK\x06\x07"));
        let short = [le(record, 10, 2)?, le(record, 12, 4)?, le(record, 16, 4)?];
        let Some(locator) = locator else {
            let [entries, size, start] = short;
            return Some(Self { entries, start, size, end: at as u64 });
        };
        let end = le(locator, 8, 8)?;
        let record = bytes.get(usize::try_from(end).ok()?..at - 20)?;
        if record.len() != 56 || !record.starts_with(b"PK\x06\x06") {
            return None;
        }
        let long = [le(record, 32, 8)?, le(record, 40, 8)?, le(record, 48, 8)?];
        // Readers differ in which record they believe, so the short one must say the same or "see the other".
        let limits = [u64::from(u16::MAX), u64::from(u32::MAX), u64::from(u32::MAX)];
        let agree = (0..3).all(|i| short[i] == long[i] || short[i] == limits[i]);
        let [entries, size, start] = long;
        agree.then_some(Self { entries, start, size, end })
    }
}

/// The little-endian number of `width` bytes at `at`.
fn le(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    Some(bytes.get(at..at + width)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn damaged(reason: &str) -> TorchError {
    TorchError::Zip { reason: reason.to_owned() }
}

/// All entries by full name.
fn list(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, TorchError> {
    let zip_error = |error: zip::result::ZipError| TorchError::Zip { reason: shown(&error.to_string()) };
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut zip = ZipArchive::with_config(config, Cursor::new(bytes)).map_err(zip_error)?;
    if zip.has_duplicate_names() {
        return Err(damaged("two entries have the same name"));
    }
    if zip.has_overlapping_files().map_err(zip_error)? {
        return Err(damaged("entries overlap each other or the directory"));
    }
    let mut entries = BTreeMap::new();
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index).map_err(zip_error)?;
        let start = file.data_start().ok_or_else(|| damaged("an entry has no position"))?;
        let end = start.checked_add(file.compressed_size()).filter(|end| *end <= bytes.len() as u64);
        let range = start..end.ok_or_else(|| damaged("an entry reaches past the end of the file"))?;
        let packed = match file.compression() {
            _ if file.encrypted() => Some("encrypted"),
            CompressionMethod::Stored => None,
            _ => Some("compressed"),
        };
        if packed.is_none() && file.size() != file.compressed_size() {
            return Err(damaged("an entry that is not compressed has two sizes"));
        }
        let name = file.name().map_err(zip_error)?.into_owned();
        entries.insert(name, Entry { range, packed });
    }
    Ok(entries)
}

/// The one folder with a `data.pkl`.
fn checkpoint_folder(entries: &BTreeMap<String, Entry>) -> Result<String, TorchError> {
    let mut folders = entries.keys().filter_map(|name| {
        let (folder, path) = name.split_once('/')?;
        (path == "data.pkl").then_some(folder)
    });
    let first = folders.next().ok_or(TorchError::NoPickle)?;
    match folders.next() {
        None => Ok(first.to_owned()),
        Some(second) => Err(TorchError::TwoFolders { first: shown(first), second: shown(second) }),
    }
}
