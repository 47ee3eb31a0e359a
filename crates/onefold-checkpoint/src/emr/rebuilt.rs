//! One task's weights, computed piece by piece when they are read.

use crate::Tensor;
use crate::tensor::Elements;

/// `θ₀ + λ · M ∘ unified`.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) base: Tensor,
    pub(super) unified: Tensor,
    /// U8 `[K, mask_bytes]`, stored in one piece.
    pub(super) masks: Tensor,
    /// Row of `masks`.
    pub(super) task: usize,
    pub(super) lambda: f64,
}

impl Elements for Rebuilt {
    fn read(&self, start: usize, out: &mut [f32]) {
        const BLOCK: usize = 1024;
        let stored = self.masks.stored().expect("a tensor of a safetensors file lies in one piece");
        let width = stored.bytes.len() / self.masks.shape[0];
        let mask = &stored.bytes[self.task * width..(self.task + 1) * width];
        self.base.read(start, out);
        let mut unified = [0f32; BLOCK];
        for (i, weights) in out.chunks_mut(BLOCK).enumerate() {
            let (start, unified) = (start + i * BLOCK, &mut unified[..weights.len()]);
            self.unified.read(start, unified);
            add_task(weights, unified, mask, start, self.lambda);
        }
    }
}

/// Adds one task's vector to the base's `weights`, which lie at `start` of their tensor as `unified` does; `mask` is the
/// whole tensor's. In f64 with one rounding; where the mask is 0 the base stays bit for bit.
pub fn add_task(weights: &mut [f32], unified: &[f32], mask: &[u8], start: usize, lambda: f64) {
    for (i, (weight, &u)) in weights.iter_mut().zip(unified).enumerate() {
        let position = start + i;
        if mask[position / 8] >> (position % 8) & 1 == 1 {
            *weight = (f64::from(*weight) + lambda * f64::from(u)) as f32;
        }
    }
}
