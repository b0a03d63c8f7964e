//! Vector kernels for AVX-512, AVX2 and, in plain Rust, everything else; the one place of the executor with `unsafe`.
//!
//! Each kernel is written once over [`Vector`](vector::Vector) and checks what it is given before it touches memory.
//! All instruction sets compute the same bits.

#![allow(unsafe_code)]

mod depthwise;
mod tile;
mod vector;

pub(crate) use depthwise::{DepthwiseRow, depthwise_row};
pub(crate) use tile::{OUTSIDE, Tile, WIDTH, tile};

/// An instruction set that this CPU has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// Plain Rust.
    pub const PORTABLE: Isa = Isa(Kind::Portable);

    /// What this CPU has, fastest first; the last is [`Isa::PORTABLE`].
    pub fn available() -> Vec<Isa> {
        let mut all = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                all.push(Isa(Kind::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa(Kind::Avx2));
            }
        }
        all.push(Isa::PORTABLE);
        all
    }

    /// The fastest that this CPU has.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// How many rows a [`tile`] should have: as many as its sums fit the registers.
    pub(crate) fn rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 14,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 6,
            Kind::Portable => 4,
        }
    }
}

impl Default for Isa {
    fn default() -> Self {
        Isa::best()
    }
}

/// Zeros that stand for whatever lies outside of an image.
static ZEROS: [f32; 4096] = [0.0; 4096];
