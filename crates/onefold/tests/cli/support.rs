//! What all black-box tests share: running the binary, and writing and reading tiny checkpoints.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

// ---- running

/// What a run of the binary left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Passes on a run that must have worked.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts the exit code and that every part occurs in what was said on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// The binary, to be run in `dir` without network, colours or the user's cache.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onefold"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    for key in ["HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_HOME"] {
        command.env_remove(key);
    }
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", dir.join("hf-home"));
    command
}

pub(crate) fn onefold(dir: &Path, args: &[&str]) -> Ran {
    command(dir, args).output().expect("the binary starts").into()
}

/// Writes `recipe` into `dir` and merges it to `out`.
pub(crate) fn merge(dir: &Path, recipe: &str, out: &str, more: &[&str]) -> Ran {
    fs::write(dir.join("recipe-under-test.yml"), recipe).unwrap();
    let mut args = vec!["merge", "recipe-under-test.yml", "-o", out];
    args.extend(more);
    onefold(dir, &args)
}

/// The merged model of a recipe that must work.
pub(crate) fn merged(dir: &Path, recipe: &str, out: &str, more: &[&str]) -> Model {
    merge(dir, recipe, out, more).ok();
    read_model(&dir.join(out))
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

// ---- files of the repository

pub(crate) fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(path)
}

/// Copies a directory with everything in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A temporary directory with the tiny Llamas `base`, `expert1`, `expert2`, `expert3`.
pub(crate) fn llamas() -> TempDir {
    let dir = temp();
    copy_dir(&testdata("mergekit/models"), dir.path());
    dir
}

/// All that lies in a directory, sorted.
pub(crate) fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

// ---- tensors

/// A tensor as it lies in a file.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Array {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) type Model = BTreeMap<String, Array>;

impl Array {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// The upper halves of the values: exact for values with short mantissas, truncated else.
    pub(crate) fn bf16(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Self { dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn i64(shape: &[usize], values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::I64, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => self.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::BF16 => self
                .bytes
                .chunks(2)
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(b.try_into().unwrap())) << 16))
                .collect(),
            other => panic!("no values of {other:?}"),
        }
    }

    pub(crate) fn rows(&self, end: usize) -> Self {
        let row = self.bytes.len() / self.shape[0];
        let mut shape = self.shape.clone();
        shape[0] = end;
        Self { dtype: self.dtype, shape, bytes: self.bytes[..end * row].to_vec() }
    }
}

/// Asserts that two models have the same tensors, and values no further apart than `tolerance` × the largest magnitude.
#[track_caller]
pub(crate) fn assert_close(found: &Model, expected: &Model, tolerance: f32, what: &str) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, want) in expected {
        let got = &found[name];
        assert_eq!((got.dtype, &got.shape), (want.dtype, &want.shape), "{what}: {name}");
        let (got, want) = (got.values(), want.values());
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((g - w).abs() <= tolerance * largest, "{what}: {name}[{i}] is {g}, expected {w}");
        }
    }
}

// ---- random numbers

/// SplitMix64: enough for fixtures, and the same for ever.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (-1, 1), bell-shaped enough: the sum of three uniform numbers.
    pub(crate) fn value(&mut self) -> f32 {
        let uniform = |bits: u64| (bits >> 40) as f32 / (1u64 << 24) as f32;
        (uniform(self.next()) + uniform(self.next()) + uniform(self.next())) * 2.0 / 3.0 - 1.0
    }

    pub(crate) fn values(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.value() * scale).collect()
    }
}

// ---- writing models

pub(crate) fn write_file(path: &Path, model: &Model) {
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let views = model.iter().map(|(n, a)| (n, TensorView::new(a.dtype, a.shape.clone(), &a.bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

/// A model directory with one weight file.
pub(crate) fn write_model(dir: &Path, model: &Model, config: &Value) {
    fs::create_dir_all(dir).unwrap();
    write_file(&dir.join("model.safetensors"), model);
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(config).unwrap()).unwrap();
}

/// The same with one tensor per shard.
pub(crate) fn write_sharded(dir: &Path, model: &Model, config: &Value) {
    fs::create_dir_all(dir).unwrap();
    let mut map = BTreeMap::new();
    for (i, (name, array)) in model.iter().enumerate() {
        let shard = format!("model-{:05}-of-{:05}.safetensors", i + 1, model.len());
        write_file(&dir.join(&shard), &Model::from([(name.clone(), array.clone())]));
        map.insert(name, shard);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(config).unwrap()).unwrap();
}

/// The same as `torch.save` writes it: a zip of a pickle (protocol 2) and one storage per tensor.
pub(crate) fn write_torch(dir: &Path, model: &Model, config: &Value) {
    fs::create_dir_all(dir).unwrap();
    let file = fs::File::create(dir.join("pytorch_model.bin")).unwrap();
    let mut zip = zip::ZipWriter::new(file);
    let stored = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .with_alignment(64);
    let mut entry = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    entry("data.pkl", &pickle(model));
    entry("byteorder", b"little");
    for (i, array) in model.values().enumerate() {
        entry(&format!("data/{i}"), &array.bytes);
    }
    entry("version", b"3\n");
    zip.finish().unwrap();
    fs::write(dir.join("config.json"), serde_json::to_vec_pretty(config).unwrap()).unwrap();
}

/// `{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}`.
fn pickle(model: &Model) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend((value as i32).to_le_bytes());
    };
    for (i, (name, array)) in model.iter().enumerate() {
        let storage = match array.dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::BF16 => "BFloat16Storage",
            Dtype::I64 => "LongStorage",
            other => panic!("no storage of {other:?}"),
        };
        let count = array.shape.iter().product();
        text(&mut out, name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{storage}\n").bytes());
        text(&mut out, &i.to_string());
        text(&mut out, "cpu");
        int(&mut out, count);
        out.extend(b"tQ");
        int(&mut out, 0);
        out.push(b'(');
        array.shape.iter().for_each(|n| int(&mut out, *n));
        out.extend(b"t(");
        (0..array.shape.len()).for_each(|d| int(&mut out, array.shape[d + 1..].iter().product()));
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

// ---- reading models

pub(crate) fn read_file(path: &Path) -> Model {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let array =
        |t: TensorView<'_>| Array { dtype: t.dtype(), shape: t.shape().into(), bytes: t.data().into() };
    tensors.iter().map(|(name, t)| (name.to_owned(), array(t))).collect()
}

/// The model of a directory, found as `transformers` does: by its index, else the single file.
pub(crate) fn read_model(dir: &Path) -> Model {
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        return read_file(&dir.join("model.safetensors"));
    }
    let index = json_file(&index);
    let map = index["weight_map"].as_object().unwrap();
    let mut model = Model::new();
    for shard in map.values().map(|v| v.as_str().unwrap()).collect::<std::collections::BTreeSet<_>>() {
        for (name, array) in read_file(&dir.join(shard)) {
            assert_eq!(map[&name], shard, "{name}");
            assert!(model.insert(name, array).is_none(), "stored once");
        }
    }
    assert_eq!(model.len(), map.len());
    model
}
