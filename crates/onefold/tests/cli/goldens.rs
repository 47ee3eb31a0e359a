//! Every merge that mergekit was seen to do, done by the binary: tensors within 1e-5 of the largest magnitude (one
//! bf16 step where it wrote bf16), and the same config.

use std::fs;

use crate::support::{assert_close, json_file, llamas, onefold, read_model, testdata};

/// Half a step of bf16 below the largest value is 2⁻⁹ of it; two roundings of nearly equal values may differ by a step.
const BF16_STEP: f32 = 1.0 / 128.0;

#[test]
fn every_case_of_mergekit_gives_its_tensors_and_config() {
    let dir = llamas();
    let mut seen = 0;
    for case in fs::read_dir(testdata("mergekit/cases")).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_stem().unwrap().to_str().unwrap();
        let recipe = format!("{name}.yml");
        fs::copy(&case, dir.path().join(&recipe)).unwrap();
        onefold(dir.path(), &["merge", &recipe, "-o", &format!("out/{name}")]).ok();
        let (out, expected) = (dir.path().join("out").join(name), testdata("mergekit/expected").join(name));
        let tolerance = if name == "out_dtype_bf16" { BF16_STEP } else { 1e-5 };
        assert_close(&read_model(&out), &read_model(&expected), tolerance, name);
        // These tiny configs meet none of mergekit's defects (no tied head, no `layer_types`): equality is asked of all.
        assert_eq!(json_file(&out.join("config.json")), json_file(&expected.join("config.json")), "{name}");
        for copied in ["generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
            let bytes = |d: &std::path::Path| fs::read(d.join(copied)).unwrap();
            assert_eq!(bytes(&out), bytes(&dir.path().join("base")), "{name}: {copied}");
        }
        seen += 1;
    }
    assert_eq!(seen, 37, "a case was lost");
}

/// A recipe elsewhere names its models by its own place, not by the caller's.
#[test]
fn models_are_found_beside_the_recipe() {
    let dir = llamas();
    let elsewhere = dir.path().join("a/b");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::copy(testdata("mergekit/cases/linear_raw.yml"), dir.path().join("r.yml")).unwrap();
    onefold(&elsewhere, &["merge", "../../r.yml", "-o", "out"]).ok();
    assert_close(
        &read_model(&elsewhere.join("out")),
        &read_model(&testdata("mergekit/expected/linear_raw")),
        1e-5,
        "linear_raw",
    );
}
