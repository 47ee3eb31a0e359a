//! Checkpoints written by torch itself (`testdata/pytorch`), then hostile ones made here.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::PathBuf;

use proptest::prelude::*;
use serde::Deserialize;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

#[derive(Deserialize)]
struct Expected {
    good: BTreeMap<String, Good>,
    bad: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Good {
    tensors: Vec<ExpectedTensor>,
}

#[derive(Deserialize)]
struct ExpectedTensor {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    hex: String,
}

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/pytorch");
    std::fs::read(folder.join(name)).unwrap()
}

fn expected() -> Expected {
    serde_json::from_slice(&golden("expected.json")).unwrap()
}

/// The elements of `tensor` in row-major order, in hexadecimal.
fn dense_hex(file: &[u8], tensor: &TorchTensor) -> String {
    let count: usize = tensor.shape.iter().product();
    let mut hex = String::new();
    for element in 0..count {
        let (mut rest, mut position) = (element, 0);
        for (len, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
            position += rest % len * stride;
            rest /= len;
        }
        let start = tensor.offset as usize + position * tensor.dtype.size();
        assert!(start as u64 + tensor.dtype.size() as u64 <= tensor.storage.end);
        hex.extend(file[start..start + tensor.dtype.size()].iter().map(|byte| format!("{byte:02x}")));
    }
    hex
}

#[test]
fn files_of_torch_give_the_values_torch_sees() {
    let good = expected().good;
    assert!(good.len() >= 11);
    for (name, expected) in good {
        let file = golden(&name);
        let tensors = read_layout(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let names = |list: &[String]| list.join(" ");
        assert_eq!(
            names(&tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>()),
            names(&expected.tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>()),
            "{name}: names and order"
        );
        for (tensor, expected) in tensors.iter().zip(&expected.tensors) {
            let what = format!("{name}: {}", tensor.name);
            assert_eq!(tensor.dtype.safetensors_name(), expected.dtype, "{what}");
            assert_eq!(tensor.shape, expected.shape, "{what}");
            assert_eq!(dense_hex(&file, tensor), expected.hex, "{what}");
        }
    }
}

#[test]
fn files_of_torch_that_are_no_state_dict_are_refused_with_the_reason() {
    let bad = expected().bad;
    assert!(bad.len() >= 15);
    for (name, beginning) in bad {
        let message = read_layout(&golden(&name)).expect_err(&name).to_string();
        assert!(message.starts_with(&beginning), "{name}: {message}");
        assert!(!message.ends_with('.'), "{name}: {message}");
    }
}

#[test]
fn torch_writes_zip64() {
    assert!(golden("views.bin").windows(4).any(|window| window == b"PK\x06\x06"));
}

#[test]
fn tied_tensors_and_views_share_the_range_of_their_storage() {
    let tensors = read_layout(&golden("views.bin")).unwrap();
    let find = |name: &str| tensors.iter().find(|t| t.name == name).unwrap();
    assert_eq!(find("tied.a").storage, find("tied.b").storage);
    assert_eq!(find("tied.a").offset, find("tied.b").offset);
    let (whole, narrow) = (find("whole"), find("narrow"));
    assert_eq!(whole.storage, narrow.storage);
    assert_eq!(whole.storage.end - whole.storage.start, 6 * 4 * 4);
    assert_eq!(narrow.offset, whole.offset + 2 * 4 * 4);
    assert_eq!(find("transposed").strides, [1, 4]);
    assert_eq!(find("scalar").shape, [] as [usize; 0]);
    assert_ne!(find("tied.a").storage, whole.storage);
}

// Hand-made files

/// A zip of stored entries.
fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(entries, SimpleFileOptions::default().compression_method(CompressionMethod::Stored))
}

fn zip_with(entries: &[(&str, &[u8])], options: SimpleFileOptions) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A checkpoint with this pickle and 16 bytes of storage `0`.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    zip_of(&[("any/data.pkl", pickle), ("any/byteorder", b"little"), ("any/data/0", &[7; 16])])
}

fn error_of(pickle: &[u8]) -> TorchError {
    read_layout(&checkpoint(pickle)).unwrap_err()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &value.to_le_bytes()].concat()
}

fn tuple(parts: &[i64]) -> Vec<u8> {
    [&b"("[..], &parts.iter().flat_map(|part| int(*part)).collect::<Vec<_>>(), b"t"].concat()
}

/// What a tensor is declared to be.
struct Declared<'a> {
    key: &'a str,
    storage_type: &'a str,
    storage_len: i64,
    offset: i64,
    shape: &'a [i64],
    strides: &'a [i64],
}

const PLAIN: Declared<'static> = Declared {
    key: "0",
    storage_type: "torch FloatStorage",
    storage_len: 4,
    offset: 0,
    shape: &[4],
    strides: &[1],
};

fn tensor(declared: &Declared<'_>) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        format!("c{}\n", declared.storage_type.replace(' ', "\n")).into_bytes(),
        text(declared.key),
        text("cpu"),
        int(declared.storage_len),
        b"tQ".to_vec(),
        int(declared.offset),
        tuple(declared.shape),
        tuple(declared.strides),
        b"\x89NtR".to_vec(),
    ]
    .concat()
}

/// A pickle of a mapping with these entries.
fn mapping(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect::<Vec<_>>();
    [b"\x80\x02}(".to_vec(), entries.concat(), b"u.".to_vec()].concat()
}

fn one(declared: &Declared<'_>) -> Vec<u8> {
    mapping(&[("w", tensor(declared))])
}

#[test]
fn the_hand_made_file_is_valid_so_that_the_attacks_fail_for_their_own_reason() {
    let tensors = read_layout(&checkpoint(&one(&PLAIN))).unwrap();
    assert_eq!(tensors.len(), 1);
    assert_eq!((tensors[0].name.as_str(), tensors[0].dtype), ("w", Dtype::F32));
    assert_eq!(tensors[0].storage.end - tensors[0].storage.start, 16);
}

#[test]
fn globals_outside_the_allow_list_are_refused_by_name() {
    for (module, name) in [
        ("posix", "system"),
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch", "EvilStorage"),
        ("torch._utils", "_rebuild_anything"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy", "load"),
        ("collections", "namedtuple"),
    ] {
        let call = format!("c{module}\n{name}\n");
        let line =
            [b"\x80\x02".to_vec(), call.into_bytes(), text("touch /tmp/x"), b"\x85R.".to_vec()].concat();
        let stack = [b"\x80\x04".to_vec(), text(module), text(name), b"\x93)R.".to_vec()].concat();
        for pickle in [line, stack] {
            let refused = TorchError::Refused { global: format!("{module}.{name}") };
            assert_eq!(error_of(&pickle), refused);
        }
    }
}

#[test]
fn a_hidden_global_is_refused_even_where_its_result_would_be_dropped() {
    let pickle = [b"\x80\x02cposix\nsystem\n0".to_vec(), one(&PLAIN)[2..].to_vec()].concat();
    assert_eq!(error_of(&pickle), TorchError::Refused { global: "posix.system".to_owned() });
}

#[test]
fn hostile_names_are_escaped_and_shortened_in_messages() {
    let name = format!("\u{1b}[2J{}", "x".repeat(5000));
    let pickle = [b"\x80\x04".to_vec(), text("m"), text(&name), b"\x93.".to_vec()].concat();
    let message = error_of(&pickle).to_string();
    assert!(message.len() < 500 && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn lies_about_storages_are_found() {
    let lie = |declared| error_of(&one(&declared));
    let short = lie(Declared { storage_len: 5, ..PLAIN });
    assert!(matches!(short, TorchError::ShortStorage { needed: 20, found: 16, .. }), "{short}");
    let missing = lie(Declared { key: "1", ..PLAIN });
    assert_eq!(missing, TorchError::MissingStorage { tensor: "w".into(), entry: "any/data/1".into() });
    for storage_len in [-1, i64::MAX, i64::MAX / 4 + 1] {
        assert!(matches!(
            lie(Declared { storage_len, ..PLAIN }),
            TorchError::BadTensor { .. } | TorchError::ShortStorage { .. }
        ));
    }
    let quantised = lie(Declared { storage_type: "torch QInt8Storage", ..PLAIN });
    assert!(matches!(quantised, TorchError::TensorKind { kind: "quantised", .. }));
    let short = Declared { storage_len: 2, shape: &[2], ..PLAIN };
    let conflict = error_of(&mapping(&[("a", tensor(&PLAIN)), ("b", tensor(&short))]));
    assert!(matches!(conflict, TorchError::StorageConflict { here: 8, before: 16, .. }), "{conflict}");
}

#[test]
fn elements_outside_the_storage_are_found() {
    let outside: [(i64, &[i64], &[i64]); 7] = [
        (1, &[4], &[1]),
        (0, &[5], &[1]),
        (0, &[2, 2], &[3, 1]),
        (4, &[], &[]),
        (i64::MAX, &[1], &[1]),
        (0, &[i64::MAX, i64::MAX], &[i64::MAX, i64::MAX]),
        (0, &[2], &[i64::MAX]),
    ];
    for (offset, shape, strides) in outside {
        let found = error_of(&one(&Declared { offset, shape, strides, ..PLAIN }));
        assert_eq!(
            found,
            TorchError::OutOfStorage { tensor: "w".into(), storage: 16 },
            "{shape:?} {strides:?}"
        );
    }
    // The last element touches the end, no more.
    for (offset, shape, strides) in
        [(3, &[1][..], &[9][..]), (1, &[2, 2], &[1, 1]), (4, &[0], &[1]), (99, &[2, 0], &[1, 1])]
    {
        assert!(read_layout(&checkpoint(&one(&Declared { offset, shape, strides, ..PLAIN }))).is_ok());
    }
}

#[test]
fn descriptions_that_make_no_sense_are_found() {
    let many = [1; MAX_DIMS + 1];
    let bad: [(i64, &[i64], &[i64]); 6] = [
        (-1, &[1], &[1]),
        (0, &[-1], &[1]),
        (0, &[2], &[-1]),
        (0, &[4], &[1, 1]),
        (0, &many, &many),
        (0, &[1 << 40], &[0]),
    ];
    for (offset, shape, strides) in bad {
        let found = error_of(&one(&Declared { offset, shape, strides, ..PLAIN }));
        assert!(matches!(found, TorchError::BadTensor { .. }), "{shape:?} {strides:?}: {found}");
    }
    let name = "n".repeat(MAX_NAME + 1);
    assert!(matches!(error_of(&mapping(&[(&name, tensor(&PLAIN))])), TorchError::BadTensor { .. }));
}

#[test]
fn state_dicts_are_found_by_the_documented_rules() {
    let read = |pickle: &[u8]| read_layout(&checkpoint(pickle));
    let w = || tensor(&PLAIN);
    let inner = |entries: &[(&str, Vec<u8>)]| {
        let whole = mapping(entries);
        whole[2..whole.len() - 1].to_vec()
    };
    // Last of equal keys wins, at the place of the first.
    let narrow = || tensor(&Declared { shape: &[2], ..PLAIN });
    let twice = read(&mapping(&[("a", w()), ("b", w()), ("a", narrow())])).unwrap();
    let seen: Vec<_> = twice.iter().map(|t| (t.name.as_str(), t.shape[0])).collect();
    assert_eq!(seen, [("a", 2), ("b", 4)]);
    // A tensor called like a wrapper is a tensor; a wrapper without tensors is none.
    assert_eq!(read(&mapping(&[("model", w())])).unwrap()[0].name, "model");
    let named = mapping(&[("model", text("llama")), ("state_dict", inner(&[("x", w())]))]);
    assert_eq!(read(&named).unwrap()[0].name, "x");
    assert_eq!(
        read(&mapping(&[("model", inner(&[]))])).unwrap_err().to_string().find("`model` holds a mapping"),
        Some(0)
    );
    // Metadata is passed over, other values are not.
    let metadata = mapping(&[("a", w()), ("_metadata", inner(&[])), ("l._extra_state", b"N".to_vec())]);
    assert_eq!(read(&metadata).unwrap().len(), 1);
    for (value, found) in
        [(int(3), "int"), (b"N".to_vec(), "None"), (b"]".to_vec(), "list"), (text("x"), "string")]
    {
        let error = read(&mapping(&[("a", w()), ("b", value)])).unwrap_err();
        assert_eq!(error, TorchError::NotTensor { key: "b".into(), found });
    }
    let key = [b"\x80\x02}".to_vec(), int(1), w(), b"s.".to_vec()].concat();
    assert_eq!(read(&key).unwrap_err(), TorchError::KeyKind { found: "int" });
    assert_eq!(read(b"\x80\x02].").unwrap_err(), TorchError::TopLevel { found: "list" });
    assert_eq!(read(b"\x80\x02}.").unwrap_err(), TorchError::NoTensors);
    // Entries set one by one, in two batches, and by DICT.
    let one_by_one =
        [b"\x80\x02}".to_vec(), text("a"), w(), b"s(".to_vec(), text("b"), w(), b"u.".to_vec()].concat();
    assert_eq!(read(&one_by_one).unwrap().len(), 2);
    let dict = [b"\x80\x02(".to_vec(), text("a"), w(), text("b"), w(), b"d.".to_vec()].concat();
    assert_eq!(read(&dict).unwrap()[1].name, "b");
}

#[test]
fn damaged_pickles_are_errors() {
    let whole = one(&PLAIN);
    for end in 0..whole.len() {
        let error = error_of(&whole[..end]);
        assert!(matches!(error, TorchError::Malformed { .. } | TorchError::Refused { .. }), "{end}: {error}");
    }
    for pickle in [
        &b"."[..],
        b"\x80\x09}.",
        b"\x80\x02}Ns.",
        b"\x80\x02u.",
        b"\x80\x02}NN(s.",
        b"\x80\x02N(0t.",
        b"\x80\x02(0.",
        b"\x80\x02h\x00.",
        b"\x80\x02q\x00.",
        b"\x80\x02}(Nu.",
        b"\x80\x02NNs.",
        b"\x80\x02Na.",
        b"\x80\x02NQ.",
        b"\x80\x02)Q.",
        b"\x80\x02N)R.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n(NNNtR.",
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n)NtR.",
        b"\x80\x02N\x8c\x01x\x93.",
        b"\x80\x02)Nb.",
        b"\x80\x02\x8c\x01\xff.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x02\x8b\xff\xff\xff\xff.",
        b"\x80\x02\x95\xff",
    ] {
        let error = error_of(pickle);
        assert!(matches!(error, TorchError::Malformed { .. }), "{pickle:?}: {error}");
    }
    // Attributes of a tensor would replace its data.
    let replaced = mapping(&[("w", [tensor(&PLAIN), b")b".to_vec()].concat())]);
    assert!(matches!(error_of(&replaced), TorchError::Malformed { .. }));
}

#[test]
fn unknown_instructions_are_errors() {
    for opcode in
        [b'I', b'F', b'L', b'S', b'V', b'P', b'i', b'o', b'g', b'p', b'2', 0x81, 0x82, 0x92, 0x97, 0x00, 0xff]
    {
        assert_eq!(error_of(&[0x80, 2, opcode, b'.']), TorchError::Opcode { opcode, at: 2 });
    }
}

#[test]
fn integers_of_every_length_are_read_as_python_does() {
    for (bytes, value) in [
        (&b"\x8a\x00"[..], Some(0)),
        (b"\x8a\x01\xff", Some(-1)),
        (b"\x8a\x02\xff\x00", Some(255)),
        (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", Some(i64::MIN)),
        (b"\x8b\x01\x00\x00\x00\x7f", Some(127)),
        (b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00", None),
        (b"J\xfe\xff\xff\xff", Some(-2)),
        (b"M\xff\xff", Some(65535)),
        (b"K\xff", Some(255)),
    ] {
        let pickle = [bytes, b"."].concat();
        let (root, _) = pickle::read(&pickle).unwrap();
        assert_eq!(root, value.map_or(Value::Plain("large int"), Value::Int));
    }
}

#[test]
fn nesting_and_size_are_limited_without_recursion() {
    let deep = [b"\x80\x02".to_vec(), b"(".repeat(2000), b".".to_vec()].concat();
    assert!(matches!(error_of(&deep), TorchError::Malformed { .. }));
    let nested = [b"\x80\x02)".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
    assert_eq!(error_of(&nested), TorchError::TopLevel { found: "tuple" });
    let tall = [b"\x80\x02".to_vec(), b"N".repeat((1 << 20) + 1), b".".to_vec()].concat();
    assert!(matches!(error_of(&tall), TorchError::Malformed { .. }));
    // Each tuple of 8 copies holds 8 times what the one before holds; nobody ever walks through them.
    let laughs = [
        b"\x80\x02N".to_vec(),
        b"\x85q\x00(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00t".repeat(40),
        b".".to_vec(),
    ];
    assert_eq!(error_of(&laughs.concat()), TorchError::TopLevel { found: "tuple" });
    // A list in itself.
    assert_eq!(error_of(b"\x80\x02]q\x00h\x00a."), TorchError::TopLevel { found: "list" });
    // Arguments of _rebuild_from_type_v2 that name the function itself, again and again.
    let globals = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00ctorch\nTensor\nq\x01)q\x02".to_vec();
    let calls = [globals, b"(h\x00h\x01h\x02Ntq\x020".repeat(200_000), b"h\x00h\x02R.".to_vec()];
    assert!(matches!(error_of(&calls.concat()), TorchError::Malformed { .. }));
    let memo = [b"\x80\x02N".to_vec(), b"\x94".repeat((1 << 22) + 1)].concat();
    assert!(matches!(error_of(&memo), TorchError::TooLarge { what: "values in data.pkl", .. }));
    let huge = vec![b'N'; (64 << 20) + 1];
    assert!(matches!(error_of(&huge), TorchError::TooLarge { what: "bytes of data.pkl", .. }));
}

// The container

#[test]
fn other_files_are_recognised() {
    let found = |bytes: &[u8]| read_layout(bytes).unwrap_err().to_string();
    assert!(found(b"").contains("empty"));
    assert!(found(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(found(b"\x08\0\0\0\0\0\0\0{}      ").contains("safetensors"));
    assert!(found(b"GGUF\x03\0\0\0").contains("GGUF"));
    assert!(found(b"\x80\x04}.").contains("bare pickle"));
    assert!(found(b"PK\x05\x06").contains("zip"));
    assert!(found(b"hello").contains("unknown"));
    let mut legacy = b"\x80\x04\x95\x0c\0\0\0\0\0\0\0".to_vec();
    legacy.extend(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
    assert_eq!(read_layout(&legacy), Err(TorchError::Legacy));
}

#[test]
fn truncated_zips_are_errors() {
    let whole = golden("buffer.bin");
    for end in 0..whole.len() {
        assert!(read_layout(&whole[..end]).is_err(), "{end}");
    }
    for extra in [&b"\0"[..], b"PK\x05\x06"] {
        assert!(matches!(read_layout(&[&whole, extra].concat()), Err(TorchError::Zip { .. })));
    }
}

#[test]
fn container_problems_are_named() {
    let pickle = one(&PLAIN);
    let storage: (&str, &[u8]) = ("any/data/0", &[7; 16]);
    let read = |entries: &[(&str, &[u8])]| read_layout(&zip_of(entries)).unwrap_err();
    assert_eq!(read(&[storage]), TorchError::NoPickle);
    assert_eq!(read(&[("data.pkl", &pickle), storage]), TorchError::NoPickle);
    assert_eq!(read(&[("deeper/any/data.pkl", &pickle)]), TorchError::NoPickle);
    let two = read(&[("any/data.pkl", &pickle), storage, ("b/data.pkl", &pickle)]);
    assert_eq!(two, TorchError::TwoFolders { first: "any".into(), second: "b".into() });
    let big = read(&[("any/data.pkl", &pickle), ("any/byteorder", b"big"), storage]);
    assert_eq!(big, TorchError::ByteOrder { found: "big".into() });
    for version in [&b"11\n"[..], b"0", b"x", b"", b"\xff"] {
        let error = read(&[("any/data.pkl", &pickle), ("any/version", version), storage]);
        assert!(matches!(error, TorchError::Version { .. }));
    }
    let elsewhere = read(&[("any/data.pkl", &pickle), ("other/data/0", &[7; 16])]);
    assert!(matches!(elsewhere, TorchError::MissingStorage { .. }));
}

/// `file` with `old` replaced by `new`, of the same length, wherever it is.
fn replaced(file: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut file, mut count) = (file.to_vec(), 0);
    for at in 0..=file.len() - old.len() {
        if file[at..].starts_with(old) {
            file[at..at + new.len()].copy_from_slice(new);
            count += 1;
        }
    }
    assert!(count > 0);
    file
}

#[test]
fn duplicate_names_compression_encryption_and_overlap_are_refused() {
    let file = zip_of(&[("any/data.pkl", &one(&PLAIN)), ("any/data/1", &[1; 16]), ("any/data/0", &[7; 16])]);
    assert!(read_layout(&file).is_ok());
    let twins = replaced(&file, b"any/data/1", b"any/data/0");
    assert!(read_layout(&twins).unwrap_err().to_string().contains("same name"));
    // The directory entry of data/0: flags at 8, method at 10, sizes at 20 and 24, position at 42, name at 46.
    let entry = file.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    let patched = |at: usize, value: u8| {
        let mut file = file.clone();
        file[entry + at] = value;
        read_layout(&file).unwrap_err()
    };
    assert_eq!(&file[entry + 46..entry + 56], b"any/data/0");
    let how = |error| match error {
        TorchError::NotStored { entry, how } => (entry, how),
        other => panic!("{other}"),
    };
    assert_eq!(how(patched(8, 1)), ("any/data/0".to_owned(), "encrypted"));
    assert_eq!(how(patched(10, 8)), ("any/data/0".to_owned(), "compressed"));
    assert_eq!(how(patched(10, 93)), ("any/data/0".to_owned(), "compressed"));
    for (at, value) in [(20, 200), (24, 17), (42, 0), (42, 1)] {
        assert!(matches!(patched(at, value), TorchError::Zip { .. }), "{at}");
    }
}

#[test]
fn a_directory_that_claims_too_much_is_refused_before_memory_is_taken() {
    let mut file = golden("buffer.bin");
    let record = file.windows(4).rposition(|w| w == b"PK\x06\x06").unwrap();
    let last = file.len() - 22;
    file[record + 32..record + 40].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    // Records that disagree.
    assert!(matches!(read_layout(&file), Err(TorchError::Zip { .. })));
    file[last + 10..last + 12].copy_from_slice(&[0xff; 2]);
    assert!(matches!(read_layout(&file), Err(TorchError::TooLarge { what: "zip entries", .. })));
}

#[test]
fn entries_with_zip64_headers_of_another_packer_are_read() {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    let file = zip_with(&[("any/data.pkl", &one(&PLAIN)), ("any/data/0", &[7; 16])], options);
    let tensors = read_layout(&file).unwrap();
    assert_eq!(&file[tensors[0].offset as usize..][..16], [7; 16]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(
        which in 0..4_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let name = ["views.bin", "protocol-4.bin", "lightning.ckpt", "parameters.pt"][which];
        let mut file = golden(name);
        for (place, byte) in edits {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        inside(&file);
    }

    #[test]
    fn mutated_pickles_never_panic(
        which in 0..4_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let name = ["views.bin", "protocol-4.bin", "lightning.ckpt", "parameters.pt"][which];
        let source = golden(name);
        let mut pickle = Archive::open(&source).unwrap().pickle().unwrap().to_vec();
        for (place, byte) in edits {
            let place = place.index(pickle.len());
            pickle[place] = byte;
        }
        inside(&checkpoint(&pickle));
    }

    #[test]
    fn arbitrary_instructions_never_panic(
        program in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&b"(.01GJKMNQRTUXabcd}ehl]qrs)tu\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8e\x8f\x90\x91\x93\x94\x95\x96"[..])
                    .prop_map(|opcode| vec![opcode]),
                any::<u8>().prop_map(|byte| vec![byte]),
                Just(tensor(&PLAIN)),
                Just(b"ctorch._utils\n_rebuild_tensor_v3\n".to_vec()),
                Just(b"ccollections\nOrderedDict\n".to_vec()),
                Just(text("w")),
            ],
            0..60,
        ),
    ) {
        inside(&checkpoint(&program.concat()));
    }
}

/// Reads `file`; if that succeeds, every element must be inside the file.
fn inside(file: &[u8]) {
    for tensor in read_layout(file).unwrap_or_default() {
        assert!(tensor.storage.end <= file.len() as u64 && tensor.offset <= tensor.storage.end);
        if tensor.shape.iter().product::<usize>() <= 1 << 16 {
            dense_hex(file, &tensor);
        }
    }
}
