//! Memory aligned to cache lines, so that no register load or store crosses two; and parts of it, some written while others
//! are read.

use crate::pages::{HUGE, Piece};
use bytemuck::{Pod, Zeroable};
use std::cell::Cell;
use std::ops::Range;

#[derive(Copy, Clone, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Zeroed bytes that start at a cache line. Many of them lie in huge pages ([`pages`](crate::pages)).
#[derive(Debug, Default)]
pub struct Aligned(Lines);

#[derive(Debug)]
enum Lines {
    Few(Vec<Line>),
    Many(Piece),
}

impl Default for Lines {
    fn default() -> Self {
        Lines::Few(vec![])
    }
}

impl Lines {
    /// Zeros in `piece`, or elsewhere.
    fn new(bytes: usize, piece: Option<Piece>) -> Lines {
        piece.map_or_else(|| Lines::Few(vec![Line([0; 64]); bytes.div_ceil(64)]), Lines::Many)
    }
}

impl Aligned {
    /// Room for so many bytes, of something that is made once and stays, like packed weights: small pieces of it share pages.
    pub fn lasting(bytes: usize) -> Aligned {
        const FEW: usize = 4096;
        Aligned(Lines::new(bytes, (bytes >= FEW).then(|| Piece::beside_others(bytes)).flatten()))
    }

    /// Room for `n` elements of `f32`.
    pub fn floats(n: usize) -> Aligned {
        let mut a = Aligned::default();
        a.grow(n * 4);
        a
    }

    /// Makes room for `bytes` bytes at least.
    pub fn grow(&mut self, bytes: usize) {
        let len = self.bytes().len();
        if len < bytes {
            let piece = (bytes >= HUGE / 2).then(|| Piece::alone(bytes)).flatten();
            let old = std::mem::replace(&mut self.0, Lines::new(bytes, piece));
            self.bytes_mut()[..len].copy_from_slice(Aligned(old).bytes());
        }
    }

    /// Everything, as bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Lines::Few(lines) => bytemuck::cast_slice(lines),
            Lines::Many(piece) => piece.bytes(),
        }
    }

    /// Everything, as bytes to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Lines::Few(lines) => bytemuck::cast_slice_mut(lines),
            Lines::Many(piece) => piece.bytes_mut(),
        }
    }

    /// Everything, as `f32`.
    pub fn f32(&self) -> &[f32] {
        bytemuck::cast_slice(self.bytes())
    }

    /// Everything, as `f32` to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(self.bytes_mut())
    }
}

thread_local! {
    static KEPT: Cell<Aligned> = const { Cell::new(Aligned(Lines::Few(vec![]))) };
}

/// Memory for one piece of work after another; a thread keeps the largest that it had, as having it anew and cleared takes longer than
/// a small operator. What it holds is whatever was left in it.
#[derive(Debug)]
pub struct Scratch(Aligned);

impl Scratch {
    /// At least so many bytes.
    pub fn of(bytes: usize) -> Scratch {
        let mut memory = KEPT.take();
        memory.grow(bytes);
        Scratch(memory)
    }

    /// As bytes to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    /// As `f32` to write.
    pub fn f32_mut(&mut self) -> &mut [f32] {
        self.0.f32_mut()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (mine, other) = (std::mem::take(&mut self.0), KEPT.take());
        KEPT.set(if mine.bytes().len() > other.bytes().len() { mine } else { other });
    }
}

/// No bytes, aligned like the others: elements of any type can be looked for in them.
pub fn nothing() -> &'static [u8] {
    const NONE: &[Line] = &[];
    bytemuck::cast_slice(NONE)
}

/// What may be read of memory while parts of it are written: pieces, and where they start.
#[derive(Clone, Debug)]
pub struct Rest<'a>(Vec<(usize, &'a [u8])>);

impl<'a> Rest<'a> {
    /// All of it.
    pub fn all(bytes: &'a [u8]) -> Self {
        Rest(vec![(0, bytes)])
    }

    /// The bytes at `range`, which lies inside of one piece.
    ///
    /// # Panics
    /// When it does not: a bug of whoever gave values their places.
    pub fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        if range.is_empty() {
            return nothing();
        }
        let piece = self.0.partition_point(|(start, _)| *start <= range.start) - 1;
        let (start, bytes) = self.0[piece];
        &bytes[range.start - start..range.end - start]
    }
}

/// Takes `parts` out of memory, to be written; they do not overlap. They come in the same order.
///
/// # Panics
/// When they do: a bug of whoever gave values their places.
pub fn take_out<'a>(memory: &'a mut [u8], parts: &[Range<usize>]) -> (Vec<&'a mut [u8]>, Rest<'a>) {
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&i| (parts[i].start, parts[i].end));
    let mut taken: Vec<&mut [u8]> = parts.iter().map(|_| Default::default()).collect();
    let (mut left, mut at, mut rest) = (memory, 0, vec![]);
    for i in order {
        let (before, behind) = std::mem::take(&mut left).split_at_mut(parts[i].start - at);
        rest.push((at, &*before));
        (taken[i], left) = behind.split_at_mut(parts[i].len());
        at = parts[i].end;
    }
    rest.push((at, &*left));
    (taken, Rest(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_kept_and_never_shared() {
        let mut one = Scratch::of(100);
        one.f32_mut().fill(1.0);
        let mut two = Scratch::of(1000);
        two.f32_mut().fill(2.0);
        assert!(one.f32_mut().iter().all(|x| *x == 1.0) && two.f32_mut().len() >= 250);
        drop(two);
        drop(one);
        assert!(Scratch::of(4).f32_mut().len() >= 250);
    }

    #[test]
    fn parts_are_written_while_the_rest_is_read() {
        let mut memory: Vec<u8> = (0..20).collect();
        let (taken, rest) = take_out(&mut memory, &[12..15, 4..4, 4..6]);
        assert_eq!(taken, [&[12u8, 13, 14][..], &[], &[4, 5]]);
        assert_eq!((rest.bytes(0..4), rest.bytes(7..12)), (&[0, 1, 2, 3][..], &[7, 8, 9, 10, 11][..]));
        assert_eq!((rest.bytes(15..20).len(), rest.bytes(13..13).len()), (5, 0));
        assert!(bytemuck::cast_slice::<u8, f64>(rest.bytes(13..13)).is_empty());
        taken.into_iter().for_each(|part| part.fill(0));
        assert_eq!(memory.iter().filter(|&&b| b == 0).count(), 6);
    }
}
