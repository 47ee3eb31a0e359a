//! Activation functions by the names that configurations use.

use onefold_engine::cpu::activation::Activation;
use serde_json::Value;

use super::ConfigError;
use super::fields::Fields;

/// The activation under `key`, by default `default`.
pub(super) fn read(fields: &Fields<'_>, key: &str, default: Activation) -> Result<Activation, ConfigError> {
    let Some(name) = fields.text(key)? else { return Ok(default) };
    let names = || Activation::names().collect::<Vec<_>>().join(", ");
    Activation::from_name(name).map_err(|_| fields.unsupported(key, &Value::from(name), names()))
}
