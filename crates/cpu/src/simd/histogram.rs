//! How many elements each bin of a histogram holds. It is memory that bounds this: an addition in memory for each element. So the
//! next bins are found, in vectors, while the last ones are counted.

use super::Isa;
use lowbit_core::quant::observer::Bins;

/// Elements whose bins are found at once.
const BLOCK: usize = 32;

/// Tables of counts: equal neighbours, zeros behind a ReLU, would wait for one another in a single one.
const TABLES: usize = 4;

/// The elements of each bin; what is outside, or not finite, is in none.
pub(crate) fn histogram(isa: Isa, x: &[f32], bins: Bins) -> Vec<u32> {
    isa.vectorize(
        #[inline(always)]
        || bins.of_places(places(x, bins)),
    )
}

#[inline(always)]
fn places(x: &[f32], bins: Bins) -> Vec<u32> {
    let size = bins.count + 2;
    let mut tables = vec![0u32; TABLES * size];
    let outside = size as u32 - 1;
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    // In memory, from where single ones are loaded faster than they are taken from vectors.
    let mut places = [[outside; BLOCK]; 2];
    let mut now = 0;
    for block in blocks {
        for (place, &x) in places[now].iter_mut().zip(block) {
            *place = bins.place(x).min(outside);
        }
        now = 1 - now;
        // SAFETY: no place is beyond `outside`, the last of a table.
        unsafe { count(&mut tables, size, &places[now]) };
    }
    // SAFETY: as above.
    unsafe { count(&mut tables, size, &places[1 - now]) };
    rest.iter().for_each(|&x| tables[bins.place(x) as usize] += 1);
    let (first, others) = tables.split_at_mut(size);
    for other in others.chunks(size) {
        first.iter_mut().zip(other).for_each(|(a, b)| *a += b);
    }
    tables.truncate(size);
    tables
}

/// Counts places, each in the next table.
///
/// # Safety
/// There are [`TABLES`] tables of `size`, and no place is that large.
#[inline(always)]
unsafe fn count(tables: &mut [u32], size: usize, places: &[u32; BLOCK]) {
    let tables = tables.as_mut_ptr();
    for (i, &place) in places.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { *tables.add(i % TABLES * size + place as usize) += 1 };
    }
}
