//! The safetensors header: read and judged completely before any data is touched, and written.
//!
//! Layout of a file: 8 bytes little-endian length N, N bytes of JSON `{name: {dtype, shape, data_offsets}}` with an
//! optional `__metadata__`, then the data. The `safetensors` crate validates the same rules but its errors do not
//! name tensor or file; tests hold the two to the same verdict.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::{CheckpointError, Dtype};

/// Largest header that readers of the format accept.
pub const MAX_HEADER: u64 = 100_000_000;

/// Where one tensor lies in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row major.
    pub shape: Vec<usize>,
    /// First byte, counted from the start of the file.
    pub start: usize,
    /// Bytes.
    pub len: usize,
}

/// A validated header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Tensors in the order of their data.
    pub entries: Vec<Entry>,
    /// The `__metadata__` strings.
    pub metadata: BTreeMap<String, String>,
}

/// Reads and validates the header of a whole safetensors file held in `bytes`.
///
/// # Errors
/// One error per thing that is wrong: truncation, size, JSON, dtype, shape, offsets (overlap, hole, out of range).
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Header, Vec<CheckpointError>> {
    let (json, data_start) = split(path, bytes).map_err(|e| vec![e])?;
    let raw: RawHeader<'_> = serde_json::from_slice(json).map_err(|e| {
        vec![CheckpointError::HeaderInvalid { path: path.to_owned(), message: e.to_string() }]
    })?;
    let mut errors = Vec::new();
    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, info) in raw.tensors {
        match entry(path, name, info, data_start) {
            Ok(entry) => entries.push(entry),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        entries.sort_by(|a, b| (a.start, a.len, &a.name).cmp(&(b.start, b.len, &b.name)));
        check_tiling(path, &entries, data_start, bytes.len(), &mut errors);
    }
    if errors.is_empty() { Ok(Header { entries, metadata: raw.metadata }) } else { Err(errors) }
}

/// Encodes a header for `tensors` given as (name, dtype, shape, bytes), laid out one after the other in that order.
/// Returns the 8 length bytes and the JSON, padded with spaces so that the data starts at a multiple of 8.
pub fn encode<'a>(
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize], u64)>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Info<'a> {
        dtype: &'a str,
        shape: &'a [usize],
        data_offsets: [u64; 2],
    }
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let write = || {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("__metadata__", metadata)?;
        let mut offset = 0u64;
        for (name, dtype, shape, bytes) in tensors {
            let dtype = dtype.safetensors_name();
            map.serialize_entry(name, &Info { dtype, shape, data_offsets: [offset, offset + bytes] })?;
            offset += bytes;
        }
        map.end()
    };
    write().expect("a map of strings and numbers serialises");
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.append(&mut json);
    out
}

fn split<'a>(path: &Path, bytes: &'a [u8]) -> Result<(&'a [u8], usize), CheckpointError> {
    let found = bytes.len() as u64;
    let truncated = |expected| CheckpointError::Truncated { path: path.to_owned(), expected, found };
    let prefix = bytes.first_chunk::<8>().ok_or_else(|| truncated(8))?;
    let length = u64::from_le_bytes(*prefix);
    if length > MAX_HEADER {
        return Err(CheckpointError::HeaderTooLarge {
            path: path.to_owned(),
            found: length,
            limit: MAX_HEADER,
        });
    }
    let end = 8 + length as usize;
    Ok((bytes.get(8..end).ok_or_else(|| truncated(end as u64))?, end))
}

fn entry(path: &Path, name: String, info: RawInfo<'_>, data_start: usize) -> Result<Entry, CheckpointError> {
    let path_buf = || path.to_owned();
    let Some(dtype) = Dtype::from_safetensors(&info.dtype) else {
        return Err(CheckpointError::UnknownDtype {
            path: path_buf(),
            tensor: name,
            found: info.dtype.into_owned(),
        });
    };
    let Some(expected) = byte_size(&info.shape, dtype) else {
        return Err(CheckpointError::ShapeOverflow { path: path_buf(), tensor: name, shape: info.shape });
    };
    let [begin, end] = info.data_offsets;
    let found = end.saturating_sub(begin) as u64;
    if end < begin || found != expected as u64 {
        let expected = expected as u64;
        return Err(CheckpointError::SizeMismatch {
            path: path_buf(),
            tensor: name,
            dtype,
            shape: info.shape,
            expected,
            found,
        });
    }
    let Some(start) = begin.checked_add(data_start) else {
        return Err(CheckpointError::ShapeOverflow { path: path_buf(), tensor: name, shape: info.shape });
    };
    Ok(Entry { name, dtype, shape: info.shape, start, len: expected })
}

/// Bytes of a tensor, or `None` if they overflow.
pub(crate) fn byte_size(shape: &[usize], dtype: Dtype) -> Option<usize> {
    let bytes = shape.iter().try_fold(dtype.size(), |n, d| n.checked_mul(*d))?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

/// The data must be covered exactly once: no hole, no overlap, nothing behind the last tensor.
fn check_tiling(
    path: &Path,
    entries: &[Entry],
    data_start: usize,
    file_len: usize,
    errors: &mut Vec<CheckpointError>,
) {
    let mut end = data_start;
    for entry in entries {
        if entry.start != end {
            errors.push(CheckpointError::BadOffset {
                path: path.to_owned(),
                tensor: entry.name.clone(),
                expected: (end - data_start) as u64,
                found: entry.start.saturating_sub(data_start) as u64,
            });
            return;
        }
        let Some(next) = end.checked_add(entry.len) else {
            errors.push(CheckpointError::ShapeOverflow {
                path: path.to_owned(),
                tensor: entry.name.clone(),
                shape: entry.shape.clone(),
            });
            return;
        };
        end = next;
    }
    if end > file_len {
        errors.push(CheckpointError::Truncated {
            path: path.to_owned(),
            expected: end as u64,
            found: file_len as u64,
        });
    } else if end < file_len {
        let message = format!("{} bytes follow the last tensor", file_len - end);
        errors.push(CheckpointError::HeaderInvalid { path: path.to_owned(), message });
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInfo<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// The JSON as it stands; the names are known to differ.
#[derive(Default)]
struct RawHeader<'a> {
    tensors: Vec<(String, RawInfo<'a>)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader<'de>, A::Error> {
        let mut header = RawHeader::default();
        while let Some(key) = map.next_key::<String>()? {
            if key == "__metadata__" {
                header.metadata = map.next_value()?;
                continue;
            }
            let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor `{key}`: {e}")))?;
            header.tensors.push((key, info));
        }
        header.tensors.sort_by(|a, b| a.0.cmp(&b.0));
        match header.tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(twice) => Err(A::Error::custom(format!("tensor `{}` is listed twice", twice[0].0))),
            None => Ok(header),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn first_error(bytes: &[u8]) -> String {
        parse(Path::new("m.safetensors"), bytes).expect_err("must be refused")[0].to_string()
    }

    #[test]
    fn accepts_what_the_reference_writer_writes() {
        let data: Vec<u8> = (0..24).collect();
        let view = |shape: Vec<usize>, range: std::ops::Range<usize>| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &data[range]).unwrap()
        };
        let bytes =
            safetensors::serialize([("b", view(vec![2, 2], 0..16)), ("a", view(vec![2], 16..24))], None)
                .unwrap();
        let header = parse(Path::new("x"), &bytes).unwrap();
        assert_eq!(header.entries.len(), 2);
        assert_eq!(header.entries.iter().map(|e| e.len).sum::<usize>(), 24);
    }

    #[test]
    fn names_what_is_wrong() {
        let one = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let cases = [
            (vec![1, 2, 3], "truncated: 8 bytes expected, the file has 3"),
            (u64::MAX.to_le_bytes().to_vec(), "more than the format's limit"),
            (400u64.to_le_bytes().to_vec(), "truncated: 408 bytes expected, the file has 8"),
            (file("not json", 0), "invalid safetensors header"),
            (file(one, 7), "truncated"),
            (file(one, 9), "1 bytes follow the last tensor"),
            (file(&one.replace("F32", "Q4"), 8), "tensor `w` has dtype Q4"),
            (file(&one.replace("[2]", "[3]"), 8), "F32 of shape [3] takes 12 bytes, its offsets span 8"),
            (file(&one.replace("[0,8]", "[8,0]"), 8), "its offsets span 0"),
            (file(&one.replace("[0,8]", "[4,12]"), 12), "starts at byte 4 of the data, expected 0"),
            (file(&one.replace("[2]", "[-2]"), 8), "tensor `w`"),
            (file(&one.replace("[2]", "[4611686018427387904,4]"), 8), "overflows"),
            (file(&one.replace("\"shape\"", "\"sharpe\""), 8), "sharpe"),
            (file(&format!("{},{}", &one[..one.len() - 1], &one[1..]), 8), "listed twice"),
            (
                file(
                    r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#,
                    6,
                ),
                "tensor `b` starts at byte 2 of the data, expected 4",
            ),
        ];
        for (bytes, expected) in cases {
            let error = first_error(&bytes);
            assert!(error.contains(expected), "`{error}` should contain `{expected}`");
            assert!(error.contains("m.safetensors"));
        }
    }

    #[test]
    fn every_bad_entry_is_reported() {
        let json = r#"{"a":{"dtype":"Q","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,9]}}"#;
        assert_eq!(parse(Path::new("x"), &file(json, 9)).unwrap_err().len(), 2);
    }

    proptest! {
        #[test]
        fn round_trip_and_agreement_with_the_reference(shapes in prop::collection::vec(prop::collection::vec(0usize..5, 0..4), 0..6)) {
            let tensors: Vec<(String, Vec<usize>, u64)> = shapes.iter().enumerate()
                .map(|(i, s)| (format!("t{i}\"é"), s.clone(), 2 * s.iter().product::<usize>() as u64)).collect();
            let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
            let mut bytes = encode(tensors.iter().map(|(n, s, b)| (n.as_str(), Dtype::BF16, s.as_slice(), *b)), &metadata);
            prop_assert_eq!(bytes.len() % 8, 0);
            bytes.resize(bytes.len() + tensors.iter().map(|t| t.2 as usize).sum::<usize>(), 7);
            let header = parse(Path::new("x"), &bytes).unwrap();
            prop_assert_eq!(header.entries.len(), shapes.len());
            prop_assert_eq!(&header.metadata, &metadata);
            let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for entry in &header.entries {
                let theirs = reference.tensor(&entry.name).unwrap();
                prop_assert_eq!(theirs.shape(), &entry.shape[..]);
            }
        }

        #[test]
        fn verdict_equals_the_reference_on_damaged_files(position in 0usize..120, value in any::<u8>()) {
            let json = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}"#;
            let mut bytes = file(json, 8);
            let position = position % bytes.len();
            bytes[position] = value;
            let ours = parse(Path::new("x"), &bytes).is_ok();
            let theirs = safetensors::SafeTensors::deserialize(&bytes).is_ok();
            // The reference ignores unknown fields and keeps the last of two equal names; stricter is fine, laxer is not.
            prop_assert!(!ours || theirs);
        }
    }
}
