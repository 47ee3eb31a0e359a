//! The instructions of a pickle that make objects: globals, storages and calls. Each becomes a description.
//!
//! Arguments follow `_reduce_ex_internal` and `_rebuild_from_type_v2` in `torch/_tensor.py` and the persistent
//! ids in `torch/serialization.py`. Sizes are checked later, when the name of the tensor is known for messages.

use super::error::TorchError;
use super::globals::{self, Global, Rebuild};
use super::pickle::Machine;
use super::value::{Slice, Storage, Tensor, Value};

impl<'a> Machine<'a> {
    pub(super) fn global(&mut self) -> Result<(), TorchError> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(globals::find(module, name)?))
    }

    pub(super) fn stack_global(&mut self) -> Result<(), TorchError> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Value::Str(module), Value::Str(name)) = (module, name) else {
            return Err(self.malformed("the name of a global is not a string"));
        };
        self.push(Value::Global(globals::find(module, name)?))
    }

    /// A persistent id: `('storage', type, key, device, number of elements)`.
    pub(super) fn storage(&mut self) -> Result<(), TorchError> {
        let id = match self.pop()? {
            Value::Tuple(slice) => self.heap.tuple(slice),
            _ => return Err(self.malformed("a persistent id is not a tuple")),
        };
        use Value::{Global as Name, Int, Str};
        let &[Str("storage"), Name(Global::StorageType(element)), Str(key), Str(_), Int(len)] = id else {
            return Err(self.malformed("a persistent id does not describe a storage"));
        };
        self.spend(1)?;
        self.heap.storages.push(Storage { key, element, len });
        self.push(Value::Storage(self.heap.storages.len() - 1))
    }

    pub(super) fn call(&mut self) -> Result<(), TorchError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = arguments else {
            return Err(self.malformed("arguments are not a tuple"));
        };
        match function {
            Value::Global(Global::OrderedDict) if arguments.len == 0 => self.mapping(),
            Value::Global(Global::Plain(kind)) => self.push(Value::Plain(kind)),
            Value::Global(Global::Rebuild(function)) => {
                let value = self.rebuild(function, arguments)?;
                self.push(value)
            }
            _ => Err(self.malformed("a call of something that cannot be called")),
        }
    }

    fn rebuild(&mut self, function: Rebuild, arguments: Slice) -> Result<Value<'a>, TorchError> {
        let wrong = self.malformed("wrong arguments for rebuilding a tensor");
        match (function, self.heap.tuple(arguments)) {
            (Rebuild::TensorV2 | Rebuild::TensorV3, _) => self.tensor(function, arguments),
            (Rebuild::Parameter, &[Value::Tensor(data), _, _] | &[Value::Tensor(data), _, _, _]) => {
                Ok(Value::Tensor(data))
            }
            // An inner call of the same function is not written by torch and would make this recursive.
            (
                Rebuild::FromType,
                &[
                    Value::Global(Global::Rebuild(inner)),
                    Value::Global(Global::TensorClass),
                    Value::Tuple(arguments),
                    _,
                ],
            ) if inner != Rebuild::FromType => self.rebuild(inner, arguments),
            _ => Err(wrong),
        }
    }

    fn tensor(&mut self, function: Rebuild, arguments: Slice) -> Result<Value<'a>, TorchError> {
        let wrong = self.malformed("wrong arguments for rebuilding a tensor");
        let arguments = self.heap.tuple(arguments);
        let &[
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(shape),
            Value::Tuple(strides),
            _,
            _,
            ref rest @ ..,
        ] = arguments
        else {
            return Err(wrong);
        };
        let (dtype, metadata) = match (function, rest) {
            (Rebuild::TensorV2, _) => (self.heap.storages[storage].element, rest),
            (_, &[Value::Global(Global::Dtype(dtype)), ref rest @ ..]) => (dtype, rest),
            _ => return Err(wrong),
        };
        let lazy = match *metadata {
            [] => false,
            [Value::Plain("None")] => false,
            [Value::Mapping(index)] => {
                !self.heap.mappings[index].iter().all(|(_, value)| *value == Value::Bool(false))
            }
            _ => return Err(wrong),
        };
        self.spend(1)?;
        self.heap.tensors.push(Tensor { storage, dtype, offset, shape, strides, lazy });
        Ok(Value::Tensor(self.heap.tensors.len() - 1))
    }

    /// Gives an object its attributes, which never hold part of a state dict. A tensor's would replace its data.
    pub(super) fn build(&mut self) -> Result<(), TorchError> {
        self.pop()?;
        match self.top()? {
            Value::Mapping(_) | Value::Plain(_) => Ok(()),
            _ => Err(self.malformed("attributes for something that has none")),
        }
    }
}
