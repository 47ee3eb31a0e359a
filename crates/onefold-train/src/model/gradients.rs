//! Where gradients go.
//!
//! A backward pass computes the gradients of one tensor after the other, and does not care what becomes of them: it borrows
//! a buffer from a [`GradientSink`], writes or adds, and gives it back. Training adds them up over micro-batches
//! ([`Gradients`]); learning merge coefficients takes an inner product of each and forgets it, so that no model-sized
//! memory exists.

use onefold_engine::cpu::elementwise;
use onefold_engine::{Buffer, Write};

use super::parameters::ParameterId;
use super::pass::Pass;

/// Takes gradients as they are computed.
pub trait GradientSink {
    /// A buffer of `len` elements for a contribution to the gradient of `id`, and whether the contribution is to replace
    /// what is in it or to be added. Several buffers may be lent at a time, of different parameters.
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, Write);

    /// Takes the buffer back. `complete` says that this backward pass has no further contribution to the gradient: the
    /// matrix of a tied head comes back twice.
    fn take_back(&mut self, id: ParameterId, gradient: Buffer, complete: bool);
}

/// The sums of gradients over the micro-batches of a step.
#[derive(Debug, Clone, Default)]
pub struct Gradients {
    /// By parameter; empty of what has had no gradient yet.
    buffers: Vec<Buffer>,
    /// Which have one in this step.
    present: Vec<bool>,
}

impl Gradients {
    /// Begins a step: what comes first replaces what is there.
    pub fn begin(&mut self) {
        self.present.fill(false);
    }

    /// The gradient of a parameter; `None` if there was none in this step.
    pub fn get(&self, id: ParameterId) -> Option<&Buffer> {
        self.present.get(id.index()).is_some_and(|present| *present).then(|| &self.buffers[id.index()])
    }

    /// All gradients of this step, in the order of parameters.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Buffer)> {
        let present =
            self.buffers.iter().zip(&self.present).enumerate().filter(|(_, (_, present))| **present);
        present.map(|(index, (buffer, _))| (ParameterId::new(index), buffer))
    }

    /// Adds `factor · gradient` to the gradient of a parameter.
    pub fn add(&mut self, id: ParameterId, gradient: &Buffer, factor: f32) {
        let (mut sum, write) = self.lend(id, gradient.len());
        elementwise::add_scaled(&mut sum, write, gradient, factor);
        self.take_back(id, sum, true);
    }

    /// Bytes of all gradients.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.len() * size_of::<f32>()).sum()
    }
}

impl GradientSink for Gradients {
    fn lend(&mut self, id: ParameterId, len: usize) -> (Buffer, Write) {
        let index = id.index();
        if self.buffers.len() <= index {
            self.buffers.resize(index + 1, Buffer::default());
            self.present.resize(index + 1, false);
        }
        let mut buffer = std::mem::take(&mut self.buffers[index]);
        buffer.resize(len);
        (buffer, if self.present[index] { Write::Add } else { Write::Set })
    }

    fn take_back(&mut self, id: ParameterId, gradient: Buffer, _complete: bool) {
        self.buffers[id.index()] = gradient;
        self.present[id.index()] = true;
    }
}

/// The destination of one parameter's gradient while it is lent.
#[derive(Debug)]
pub(super) struct Lent {
    id: ParameterId,
    buffer: Buffer,
    write: Write,
}

impl Lent {
    /// What operators take.
    pub(super) fn parts(&mut self) -> (&mut Buffer, Write) {
        (&mut self.buffer, self.write)
    }
}

/// The way back.
#[allow(missing_debug_implementations, reason = "a sink need not have it")]
pub struct Backward<'a> {
    pub(super) pass: &'a Pass<'a>,
    pub(super) sink: &'a mut dyn GradientSink,
}

impl Backward<'_> {
    /// A destination for the gradient of a parameter; `None` for what is frozen or not there.
    pub(super) fn lend(&mut self, id: Option<ParameterId>) -> Option<Lent> {
        let parameters = self.pass.parameters;
        let id = id.filter(|id| parameters.is_trainable(*id))?;
        let (buffer, write) = self.sink.lend(id, parameters[id].len());
        Some(Lent { id, buffer, write })
    }

    /// Gives it back after the last contribution.
    pub(super) fn complete(&mut self, lent: Option<Lent>) {
        self.give_back(lent, true);
    }

    /// Gives it back, and says whether that was the last contribution.
    pub(super) fn give_back(&mut self, lent: Option<Lent>, complete: bool) {
        if let Some(Lent { id, buffer, .. }) = lent {
            self.sink.take_back(id, buffer, complete);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(gradients: &mut Gradients, id: usize, value: f32) {
        let id = ParameterId::new(id);
        let (mut buffer, write) = gradients.lend(id, 1);
        let mut old = [0.0];
        buffer.read(0, &mut old);
        buffer.write(0, &[if write == Write::Add { old[0] + value } else { value }]);
        gradients.take_back(id, buffer, true);
    }

    #[test]
    fn the_first_of_a_step_replaces_and_the_others_add() {
        let mut gradients = Gradients::default();
        for step in 0..2 {
            gradients.begin();
            assert_eq!(gradients.iter().count(), 0, "step {step}");
            for value in [1.0, 2.0] {
                put(&mut gradients, 3, value);
            }
            assert_eq!(gradients.get(ParameterId::new(3)).unwrap().to_vec(), [3.0]);
            assert!(
                gradients.get(ParameterId::new(2)).is_none() && gradients.get(ParameterId::new(9)).is_none()
            );
        }
        assert_eq!((gradients.iter().count(), gradients.bytes()), (1, 4));
    }
}
