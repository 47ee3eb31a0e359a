//! Whole trainings: what comes out, and that it does not depend on anything it should not.

use std::fs;

use serde_json::{Value, json};

use super::{DECODER, ENCODER, decoder, encoder, files, metrics, result, tune};
use crate::support::{assert_close, copy_dir, json_file, merged, onefold, read_file, read_model, testdata};

/// The losses of a task in the validation lines.
fn losses(lines: &[Value], task: &str) -> Vec<f64> {
    let validations = lines.iter().filter(|line| line["kind"] == "validation");
    validations.map(|line| line["tasks"][task]["loss"].as_f64().unwrap()).collect()
}

#[test]
fn an_adapter_learns_two_tasks() {
    let dir = decoder();
    let recipe = format!(
        "{DECODER}adapter: {{r: 8}}\noptimizer: {{lr: 2e-2}}\nbalancer: {{kind: coba, warmup: 3, window: 6}}\nepochs: 6\n"
    )
    .replacen("epochs: 2\n", "", 1);
    tune(dir.path(), &recipe, "out", &[]).ok();
    let out = dir.path().join("out");
    for name in [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "metrics.jsonl",
        "onefold.json",
        "recipe.yaml",
        "report.html",
        "runs/events.out.tfevents.onefold",
    ] {
        assert!(files(&out).contains(&name.to_owned()), "{name}");
    }
    assert!(!dir.path().join("out.run").exists());
    let lines = metrics(&out);
    for task in ["next", "turn"] {
        let losses = losses(&lines, task);
        assert!(losses.last() < losses.first().map(|first| 0.8 * first).as_ref(), "{task}: {losses:?}");
    }
    let train: Vec<_> = lines.iter().filter(|line| line["kind"] == "train").collect();
    let weights = |line: &Value| -> f64 {
        ["next", "turn"].map(|task| line["tasks"][task]["weight"].as_f64().unwrap()).iter().sum()
    };
    assert!(train.iter().all(|line| (weights(line) - 1.0).abs() < 1e-9), "{train:?}");
    let config = json_file(&out.join("adapter_config.json"));
    assert_eq!((&config["r"], &config["peft_type"]), (&json!(8), &json!("LORA")));
    let record = json_file(&out.join("onefold.json"));
    assert_eq!((&record["kind"], &record["recipe"]["optimizer"]["lr"]), (&json!("tune"), &json!(0.02)));
    assert_eq!(record["recipe"]["best"]["keep"], true);
    assert_eq!(record["inputs"]["data"].as_array().unwrap().len(), 2);
    assert_eq!(record["result"]["kept"], record["result"]["best"]["step"]);
    assert!(fs::read_to_string(out.join("recipe.yaml")).unwrap() == recipe);
}

#[test]
fn all_weights_are_trained_and_the_rest_of_the_model_stays() {
    let dir = decoder();
    tune(dir.path(), &format!("{DECODER}freeze: embed_tokens\noptimizer: {{lr: 1e-3}}\n"), "out", &[]).ok();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    let (before, after) = (read_model(&base), read_model(&out));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, tensor) in &before {
        assert_eq!((tensor.dtype, &tensor.shape), (after[name].dtype, &after[name].shape), "{name}");
        assert_eq!(tensor.bytes == after[name].bytes, name.contains("embed_tokens"), "{name}");
    }
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        assert_eq!(fs::read(base.join(name)).unwrap(), fs::read(out.join(name)).unwrap(), "{name}");
    }
    onefold(dir.path(), &["inspect", "out"]).ok();
}

#[test]
fn a_model_with_its_adapter_is_the_base_with_the_adapter() {
    let dir = decoder();
    let recipe = format!("{DECODER}adapter: {{kind: dora, targets: [q_proj, down_proj]}}\noutput: both\n");
    tune(dir.path(), &recipe, "out", &[]).ok();
    let expected =
        merged(dir.path(), "merge_method: passthrough\nmodels: [{model: base+out/adapter}]\n", "merged", &[]);
    assert_close(&read_model(&dir.path().join("out")), &expected, 1e-6, "output: both");
    tune(dir.path(), &recipe.replace("both", "model"), "whole", &[]).ok();
    assert_eq!(read_model(&dir.path().join("whole")), read_model(&dir.path().join("out")));
    assert!(!dir.path().join("whole/adapter").exists());
}

#[test]
fn tasks_with_classes_get_heads_and_models_of_their_own() {
    let dir = encoder();
    tune(dir.path(), ENCODER, "out", &[]).ok();
    let out = dir.path().join("out");
    for (task, classes) in
        [("vowels", &["consonant", "vowel"][..]), ("thirds", &["first", "second", "third"])]
    {
        let config = json_file(&out.join(task).join("config.json"));
        let names: Vec<&str> =
            config["id2label"].as_object().unwrap().values().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, classes, "{task}");
        assert_eq!(config["architectures"][0], "BertForSequenceClassification");
        let model = read_model(&out.join(task));
        assert_eq!(model["classifier.weight"].shape, [classes.len(), 32]);
        assert!(out.join(task).join("tokenizer.json").is_file());
        onefold(&out, &["inspect", task]).ok();
    }
    let (vowels, thirds) = (read_model(&out.join("vowels")), read_model(&out.join("thirds")));
    let trunk = |name: &&String| !name.starts_with("classifier") && !name.contains("pooler");
    assert!(vowels.keys().filter(trunk).all(|name| vowels[name] == thirds[name]), "one trunk");
    // Checkpoints of several heads hold the state alone.
    let step = json_file(&out.join("onefold.json"))["result"]["steps"].as_u64().unwrap();
    let checkpoint = out.join(format!("checkpoint-{step}"));
    assert_eq!(files(&checkpoint), ["onefold/state.json", "onefold/state.safetensors", "trainer_state.json"]);
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let dir = decoder();
    let recipe = format!("{DECODER}adapter: {{r: 4, dropout: 0.1}}\nbalancer: pcgrad\n");
    let run = |threads: &str| {
        tune(dir.path(), &recipe, "out", &["--threads", threads]).ok();
        let found = result(&dir.path().join("out"));
        fs::remove_dir_all(dir.path().join("out")).unwrap();
        found
    };
    let (one, two) = (run("1"), run("2"));
    for ((name, first), (other, second)) in one.iter().zip(&two) {
        assert!(name == other && first == second, "{name}");
    }
    assert_eq!(one.len(), two.len());
}

#[test]
fn what_is_there_is_not_made_again_and_not_replaced_by_something_else() {
    let dir = decoder();
    tune(dir.path(), DECODER, "out", &[]).ok();
    let changed = || dir.path().join("out/model.safetensors").metadata().unwrap().modified().unwrap();
    let before = changed();
    let again = tune(dir.path(), &format!("# a remark\n{DECODER}"), "out", &[]).ok();
    assert!(again.stderr.contains("is there already"), "{}", again.stderr);
    let other = DECODER.replace("epochs: 2", "epochs: 1");
    tune(dir.path(), &other, "out", &[]).fails(2, &["out", "exists"]);
    // Data, model and seed make another job too.
    tune(dir.path(), DECODER, "out", &["--seed", "3"]).fails(2, &["exists"]);
    let rows = fs::read_to_string(dir.path().join("next.jsonl")).unwrap();
    fs::write(dir.path().join("next.jsonl"), rows.replacen("next", "then", 1)).unwrap();
    tune(dir.path(), DECODER, "out", &[]).fails(2, &["exists"]);
    assert_eq!(changed(), before);
    tune(dir.path(), &other, "out", &["--force"]).ok();
    assert_ne!(changed(), before);
    assert_eq!(json_file(&dir.path().join("out/onefold.json"))["recipe"]["epochs"], 1.0);
}

#[test]
fn checkpoints_are_pruned_and_the_best_one_stays() {
    let dir = decoder();
    let recipe = format!(
        "{DECODER}optimizer: {{kind: sgd, lr: 0.5}}\nclip: false\ncheckpoints: {{every: {{steps: 2}}, keep: 1}}\n\
         validation: {{every: {{steps: 3}}}}\nbest: {{by: next, keep: true}}\n"
    );
    tune(dir.path(), &recipe, "out", &[]).ok();
    let record = json_file(&dir.path().join("out/onefold.json"));
    let (best, last) =
        (record["result"]["kept"].as_u64().unwrap(), record["result"]["steps"].as_u64().unwrap());
    let mut expected: Vec<String> = [best, last].iter().map(|step| format!("checkpoint-{step}")).collect();
    expected.sort();
    expected.dedup();
    let mut found: Vec<String> = crate::support::listing(&dir.path().join("out"));
    found.retain(|name| name.starts_with("checkpoint-"));
    assert_eq!(found, expected);
    let kept = dir.path().join(format!("out/checkpoint-{best}/model.safetensors"));
    assert_eq!(read_file(&kept), read_model(&dir.path().join("out")));
    let lines = metrics(&dir.path().join("out"));
    let (losses, validated) =
        (losses(&lines, "next"), lines.iter().filter(|line| line["kind"] == "validation"));
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let at: Vec<_> = validated.filter(|line| line["tasks"]["next"]["loss"] == least).collect();
    assert_eq!(at[0]["step"], best);
}

#[test]
fn training_ends_when_there_is_no_progress() {
    let dir = decoder();
    let recipe = format!(
        "{DECODER}optimizer: {{lr: 1e-9}}\nvalidation: {{every: {{steps: 1}}}}\nbest: {{patience: 2, min_delta: 0.5}}\n"
    );
    let ran = tune(dir.path(), &recipe, "out", &[]).ok();
    assert!(ran.stderr.contains("ended early: no progress in 2 validations"), "{}", ran.stderr);
    let result = &json_file(&dir.path().join("out/onefold.json"))["result"];
    // The first step's model is the best of those that were trained; none after it was better.
    assert_eq!((&result["steps"], &result["kept"]), (&json!(3), &json!(1)));
}

#[test]
fn conversations_go_through_the_recipes_template_which_the_output_keeps() {
    let dir = decoder();
    let chat = (0..24).map(|i| json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": format!("{i}!")}]}));
    super::rows(dir.path(), "chat.jsonl", chat);
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ mark }}{{ m.content }} {% else %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}";
    fs::write(dir.path().join("chat.jinja"), template).unwrap();
    let recipe = "base_model: base\ntasks: [{name: chat, train: chat.jsonl}]\nchat_template: chat.jinja\n\
                  template_variables: {mark: q }\nbatch: {examples: 8}\nepochs: 1\n";
    let ran = tune(dir.path(), recipe, "out", &[]).ok();
    assert!(ran.stderr.contains("⟦"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(dir.path().join("out/chat_template.jinja")).unwrap(), template);
    tune(dir.path(), &recipe.replace("chat_template: chat.jinja\n", ""), "none", &[])
        .fails(2, &["task `chat`", "chat"]);
    // The text is part of the job, not only the name of its file.
    assert_eq!(json_file(&dir.path().join("out/onefold.json"))["recipe"]["chat_template"], template);
    fs::write(dir.path().join("chat.jinja"), template.replace("</s>", "!</s>")).unwrap();
    tune(dir.path(), recipe, "out", &[]).fails(2, &["exists"]);
    fs::write(dir.path().join("chat.jinja"), "no template").unwrap();
    tune(dir.path(), recipe, "other", &[]).fails(2, &["chat.jinja", "no Jinja template"]);
    let (dir, recipe) = (encoder(), format!("{ENCODER}chat_template: '{{{{ messages }}}}'\n"));
    let ran = tune(dir.path(), &recipe, "unused", &[]).ok();
    assert!(ran.stderr.contains("`chat_template` has no effect"), "{}", ran.stderr);
}

#[test]
fn datasets_of_other_tools_are_read_as_they_are() {
    let dir = decoder();
    for name in ["llama_factory", "mftcoder"] {
        copy_dir(&testdata("data").join(name), &dir.path().join(name));
    }
    let info = json_file(&dir.path().join("llama_factory/dataset_info.json"));
    let plain =
        info.as_object().unwrap().iter().find(|(_, entry)| entry["file_name"] == "plain.json").unwrap().0;
    let recipe = format!(
        "base_model: base\nbatch: {{examples: 4}}\nepochs: 1\ntasks:\n\
         - {{name: lf, train: {{dataset: {plain}, dataset_info: llama_factory}}}}\n\
         - {{name: file, train: {{dataset: {plain}, dataset_info: llama_factory/dataset_info.json}}}}\n\
         - {{name: mft, train: {{mftcoder: mftcoder/code}}}}\n\
         chat_template: \"{{% for m in messages %}}{{{{ m.content }}}}</s>{{% endfor %}}\"\n"
    );
    let ran = tune(dir.path(), &recipe, "out", &[]);
    let ran = ran.ok();
    assert!(ran.stderr.contains("task mft (generate)"), "{}", ran.stderr);
    let before = fs::read_to_string(dir.path().join("llama_factory/dataset_info.json")).unwrap();
    let mut info = info.clone();
    info[plain]["columns"] = json!({"prompt": "instruction", "response": "output"});
    fs::write(dir.path().join("llama_factory/dataset_info.json"), info.to_string()).unwrap();
    // How rows are read makes another job, too.
    tune(dir.path(), &recipe, "out", &[]).fails(2, &["exists"]);
    fs::write(dir.path().join("llama_factory/dataset_info.json"), before).unwrap();
    let none = recipe.replace(&format!("dataset: {plain},"), "dataset: nothing,");
    tune(dir.path(), &none, "none", &[]).fails(2, &["task `lf`", "no dataset \"nothing\""]);
}
