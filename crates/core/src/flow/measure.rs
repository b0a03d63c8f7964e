//! How far two tensors are apart, over all samples.

use crate::tensor::TensorView;
use ndarray::{ArrayViewD, IxDyn, ShapeBuilder};

/// Sums over all samples that the measures are made of.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Sums {
    signal: f64,
    other: f64,
    dot: f64,
    noise: f64,
    max: f64,
    count: u64,
}

impl Sums {
    pub(super) fn add(&mut self, reference: &[f32], actual: &[f32]) {
        let mut lanes = Lanes::default();
        let ((r, r_rest), (a, a_rest)) = (reference.as_chunks::<LANES>(), actual.as_chunks::<LANES>());
        r.iter().zip(a).for_each(|(r, a)| lanes.add(r, a));
        // Zeros behind the last ones add nothing.
        let (mut r, mut a) = ([0.0; LANES], [0.0; LANES]);
        let rest = r_rest.len().min(a_rest.len());
        r[..rest].copy_from_slice(&r_rest[..rest]);
        a[..rest].copy_from_slice(&a_rest[..rest]);
        lanes.add(&r, &a);
        self.signal += lanes.signal.iter().sum::<f64>();
        self.other += lanes.other.iter().sum::<f64>();
        self.dot += lanes.dot.iter().sum::<f64>();
        self.noise += lanes.noise.iter().sum::<f64>();
        self.max = lanes.max.iter().copied().fold(self.max, f64::max);
        self.count += reference.len().min(actual.len()) as u64 - lanes.masked.iter().sum::<u64>();
    }

    /// Adds watched values. Where both lie alike, in the order of memory: which order it is makes no difference but for rounding.
    pub(super) fn compare(&mut self, reference: &Seen, actual: &TensorView<'_>) {
        match in_memory(actual) {
            Some((strides, values)) if strides == reference.strides => self.add(&reference.values, values),
            _ => self.add(&reference.view().to_tensor().to_f32(), &actual.to_tensor().to_f32()),
        }
    }

    /// Whether there was nothing to compare.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn measure(&self) -> Measure {
        let db = 20.0 * (self.signal.sqrt() / self.noise.sqrt()).log10();
        let norm = (self.signal * self.other).sqrt();
        Measure {
            sqnr_db: if self.noise == 0.0 { f64::INFINITY } else { db },
            cosine: if norm == 0.0 { f64::from(u8::from(self.noise == 0.0)) } else { self.dot / norm },
            max_abs: self.max,
            mse: self.noise / self.count.max(1) as f64,
        }
    }
}

/// A copy of a watched value.
#[derive(Debug)]
pub(super) struct Seen {
    shape: Vec<usize>,
    /// In elements.
    strides: Vec<usize>,
    /// In the order of memory.
    values: Vec<f32>,
}

impl Seen {
    pub(super) fn new(view: &TensorView<'_>) -> Seen {
        let found = in_memory(view).map(|(strides, values)| (strides, values.to_vec()));
        let (strides, values) = found.unwrap_or_else(|| {
            let tensor = view.to_tensor();
            let ends = (0..tensor.shape().len()).map(|d| tensor.shape()[d + 1..].iter().product());
            (ends.collect(), tensor.to_f32().into_owned())
        });
        Seen { shape: view.shape().to_vec(), strides, values }
    }

    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.values[..])
    }

    fn view(&self) -> TensorView<'_> {
        let shape = IxDyn(&self.shape).strides(IxDyn(&self.strides));
        TensorView::F32(ArrayViewD::from_shape(shape, &self.values).expect("as it was seen"))
    }
}

/// Strides and elements of a value that lies in memory without gaps.
fn in_memory<'a>(view: &'a TensorView<'_>) -> Option<(Vec<usize>, &'a [f32])> {
    let TensorView::F32(x) = view else { return None };
    let strides = x.strides().iter().map(|&s| usize::try_from(s)).collect::<Result<_, _>>().ok()?;
    Some((strides, x.as_slice_memory_order()?))
}

/// How far two tensors are apart, over all samples.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Measure {
    /// `20·log10(‖x‖ / ‖x − y‖)`, torchao's `compute_error`; infinite when equal.
    pub sqnr_db: f64,
    /// Cosine of the angle between them.
    pub cosine: f64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Mean squared difference.
    pub mse: f64,
}

/// How many sums are made side by side, so that they do not wait for one another.
const LANES: usize = 8;

/// The sums of some elements.
#[derive(Default)]
struct Lanes {
    signal: [f64; LANES],
    other: [f64; LANES],
    dot: [f64; LANES],
    noise: [f64; LANES],
    max: [f64; LANES],
    masked: [u64; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, reference: &[f32; LANES], actual: &[f32; LANES]) {
        for i in 0..LANES {
            let (r, a) = (reference[i], actual[i]);
            // Masks are made of infinities; equal ones are no error, and nothing here.
            let masked = (r == a) & (r.abs() == f32::INFINITY);
            let (r, a) = if masked { (0.0, 0.0) } else { (f64::from(r), f64::from(a)) };
            let d = r - a;
            self.signal[i] += r * r;
            self.other[i] += a * a;
            self.dot[i] += r * a;
            self.noise[i] += d * d;
            self.max[i] = if d.abs() > self.max[i] { d.abs() } else { self.max[i] };
            self.masked[i] += u64::from(masked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_elements_count_but_equal_infinities() {
        let x: Vec<f32> = (0..21).map(|i| i as f32 * 0.25 - 2.0).collect();
        let mut y: Vec<f32> = x.iter().map(|x| x + 0.5).collect();
        let mut sums = Sums::default();
        sums.add(&x, &y);
        let m = sums.measure();
        assert_eq!((sums.count, m.max_abs, m.mse), (21, 0.5, 0.25));
        let signal: f64 = x.iter().map(|x| f64::from(x * x)).sum();
        assert_eq!(m.sqnr_db, 20.0 * (signal.sqrt() / (21.0f64 * 0.25).sqrt()).log10());
        let mut x = x;
        (x[3], y[3], x[20], y[20]) = (f32::NEG_INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::INFINITY);
        let mut sums = Sums::default();
        sums.add(&x, &y);
        assert_eq!((sums.count, sums.measure().mse), (19, 0.25));
        y[0] = f32::NAN;
        sums.add(&x, &y);
        assert!(sums.measure().mse.is_nan());
    }

    #[test]
    fn any_two_orders_compare() {
        let values: Vec<f32> = (0..24).map(|i| (i * 7 % 24) as f32).collect();
        let shape = [2, 3, 4];
        let plain = ArrayViewD::from_shape(IxDyn(&shape), &values).unwrap();
        let turned: Vec<f32> = plain.view().permuted_axes(vec![0, 2, 1]).iter().copied().collect();
        let turned = ArrayViewD::from_shape(IxDyn(&[2, 4, 3]), &turned).unwrap();
        let turned = TensorView::F32(turned.permuted_axes(vec![0, 2, 1]));
        let plain = TensorView::F32(plain);
        for (a, b) in [(&plain, &plain), (&plain, &turned), (&turned, &plain), (&turned, &turned)] {
            let mut sums = Sums::default();
            sums.compare(&Seen::new(a), b);
            assert_eq!((sums.count, sums.noise, sums.signal), (24, 0.0, 4324.0));
        }
    }
}
