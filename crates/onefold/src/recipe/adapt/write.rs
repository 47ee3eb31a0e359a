//! The resolved recipe: everything that was read, and every default, in the form it is read in.

use onefold_train::adapt::{Measure, Method, Settings, Start};
use onefold_train::statistics::{FisherKind, FisherSettings};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::measure::KINDS;
use super::{
    AIMS, AdaptRecipe, CLAMPS, GRANULARITIES, Learning, Measured, Road, TaskInputs, surgery, written_telling,
};
use crate::recipe::keys::word;
use crate::recipe::setting::Parameters;
use crate::recipe::tune::TOO_LONG;

impl Serialize for AdaptRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut recipe = Map::new();
        match &self.road {
            Road::Learn(Learning { method, .. }) => {
                let (method, density) = match method {
                    Method::AdaMerging => ("adamerging", None),
                    Method::Plus { density } => ("adamerging_plus", Some(density)),
                };
                recipe.insert("merge_method".to_owned(), json!(method));
                recipe.extend(density.map(|density| ("density".to_owned(), json!(density))));
            }
            Road::Measure(measured) => {
                recipe.insert("merge_method".to_owned(), json!(measured.method));
                recipe.extend(settings(&measured.parameters));
            }
        }
        let mut put = |key: &str, value: Value| drop(recipe.insert(key.to_owned(), value));
        put("base_model", json!(self.base_model));
        put("models", (0..self.models.len()).map(|number| self.model(number)).collect());
        let learns = matches!(self.road, Road::Learn(_));
        put("tasks", self.tasks.iter().map(|task| of_task(task, self.transductive, learns)).collect());
        let (of_road, mut batch) = match &self.road {
            Road::Learn(learning) => of_learning(&learning.settings),
            Road::Measure(measured) => of_measuring(measured),
        };
        if let Some(length) = self.length {
            batch["length"] = json!(length);
            batch["too_long"] = json!(word(&TOO_LONG, &self.too_long));
        }
        put("batch", batch);
        self.surgery.iter().for_each(|settings| put("surgery", surgery::written(settings)));
        recipe.extend(of_road);
        recipe.insert("seed".to_owned(), json!(self.seed()));
        recipe.serialize(serializer)
    }
}

impl AdaptRecipe {
    fn model(&self, number: usize) -> Value {
        let (model, task) = &self.models[number];
        let mut entry = Map::from_iter([("model".to_owned(), json!(model))]);
        entry.extend(task.iter().map(|task| ("task".to_owned(), json!(task))));
        if let Road::Measure(measured) = &self.road {
            entry.extend(measured.of_models.get(number).map(settings).unwrap_or_default());
        }
        Value::Object(entry)
    }
}

/// Settings by their names.
fn settings(parameters: &Parameters) -> Map<String, Value> {
    parameters.iter().map(|(name, setting)| (name.clone(), json!(setting.value))).collect()
}

/// The keys of measuring; those of `batch` by themselves.
fn of_measuring(measured: &Measured) -> (Map<String, Value>, Value) {
    let statistics = match measured.measure {
        Measure::Fisher(FisherSettings { kind, enumerate, draws, .. }, batch) => {
            let mut found = json!({"kind": word(&KINDS, &kind)});
            if kind != FisherKind::Empirical {
                found["enumerate"] = json!(enumerate);
                found["draws"] = json!(draws);
            }
            if kind == FisherKind::BatchSummed {
                found["batch"] = json!(batch);
            }
            Some(found)
        }
        Measure::Nodes(batch) => Some(json!({"batch": batch})),
        Measure::Grams => None,
    };
    let keys = statistics.map(|statistics| ("statistics".to_owned(), statistics));
    (keys.into_iter().collect(), json!({"tokens": measured.tokens}))
}

/// The keys of learning; those of `batch` by themselves.
fn of_learning(settings: &Settings) -> (Map<String, Value>, Value) {
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| drop(keys.insert(key.to_owned(), value));
    put("granularity", json!(word(&GRANULARITIES, &settings.granularity)));
    put("init", start(&settings.start));
    put("objective", json!(word(&AIMS, &settings.aim)));
    put("diversity", json!(settings.diversity));
    put("steps", json!(settings.steps));
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
    let batch = json!({"examples": settings.batch, "batches": settings.batches, "tokens": settings.tokens});
    (keys, batch)
}

fn start(start: &Start) -> Value {
    match start {
        Start::Value(value) => json!(value),
        Start::Each(values) => json!(values),
        Start::Uniform => json!("uniform"),
        Start::MetaGpt => json!("metagpt"),
    }
}

fn of_task(task: &TaskInputs, transductive: bool, learns: bool) -> Value {
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| drop(entry.insert(key.to_owned(), value));
    put("name", json!(task.name));
    if !transductive {
        put("inputs", json!(task.inputs));
    }
    if !task.test.is_empty() {
        put("test", json!(task.test));
    }
    if learns {
        put("weight", json!(task.weight));
    }
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
    written_telling(&task.telling).into_iter().for_each(|(key, value)| put(key, value));
    put("max_bad_rows", json!(task.max_bad_rows));
    put("labels_in_inputs", json!(if task.may_have_labels { "ignore" } else { "refuse" }));
    Value::Object(entry)
}
