//! The allow-list: what a pickle may name, and the inert value each name stands for.
//!
//! Naming a global is how a pickle reaches Python code. Here a name is only looked up in this table; nothing is
//! ever called. Names follow `torch.save` of PyTorch 1.6 to 2.15 (`torch/_tensor.py`, `torch/storage.py`).

use super::error::{TorchError, shown};
use crate::Dtype;

/// What an allowed name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// A function that rebuilds a tensor or parameter.
    Rebuild(Rebuild),
    /// The type of a storage: its elements.
    StorageType(Dtype),
    /// A `torch.dtype`.
    Dtype(Dtype),
    /// `torch.Tensor` or `torch.nn.Parameter`: the class of the tensor that is rebuilt.
    TensorClass,
    /// `collections.OrderedDict`: calling it makes a mapping.
    OrderedDict,
    /// Calling it makes a plain value whose contents do not matter; the text is its kind for messages.
    Plain(&'static str),
}

/// The functions in `torch._utils` and `torch._tensor` that a state dict needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// `(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    TensorV2,
    /// `(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`, for the newer types.
    TensorV3,
    /// `(data, requires_grad, hooks[, state])`.
    Parameter,
    /// `(function, class, arguments, state)`, for a tensor with Python attributes.
    FromType,
}

/// Looks `module.name` up.
pub(super) fn find(module: &str, name: &str) -> Result<Global, TorchError> {
    let refused = || TorchError::Refused { global: full_name(module, name) };
    match module {
        "torch._utils" => match name {
            "_rebuild_tensor_v2" => Ok(Global::Rebuild(Rebuild::TensorV2)),
            "_rebuild_tensor_v3" => Ok(Global::Rebuild(Rebuild::TensorV3)),
            "_rebuild_parameter" | "_rebuild_parameter_with_state" => Ok(Global::Rebuild(Rebuild::Parameter)),
            _ => Err(tensor_kind(module, name).unwrap_or_else(refused)),
        },
        "torch._tensor" if name == "_rebuild_from_type_v2" => Ok(Global::Rebuild(Rebuild::FromType)),
        "torch" => in_torch(name)?.ok_or_else(refused),
        "torch.storage" if name == "UntypedStorage" => Ok(Global::StorageType(Dtype::U8)),
        "torch.nn.parameter" if name == "Parameter" => Ok(Global::TensorClass),
        _ => plain(module, name).ok_or_else(refused),
    }
}

/// The tensors that are not plain arrays, by the function that rebuilds them.
fn tensor_kind(module: &str, name: &str) -> Option<TorchError> {
    let kind = match name {
        "_rebuild_qtensor" => "quantised",
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => "sparse",
        "_rebuild_nested_tensor" => "nested",
        "_rebuild_meta_tensor_no_storage" => "meta",
        "_rebuild_wrapper_subclass" => "wrapper subclass",
        "_rebuild_device_tensor_from_numpy" | "_rebuild_device_tensor_from_cpu_tensor" => "accelerator",
        _ => return None,
    };
    Some(TorchError::TensorKind { kind, global: full_name(module, name) })
}

/// Names directly in `torch`; `None` if there is no such allowed name.
fn in_torch(name: &str) -> Result<Option<Global>, TorchError> {
    if let Some(elements) = name.strip_suffix("Storage") {
        return storage_type(elements, name).map(Some);
    }
    Ok(Some(match name {
        "Size" => Global::Plain("torch.Size"),
        "device" => Global::Plain("torch.device"),
        "Tensor" => Global::TensorClass,
        _ => match dtype(name) {
            Some(dtype) => Global::Dtype(dtype),
            None if looks_like_dtype(name) => return Err(TorchError::ElementType { found: shown(name) }),
            None => return Ok(None),
        },
    }))
}

fn storage_type(elements: &str, name: &str) -> Result<Global, TorchError> {
    Ok(Global::StorageType(match elements {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::BF16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" | "Untyped" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexFloat" => Dtype::C64,
        "QInt8" | "QUInt8" | "QInt32" | "QUInt4x2" | "QUInt2x4" => {
            return Err(TorchError::TensorKind { kind: "quantised", global: full_name("torch", name) });
        }
        "ComplexDouble" => return Err(TorchError::ElementType { found: shown(name) }),
        _ => return Err(TorchError::Refused { global: full_name("torch", name) }),
    }))
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8E4M3,
        "float8_e5m2" => Dtype::F8E5M2,
        "float8_e8m0fnu" => Dtype::F8E8M0,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        "complex64" => Dtype::C64,
        _ => return None,
    })
}

/// Whether an unknown name in `torch` is an element type (`complex128`, `float8_e4m3fnuz`, `quint8`, `bits8`),
/// for which a better message can be given.
fn looks_like_dtype(name: &str) -> bool {
    ["float", "complex", "int", "uint", "qint", "quint", "bits"].iter().any(|stem| {
        name.strip_prefix(stem).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    })
}

/// Globals of plain values that turn up beside a state dict: numbers, bytes, sets.
fn plain(module: &str, name: &str) -> Option<Global> {
    Some(Global::Plain(match (module, name) {
        ("collections", "OrderedDict") => return Some(Global::OrderedDict),
        ("collections", "Counter") => "Counter",
        ("_codecs", "encode") => "bytes",
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => "numpy scalar",
        ("numpy", "dtype") => "numpy dtype",
        ("builtins" | "__builtin__", "set" | "frozenset") => "set",
        ("builtins" | "__builtin__", "bytearray") => "bytearray",
        ("builtins" | "__builtin__", "complex") => "complex number",
        _ => return None,
    }))
}

fn full_name(module: &str, name: &str) -> String {
    shown(&format!("{module}.{name}"))
}
