//! Keys and values of earlier tokens, while text is generated.

use onefold_engine::Buffer;
use onefold_engine::cpu::attention::{self as heads, Inputs, Layout, Place};
use onefold_engine::cpu::elementwise;

use super::Attention;
#[cfg(test)]
use crate::model::memory::held;
use crate::model::memory::size;
use crate::model::pass::Pass;

/// Keys and values of a layer, each `[rows of the cache, heads · head_dim]`.
#[derive(Debug, Default)]
pub(in crate::model) struct KeyValues {
    keys: Buffer,
    values: Buffer,
}

impl KeyValues {
    /// Bytes that it holds.
    #[cfg(test)]
    pub(in crate::model) fn bytes(&self) -> usize {
        held([&self.keys, &self.values])
    }
}

impl Attention {
    /// Puts the new keys and values into the cache, then attends to all that are there.
    pub(super) fn attend_to_cache(
        &self,
        pass: &Pass<'_>,
        qkv: &[Buffer; 3],
        cache: &mut KeyValues,
        out: &mut Buffer,
    ) {
        let (layout, Inputs { q, k, v }) = (self.shape.layout, self.heads(qkv));
        let width = self.cache_width();
        for (to, from, place) in [(&mut cache.keys, k, layout.k), (&mut cache.values, v, layout.v)] {
            elementwise::place_rows(to, width, pass.cache_rows, from, (place.offset, place.stride));
        }
        let place = Place { offset: 0, stride: width };
        let shape = heads::Attention { layout: Layout { k: place, v: place, ..layout }, ..self.shape };
        let inputs = Inputs { q, k: &cache.keys, v: &cache.values };
        heads::forward(&shape, pass.segments, inputs, None, out, None);
    }

    /// An empty cache of so many rows.
    pub(in crate::model) fn cache(&self, rows: usize) -> KeyValues {
        let buffer = || Buffer::zeros(rows * self.cache_width());
        KeyValues { keys: buffer(), values: buffer() }
    }

    /// Bytes of such a cache.
    pub(in crate::model) fn cache_bytes(&self, rows: usize) -> usize {
        2 * size(rows * self.cache_width())
    }

    /// Elements of a row of keys or values.
    pub(in crate::model) fn cache_width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }
}
