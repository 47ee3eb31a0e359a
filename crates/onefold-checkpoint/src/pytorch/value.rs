//! What a pickle holds, as far as a state dict needs it.
//!
//! Values are small copies that point into the arenas of [`Pickled`], so hostile nesting costs no recursion,
//! neither while reading nor when dropped. Strings are borrowed from the pickle.

use super::globals::Global;
use crate::Dtype;

/// A Python value as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// Only the kind is known.
    Plain(&'static str),
    Bool(bool),
    Int(i64),
    Str(&'a str),
    Global(Global),
    Tuple(Slice),
    /// Index into [`Pickled::mappings`].
    Mapping(usize),
    /// Index into [`Pickled::storages`].
    Storage(usize),
    /// Index into [`Pickled::tensors`].
    Tensor(usize),
}

impl Value<'_> {
    /// What a message calls it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Plain(kind) => kind,
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Str(_) => "string",
            Value::Global(_) => "function or type",
            Value::Tuple(_) => "tuple",
            Value::Mapping(_) => "mapping",
            Value::Storage(_) => "storage",
            Value::Tensor(_) => "tensor",
        }
    }
}

/// A tuple: part of [`Pickled::items`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice {
    pub(super) start: usize,
    pub(super) len: usize,
}

/// A storage as the pickle declares it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The entry is `data/<key>`.
    pub(super) key: &'a str,
    pub(super) element: Dtype,
    /// Number of elements.
    pub(super) len: i64,
}

/// A tensor as the pickle declares it; nothing is checked yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    /// Index into [`Pickled::storages`].
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    /// Elements before the first.
    pub(super) offset: i64,
    pub(super) shape: Slice,
    pub(super) strides: Slice,
    /// Marked to be conjugated or negated when read: the stored bytes are not the values.
    pub(super) lazy: bool,
}

/// All that a pickle holds.
#[derive(Debug, Default)]
pub(super) struct Pickled<'a> {
    pub(super) items: Vec<Value<'a>>,
    /// Entries in the order they were set; of equal keys the last one counts.
    pub(super) mappings: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) tensors: Vec<Tensor>,
}

impl<'a> Pickled<'a> {
    /// The parts of a tuple.
    pub(super) fn tuple(&self, slice: Slice) -> &[Value<'a>] {
        &self.items[slice.start..slice.start + slice.len]
    }
}
