//! A histogram of all values, and the range that quantizes it with the least squared error: torchao's
//! `HistogramObserver`. Bin counts, the growth of the range and the search are done in its floating-point steps, down to
//! the order of sums: near the ends of the range a single unit in the last place decides which way the search goes.

use super::{Batch, Bins, Bounded, Observer, ObserverError, ObserverState, Plain, Scan, field};
use crate::ir::ValueId;
use crate::quant::{QParams, QuantSpec};
use ndarray::ArrayViewD;
use std::sync::OnceLock;

/// How finely old bins are cut when the range grows.
const UPSAMPLE: usize = 16;

#[derive(Debug)]
pub(super) struct Histogram {
    spec: QuantSpec,
    /// Empty before the first batch.
    counts: Vec<f32>,
    bins: usize,
    min: f32,
    max: f32,
    /// What [`search`](Self::search) found for these counts: it is asked for more than once.
    best: OnceLock<(f32, f32)>,
    last: Option<Counted>,
}

/// The last batch that was counted: of which value, and where its elements are, all of them.
#[derive(Debug)]
struct Counted {
    value: ValueId,
    bins: Bins,
    counts: Vec<u32>,
}

impl Histogram {
    pub(super) fn new(spec: &QuantSpec, bins: usize) -> Self {
        Histogram {
            spec: spec.clone(),
            counts: vec![],
            bins,
            min: 0.0,
            max: 0.0,
            best: OnceLock::new(),
            last: None,
        }
    }

    /// Adds counts over `min..=max`, a range that holds the present one.
    fn combine(&mut self, new: Vec<f32>, min: f32, max: f32) {
        if self.counts.is_empty() {
            self.counts = new;
        } else if (min, max) == (self.min, self.max) {
            self.counts.iter_mut().zip(new).for_each(|(a, b)| *a += b);
        } else {
            let old = if self.min == self.max {
                let total = sum(&self.counts);
                let one = Plain.histogram(&[self.min], bins(self.bins, min, max));
                one.into_iter().map(|c| c as f32 * total).collect()
            } else {
                upscale(&self.counts, self.min, self.max, min, max)
            };
            self.counts = new.iter().zip(old).map(|(a, b)| a + b).collect();
        }
        (self.min, self.max) = (min, max);
        self.best = OnceLock::new();
    }

    /// The range with the least error: from both ends, the side whose quantile lies further in moves, until the error
    /// grows.
    fn search(&self) -> (f32, f32) {
        const STEP: f64 = 1e-5;
        let bins = self.bins;
        let total = sum(&self.counts);
        let mut running = 0f64;
        let cumulative: Vec<f32> = self
            .counts
            .iter()
            .map(|&c| {
                running += f64::from(c);
                running as f32
            })
            .collect();
        let dst_bins = 1usize << (8 * self.spec.range.dtype().size()).min(32);
        let error =
            ErrorOf { counts: &self.counts, width: f64::from(self.max) - f64::from(self.min), dst_bins };
        let (mut alpha, mut beta) = (0f64, 1f64);
        let (mut start, mut end) = (0, bins - 1);
        let mut least = f32::INFINITY;
        let mut scratch = vec![0f32; bins];
        while alpha < beta {
            let (next_alpha, next_beta) = (alpha + STEP, beta - STEP);
            let (low, high) = ((next_alpha * f64::from(total)) as f32, (next_beta * f64::from(total)) as f32);
            let (mut l, mut r) = (start, end);
            while l < end && cumulative[l] < low {
                l += 1;
            }
            while r > start && cumulative[r] > high {
                r -= 1;
            }
            let (mut next_start, mut next_end) = (start, end);
            if l - start > end - r {
                (next_start, alpha) = (l, next_alpha);
            } else {
                (next_end, beta) = (r, next_beta);
            }
            if (next_start, next_end) == (start, end) {
                continue;
            }
            let norm = error.of(next_start, next_end, &mut scratch);
            if norm > least {
                break;
            }
            (least, start, end) = (norm, next_start, next_end);
        }
        let width = (self.max - self.min) / bins as f32;
        (self.min + width * start as f32, self.min + width * (end + 1) as f32)
    }
}

/// `count` equal bins from `min` to `max` (`torch.histc`). A range of no width is widened on either side by one, or to the
/// next number where that is further.
fn bins(count: usize, min: f32, max: f32) -> Bins {
    let (low, high) = if min == max {
        ((min - 1.0).min(min.next_down()), (max + 1.0).max(max.next_up()))
    } else {
        (min, max)
    };
    Bins { low, high, count }
}

/// The sum as `torch.sum` adds on x86-64: 4 times 8 running sums side by side, over blocks of rows that are added up in
/// levels.
fn sum(x: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROW: usize = 4 * LANES;
    const LEVELS: usize = 4;
    fn add<const N: usize>(a: &mut [f32; N], b: &[f32]) {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
    let rows = x.chunks_exact(ROW);
    let vectors = rows.remainder().chunks_exact(LANES);
    let power = (rows.len().next_power_of_two().ilog2() as usize / LEVELS).max(4);
    let mut levels = [[0f32; ROW]; LEVELS];
    for (i, row) in rows.enumerate() {
        add(&mut levels[0], row);
        // A full block moves up, and on when it fills the block above.
        for level in (1..LEVELS).take_while(|level| (i + 1).is_multiple_of(1 << (level * power))) {
            let below = std::mem::replace(&mut levels[level - 1], [0.0; ROW]);
            add(&mut levels[level], &below);
        }
    }
    let [mut row, above @ ..] = levels;
    above.iter().for_each(|level| add(&mut row, level));
    let mut lanes = [0f32; LANES];
    add(&mut lanes, &row[..LANES]);
    vectors.clone().for_each(|v| add(&mut lanes, v));
    row[LANES..].chunks_exact(LANES).for_each(|v| add(&mut lanes, v));
    vectors.remainder().iter().chain(&lanes).fold(0.0, |a, b| a + b)
}

/// `n` numbers from `a` to `b`, from both ends to the middle: `torch.linspace`, compiled for AVX2 and above, where product
/// and sum are rounded once.
fn linspace(a: f32, b: f32, n: usize) -> impl Fn(usize) -> f32 {
    let step = (b - a) / (n - 1) as f32;
    move |i| if i < n / 2 { step.mul_add(i as f32, a) } else { (-step).mul_add((n - 1 - i) as f32, b) }
}

/// Old counts in the bins of a wider range: each bin is cut into 16, and each piece goes where its middle lies.
fn upscale(counts: &[f32], min: f32, max: f32, new_min: f32, new_max: f32) -> Vec<f32> {
    let bins = counts.len();
    let pieces = bins * UPSAMPLE;
    let half = 0.5 * ((max - min) / pieces as f32);
    let (middle, edge) = (linspace(min, max, pieces + 1), linspace(new_min, new_max, bins + 1));
    let reaches = |i: usize, edge: f32| middle(i) + half >= edge;
    let per_edge = pieces as f64 / (f64::from(max) - f64::from(min));
    let mut out = vec![0f32; bins];
    let mut from = 0;
    for (bin, out) in out.iter_mut().enumerate() {
        // Middles grow: the next bin starts at the first piece that reaches its edge, near where it should be.
        let mut to = pieces;
        if bin + 1 < bins {
            let edge = edge(bin + 1);
            let near = (f64::from(edge) - f64::from(min)) * per_edge;
            to = (near.clamp(0.0, pieces as f64) as usize).max(from);
            while to > from && reaches(to - 1, edge) {
                to -= 1;
            }
            while to < pieces && !reaches(to, edge) {
                to += 1;
            }
        }
        // One after the other, as they are added there.
        for i in from..to {
            *out += counts[i / UPSAMPLE] / UPSAMPLE as f32;
        }
        from = to;
    }
    out
}

/// The squared error of quantizing a histogram.
struct ErrorOf<'a> {
    counts: &'a [f32],
    /// Width of the whole range.
    width: f64,
    dst_bins: usize,
}

impl ErrorOf<'_> {
    /// The error when bins `start..=end` are spread over all integers and the rest is clamped: for each source bin, the
    /// integral of the squared distance to the middle of the destination bin it falls into.
    fn of(&self, start: usize, end: usize, scratch: &mut [f32]) -> f32 {
        let bin = self.width / self.counts.len() as f64;
        let dst = bin * (end - start + 1) as f64 / self.dst_bins as f64;
        if dst == 0.0 {
            return 0.0;
        }
        let (width, half) = (bin as f32, (dst / 2.0) as f32);
        let (dst, last) = (dst as f32, (self.dst_bins - 1) as f32);
        let cube = |a: f32, b: f32| (b * b * b - a * a * a) / 3.0;
        let whole = cube(-half, half);
        for (i, (out, &count)) in scratch.iter_mut().zip(self.counts).enumerate() {
            let begin = (i as i64 - start as i64) as f32 * width;
            let finish = begin + width;
            let first = floor_div(begin, dst, last);
            let second = floor_div(finish, dst, last);
            let density = count / width;
            let head = cube(begin - (first + 0.5) * dst, half);
            let tail = cube(-half, finish - (second * dst + half));
            *out = density * head + (second - first - 1.0) * (density * whole) + density * tail;
        }
        sum(scratch)
    }
}

/// How many whole `b` go into `a`, from 0 to `last`: `torch.div` by `rounding_mode="floor"`, which subtracts the remainder
/// first and so does not round up to the next integer.
fn floor_div(a: f32, b: f32, last: f32) -> f32 {
    if last < 65536.0 {
        // The same, in steps that are done for several numbers at once. Clamped first: truncation is then the floor.
        let quotient = (a / b).clamp(0.0, last) as i32 as f32;
        let above = f64::from(quotient) * f64::from(b) > f64::from(a);
        return (quotient - f32::from(u8::from(above))).max(0.0);
    }
    let quotient = (a - a % b) / b;
    let floor = quotient.floor();
    (floor + f32::from(u8::from(quotient - floor > 0.5))).clamp(0.0, last)
}

impl Observer for Histogram {
    fn name(&self) -> &'static str {
        "histogram"
    }

    fn observe(&mut self, x: ArrayViewD<'_, f32>) {
        self.look(&Batch::new(x, &Plain));
    }

    fn look(&mut self, batch: &Batch<'_>) {
        let last = self.last.take();
        let Some((lo, hi)) = batch.extremes().range else { return };
        let (min, max) = if self.counts.is_empty() { (lo, hi) } else { (self.min.min(lo), self.max.max(hi)) };
        let bins = bins(self.bins, min, max);
        // What an activation bounds is counted already, if it was looked at just before.
        let follows = |last: &Counted, b: Bounded| b.of == last.value && bins == last.bins;
        let counts = match (last, batch.bounded()) {
            (Some(last), Some(b)) if follows(&last, b) => b.histogram(bins, last.counts),
            _ => batch.histogram(bins),
        };
        self.combine(counts.iter().map(|&n| n as f32).collect(), min, max);
        let whole = batch.value().filter(|_| batch.extremes().not_finite == 0);
        self.last = whole.map(|value| Counted { value, bins, counts });
    }

    fn merge(&mut self, later: &ObserverState) -> Result<(), ObserverError> {
        let counts = field(later, "histogram", "counts")?;
        let range = field(later, "histogram", "range")?;
        if counts.is_empty() {
            return Ok(());
        }
        let (&[lo, hi], true) = (range, counts.len() == self.bins) else {
            return Err(ObserverError::Merge {
                want: "histogram".into(),
                got: later.observer.clone(),
                reason: format!("{} bins, {} here", counts.len(), self.bins),
            });
        };
        if self.counts.is_empty() {
            (self.counts, self.min, self.max) = (counts.to_vec(), lo, hi);
            self.best = OnceLock::new();
            return Ok(());
        }
        let (min, max) = (self.min.min(lo), self.max.max(hi));
        let mut other =
            Histogram { counts: counts.to_vec(), min: lo, max: hi, ..Histogram::new(&self.spec, self.bins) };
        other.combine(vec![0.0; self.bins], min, max);
        self.combine(other.counts, min, max);
        Ok(())
    }

    fn state(&self) -> ObserverState {
        let range = if self.counts.is_empty() { vec![] } else { vec![self.min, self.max] };
        let fields = [("counts".to_string(), self.counts.clone()), ("range".to_string(), range)];
        ObserverState { observer: "histogram".into(), fields: fields.into() }
    }

    fn qparams(&self) -> Result<QParams, ObserverError> {
        if self.counts.is_empty() {
            return Err(ObserverError::SawNothing);
        }
        Ok(self.spec.qparams(&[*self.best.get_or_init(|| self.search())]))
    }

    fn fit(&self) -> Option<f64> {
        let params = self.qparams().ok()?;
        let (scale, zero_point) = (params.scale[0], params.zero_point[0]);
        let width = (f64::from(self.max) - f64::from(self.min)) / self.bins as f64;
        let bins = self.counts.iter().enumerate();
        let mut bins: Vec<(f64, f64)> =
            bins.map(|(i, &n)| (f64::from(self.min) + (i as f64 + 0.5) * width, f64::from(n))).collect();
        // Behind a ReLU most values may be zero, which is always exact.
        if self.min == 0.0 {
            bins.remove(0);
        }
        bins.sort_by(|a, b| a.0.abs().total_cmp(&b.0.abs()));
        let mut left = 0.99 * bins.iter().map(|(_, n)| n).sum::<f64>();
        let (mut signal, mut noise) = (0f64, 0f64);
        for (x, n) in bins {
            let n = n.min(left);
            left -= n;
            let q = (x / scale + zero_point).round_ties_even();
            let held = (q.clamp(params.range.min() as f64, params.range.max() as f64) - zero_point) * scale;
            let within = width * width / 12.0;
            signal += n * (x * x + within);
            // A bin that several integers share is rounded like anything else.
            noise += n * if width < scale {
                (x - held).powi(2) + within
            } else {
                (x - held).powi(2).max(scale * scale / 12.0)
            };
        }
        (signal > 0.0 && noise > 0.0).then(|| 10.0 * (signal / noise).log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::observer::Extremes;
    use crate::quant::{Mapping, ObserverKind, QRange};
    use ndarray::{ArrayD, IxDyn};

    fn observer(bins: u32) -> Histogram {
        let spec = QuantSpec::new(QRange::UINT8, Mapping::Affine, ObserverKind::Histogram { bins });
        Histogram::new(&spec, bins as usize)
    }

    fn observe(o: &mut Histogram, x: &[f32]) {
        o.observe(ArrayD::from_shape_vec(IxDyn(&[x.len()]), x.to_vec()).unwrap().view());
    }

    #[test]
    fn bins_and_growth_are_torchaos() {
        // The case of PyTorch's own test of this observer.
        let mut o = observer(3);
        observe(&mut o, &[2.0, 3.0, 4.0, 5.0]);
        observe(&mut o, &[5.0, 6.0, 7.0, 8.0]);
        assert_eq!((o.min, o.max), (2.0, 8.0));
        assert_eq!(o.counts, [2.0, 3.0, 3.0]);
    }

    #[test]
    fn sums_are_pytorchs() {
        // `torch.sum` of 1/1, 1/2, …: full rows, rows and a rest, more than one level.
        for (n, want) in [(40, 0x4088_e9d4), (2048, 0x4103_3bb7), (2061, 0x4103_55a1), (70_000, 0x413b_bc4f)]
        {
            let x: Vec<f32> = (1..=n).map(|i| 1.0 / i as f32).collect();
            assert_eq!(sum(&x).to_bits(), want, "of {n}");
        }
    }

    #[test]
    fn lines_and_floors_are_pytorchs() {
        let line = linspace(-1.1, 2.3, 2049);
        assert_eq!(
            [line(133), line(138), line(1782), line(1787)],
            [-0.879_199_2, -0.870_898_4, 1.858_398_3, 1.866_699_1]
        );
        // Quotients that round up to the next integer.
        assert_eq!(floor_div(426.328_22, 0.041_932_55, 65535.0), 10166.0);
        assert_eq!(floor_div(44_846.14, 0.912_842_8, 65535.0), 49127.0);
        assert_eq!(floor_div(-1.0, 0.3, 65535.0), 0.0);
        assert_eq!(floor_div(9.0, 0.3, 15.0), 15.0);
    }

    #[test]
    fn large_constants_lie_where_pytorch_puts_them() {
        for (x, bin) in [(0.3, 1024), (16_777_216.0, 682), (-16_777_216.0, 1365), (2.1e25, 1024)] {
            let counts = Plain.histogram(&[x; 3], bins(2048, x, x));
            assert_eq!(counts.iter().position(|&c| c == 3), Some(bin), "{x}");
        }
    }

    #[test]
    fn a_constant_widens_and_is_absorbed() {
        let mut o = observer(8);
        observe(&mut o, &[1.0, 1.0]);
        assert_eq!(o.counts.iter().sum::<f32>(), 2.0);
        observe(&mut o, &[0.0, 2.0]);
        assert_eq!(o.counts.iter().sum::<f32>(), 4.0);
    }

    #[test]
    fn outliers_show_in_the_fit() {
        let mut x: Vec<f32> = (0..10_000).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut o = observer(2048);
        observe(&mut o, &x);
        let even = o.fit().unwrap();
        x[77] = 200.0;
        let mut o = observer(2048);
        observe(&mut o, &x);
        let stretched = o.fit().unwrap();
        assert!(even > 40.0 && stretched < 15.0, "{even} {stretched}");
    }

    #[test]
    fn merging_keeps_every_count() {
        let (mut a, mut b) = (observer(64), observer(64));
        observe(&mut a, &[0.0, 1.0, 2.0]);
        observe(&mut b, &[-4.0, 4.0]);
        a.merge(&b.state()).unwrap();
        assert_eq!(a.counts.iter().sum::<f32>(), 5.0);
        assert_eq!((a.min, a.max), (-4.0, 4.0));
    }

    /// Counts how often elements are counted.
    #[derive(Default)]
    struct Counting(std::sync::atomic::AtomicUsize);

    impl Scan for Counting {
        fn extremes(&self, x: &[f32]) -> Extremes {
            Plain.extremes(x)
        }

        fn histogram(&self, x: &[f32], bins: Bins) -> Vec<u32> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Plain.histogram(x, bins)
        }
    }

    #[test]
    fn what_is_bounded_is_not_counted_again() {
        let value = |i| <ValueId as crate::ir::Key>::new(i);
        let bounded = Bounded { of: value(0), low: 0.0, high: 6.0 };
        let (scan, mut known, mut looked) = (Counting::default(), observer(2048), observer(2048));
        for sample in 0..6 {
            let wave = |i: usize| (i as f32 * 0.7).sin() * (sample + 1) as f32 * 2.0 + 1.0;
            let mut x: Vec<f32> = (0..3000).map(wave).collect();
            match sample {
                // All of these are bounded, and widen the range.
                0 => x.iter_mut().for_each(|x| *x += 100.0),
                4 => x[17] = f32::NAN,
                _ => {}
            }
            let y: Vec<f32> = x.iter().map(|x| x.clamp(0.0, 6.0)).collect();
            for (data, v, how) in [(&x, value(0), None), (&y, value(1), Some(bounded))] {
                let view = || ArrayViewD::from_shape(vec![data.len()], data).unwrap();
                known.look(&Batch::new(view(), &scan).of_value(v, how));
                looked.look(&Batch::new(view(), &Plain));
            }
            assert_eq!(known.state(), looked.state(), "{sample}");
        }
        // Once a sample, and once more for the first and for the one with NaN.
        assert_eq!(scan.0.into_inner(), 8);
    }
}
