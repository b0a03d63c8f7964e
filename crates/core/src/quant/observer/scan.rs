//! The passes over all elements that observers need. The algorithms are here, in plain Rust; an executor compiles them for
//! the machine it runs on and shares them out among its threads. Results are the same.

use crate::ir::ValueId;
use crate::quant::qparams::NO_FRACTIONS;
use ndarray::ArrayViewD;
use std::borrow::Cow;
use std::cell::OnceCell;

/// Least and greatest finite element, and how many elements are not finite.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Extremes {
    /// `None` when there is no finite element.
    pub range: Option<(f32, f32)>,
    /// Number of NaNs and infinities.
    pub not_finite: usize,
}

impl Extremes {
    /// Of nothing.
    pub const NONE: Extremes = Extremes { range: None, not_finite: 0 };

    /// Of finite elements.
    pub fn of(least: f32, greatest: f32) -> Extremes {
        // Which zero it was depends on the order in which they came.
        Extremes { range: Some((least + 0.0, greatest + 0.0)), not_finite: 0 }
    }

    /// Of the same elements, each made `low` at least and `high` at most: these keep the order. `None` where that is not known.
    pub fn bounded(self, low: f32, high: f32) -> Option<Extremes> {
        let (least, greatest) = self.range.filter(|_| self.not_finite == 0)?;
        let [least, greatest] = [least, greatest].map(|x| x.max(low).min(high));
        (least.is_finite() && greatest.is_finite()).then(|| Extremes::of(least, greatest))
    }

    /// Of both.
    #[must_use]
    pub fn and(self, other: Extremes) -> Extremes {
        let range = match (self.range, other.range) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (some, None) | (None, some) => some,
        };
        Extremes { range, not_finite: self.not_finite + other.not_finite }
    }
}

/// Equal bins from `low` to `high`, both included.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Bins {
    /// Lower edge.
    pub low: f32,
    /// Upper edge, which belongs to the last bin.
    pub high: f32,
    /// How many.
    pub count: usize,
}

/// Passes over many elements.
pub trait Scan: Sync {
    /// The extremes of these elements.
    fn extremes(&self, x: &[f32]) -> Extremes;

    /// How many elements each bin holds; what is outside, or not finite, is in none.
    fn histogram(&self, x: &[f32], bins: Bins) -> Vec<u32>;
}

/// On the calling thread, for whatever CPU the compiler was told.
#[derive(Copy, Clone, Debug, Default)]
pub struct Plain;

impl Scan for Plain {
    fn extremes(&self, x: &[f32]) -> Extremes {
        extremes(x)
    }

    fn histogram(&self, x: &[f32], bins: Bins) -> Vec<u32> {
        histogram(x, bins)
    }
}

/// [`Scan::extremes`], to be compiled into a caller for its CPU.
#[inline(always)]
pub fn extremes(x: &[f32]) -> Extremes {
    const LANES: usize = 32;
    let (mut lo, mut hi, mut zero) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES], [0f32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    // Comparisons with NaN are false, so NaN never enters.
    for c in chunks {
        for i in 0..LANES {
            lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
            hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
            // Zero, unless it is not finite.
            zero[i] += c[i] * 0.0;
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        lo[i] = if v < lo[i] { v } else { lo[i] };
        hi[i] = if v > hi[i] { v } else { hi[i] };
        zero[i] += v * 0.0;
    }
    if zero.iter().all(|z| *z == 0.0) && !x.is_empty() {
        let min = lo.into_iter().fold(f32::INFINITY, f32::min);
        let max = hi.into_iter().fold(f32::NEG_INFINITY, f32::max);
        return Extremes::of(min, max);
    }
    let finite = || x.iter().copied().filter(|v| v.is_finite());
    let range = (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
    let found = if range.0.is_finite() { Extremes::of(range.0, range.1) } else { Extremes::NONE };
    Extremes { not_finite: x.len() - finite().count(), ..found }
}

impl Bins {
    /// The most bins that [`place`](Self::place) can tell apart.
    pub const MOST: usize = 1 << 22;

    /// The bin of a number as `torch.histc` finds it, in its order of operations: [`count`](Self::count) for the upper edge, and
    /// one more for what is outside or not finite. There are at most [`MOST`](Self::MOST) bins.
    #[inline(always)]
    pub fn place(self, x: f32) -> u32 {
        let outside = self.count as u32 + 1;
        let place = (x - self.low) * self.count as f32 / (self.high - self.low);
        // As a cast, which has no vector instruction that minds what is out of range.
        let near = (place + NO_FRACTIONS) - NO_FRACTIONS;
        let below = if near > place { near - 1.0 } else { near };
        let place = (below + NO_FRACTIONS).to_bits().wrapping_sub(NO_FRACTIONS.to_bits());
        let place = if place < outside { place } else { outside - 1 };
        if (x >= self.low) & (x <= self.high) { place } else { outside }
    }

    /// Counts of places as counts of bins: the upper edge belongs to the last, and what is outside to none.
    pub fn of_places(self, mut counts: Vec<u32>) -> Vec<u32> {
        counts.truncate(self.count + 1);
        let edge = if counts.len() > self.count { counts.pop().unwrap_or(0) } else { 0 };
        if let Some(last) = counts.last_mut() {
            *last += edge;
        }
        counts
    }
}

fn histogram(x: &[f32], bins: Bins) -> Vec<u32> {
    let mut counts = vec![0u32; bins.count + 2];
    x.iter().for_each(|&x| counts[bins.place(x) as usize] += 1);
    bins.of_places(counts)
}

/// How a value follows from another one, of the same elements: each is at least `low` and at most `high` now, or as it was.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Bounded {
    /// The other value.
    pub of: ValueId,
    /// The least that an element can be.
    pub low: f32,
    /// The greatest, not below `low`.
    pub high: f32,
}

impl Bounded {
    /// The histogram, if that of the other value, all of whose elements are in it, is `counts`: what is out of bounds moves to the
    /// bins of these.
    pub fn histogram(self, bins: Bins, mut counts: Vec<u32>) -> Vec<u32> {
        let place = |x: f32| (bins.place(x.max(bins.low).min(bins.high)) as usize).min(bins.count - 1);
        let (first, last) = (place(self.low), place(self.high));
        let below: u32 = counts[..first].iter().sum();
        let above: u32 = counts[last + 1..].iter().sum();
        counts[..first].fill(0);
        counts[last + 1..].fill(0);
        counts[first] += below;
        counts[last] += above;
        counts
    }
}

/// What an observer looks at: one batch, and what is found out about it once for all who look.
pub struct Batch<'a> {
    view: ArrayViewD<'a, f32>,
    scan: &'a dyn Scan,
    copied: OnceCell<Vec<f32>>,
    extremes: OnceCell<Extremes>,
    value: Option<ValueId>,
    bounded: Option<Bounded>,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("shape", &self.view.shape()).finish_non_exhaustive()
    }
}

impl<'a> Batch<'a> {
    /// A batch in any memory order.
    pub fn new(view: ArrayViewD<'a, f32>, scan: &'a dyn Scan) -> Self {
        let (copied, extremes) = (OnceCell::new(), OnceCell::new());
        Batch { view, scan, copied, extremes, value: None, bounded: None }
    }

    /// The batch as what a value holds, and how that follows from another one.
    #[must_use]
    pub fn of_value(self, value: ValueId, bounded: Option<Bounded>) -> Self {
        Batch { value: Some(value), bounded, ..self }
    }

    /// The batch with extremes that are known already.
    #[must_use]
    pub fn with_extremes(self, known: Option<Extremes>) -> Self {
        Batch { extremes: known.map_or_else(OnceCell::new, OnceCell::from), ..self }
    }

    /// The value that holds it, where that is known.
    pub fn value(&self) -> Option<ValueId> {
        self.value
    }

    /// How it follows from another value, if it does. That one may have been looked at before in the same run.
    pub fn bounded(&self) -> Option<Bounded> {
        self.bounded
    }

    /// The batch itself.
    pub fn view(&self) -> ArrayViewD<'_, f32> {
        self.view.view()
    }

    /// The elements in memory order when they lie without gaps (any layout does), else a copy in C order.
    pub fn elements(&self) -> &[f32] {
        match self.view.as_slice_memory_order() {
            Some(s) => s,
            None => self.copied.get_or_init(|| self.view.iter().copied().collect()),
        }
    }

    /// Its extremes.
    pub fn extremes(&self) -> Extremes {
        *self.extremes.get_or_init(|| self.scan.extremes(self.elements()))
    }

    /// Its histogram.
    pub fn histogram(&self, bins: Bins) -> Vec<u32> {
        self.scan.histogram(self.elements(), bins)
    }
}

/// The elements in memory order when they lie without gaps, else a copy.
pub(super) fn elements<'a>(x: &'a ArrayViewD<'_, f32>) -> Cow<'a, [f32]> {
    match x.as_slice_memory_order() {
        Some(s) => s.into(),
        None => x.iter().copied().collect::<Vec<_>>().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Key;

    #[test]
    fn ranges_skip_what_is_not_finite() {
        let range = |x: &[f32]| (extremes(x).range, extremes(x).not_finite);
        let mut x = vec![0.5f32; 100];
        (x[3], x[50], x[99]) = (f32::NAN, -2.0, 7.0);
        assert_eq!(range(&x), (Some((-2.0, 7.0)), 1));
        x[60] = f32::INFINITY;
        assert_eq!(range(&x), (Some((-2.0, 7.0)), 2));
        assert_eq!(range(&[f32::NAN]), (None, 1));
        assert_eq!(range(&[]), (None, 0));
        assert_eq!(range(&[f32::MAX, f32::MIN]), (Some((f32::MIN, f32::MAX)), 0));
    }

    #[test]
    fn bounds_move_counts_to_their_bins() {
        let x: Vec<f32> = (0..5000).map(|i| (i as f32 * 0.37).sin() * 4.0 + 0.5).collect();
        let Some((low, high)) = extremes(&x).range else { unreachable!("all are finite") };
        let numbers = [f32::NEG_INFINITY, -9.0, low, -1.0, 0.0, 0.3, 3.0, high, 9.0, f32::INFINITY];
        for bins in [1, 7, 2048].map(|count| Bins { low, high, count }) {
            let pairs = numbers.iter().flat_map(|&a| numbers.iter().map(move |&b| (a, b)));
            // Bounds between which some elements lie do not widen the range.
            for (a, b) in pairs.filter(|&(a, b)| a <= b && a <= high && b >= low) {
                let (bounded, of) = (Bounded { of: ValueId::new(0), low: a, high: b }, extremes(&x));
                let clamped: Vec<f32> = x.iter().map(|x| x.clamp(a, b)).collect();
                assert_eq!(
                    bounded.histogram(bins, histogram(&x, bins)),
                    histogram(&clamped, bins),
                    "{a} {b}"
                );
                assert_eq!(of.bounded(a, b), Some(extremes(&clamped)), "{a} {b}");
            }
        }
        assert_eq!(Extremes { range: Some((0.0, 3.0)), not_finite: 1 }.bounded(0.0, 1.0), None);
        assert_eq!(Extremes::NONE.bounded(0.0, 1.0), None);
    }

    #[test]
    fn edges_belong_to_bins_and_the_rest_to_none() {
        let x = [0.0, 0.99, 1.0, 2.0, -0.01, 2.01, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(histogram(&x, Bins { low: 0.0, high: 2.0, count: 2 }), [2, 2]);
    }
}
