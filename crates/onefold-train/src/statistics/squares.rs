//! Sums of squares of gradients: one accumulator of the size of what is trained, and the gradients of one tensor at a time.

use onefold_engine::cpu::elementwise;
use onefold_engine::{Buffer, Write};

use crate::model::{GradientSink, Gradients, ParameterId};

/// Squares each gradient when it is complete, and adds it.
#[derive(Debug, Default)]
pub(super) struct Squares {
    /// By parameter; empty of what has had no gradient.
    sums: Vec<Buffer>,
    /// Gradients that are still to be added to: those of tied heads.
    pending: Vec<(ParameterId, Buffer)>,
    /// Memory for the next ones.
    free: Vec<Buffer>,
}

impl Squares {
    /// Adds g².
    pub(super) fn add(&mut self, id: ParameterId, gradient: &Buffer) {
        if self.sums.len() <= id.index() {
            self.sums.resize(id.index() + 1, Buffer::default());
        }
        let sum = &mut self.sums[id.index()];
        let write = if sum.is_empty() { Write::Set } else { Write::Add };
        sum.resize(gradient.len());
        elementwise::add_square(sum, write, gradient, 1.0);
    }

    /// The same of all gradients.
    pub(super) fn add_all(&mut self, gradients: &Gradients) {
        gradients.iter().for_each(|(id, gradient)| self.add(id, gradient));
    }

    /// The sums of what had gradients.
    pub(super) fn into_sums(self) -> impl Iterator<Item = (ParameterId, Buffer)> {
        let sums = self.sums.into_iter().enumerate().filter(|(_, sum)| !sum.is_empty());
        sums.map(|(index, sum)| (ParameterId::new(index), sum))
    }
}

impl GradientSink for Squares {
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, Write) {
        if let Some(at) = self.pending.iter().position(|(pending, _)| *pending == id) {
            return (self.pending.swap_remove(at).1, Write::Add);
        }
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.resize(len);
        (buffer, Write::Set)
    }

    fn take_back(&mut self, id: ParameterId, gradient: Buffer, complete: bool) {
        if complete {
            self.add(id, &gradient);
            self.free.push(gradient);
        } else {
            self.pending.push((id, gradient));
        }
    }
}
