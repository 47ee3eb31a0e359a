//! A pickle machine that executes nothing.
//!
//! A pickle is a program for a stack machine (PEP 307, PEP 3154, PEP 574; the instructions are described in
//! Python's `pickletools`). This one knows the instructions of protocols 2 to 5 that `torch.save` writes, turns
//! calls of the allowed globals ([`super::objects`]) into descriptions of storages and tensors, and refuses all
//! else. What cannot matter to a state dict (floats, lists, attributes) is kept only as its kind.
//!
//! Memory is bounded by [`MAX_CELLS`]; nothing here recurses.

use std::collections::BTreeMap;

use super::error::TorchError;
use super::op;
use super::value::{Pickled, Slice, Value};

/// Bytes of a pickle. A state dict needs some 200 per tensor.
const MAX_PICKLE: usize = 64 << 20;
/// Values kept: parts of tuples, entries of mappings, memo, storages, tensors. A tensor needs some 40.
const MAX_CELLS: usize = 1 << 22;
/// Values waiting on the stack; a pickler flushes every 1000.
const MAX_STACK: usize = 1 << 20;
/// Containers open at once; a state dict needs about five.
const MAX_DEPTH: usize = 1000;

/// Runs `pickle` and returns the value it leaves, with everything that value points to.
pub(super) fn read(pickle: &[u8]) -> Result<(Value<'_>, Pickled<'_>), TorchError> {
    if pickle.len() > MAX_PICKLE {
        let (found, limit) = (pickle.len() as u64, MAX_PICKLE as u64);
        return Err(TorchError::TooLarge { what: "bytes of data.pkl", found, limit });
    }
    let mut machine = Machine { pickle, ..Machine::default() };
    loop {
        let opcode = machine.byte()?;
        if opcode == op::STOP {
            let root = machine.pop()?;
            return Ok((root, machine.heap));
        }
        machine.step(opcode)?;
    }
}

/// The state of a pickle that is being read.
#[derive(Default)]
pub(super) struct Machine<'a> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack where open containers begin.
    marks: Vec<usize>,
    memo: BTreeMap<usize, Value<'a>>,
    pub(super) heap: Pickled<'a>,
    cells: usize,
}

/// Kinds that instructions ask for.
const LIST: &str = "list";
const SET: &str = "set";

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), TorchError> {
        match opcode {
            op::PROTO => self.protocol(),
            // Frames only help a reader that buffers.
            op::FRAME => self.take(8).map(drop),
            op::NONE => self.push(Value::Plain("None")),
            op::NEWTRUE => self.push(Value::Bool(true)),
            op::NEWFALSE => self.push(Value::Bool(false)),
            op::BININT => self.array().and_then(|b| self.push(Value::Int(i32::from_le_bytes(b).into()))),
            op::BININT1 => self.byte().and_then(|b| self.push(Value::Int(b.into()))),
            op::BININT2 => self.array().and_then(|b| self.push(Value::Int(u16::from_le_bytes(b).into()))),
            op::LONG1 => self.long(1),
            op::LONG4 => self.long(4),
            op::BINFLOAT => self.take(8).and_then(|_| self.push(Value::Plain("float"))),
            op::SHORT_BINUNICODE => self.text(1),
            op::BINUNICODE => self.text(4),
            op::BINUNICODE8 => self.text(8),
            op::SHORT_BINSTRING | op::SHORT_BINBYTES => self.opaque(1, "bytes"),
            op::BINSTRING | op::BINBYTES => self.opaque(4, "bytes"),
            op::BINBYTES8 => self.opaque(8, "bytes"),
            op::BYTEARRAY8 => self.opaque(8, "bytearray"),
            op::EMPTY_TUPLE => self.tuple(0),
            op::TUPLE1 => self.tuple(1),
            op::TUPLE2 => self.tuple(2),
            op::TUPLE3 => self.tuple(3),
            op::TUPLE => self.unmark().and_then(|count| self.tuple(count)),
            op::EMPTY_LIST => self.push(Value::Plain(LIST)),
            op::EMPTY_SET => self.push(Value::Plain(SET)),
            op::LIST => self.collect(LIST),
            op::FROZENSET => self.collect("frozenset"),
            op::APPEND => self.add(1, LIST),
            op::APPENDS => self.unmark().and_then(|count| self.add(count, LIST)),
            op::ADDITEMS => self.unmark().and_then(|count| self.add(count, SET)),
            op::EMPTY_DICT => self.mapping(),
            op::DICT => self.dict(),
            op::SETITEM => self.set_items(2),
            op::SETITEMS => self.unmark().and_then(|count| self.set_items(count)),
            op::MARK => self.mark(),
            op::POP => self.pop().map(drop),
            op::POP_MARK => self.unmark().map(|count| self.stack.truncate(self.stack.len() - count)),
            op::BINPUT => self.number(1).and_then(|index| self.put(index)),
            op::LONG_BINPUT => self.number(4).and_then(|index| self.put(index)),
            op::MEMOIZE => self.put(self.memo.len()),
            op::BINGET => self.number(1).and_then(|index| self.get(index)),
            op::LONG_BINGET => self.number(4).and_then(|index| self.get(index)),
            op::GLOBAL => self.global(),
            op::STACK_GLOBAL => self.stack_global(),
            op::BINPERSID => self.storage(),
            op::REDUCE => self.call(),
            op::BUILD => self.build(),
            _ => Err(TorchError::Opcode { opcode, at: self.at - 1 }),
        }
    }

    pub(super) fn malformed(&self, what: &'static str) -> TorchError {
        TorchError::Malformed { at: self.at, what }
    }

    // Reading the program

    fn take(&mut self, count: usize) -> Result<&'a [u8], TorchError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.pickle.len());
        let end = end.ok_or_else(|| self.malformed("it ends too early"))?;
        let taken = &self.pickle[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, TorchError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TorchError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked"))
    }

    /// An unsigned little-endian number of `width` bytes, at most 8.
    fn number(&mut self, width: usize) -> Result<usize, TorchError> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        usize::try_from(u64::from_le_bytes(wide))
            .map_err(|_| self.malformed("a length does not fit in memory"))
    }

    /// Bytes up to a line feed, as text.
    pub(super) fn line(&mut self) -> Result<&'a str, TorchError> {
        let rest = &self.pickle[self.at..];
        let end = rest.iter().position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or_else(|| self.malformed("a line has no end"))?)?;
        self.at += 1;
        self.utf8(line)
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, TorchError> {
        std::str::from_utf8(bytes).map_err(|_| self.malformed("a string is not UTF-8"))
    }

    fn protocol(&mut self) -> Result<(), TorchError> {
        match self.byte()? {
            2..=5 => Ok(()),
            _ => Err(self.malformed("unknown pickle protocol")),
        }
    }

    // Stack, memo and memory

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), TorchError> {
        if self.stack.len() >= MAX_STACK {
            return Err(self.malformed("too many values on the stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Value<'a>, TorchError> {
        self.require(1)?;
        Ok(self.stack.pop().expect("require found one"))
    }

    /// Checks that `count` values lie above the last mark.
    fn require(&self, count: usize) -> Result<(), TorchError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() - floor < count { Err(self.malformed("the stack is empty")) } else { Ok(()) }
    }

    pub(super) fn top(&self) -> Result<Value<'a>, TorchError> {
        self.require(1)?;
        Ok(*self.stack.last().expect("require found one"))
    }

    fn mark(&mut self) -> Result<(), TorchError> {
        if self.marks.len() >= MAX_DEPTH {
            return Err(self.malformed("too many containers inside each other"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Removes the last mark; returns how many values lay above it. They stay.
    fn unmark(&mut self) -> Result<usize, TorchError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("there is no mark"))?;
        Ok(self.stack.len() - mark)
    }

    /// Accounts for values that are kept.
    pub(super) fn spend(&mut self, cells: usize) -> Result<(), TorchError> {
        self.cells = self.cells.saturating_add(cells);
        if self.cells <= MAX_CELLS {
            return Ok(());
        }
        let (found, limit) = (self.cells as u64, MAX_CELLS as u64);
        Err(TorchError::TooLarge { what: "values in data.pkl", found, limit })
    }

    fn put(&mut self, index: usize) -> Result<(), TorchError> {
        let value = self.top()?;
        self.spend(1)?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn get(&mut self, index: usize) -> Result<(), TorchError> {
        let value = self.memo.get(&index).copied();
        self.push(value.ok_or_else(|| self.malformed("it recalls a value it never stored"))?)
    }

    // Values

    /// An integer of any length, little-endian in two's complement.
    fn long(&mut self, width: usize) -> Result<(), TorchError> {
        let len = self.number(width)?;
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        let value = match wide.get_mut(..len) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            None => Value::Plain("large int"),
        };
        self.push(value)
    }

    fn text(&mut self, width: usize) -> Result<(), TorchError> {
        let len = self.number(width)?;
        let bytes = self.take(len)?;
        let text = self.utf8(bytes)?;
        self.push(Value::Str(text))
    }

    fn opaque(&mut self, width: usize, kind: &'static str) -> Result<(), TorchError> {
        let len = self.number(width)?;
        self.take(len)?;
        self.push(Value::Plain(kind))
    }

    /// Makes a tuple of the top `len` values.
    fn tuple(&mut self, len: usize) -> Result<(), TorchError> {
        self.require(len)?;
        self.spend(len)?;
        let start = self.heap.items.len();
        self.heap.items.extend(self.stack.drain(self.stack.len() - len..));
        self.push(Value::Tuple(Slice { start, len }))
    }

    fn collect(&mut self, kind: &'static str) -> Result<(), TorchError> {
        let count = self.unmark()?;
        self.stack.truncate(self.stack.len() - count);
        self.push(Value::Plain(kind))
    }

    /// Adds the top `count` values to the container below them, which forgets them: no part of a state dict
    /// lies in a list or set.
    fn add(&mut self, count: usize, kind: &'static str) -> Result<(), TorchError> {
        self.require(count)?;
        self.stack.truncate(self.stack.len() - count);
        if self.top()? == Value::Plain(kind) {
            Ok(())
        } else {
            Err(self.malformed("a wrong kind of container"))
        }
    }

    pub(super) fn mapping(&mut self) -> Result<(), TorchError> {
        self.spend(1)?;
        self.heap.mappings.push(Vec::new());
        self.push(Value::Mapping(self.heap.mappings.len() - 1))
    }

    fn dict(&mut self) -> Result<(), TorchError> {
        let count = self.unmark()?;
        self.mapping()?;
        // The mapping goes below its entries, where set_items looks for it.
        let place = self.stack.len() - 1 - count;
        self.stack[place..].rotate_right(1);
        self.set_items(count)
    }

    /// Moves the top `count` values, keys and values in turn, into the mapping below them.
    fn set_items(&mut self, count: usize) -> Result<(), TorchError> {
        self.require(count)?;
        self.spend(count)?;
        let entries = self.stack.split_off(self.stack.len() - count);
        let (pairs, rest) = entries.as_chunks::<2>();
        match self.top()? {
            Value::Mapping(index) if rest.is_empty() => {
                self.heap.mappings[index].extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(self.malformed("entries for something that is not a mapping")),
        }
    }
}
