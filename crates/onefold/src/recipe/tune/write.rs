//! The resolved recipe: everything that was read, and every default, in the form it is read in.

use onefold_train::data::Validation;
use onefold_train::data::sample::Strategy;
use onefold_train::data::split::Held;
use onefold_train::optimizer::Rule;
use onefold_train::tune::{Aggregate, Duration, Every, ScheduleKind, Span, Targets};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::TuneRecipe;
use super::adapter::{ALL_LINEAR, KINDS};
use super::tasks::{Data, TURNS, TaskRecipe};
use super::training::{DECAYS, NORMALISATIONS, ORDERS, PACKINGS, TOO_LONG};
use super::watching::{FORMS, MEASURES, NON_FINITE};
use crate::recipe::keys::word;

/// In the form it is read in; without `text`.
impl Serialize for TuneRecipe {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl TuneRecipe {
    fn value(&self) -> Value {
        let settings = &self.settings;
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_owned(), value));
        put("base_model", json!(self.base_model));
        put("tasks", self.tasks.iter().map(task).collect());
        put("balancer", settings.balancer.clone().into());
        if self.trainable.adapter.is_some() {
            put("adapter", self.adapter());
        }
        if !self.trainable.freeze.is_empty() {
            put("freeze", json!(self.trainable.freeze));
        }
        put("optimizer", self.optimizer());
        put("schedule", self.schedule());
        put("batch", self.batch());
        put("sampling", self.sampling());
        match settings.duration {
            Duration::Epochs(epochs) => put("epochs", json!(epochs)),
            Duration::Steps(steps) => put("steps", json!(steps)),
        }
        put("clip", settings.clip.map_or(json!(false), |clip| json!(clip)));
        put("gradient_checkpointing", json!(settings.checkpointing));
        let normalisation = word(&NORMALISATIONS, &settings.normalisation);
        // The shortest digits of an f32 are those that were written.
        let smoothing: f64 = settings.smoothing.to_string().parse().unwrap_or_default();
        put("loss", json!({"normalisation": normalisation, "smoothing": smoothing}));
        put("validation", self.validation());
        put("log", json!(settings.log));
        let every = every(settings.checkpoints.every);
        put("checkpoints", json!({"every": every, "keep": settings.checkpoints.keep}));
        if settings.validation.every != Every::Never {
            put("best", self.best());
        }
        put("non_finite", json!(word(&NON_FINITE, &settings.non_finite)));
        put("output", json!(word(&FORMS, &self.output)));
        if let Some(template) = &self.chat_template {
            put("chat_template", json!(template));
        }
        if !self.template_variables.is_empty() {
            put("template_variables", self.template_variables.clone().into());
        }
        put("seed", json!(settings.seed));
        Value::Object(map)
    }

    fn adapter(&self) -> Value {
        let Some((settings, targets)) = &self.trainable.adapter else { return Value::Null };
        let targets = match targets {
            Targets::AllLinear => json!(ALL_LINEAR),
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
        };
        json!({
            "kind": word(&KINDS, &(settings.rank_stabilised, settings.decomposed)),
            "r": settings.rank,
            "alpha": settings.alpha,
            "dropout": settings.dropout,
            "targets": targets,
        })
    }

    fn optimizer(&self) -> Value {
        let (mut value, weight_decay) = match self.settings.optimizer {
            Rule::AdamW(rule) => (
                json!({"kind": "adamw", "lr": rule.learning_rate, "beta1": rule.beta1, "beta2": rule.beta2, "epsilon": rule.epsilon}),
                rule.weight_decay,
            ),
            Rule::Sgd(rule) => {
                let value = json!({"kind": "sgd", "lr": rule.learning_rate, "momentum": rule.momentum, "nesterov": rule.nesterov});
                (value, rule.weight_decay)
            }
            Rule::Lion(rule) => {
                let value = json!({"kind": "lion", "lr": rule.learning_rate, "beta1": rule.beta1, "beta2": rule.beta2});
                (value, rule.weight_decay)
            }
        };
        value["weight_decay"] = json!(weight_decay);
        if weight_decay > 0.0 {
            value["decay"] = json!(word(&DECAYS, &self.settings.decay));
        }
        value
    }

    fn schedule(&self) -> Value {
        let schedule = &self.settings.schedule;
        let warmup = span(schedule.warmup);
        let falling = |kind: &str| json!({"kind": kind, "warmup": warmup, "min_lr_ratio": schedule.floor});
        match schedule.kind {
            ScheduleKind::Constant => json!({"kind": "constant", "warmup": warmup}),
            ScheduleKind::Linear => falling("linear"),
            ScheduleKind::Cosine => falling("cosine"),
            ScheduleKind::Wsd { decay } => {
                let mut value = falling("wsd");
                value["decay"] = span(decay);
                value
            }
        }
    }

    fn batch(&self) -> Value {
        let batch = &self.settings.batch;
        let mut value = json!({"examples": batch.examples, "micro": batch.micro});
        if let Some(length) = self.length {
            value["length"] = json!(length);
            value["too_long"] = json!(word(&TOO_LONG, &self.too_long));
        }
        let packing = self.mixture.packing.map(|(packing, _)| json!(word(&PACKINGS, &packing)));
        value["packing"] = packing.unwrap_or(json!(false));
        value
    }

    fn sampling(&self) -> Value {
        let mixture = &self.mixture;
        let mut value = match mixture.strategy {
            Strategy::Size => json!({"strategy": "size"}),
            Strategy::Share => json!({"strategy": "share"}),
            Strategy::Temperature(of) => json!({"strategy": "temperature", "temperature": of}),
        };
        value["floor"] = json!(mixture.floor);
        value["cap"] = json!(mixture.cap);
        if let Some(samples) = mixture.samples {
            value["samples"] = json!(samples);
        }
        value["order"] = json!(word(&ORDERS, &mixture.order));
        value
    }

    fn validation(&self) -> Value {
        let validation = &self.settings.validation;
        if validation.every == Every::Never && validation.batch.is_none() {
            return json!(false);
        }
        let mut value = json!({"every": every(validation.every)});
        if let Some(batch) = validation.batch {
            value["batch"] = json!(batch);
        }
        value
    }

    fn best(&self) -> Value {
        let progress = &self.settings.progress;
        let by = match &progress.aggregate {
            Aggregate::Mean => "mean",
            Aggregate::Worst => "worst",
            Aggregate::Task(name) => name,
        };
        let mut value = json!({"by": by, "of": word(&MEASURES, &progress.measure)});
        if let Some(keep) = self.keep_best {
            value["keep"] = json!(keep);
        }
        for (key, patience) in [("patience", progress.patience), ("task_patience", progress.task_patience)] {
            if let Some(patience) = patience {
                value[key] = json!(patience);
            }
        }
        value["min_delta"] = json!(progress.least);
        value
    }
}

fn task(task: &TaskRecipe) -> Value {
    let train = match &task.train {
        Data::Paths(paths) => json!(paths),
        Data::Dataset { name, info } => json!({"dataset": name, "dataset_info": info}),
        Data::MftCoder(folder) => json!({"mftcoder": folder}),
    };
    let mut value = json!({"name": task.name, "train": train});
    match &task.validation {
        Validation::None => {}
        Validation::Files(paths) => value["validation"] = json!(paths),
        Validation::Held(Held::Fraction(fraction)) => value["validation"] = json!(fraction),
        Validation::Held(Held::Rows(rows)) => value["validation"] = json!({"rows": rows}),
    }
    value["share"] = json!(task.share);
    // With most balancers it has no effect, and is refused.
    if task.weight != 1.0 {
        value["weight"] = json!(task.weight);
    }
    if let Some(labels) = &task.labels {
        value["labels"] = json!(labels);
    }
    if let Some(samples) = task.samples {
        value["samples"] = json!(samples);
    }
    let mut columns = Map::new();
    for (meaning, key) in &task.columns {
        let named = columns.entry(meaning.clone()).or_insert_with(|| json!([]));
        named.as_array_mut().into_iter().for_each(|keys| keys.push(json!(key)));
    }
    if !columns.is_empty() {
        value["columns"] = columns.into();
    }
    value["max_bad_rows"] = json!(task.max_bad_rows);
    value["turns"] = json!(word(&TURNS, &task.turns));
    value
}

fn span(span: Span) -> Value {
    match span {
        Span::Steps(steps) => json!(steps),
        Span::Share(share) => json!(share),
    }
}

fn every(every: Every) -> Value {
    match every {
        Every::Never => json!("never"),
        Every::Steps(steps) => json!({"steps": steps}),
        Every::Epochs(epochs) => json!({"epochs": epochs}),
    }
}
