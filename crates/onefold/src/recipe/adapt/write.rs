//! The resolved recipe: everything that was read, and every default, in the form it is read in.

use onefold_train::adapt::{Method, Start};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::{AIMS, AdaptRecipe, CLAMPS, GRANULARITIES, TaskInputs};
use crate::recipe::keys::word;
use crate::recipe::tune::TOO_LONG;

impl Serialize for AdaptRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let settings = &self.settings;
        let mut recipe = Map::new();
        let mut put = |key: &str, value: Value| drop(recipe.insert(key.to_owned(), value));
        let (method, density) = match self.method {
            Method::AdaMerging => ("adamerging", None),
            Method::Plus { density } => ("adamerging_plus", Some(density)),
        };
        put("merge_method", json!(method));
        density.into_iter().for_each(|density| put("density", json!(density)));
        put("base_model", json!(self.base_model));
        let model = |(model, task): &(_, Option<String>)| match task {
            Some(task) => json!({"model": model, "task": task}),
            None => json!({"model": model}),
        };
        put("models", self.models.iter().map(model).collect());
        put("tasks", self.tasks.iter().map(|task| of_task(task, self.transductive)).collect());
        put("granularity", json!(word(&GRANULARITIES, &settings.granularity)));
        put("init", start(&settings.start));
        put("objective", json!(word(&AIMS, &settings.aim)));
        put("diversity", json!(settings.diversity));
        put("steps", json!(settings.steps));
        let mut batch =
            json!({"examples": settings.batch, "batches": settings.batches, "tokens": settings.tokens});
        if let Some(length) = self.length {
            batch["length"] = json!(length);
            batch["too_long"] = json!(word(&TOO_LONG, &self.too_long));
        }
        put("batch", batch);
        let adam = settings.adam;
        put(
            "optimizer",
            json!({"kind": "adam", "lr": adam.lr, "beta1": adam.betas[0], "beta2": adam.betas[1], "epsilon": adam.epsilon}),
        );
        put("normalize", json!(settings.normalise));
        if !settings.normalise {
            put("clamp", json!(word(&CLAMPS, &settings.clamp)));
        }
        put("gradient_checkpointing", json!(settings.checkpointing));
        put("log", json!(settings.log));
        settings.score.into_iter().for_each(|every| put("score", json!({"every": every})));
        put("checkpoints", json!({"every": settings.save}));
        if let Some(patience) = settings.patience {
            put("early_stopping", json!({"patience": patience.lines, "min_delta": patience.least}));
        }
        put("seed", json!(settings.seed));
        recipe.serialize(serializer)
    }
}

fn start(start: &Start) -> Value {
    match start {
        Start::Value(value) => json!(value),
        Start::Each(values) => json!(values),
        Start::Uniform => json!("uniform"),
        Start::MetaGpt => json!("metagpt"),
    }
}

fn of_task(task: &TaskInputs, transductive: bool) -> Value {
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
    put("name", json!(task.name));
    if !transductive {
        put("inputs", json!(task.inputs));
    }
    if !task.test.is_empty() {
        put("test", json!(task.test));
    }
    put("weight", json!(task.weight));
    task.samples.into_iter().for_each(|samples| put("samples", json!(samples)));
    if !task.columns.is_empty() {
        let mut columns: Map<String, Value> = Map::new();
        for (meaning, key) in &task.columns {
            match columns.get_mut(meaning) {
                Some(Value::Array(keys)) => keys.push(json!(key)),
                _ => drop(columns.insert(meaning.clone(), json!([key]))),
            }
        }
        put("columns", Value::Object(columns));
    }
    put("max_bad_rows", json!(task.max_bad_rows));
    put("labels_in_inputs", json!(if task.may_have_labels { "ignore" } else { "refuse" }));
    Value::Object(entry)
}
