//! Bad input: each is a clear error that names the file and the tensor or key, with exit code 2 (found before any work) or
//! 1, and nothing is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    Array, Model, Ran, copy_dir, json_file, listing, llamas, merge, merged, onefold, read_file, read_model,
    temp, testdata, write_file, write_model, write_sharded,
};

const AVERAGE: &str = "merge_method: linear\nmodels:\n\
    - {model: expert1, parameters: {weight: 1}}\n\
    - {model: expert2, parameters: {weight: 1}}\n";
const TIES: &str = "merge_method: ties\nbase_model: base\nmodels:\n\
    - {model: expert1, parameters: {weight: 1, density: 0.5}}\n";
const NORM: &str = "model.norm.weight";

/// Nothing of the output's name is left.
#[track_caller]
fn nothing_left(dir: &Path) {
    let left: Vec<String> = listing(dir).into_iter().filter(|n| n.starts_with("out")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// The recipe is refused before any work, the message has all parts, and nothing is left.
#[track_caller]
fn refused(dir: &Path, recipe: &str, parts: &[&str]) -> Ran {
    let ran = merge(dir, recipe, "out", &[]);
    ran.fails(2, parts);
    nothing_left(dir);
    ran
}

// ---- broken files

/// Llamas of which the second expert's weight file was changed.
fn with_broken(change: impl Fn(Vec<u8>) -> Vec<u8>) -> TempDir {
    let dir = llamas();
    let file = dir.path().join("expert2/model.safetensors");
    fs::write(&file, change(fs::read(&file).unwrap())).unwrap();
    dir
}

/// The file with another header, its length field set right.
fn with_header(bytes: &[u8], edit: impl Fn(&str) -> String) -> Vec<u8> {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = edit(std::str::from_utf8(&bytes[8..end]).unwrap());
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[end..]].concat()
}

#[test]
fn truncated_weights() {
    let dir = with_broken(|b| b[..b.len() - 100].to_vec());
    refused(
        dir.path(),
        AVERAGE,
        &["model expert2", "expert2/model.safetensors", "truncated", "43896", "43796"],
    );
    for length in [0, 7, 100] {
        let dir = with_broken(|b| b[..length].to_vec());
        refused(dir.path(), AVERAGE, &["model expert2", "expert2/model.safetensors"]);
    }
}

#[test]
fn lying_headers() {
    // The length field promises more than any header has.
    let dir = with_broken(|b| [&u64::MAX.to_le_bytes()[..], &b[8..]].concat());
    refused(dir.path(), AVERAGE, &["expert2/model.safetensors", "not a safetensors file"]);
    let cases = [
        // The length is within the file, but the text is not JSON.
        ("{", "[", "invalid safetensors header"),
        // A shape that its offsets do not span.
        ("\"shape\":[16]", "\"shape\":[17]", "takes 68 bytes"),
        ("\"shape\":[64,16]", "\"shape\":[4611686018427387904,16]", "overflow"),
        ("\"F32\"", "\"F31\"", "F31"),
    ];
    for (from, to, part) in cases {
        let dir = with_broken(|b| with_header(&b, |h| h.replacen(from, to, 1)));
        refused(dir.path(), AVERAGE, &["model expert2", "expert2/model.safetensors", part]);
    }
}

#[test]
fn overlapping_offsets() {
    let overlap = |h: &str| h.replacen("\"data_offsets\":[4096,8192]", "\"data_offsets\":[4000,8096]", 1);
    let dir = with_broken(|b| with_header(&b, overlap));
    refused(
        dir.path(),
        AVERAGE,
        &["expert2/model.safetensors", "model.embed_tokens.weight", "overlap or hole"],
    );
}

#[test]
fn a_missing_shard_and_a_tensor_in_no_shard() {
    let dir = llamas();
    let model = read_model(&dir.path().join("expert2"));
    fs::remove_dir_all(dir.path().join("expert2")).unwrap();
    write_sharded(&dir.path().join("expert2"), &model, &json!({}));
    let shard = "model-00003-of-00030.safetensors";
    let bytes = fs::read(dir.path().join("expert2").join(shard)).unwrap();
    fs::remove_file(dir.path().join("expert2").join(shard)).unwrap();
    refused(dir.path(), AVERAGE, &["expert2/model.safetensors.index.json", shard, "missing"]);
    // The shard is there, but holds another tensor.
    let other = Model::from([("other".to_owned(), Array::f32(&[1], &[1.0]))]);
    write_file(&dir.path().join("expert2").join(shard), &other);
    refused(dir.path(), AVERAGE, &["index.json", "model.layers.0.input_layernorm.weight", shard]);
    fs::write(dir.path().join("expert2").join(shard), bytes).unwrap();
    merge(dir.path(), AVERAGE, "out", &[]).ok();
}

#[test]
fn directories_without_a_model() {
    let dir = llamas();
    fs::create_dir(dir.path().join("empty")).unwrap();
    refused(dir.path(), &AVERAGE.replace("expert2", "./empty"), &["model ./empty", "no weights found"]);
    refused(dir.path(), &AVERAGE.replace("expert2", "./nowhere"), &["model ./nowhere"]);
    copy_dir(&testdata("adapter/plain"), &dir.path().join("adapter"));
    refused(dir.path(), &AVERAGE.replace("expert2", "adapter"), &["this is an adapter", "base+adapter"]);
    fs::write(dir.path().join("expert2/config.json"), "{").unwrap();
    refused(dir.path(), AVERAGE, &["expert2/config.json", "invalid JSON"]);
}

// ---- models that do not fit each other

/// Llamas of which a tensor of the second expert was replaced, or taken out.
fn with_tensor(name: &str, array: Option<Array>) -> TempDir {
    let dir = llamas();
    let file = dir.path().join("expert2/model.safetensors");
    let mut model = read_file(&file);
    match array {
        Some(array) => drop(model.insert(name.into(), array)),
        None => drop(model.remove(name)),
    }
    write_file(&file, &model);
    dir
}

#[test]
fn shapes_and_types_that_differ() {
    let dir = with_tensor(NORM, Some(Array::f32(&[8], &[1.0; 8])));
    refused(dir.path(), AVERAGE, &[NORM, "[16]", "[8]", "different architectures"]);
    let dir = with_tensor(NORM, Some(Array::i64(&[16], &[1; 16])));
    refused(dir.path(), AVERAGE, &[NORM, "I64", "cannot be merged", "expert2"]);
    // Float types mix.
    let dir = with_tensor(NORM, Some(Array::bf16(&[16], &[1.0; 16])));
    merge(dir.path(), AVERAGE, "out", &[]).ok();
}

#[test]
fn a_tensor_that_one_model_lacks() {
    let dir = with_tensor(NORM, None);
    refused(dir.path(), AVERAGE, &[NORM, "missing in expert2", "--allow-missing"]);
    let ran = merge(dir.path(), AVERAGE, "out", &["--allow-missing"]).ok();
    assert!(ran.stderr.contains("missing in expert2"), "{}", ran.stderr);
    let (out, expert) = (read_model(&dir.path().join("out")), read_model(&dir.path().join("expert1")));
    assert_eq!(out[NORM], expert[NORM]);
    assert_eq!(out.len(), 30);
    assert!(ran.stderr.contains("merged over the models that have it"), "{}", ran.stderr);
}

#[test]
fn all_models_that_lack_a_tensor_are_named() {
    let dir = with_tensor(NORM, None);
    copy_dir(&dir.path().join("expert2"), &dir.path().join("again"));
    let three = AVERAGE.replace("models:\n", "models:\n- {model: again, parameters: {weight: 1}}\n");
    refused(dir.path(), &three, &[NORM, "missing in again, expert2"]);
    // With a base the tensor that no expert has is the base's, and the report says so.
    let task = "merge_method: task_arithmetic\nbase_model: base\nparameters: {weight: 1}\n\
        models: [{model: expert2}, {model: again}]\n";
    refused(dir.path(), task, &[NORM, "missing in expert2, again;"]);
    let ran = merge(dir.path(), task, "out", &["--allow-missing"]).ok();
    let why = "missing in expert2, again";
    assert!(ran.stderr.contains(&format!("{NORM}: {why}, copied, not merged")), "{}", ran.stderr);
    for part in ["29 tensors merged · 1 copied", "1 tensor, in no figure here (missing in expert2, again)"] {
        assert!(ran.stderr.contains(part), "`{part}` is not in:\n{}", ran.stderr);
    }
    let file = dir.path().join("base/model.safetensors");
    let mut base = read_file(&file);
    assert_eq!(read_model(&dir.path().join("out"))[NORM], base[NORM]);
    // What the base lacks too is named with it.
    base.remove(NORM);
    write_file(&file, &base);
    fs::remove_dir_all(dir.path().join("out")).unwrap();
    let recipe = task.replace("{model: again}", "{model: expert1}");
    refused(dir.path(), &recipe, &[NORM, "missing in the base model base, expert2"]);
}

#[test]
fn vocabularies_that_differ() {
    let dir = llamas();
    let expert = dir.path().join("expert2");
    let mut model = read_model(&expert);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let cut = model[name].rows(60);
        model.insert(name.into(), cut);
    }
    write_file(&expert.join("model.safetensors"), &model);
    let text = fs::read_to_string(expert.join("config.json")).unwrap();
    fs::write(expert.join("config.json"), text.replace("\"vocab_size\": 64", "\"vocab_size\": 60")).unwrap();
    refused(
        dir.path(),
        AVERAGE,
        &[
            "lm_head.weight` and 1 more",
            "[64, 16], [60, 16]",
            "tokenizer: {source: union}",
            "--crop-embeddings",
        ],
    );

    let ran = merge(dir.path(), AVERAGE, "out-cropped", &["--crop-embeddings"]).ok();
    assert!(ran.stderr.contains("cropped to 60 rows"), "{}", ran.stderr);
    let cropped = read_model(&dir.path().join("out-cropped"));
    assert_eq!(cropped["model.embed_tokens.weight"].shape, [60, 16]);
    assert_eq!(json_file(&dir.path().join("out-cropped/config.json"))["vocab_size"], 60);
    let first = read_model(&dir.path().join("expert1"));
    let mean = |i: usize| (first["lm_head.weight"].values()[i] + model["lm_head.weight"].values()[i]) / 2.0;
    let found = cropped["lm_head.weight"].values();
    assert!((0..60 * 16).all(|i| (found[i] - mean(i)).abs() < 1e-6));
}

#[test]
fn adapters_for_another_base() {
    let dir = llamas();
    copy_dir(&testdata("adapter/plain"), &dir.path().join("adapter"));
    let recipe = AVERAGE.replace("expert2", "base+adapter");
    refused(
        dir.path(),
        &recipe,
        &["model base+adapter", "adapter for another base", "down_proj", "[16, 40]"],
    );
    // GPT-2 has none of its modules.
    copy_dir(&testdata("adapter/base_gpt2"), &dir.path().join("gpt2"));
    let recipe = "merge_method: passthrough\nmodels: [{model: gpt2+adapter}]\n";
    refused(dir.path(), recipe, &["model gpt2+adapter", "another base"]);
}

// ---- values

#[test]
fn a_nan_names_tensor_and_model() {
    let mut values = vec![1.0; 16];
    values[5] = f32::NAN;
    let dir = with_tensor(NORM, Some(Array::f32(&[16], &values)));
    for recipe in [AVERAGE, &TIES.replace("expert1", "expert2")] {
        let ran = merge(dir.path(), recipe, "out", &[]);
        ran.fails(1, &[NORM, "expert2", "element 5 is NaN", "--allow-non-finite"]);
        nothing_left(dir.path());
    }
    let out = merged(dir.path(), AVERAGE, "out", &["--allow-non-finite"]);
    let nan: Vec<usize> =
        out[NORM].values().iter().enumerate().filter(|(_, v)| v.is_nan()).map(|(i, _)| i).collect();
    assert_eq!(nan, [5], "the others are merged");
    let seen = onefold(dir.path(), &["inspect", "expert2"]).ok();
    assert!(seen.stdout.contains("NaN") && seen.stdout.contains(NORM), "{}", seen.stdout);
}

#[test]
fn a_result_that_does_not_fit_its_type() {
    let dir = with_tensor(NORM, Some(Array::f32(&[16], &[1e6; 16])));
    let recipe = format!("{AVERAGE}out_dtype: float16\n");
    merge(dir.path(), &recipe, "out", &[]).fails(1, &[NORM, "does not fit", "out_dtype"]);
    nothing_left(dir.path());
}

// ---- outputs

#[test]
fn outputs_that_exist_or_cannot_be_written() {
    let dir = llamas();
    let path = dir.path();
    fs::create_dir(path.join("kept")).unwrap();
    fs::write(path.join("kept/precious.txt"), "mine").unwrap();
    merge(path, AVERAGE, "kept", &[]).fails(2, &["kept: exists already", "--force"]);
    fs::write(path.join("file"), "mine").unwrap();
    merge(path, AVERAGE, "file", &[]).fails(2, &["file: exists already"]);
    assert_eq!(fs::read_to_string(path.join("kept/precious.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "mine");
    for (out, part) in [("kept", "exists already"), ("file", "exists already"), ("file/out", "cannot create")]
    {
        merge(path, AVERAGE, out, &["--dry-run"]).fails(2, &[part]);
    }
    merge(path, AVERAGE, "kept", &["--dry-run", "--force"]).fails(2, &["holds no model"]);
    // Below a file nothing can be made, whoever asks.
    let ran = merge(path, AVERAGE, "file/out", &[]);
    assert!(matches!(ran.code, Some(1 | 2)));
    ran.fails(ran.code.unwrap(), &["file", "cannot create"]);
    merge(path, AVERAGE, "/proc/onefold-out", &[]).fails(2, &["/proc/onefold-out", "cannot create"]);
    assert!(!path.join("kept.partial").exists() && !path.join("file.partial").exists());
}

#[test]
fn a_directory_without_the_right_to_write() {
    let dir = llamas();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let may_anyway = fs::write(locked.join("probe"), "").is_ok();
    let ran = merge(dir.path(), AVERAGE, "locked/out", &[]);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o755)).unwrap();
    if !may_anyway {
        // Not for root, who may write everywhere.
        ran.fails(2, &["locked/out.partial", "cannot create", "Permission denied"]);
        assert!(listing(&locked).is_empty());
    }
}

#[test]
fn outputs_that_would_destroy_an_input() {
    let dir = llamas();
    let path = dir.path();
    fs::create_dir(path.join("all")).unwrap();
    for name in ["expert1", "expert2"] {
        copy_dir(&path.join(name), &path.join("all").join(name));
    }
    let before = read_model(&path.join("expert1"));
    for (recipe, out) in [
        (AVERAGE.to_owned(), "expert1"),
        (AVERAGE.to_owned(), "./expert2/../expert1/"),
        (AVERAGE.replace("model: e", "model: ./all/e"), "all"),
    ] {
        for more in [&["--force"][..], &["--force", "--dry-run"], &["--dry-run"], &[]] {
            merge(path, &recipe, out, more).fails(2, &["would overwrite the input"]);
        }
    }
    std::os::unix::fs::symlink("expert1", path.join("link")).unwrap();
    merge(path, AVERAGE, "link", &["--force"]).fails(2, &["would overwrite the input"]);
    assert!(before == read_model(&path.join("expert1")));
    assert_eq!(listing(path).iter().filter(|n| n.contains("partial") || n.contains("replaced")).count(), 0);
    // Within an input there is room: nothing of it is touched.
    merge(path, AVERAGE, "expert1/out", &[]).ok();
    assert!(before == read_model(&path.join("expert1")));
}

// ---- recipes

#[test]
fn mistyped_keys_are_recognised() {
    let dir = llamas();
    let cases: [(String, &[&str]); 8] = [
        (
            TIES.replace("merge_method", "mergemethod"),
            &["unknown key `mergemethod`", "did you mean `merge_method`?"],
        ),
        (TIES.replace("density", "densty"), &["densty", "did you mean `density`?"]),
        (TIES.replace("base_model", "base_modle"), &["base_modle", "did you mean `base_model`?"]),
        (format!("{TIES}dtype: bfloat\n"), &["dtype", "did you mean `bfloat16`?"]),
        (TIES.replace("ties", "tise"), &["tise", "did you mean `ties`?"]),
        (TIES.replace("ties", "sorcery"), &["sorcery", "merge_method"]),
        (TIES.replace("0.5", "1.5"), &["models[0].parameters.density", "[0, 1]", "1.5"]),
        (TIES.replace("0.5", "-0.5"), &["models[0].parameters.density", "-0.5"]),
    ];
    for (recipe, parts) in cases {
        let ran = refused(dir.path(), &recipe, parts);
        assert!(ran.stderr.contains("recipe-under-test.yml:"), "no place in:\n{}", ran.stderr);
    }
}

#[test]
fn recipes_that_do_not_suit_their_method() {
    let dir = llamas();
    refused(dir.path(), &TIES.replace("base_model: base\n", ""), &["ties", "base_model"]);
    let slerp = "merge_method: slerp\nbase_model: base\nmodels: [{model: base}, {model: expert1}, {model: expert2}]\nparameters: {t: 0.5}\n";
    refused(dir.path(), slerp, &["slerp", "exactly 2", "found 3"]);
    refused(
        dir.path(),
        "merge_method: passthrough\nmodels: [{model: base}, {model: expert1}]\n",
        &["passthrough", "exactly 1"],
    );
    refused(
        dir.path(),
        "merge_method: metagpt\nbase_model: base\nmodels: [{model: base}]\n",
        &["metagpt", "found 0"],
    );
    let range = "merge_method: passthrough\nslices: [{sources: [{model: base, layer_range: [1, 4]}]}]\n";
    refused(dir.path(), range, &["layer_range [1, 4]", "base", "3 layers"]);
    refused(dir.path(), "merge_method: linear\nmodels: [{model: base}]\n", &["weight"]);
}

#[test]
fn recipes_that_are_none() {
    let dir = llamas();
    let ran = onefold(dir.path(), &["merge", "nowhere.yml", "-o", "out"]);
    ran.fails(2, &["nowhere.yml", "cannot read the recipe"]);
    for recipe in ["", "\n# nothing\n", "---\n", "[]", "just text", "a: [", "\t- x", "a: 1\na: 2\n"] {
        refused(dir.path(), recipe, &["recipe-under-test.yml"]);
    }
    onefold(dir.path(), &["merge", ".", "-o", "out"]).fails(2, &["cannot read the recipe"]);
    fs::write(dir.path().join("latin.yml"), [0xff, 0xfe, 0x00]).unwrap();
    onefold(dir.path(), &["merge", "latin.yml", "-o", "out"]).fails(2, &["latin.yml"]);
    nothing_left(dir.path());
}

#[test]
fn all_problems_come_together() {
    let dir = with_broken(|b| b[..1000].to_vec());
    fs::remove_file(dir.path().join("expert3/model.safetensors")).unwrap();
    let recipe = "merge_method: ties\nbase_model: base\ncolour: blue\nmodels:\n\
        - {model: expert1, parameters: {weight: 1, density: 7}}\n\
        - {model: expert2, parameters: {weight: heavy}}\n\
        - {model: expert3, parameters: {weight: 1, densty: 1}}\n";
    refused(
        dir.path(),
        recipe,
        &[
            "colour",
            "density",
            "found 7",
            "heavy",
            "densty",
            "expert2/model.safetensors",
            "model expert3",
            "no weights found",
        ],
    );
    // Different sentences about tensors come together as well.
    let dir = with_tensor(NORM, None);
    let file = dir.path().join("expert2/model.safetensors");
    let mut model = read_file(&file);
    model.insert("model.layers.1.input_layernorm.weight".into(), Array::f32(&[4], &[0.0; 4]));
    model.insert("model.layers.2.input_layernorm.weight".into(), Array::i64(&[16], &[0; 16]));
    write_file(&file, &model);
    refused(dir.path(), AVERAGE, &[NORM, "layers.1.input_layernorm", "layers.2.input_layernorm"]);
}

#[test]
fn bad_arguments() {
    let dir = llamas();
    fs::write(dir.path().join("r.yml"), TIES).unwrap();
    let with = |more: &[&str]| onefold(dir.path(), &[&["merge", "r.yml", "-o", "out"], more].concat());
    with(&["--threads", "0"]).fails(2, &["--threads"]);
    for option in ["--max-shard-size", "--max-memory"] {
        with(&[option, "99999999999TB"]).fails(2, &[option, "less than"]);
        with(&[option, "0.1"]).fails(2, &[option, "at least one byte"]);
    }
    with(&["--max-shard-size", "5 parsecs"]).fails(2, &["--max-shard-size", "parsecs"]);
    with(&["--max-memory", "1MB"]).fails(2, &["--max-memory", "even with one thread"]);
    with(&["--set", "parameters.lamda=1"]).fails(2, &["lamda", "did you mean `lambda`?"]);
    with(&["--set", "nonsense"]).fails(2, &["nonsense"]);
    with(&["--set", "models.7.parameters.weight=1"]).fails(2, &["models.7"]);
    onefold(dir.path(), &["merge", "r.yml"]).fails(2, &["--output"]);
    onefold(dir.path(), &["methods", "tise"]).fails(2, &["tise", "did you mean `ties`?"]);
    onefold(dir.path(), &["inspect", "./nowhere"]).fails(2, &["./nowhere"]);
    nothing_left(dir.path());
}

#[test]
fn numbers_out_of_range_are_called_numbers() {
    let dir = llamas();
    let out_of_range = &["the number \"1e400\", which is out of range"];
    refused(dir.path(), &format!("{TIES}parameters: {{lambda: 1e400}}\n"), out_of_range);
    refused(
        dir.path(),
        &format!("{TIES}parameters: {{lambda: -1.0e+400}}\n"),
        &["number \"-1.0e+400\", which is out"],
    );
    refused(dir.path(), &TIES.replace("density: 0.5", "density: [0.1, 1e400]"), out_of_range);
    refused(
        dir.path(),
        &TIES.replace("weight: 1", "weight: [{filter: mlp, value: 1e400}, {value: 1}]"),
        out_of_range,
    );
    refused(dir.path(), &format!("{TIES}tokenizer: {{pad_to_multiple_of: 1e400}}\n"), out_of_range);
    refused(
        dir.path(),
        &format!("{TIES}parameters: {{lambda: .inf}}\n"),
        &["a finite number, found the number `.inf`"],
    );
    refused(dir.path(), &format!("{TIES}parameters: {{lambda: 4e}}\n"), &["the text \"4e\""]);
    let set = ["--set", "parameters.lambda=1e400", "--set", "models.0.parameters.weight=-9e999"];
    merge(dir.path(), TIES, "out", &set).fails(2, &[out_of_range[0], "the number \"-9e999\""]);
}

#[test]
fn keys_that_are_not_understood_are_no_settings_of_the_tokenizer() {
    let dir = llamas();
    let recipe = format!("{TIES}tokenizer: {{source: base, keep_padding: true}}\n");
    refused(dir.path(), &recipe, &["tokenizer: unknown key `keep_padding`"]);
}

#[test]
fn errors_are_json_where_that_is_wanted() {
    let dir = llamas();
    let ran = merge(dir.path(), &TIES.replace("density", "densty"), "out", &["--json"]);
    assert_eq!(ran.code, Some(2));
    let event = ran.json();
    assert_eq!(event["event"], "error");
    assert!(event["data"][0].as_str().unwrap().contains("densty"), "{event}");
}

#[test]
fn quantised_models_are_refused() {
    let dir = temp();
    let model = Model::from([("model.layers.0.w".to_owned(), Array::f32(&[2, 2], &[1.0; 4]))]);
    write_model(&dir.path().join("plain"), &model, &json!({}));
    write_model(
        &dir.path().join("packed"),
        &model,
        &json!({"quantization_config": {"quant_method": "gptq"}}),
    );
    let recipe = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: plain}, {model: packed}]\n";
    refused(dir.path(), recipe, &["model packed", "gptq", "dequantise"]);
}

/// Weights of two spellings would be taken for two experts'.
#[test]
fn one_model_in_two_spellings_is_refused() {
    let dir = llamas();
    for other in ["./expert1", "expert1/", "base/../expert1"] {
        let recipe = AVERAGE.replace("model: expert2", &format!("model: {other}"));
        refused(dir.path(), &recipe, &["expert1", "are one directory"]);
    }
}
