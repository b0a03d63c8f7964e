//! Memory aligned to cache lines, so that no register load or store crosses two.

use bytemuck::{Pod, Zeroable};

#[derive(Copy, Clone, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes that start at a cache line.
#[derive(Clone, Debug, Default)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// Room for `n` elements of `f32`.
    pub fn floats(n: usize) -> Aligned {
        let mut a = Aligned::default();
        a.grow(n * 4);
        a
    }

    /// Makes room for `bytes` bytes at least.
    pub fn grow(&mut self, bytes: usize) {
        let lines = bytes.div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
    }

    /// Everything, as bytes.
    pub fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    /// Everything, as bytes to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }

    /// Everything, as `f32`.
    pub fn f32(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    /// Everything, as `f32` to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
