//! Vector kernels for AVX-512, AVX2 and, in plain Rust, everything else; the one place of the executor with `unsafe`.
//!
//! Each kernel is written once over [`Vector`](vector::Vector) and checks what it is given before it touches memory.
//! Loops that need no intrinsics are plain Rust: [`Isa::vectorize`] compiles them for each instruction set.
//! All instruction sets compute the same bits.

#![allow(unsafe_code)]

/// Does something for each number below a constant, 14 at most. It is written out: a loop might not be unrolled, and the sums that
/// it meets would have to leave their registers.
macro_rules! written_out {
    ($m:ident < $M:expr, $body:block) => { written_out!($m, $M, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13) };
    ($m:ident, $M:expr, $body:block, $($n:literal)*) => {
        { $(if $n < $M { let $m = $n; $body })* }
    };
}

mod depthwise;
mod depthwise_quads;
mod finish;
mod histogram;
mod pairs;
mod quad_groups;
mod quads;
mod seen;
mod tile;
mod vector;
mod winograd;

pub(crate) use depthwise::{DepthwiseRow, depthwise_row};
pub(crate) use depthwise_quads::{
    BLOCK as DEPTHWISE_BLOCK, DepthwiseQuadRow, ROWS as DEPTHWISE_ROWS, beyond as beyond_depthwise_quads,
    channel as depthwise_quad_channel, depthwise_quad_row, has_depthwise_quads,
};
pub(crate) use finish::{Floats, Parts, Scaled, UNBOUNDED};
pub(crate) use histogram::histogram;
pub(crate) use pairs::{COLUMNS, PairStrip, Places, ROWS, pair_strip};
pub(crate) use quad_groups::{QuadGroups, quad_groups};
pub(crate) use quads::{COLUMNS as QUAD_COLUMNS, DEPTH as QUAD_DEPTH, QuadStrip, has_quads, quad_strip};
pub(crate) use seen::{GreatestBits, Seen, Stages};
pub(crate) use tile::{Lines, OUTSIDE, Strip, Tiles, WIDEST, strip};
pub(crate) use vector::ROUNDER;
pub(crate) use winograd::{PLANES, PatchRow, SumRow, gather_pixels, spread_patches};

/// An instruction set that this CPU has.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// AVX-512 with instructions that multiply bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX-512 F and VL: its instructions for registers of 256 bits as well.
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
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("popcnt");
            let (avx512, bytes) = (avx2 && avx512, is_x86_feature_detected!("avx512bw"));
            if avx512 && bytes && is_x86_feature_detected!("avx512vnni") {
                all.push(Isa(Kind::Vnni));
            }
            if avx512 {
                all.push(Isa(Kind::Avx512));
            }
            if avx2 {
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

    /// Runs `f` compiled for this instruction set: its loops become vector instructions. The closure must be marked
    /// `#[inline(always)]`, and so must what it calls, or the compiler may leave either outside and for the oldest CPU.
    ///
    /// Rust never fuses or reorders floating-point operations, so the results are the same bits everywhere.
    #[inline]
    pub(crate) fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
        fn vnni<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match self.0 {
            // SAFETY: an `Isa` exists only where its features were detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni => unsafe { vnni(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512(f) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2(f) },
            Kind::Portable => f(),
        }
    }

    /// How many columns a panel of a [`strip`] has: two registers.
    pub(crate) fn width(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => 32,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 16,
            Kind::Portable => 16,
        }
    }

    /// How many rows a tile of a [`strip`] has: as many as its sums fit the registers.
    pub(crate) fn rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => 14,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 6,
            Kind::Portable => 4,
        }
    }
}

impl Isa {
    /// Bytes of a panel that rows pass by at a time. Low tiles read it so fast that it must lie in a first-level cache; tall ones
    /// need it from the second only, and then sums are seldom partial.
    pub(crate) fn panel_bytes(self) -> usize {
        if self.rows() > tile::FEW { 160 * 1024 } else { 24 * 1024 }
    }
}

impl Default for Isa {
    fn default() -> Self {
        Isa::best()
    }
}

/// Zeros that stand for whatever lies outside of an image.
static ZEROS: [f32; 4096] = [0.0; 4096];

/// Floats of a cache line.
const LINE: usize = 16;

/// Equal parts of what is to be fetched, whole cache lines.
#[inline(always)]
fn shares(next: &[f32], count: usize) -> std::slice::Chunks<'_, f32> {
    next.chunks(next.len().div_ceil(count.max(1)).next_multiple_of(LINE).max(LINE))
}

/// Where a line of memory is fetched to, as x86-64 numbers it: the first-level cache, the second-level one, the first to be written.
const NEAR: i32 = 3;
const SECOND: i32 = 2;
const TO_WRITE: i32 = 7;

/// Fetches a line of memory, where that can be asked for.
#[inline(always)]
fn fetch_line<const TO: i32>(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: this has no effect but on time, wherever it points; x86-64 has the instruction.
        unsafe { std::arch::x86_64::_mm_prefetch::<TO>(line.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Fetches memory into the second-level cache.
#[inline(always)]
fn fetch(next: &[f32]) {
    next.iter().step_by(LINE).for_each(|line| fetch_line::<SECOND>(line));
}

/// Memory that is fetched line by line, between other work: many at once would wait for one another. The last line is fetched
/// again and again, which costs nothing.
struct Ahead {
    line: *const f32,
    last: *const f32,
}

impl Ahead {
    #[inline(always)]
    fn new(next: &[f32]) -> Ahead {
        let line = next.as_ptr();
        Ahead { line, last: line.wrapping_add(next.len().saturating_sub(1)) }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        fetch_line::<SECOND>(self.line);
        self.line = self.line.wrapping_add(LINE).min(self.last);
    }
}
