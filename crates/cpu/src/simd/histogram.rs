//! How many elements each bin of a histogram holds. It is memory that bounds this: an addition in memory for each element. So the
//! next elements are fetched, and the bins of some found in vectors, while others are counted.

use super::vector::{Portable, Vector};
use super::{Isa, Kind, LINE, NEAR, fetch_line};
use lowbit_core::quant::observer::Bins;

/// Elements whose bins are found at once.
const BLOCK: usize = 32;

/// Blocks from where bins are found to where they are counted: what has just been stored as vectors is not yet there to be loaded
/// one by one.
const AHEAD: usize = 3;

/// Tables of counts: equal neighbours, zeros behind a ReLU, would wait for one another in a single one. Counts have 16 bits, so that the
/// first-level cache holds them.
const TABLES: usize = 4;

/// Elements of which zeros are left out at a time: few enough for the first-level cache beside the tables.
const RUN: usize = 1024;

/// Runs that are counted before tables are added up: 16 bits can tell no more.
const RUNS: usize = u16::MAX as usize * TABLES / (RUN + BLOCK);

/// Counts between the end of a table and the next. Where tables lie a page apart, and almost where they do, a processor takes places of
/// neighbours for the same, and lets one wait for the other.
const APART: usize = 256;

/// Elements that are fetched ahead: while they come from far away, counts would have to wait.
const FETCHED: usize = 512;

/// The elements of each bin; what is outside, or not finite, is in none.
pub(crate) fn histogram(isa: Isa, x: &[f32], bins: Bins) -> Vec<u32> {
    // SAFETY: an `Isa` exists only where its features were detected.
    bins.of_places(unsafe {
        match isa.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Vnni | Kind::Avx512 => avx512(x, bins),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2(x, bins),
            Kind::Portable => places::<Portable>(x, bins),
        }
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,popcnt")]
unsafe fn avx512(x: &[f32], bins: Bins) -> Vec<u32> {
    // SAFETY: the caller's.
    unsafe { places::<super::vector::Avx512>(x, bins) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(x: &[f32], bins: Bins) -> Vec<u32> {
    // SAFETY: the caller's.
    unsafe { places::<super::vector::Avx2>(x, bins) }
}

/// # Safety
/// The CPU has what `V` needs.
#[inline(always)]
unsafe fn places<V: Vector>(x: &[f32], bins: Bins) -> Vec<u32> {
    let size = bins.count + 2;
    let distance = (size + APART).next_multiple_of(2 * LINE);
    let (mut all, mut tables) = (vec![0; size], vec![0; TABLES * distance]);
    let (mut run, mut zeros) = ([0.0; RUN + BLOCK], 0);
    for mut x in x.chunks(RUNS * RUN) {
        while !x.is_empty() {
            let (first, mut rest) = x.split_at(RUN.min(x.len()));
            // SAFETY: the caller's; tables are large enough.
            unsafe {
                let n = pack::<V>(first, &mut run);
                count_blocks::<V>(&run[..n.next_multiple_of(BLOCK)], bins, &mut tables, distance);
                zeros += (first.len() - n) as u32;
                // Where there are few, the rest is faster as it lies.
                if n > first.len() / 8 * 7 {
                    let (blocks, end) = rest.split_at(rest.len() / BLOCK * BLOCK);
                    count_blocks::<V>(blocks, bins, &mut tables, distance);
                    rest = end;
                }
            }
            x = rest;
        }
        for table in tables.chunks_exact_mut(distance) {
            all.iter_mut().zip(&mut *table).for_each(|(all, count)| *all += u32::from(std::mem::take(count)));
        }
    }
    all[bins.place(0.0) as usize] += zeros;
    all
}

/// The elements of at most [`RUN`] that are counted one by one, and how many they are: about half of what is behind a ReLU is zeros, for
/// which a number will do. A block of what is in no bin follows.
///
/// # Safety
/// The CPU has what `V` needs.
#[inline(always)]
unsafe fn pack<V: Vector>(x: &[f32], run: &mut [f32; RUN + BLOCK]) -> usize {
    let (blocks, rest) = x[..x.len().min(RUN)].as_chunks::<BLOCK>();
    let mut n = 0;
    for block in blocks {
        fetch_ahead(block);
        for from in (0..BLOCK).step_by(V::LANES) {
            // SAFETY: a block is whole registers; no more were packed than were read, and there is a block more.
            n += unsafe { V::load(block.as_ptr().add(from)).store_not_zero(run.as_mut_ptr().add(n)) };
        }
    }
    run[n..n + rest.len()].copy_from_slice(rest);
    n += rest.len();
    run[n..n + BLOCK].fill(f32::NAN);
    n
}

#[inline(always)]
fn fetch_ahead(block: &[f32; BLOCK]) {
    for line in (0..BLOCK).step_by(LINE) {
        fetch_line::<NEAR>(block.as_ptr().wrapping_add(FETCHED + line));
    }
}

/// Counts whole blocks in tables that start at this distance.
///
/// # Safety
/// The CPU has what `V` needs, and tables have a place for each bin and two more.
#[inline(always)]
unsafe fn count_blocks<V: Vector>(x: &[f32], bins: Bins, tables: &mut [u16], distance: usize) {
    const { assert!(BLOCK.is_multiple_of(V::LANES)) };
    let (blocks, _) = x.as_chunks::<BLOCK>();
    // In memory, from where single ones are loaded faster than they are taken from vectors.
    let mut places = [[0; BLOCK]; AHEAD + 1];
    for (i, block) in blocks.iter().enumerate() {
        fetch_ahead(block);
        let found = &mut places[i % (AHEAD + 1)];
        for from in (0..BLOCK).step_by(V::LANES) {
            // SAFETY: a block is whole registers.
            unsafe { V::load(block.as_ptr().add(from)).store_places(&bins, found.as_mut_ptr().add(from)) };
        }
        if i >= AHEAD {
            // SAFETY: no place is beyond the last, for what is outside.
            unsafe { count(tables, distance, &places[(i - AHEAD) % (AHEAD + 1)]) };
        }
    }
    for i in blocks.len().saturating_sub(AHEAD)..blocks.len() {
        // SAFETY: as above.
        unsafe { count(tables, distance, &places[i % (AHEAD + 1)]) };
    }
}

/// Counts places, each in the next table.
///
/// # Safety
/// There are [`TABLES`] tables, and no place is beyond the end of one.
#[inline(always)]
unsafe fn count(tables: &mut [u16], distance: usize, places: &[u32; BLOCK]) {
    let tables = tables.as_mut_ptr();
    for (i, &place) in places.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { *tables.add(i % TABLES * distance + place as usize) += 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_counts_as_bins_say() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-40, f32::MAX, f32::MIN];
        let x: Vec<f32> = (0..1000)
            .map(|i| if i % 50 < odd.len() { odd[i % 50] } else { ((i * 7919) % 4001) as f32 / 500.0 - 4.0 })
            .collect();
        for (low, high) in [(-4.0, 4.0), (0.0, 1.5), (-1.0, -1.0), (f32::MIN, f32::MAX), (0.0, 1e-39)] {
            for count in [1, 7, 2048, Bins::MOST] {
                let bins = Bins { low, high, count };
                // So many bins take their time.
                let lengths: &[usize] = if count == Bins::MOST { &[200] } else { &[1000, 40, 31, 96] };
                for &len in lengths {
                    let mut want = vec![0; count + 2];
                    x[..len].iter().for_each(|&x| want[bins.place(x) as usize] += 1);
                    let want = bins.of_places(want);
                    for isa in Isa::available() {
                        assert!(
                            histogram(isa, &x[..len], bins) == want,
                            "{isa:?} {low} {high} {count} {len}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_that_are_left_out_are_counted() {
        // Runs with many zeros, then one with few, which has the rest counted as it lies, and zeros in that.
        let zero = |i: usize| if i < 3 * RUN { !i.is_multiple_of(3) } else { i.is_multiple_of(16) };
        let x: Vec<f32> =
            (0..5 * RUN + 77).map(|i| if zero(i) { -0.0 } else { (i % 601) as f32 - 300.0 }).collect();
        for (low, high) in [(-300.0, 300.0), (0.0, 300.0), (-300.0, 0.0), (1.0, 300.0), (0.0, 0.0)] {
            let bins = Bins { low, high, count: 100 };
            for len in [x.len(), 3 * RUN, RUN - 1, 33, 0] {
                let mut want = vec![0; bins.count + 2];
                x[..len].iter().for_each(|&x| want[bins.place(x) as usize] += 1);
                let want = bins.of_places(want);
                for isa in Isa::available() {
                    assert_eq!(histogram(isa, &x[..len], bins), want, "{isa:?} {low} {high} {len}");
                }
            }
        }
    }

    #[test]
    fn more_are_counted_than_a_table_can_tell() {
        let x = vec![0.5; 2 * RUNS * RUN + 33];
        let bins = Bins { low: 0.0, high: 1.0, count: 4 };
        for isa in Isa::available() {
            assert_eq!(histogram(isa, &x, bins), [0, 0, x.len() as u32, 0], "{isa:?}");
        }
    }
}
