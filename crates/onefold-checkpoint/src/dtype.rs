//! Element types of stored tensors.
//!
//! Arithmetic in onefold is done in `f32`; a stored value is widened once when it is read and rounded once when it
//! is written (`convert.rs`). Types that are not floating point are never converted: they are copied.

use std::fmt;

/// Element type of a stored tensor, named as in a safetensors header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are the format's own names")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

const NAMES: [(Dtype, &str, usize); 17] = [
    (Dtype::Bool, "BOOL", 1),
    (Dtype::U8, "U8", 1),
    (Dtype::I8, "I8", 1),
    (Dtype::F8E5M2, "F8_E5M2", 1),
    (Dtype::F8E4M3, "F8_E4M3", 1),
    (Dtype::F8E8M0, "F8_E8M0", 1),
    (Dtype::I16, "I16", 2),
    (Dtype::U16, "U16", 2),
    (Dtype::F16, "F16", 2),
    (Dtype::BF16, "BF16", 2),
    (Dtype::I32, "I32", 4),
    (Dtype::U32, "U32", 4),
    (Dtype::F32, "F32", 4),
    (Dtype::C64, "C64", 8),
    (Dtype::F64, "F64", 8),
    (Dtype::I64, "I64", 8),
    (Dtype::U64, "U64", 8),
];

impl Dtype {
    /// The type a safetensors header calls `name`.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n, _)| *n == name).map(|(d, _, _)| *d)
    }

    /// The type a recipe calls `name`: a torch name with or without `torch.` (`bfloat16`, `torch.float16`).
    pub fn from_torch(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("torch.").unwrap_or(name) {
            "bfloat16" | "bf16" => Self::BF16,
            "float16" | "half" | "fp16" => Self::F16,
            "float32" | "float" | "fp32" => Self::F32,
            "float64" | "double" => Self::F64,
            "float8_e4m3fn" => Self::F8E4M3,
            "float8_e5m2" => Self::F8E5M2,
            "int64" => Self::I64,
            _ => return None,
        })
    }

    /// Name in a safetensors header.
    pub fn safetensors_name(self) -> &'static str {
        self.entry().1
    }

    /// Name in `config.json` (`dtype`, `torch_dtype`).
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::F8E4M3 => "float8_e4m3fn",
            Self::F8E5M2 => "float8_e5m2",
            Self::I64 => "int64",
            other => other.safetensors_name(),
        }
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        self.entry().2
    }

    /// Whether values can be merged. `F8_E8M0` holds scales of quantised blocks, `C64` complex numbers:
    /// neither may be averaged, so both are copied like integers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8E4M3 | Self::F8E5M2)
    }

    fn entry(self) -> &'static (Self, &'static str, usize) {
        NAMES.iter().find(|(d, _, _)| *d == self).expect("every variant is listed in NAMES")
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}
