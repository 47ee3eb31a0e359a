//! The resolved recipe: everything that was read, and every default, in the form it is read in.

use onefold_train::tune::{Aggregate, Duration};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::merge::{ADAPTERS, REFERENCES};
use super::stop::SPLITS;
use super::{AlternateRecipe, ROWS, STATES, Start};
use crate::recipe::keys::word;
use crate::recipe::tune::watching::MEASURES;

/// Keys of a joint training that mean nothing here, or something else.
const OF_TUNING: [&str; 9] =
    ["base_model", "tasks", "balancer", "sampling", "epochs", "steps", "validation", "best", "output"];

/// In the form it is read in; without `text`.
impl Serialize for AlternateRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl AlternateRecipe {
    fn value(&self) -> Value {
        let tuning = serde_json::to_value(&self.tuning).unwrap_or_default();
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
        match &self.start {
            Start::Model(model) => put("base_model", json!(model)),
            Start::Merge(text) => put("start", as_value(text)),
            Start::MergeFile(path) => put("start", json!(path)),
        }
        put("data", json!(word(&ROWS, &self.rows)));
        put("tasks", self.tasks(&tuning["tasks"]));
        put("rounds", json!(self.rounds));
        put("budget", duration(self.tuning.settings.duration));
        put("merge", self.merge());
        put("heads", self.heads());
        put("optimizer_state", json!(word(&STATES, &self.carried)));
        if self.stop.is_some() {
            put("early_stop", self.stop());
        }
        put("keep_rounds", json!(self.keep_rounds));
        for (key, value) in tuning.as_object().into_iter().flatten() {
            if !OF_TUNING.contains(&key.as_str()) {
                put(key, value.clone());
            }
        }
        Value::Object(map)
    }

    fn tasks(&self, of_tuning: &Value) -> Value {
        let of_tuning = of_tuning.as_array().into_iter().flatten();
        let task = |(value, more): (&Value, &super::AlternateTask)| {
            let mut value = value.clone();
            if let Some(map) = value.as_object_mut() {
                map.shift_remove("share");
                more.head.iter().for_each(|head| drop(map.insert("head".to_owned(), json!(head))));
                if !more.dev.is_empty() {
                    map.insert("dev".to_owned(), json!(more.dev));
                }
            }
            value
        };
        of_tuning.zip(&self.tasks).map(task).collect()
    }

    fn merge(&self) -> Value {
        let merge = &self.merge;
        let mut value = json!({"method": merge.method, "parameters": merge.parameters, "alpha": merge.alpha});
        value["reference"] = json!(word(&REFERENCES, &merge.reference));
        value["momentum"] = json!(merge.momentum);
        value["clip_norms"] = json!(merge.clip_norms);
        if self.tuning.trainable.adapter.is_some() {
            value["adapters"] = json!(word(&ADAPTERS, &merge.adapters));
        }
        value
    }

    fn heads(&self) -> Value {
        let fit = self.heads.fit.map_or(json!(false), |fit| {
            let mut value = duration(fit.duration);
            value["lr"] = json!(fit.lr);
            value
        });
        json!({"train": self.heads.train, "fit": fit})
    }

    fn stop(&self) -> Value {
        let Some(stop) = &self.stop else { return Value::Null };
        let by = match &stop.by {
            Aggregate::Mean => "mean",
            Aggregate::Worst => "worst",
            Aggregate::Task(name) => name,
        };
        json!({
            "patience": stop.patience,
            "split": word(&SPLITS, &stop.split),
            "by": by,
            "of": word(&MEASURES, &stop.of),
            "min_delta": stop.least,
        })
    }
}

fn duration(of: Duration) -> Value {
    match of {
        Duration::Epochs(epochs) => json!({ "epochs": epochs }),
        Duration::Steps(steps) => json!({ "steps": steps }),
    }
}

/// The value of a merge recipe's text.
fn as_value(text: &str) -> Value {
    let mut problems = crate::recipe::Problems::new("start", &[], false);
    let documents = crate::recipe::yaml::parse(text, &mut problems).unwrap_or_default();
    documents.first().map_or(Value::Null, |document| crate::recipe::keys::json(&document.root))
}
