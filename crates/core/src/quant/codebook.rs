//! Codebooks: constants as indices into tables of their most typical values (Core ML's palettization, torchao's
//! `CodebookWeightOnlyConfig`).
//!
//! Tables come from k-means on a line, where the best clustering can be computed: sorted values are cut into runs, by
//! dynamic programming. Nothing is drawn at random, and the tables of equal values are equal. Of more than [`EXACT`]
//! different values, neighbours are put together first, and Lloyd's iterations on all values follow.

use super::blocks::runs;
use super::qparams::QuantizeError;
use super::scheme::Granularity;
use crate::tensor::Tensor;

/// How a constant is cut, and how many typical values each part has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Codebook {
    bits: u8,
    granularity: Granularity,
}

/// Different values that are clustered in the best way there is.
pub const EXACT: usize = 8192;

/// Rounds of Lloyd's iterations, each of which makes the error smaller, that follow where there are more.
const ROUNDS: usize = 100;

impl Codebook {
    /// Tables of `2^bits` values, one for each part.
    ///
    /// # Errors
    /// When there are no bits, or more than 8.
    pub fn new(bits: u8, granularity: Granularity) -> Result<Self, QuantizeError> {
        match bits {
            1..=8 => Ok(Codebook { bits, granularity }),
            _ => Err(QuantizeError(format!("an index takes 1 to 8 bits, not {bits}"))),
        }
    }

    /// Bits of an index.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// What shares a table.
    pub fn granularity(self) -> Granularity {
        self.granularity
    }

    /// Indices (uint8, the shape of `x`) and tables (f32, ascending; a dimension for each of `x`'s with the number of parts
    /// along it, then `2^bits`, then 1).
    ///
    /// # Errors
    /// For tensors that are not floats or hold what is not finite, and parts that do not fit the shape.
    pub fn encode(self, x: &Tensor) -> Result<(Tensor, Tensor), QuantizeError> {
        let fail = |m: String| Err(QuantizeError(m));
        let shape = x.shape();
        if !x.dtype().is_float() {
            return fail(format!("only floating-point tensors have codebooks, this one is {}", x.dtype()));
        }
        let block = self.granularity.known_block_sizes(shape).map_err(QuantizeError)?;
        let mut sizes: Vec<usize> = shape.iter().zip(&block).map(|(n, b)| n / (*b).max(1)).collect();
        let values = x.to_f32();
        if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
            return fail(format!("it holds {bad}; only finite values have codebooks"));
        }
        let mut parts: Vec<Vec<f32>> = vec![vec![]; sizes.iter().product()];
        runs(shape, &block, |b, run| parts[b].extend(&values[run]));
        let length = 1usize << self.bits;
        let tables: Vec<Vec<f32>> = parts.into_iter().map(|part| typical(part, length)).collect();
        let mut codes = vec![0u8; values.len()];
        runs(shape, &block, |b, run| {
            let (middles, values) = (middles(&tables[b]), &values[run.clone()]);
            codes[run].iter_mut().zip(values).for_each(|(c, &v)| *c = nearest(&middles, v) as u8);
        });
        sizes.extend([length, 1]);
        let tensors =
            Tensor::new(shape, codes).and_then(|codes| Ok((codes, Tensor::new(&sizes, tables.concat())?)));
        tensors.map_err(|e| QuantizeError(e.to_string()))
    }
}

/// Borders between neighbours of a table.
fn middles(table: &[f32]) -> Vec<f64> {
    table.windows(2).map(|w| (f64::from(w[0]) + f64::from(w[1])) / 2.0).collect()
}

/// The index of the nearest value, the lower one of two.
fn nearest(middles: &[f64], v: f32) -> usize {
    middles.partition_point(|&m| m < f64::from(v))
}

/// A value, and how often it occurs.
#[derive(Copy, Clone)]
struct Point {
    value: f64,
    weight: f64,
}

/// Different values, ascending.
fn points(mut values: Vec<f32>) -> Vec<Point> {
    // −0 and 0 are one value.
    values.iter_mut().for_each(|v| *v += 0.0);
    values.sort_unstable_by(f32::total_cmp);
    let mut points: Vec<Point> = vec![];
    for v in values.into_iter().map(f64::from) {
        match points.last_mut().filter(|p| p.value == v) {
            Some(p) => p.weight += 1.0,
            None => points.push(Point { value: v, weight: 1.0 }),
        }
    }
    points
}

/// The `k` values, ascending, that `values` are closest to in the square; the last is repeated if there are not so many.
fn typical(values: Vec<f32>, k: usize) -> Vec<f32> {
    let points = points(values);
    let mut table: Vec<f32> = if points.len() <= k {
        points.iter().map(|p| p.value as f32).collect()
    } else {
        let sums = Sums::of(&points);
        let mut cuts = match points.len() <= EXACT {
            true => best_cuts(&sums, k),
            false => {
                let edges = edges(&points);
                let groups: Vec<Point> = edges.windows(2).map(|w| sums.point(w[0], w[1])).collect();
                best_cuts(&Sums::of(&groups), k).into_iter().map(|cut| edges[cut]).collect()
            }
        };
        for _ in 0..ROUNDS {
            let middles = middles(&sums.means(&cuts));
            let mut moved = vec![0];
            moved.extend(middles.iter().map(|m| points.partition_point(|p| p.value <= *m)));
            moved.push(points.len());
            // Rounding may leave a part without any value.
            if moved == cuts || moved.windows(2).any(|w| w[0] == w[1]) {
                break;
            }
            cuts = moved;
        }
        sums.means(&cuts)
    };
    table.resize(k, table.last().copied().unwrap_or(0.0));
    table
}

/// The starts of groups of sorted points, about [`EXACT`] of them, and the number of points. The best clusters are neither as
/// many everywhere nor as dense as the values: in between, so gaps count by their square roots; and points count too, that
/// there are never less than half as many groups.
fn edges(points: &[Point]) -> Vec<usize> {
    let gap = |i: usize| (points[i].value - points[i - 1].value).sqrt();
    let total: f64 = (1..points.len()).map(gap).sum();
    let (mut at, mut edges) = (0f64, vec![0]);
    for i in 1..points.len() {
        let share = gap(i) / total + 1.0 / points.len() as f64;
        let next = at + share * (EXACT / 2) as f64;
        if next.floor() > at.floor() {
            edges.push(i);
        }
        at = next;
    }
    edges.push(points.len());
    edges
}

/// Running sums over sorted points, of values shifted so that squares do not cancel.
struct Sums {
    shift: f64,
    weight: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Sums {
    fn of(points: &[Point]) -> Self {
        let total: f64 = points.iter().map(|p| p.weight).sum();
        let shift = points.iter().map(|p| p.value * p.weight).sum::<f64>() / total.max(1.0);
        let running = |f: &dyn Fn(&Point) -> f64| {
            let mut sum = 0.0;
            let rest = points.iter().map(|p| {
                sum += f(p);
                sum
            });
            [0.0].into_iter().chain(rest).collect()
        };
        let x = |p: &Point| p.value - shift;
        Sums {
            shift,
            weight: running(&|p| p.weight),
            first: running(&|p| p.weight * x(p)),
            second: running(&|p| p.weight * x(p) * x(p)),
        }
    }

    fn len(&self) -> usize {
        self.weight.len() - 1
    }

    /// Points `from..to` as one.
    fn point(&self, from: usize, to: usize) -> Point {
        let weight = self.weight[to] - self.weight[from];
        Point { value: self.shift + (self.first[to] - self.first[from]) / weight, weight }
    }

    /// The squared error of points `from..to` with their mean.
    fn error(&self, from: usize, to: usize) -> f64 {
        let (w, s) = (self.weight[to] - self.weight[from], self.first[to] - self.first[from]);
        (self.second[to] - self.second[from] - s * s / w).max(0.0)
    }

    fn means(&self, cuts: &[usize]) -> Vec<f32> {
        cuts.windows(2).map(|w| self.point(w[0], w[1]).value as f32).collect()
    }
}

/// Where to cut points into `k` runs with the least error: 0, the starts of the other runs, and the number of points. There
/// are more points than runs.
fn best_cuts(sums: &Sums, k: usize) -> Vec<usize> {
    let n = sums.len();
    // The error of the first `i` points in the runs so far, and where the last of these starts.
    let mut least: Vec<f64> =
        (0..=n).map(|i| if i == 0 { f64::INFINITY } else { sums.error(0, i) }).collect();
    let mut starts: Vec<Vec<u32>> = Vec::with_capacity(k - 1);
    for run in 1..k {
        let (mut next, mut start) = (vec![f64::INFINITY; n + 1], vec![0u32; n + 1]);
        // The best start grows with `i`: the middle one bounds those on both sides.
        let mut work = vec![(run + 1, n, run, n - 1)];
        while let Some((low, high, from, to)) = work.pop() {
            if low > high {
                continue;
            }
            let i = low + (high - low) / 2;
            let (mut best, mut at) = (f64::INFINITY, from);
            for s in from..=to.min(i - 1) {
                let e = least[s] + sums.error(s, i);
                if e < best {
                    (best, at) = (e, s);
                }
            }
            (next[i], start[i]) = (best, at as u32);
            work.push((low, i - 1, from, at));
            work.push((i + 1, high, at, to));
        }
        least = next;
        starts.push(start);
    }
    let mut cuts = vec![n];
    for start in starts.iter().rev() {
        cuts.push(start[cuts[cuts.len() - 1]] as usize);
    }
    cuts.push(0);
    cuts.reverse();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Blocks;

    /// Numbers from −1 to 1, more of them near 0.
    fn numbers(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * next()).collect()
    }

    fn error(values: &[f32], table: &[f32]) -> f64 {
        let nearest = |v: f32| table.iter().map(|t| f64::from(t - v).powi(2)).fold(f64::INFINITY, f64::min);
        values.iter().map(|&v| nearest(v)).sum()
    }

    #[test]
    fn tables_are_the_best_there_are() {
        // All ways to cut a dozen numbers into four runs.
        let mut values = numbers(12);
        let table = typical(values.clone(), 4);
        values.sort_unstable_by(f32::total_cmp);
        let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
        let mut best = f64::INFINITY;
        for a in 1..10 {
            for b in a + 1..11 {
                for c in b + 1..12 {
                    let cuts = [&values[..a], &values[a..b], &values[b..c], &values[c..]];
                    best = best.min(error(&values, &cuts.map(mean)));
                }
            }
        }
        assert!((error(&values, &table) - best).abs() < 1e-9, "{} {best}", error(&values, &table));
    }

    #[test]
    fn many_values_are_clustered_nearly_as_well() {
        let all = numbers(240_000);
        let bell = (0..20_000).map(|i| all[i * 12..][..12].iter().sum::<f32>()).collect();
        for (values, k) in [(numbers(20_000), 16), (numbers(20_000), 256), (bell, 256)] {
            let table = typical(values.clone(), k);
            assert!(table.is_sorted() && table.len() == k);
            let points = points(values.clone());
            assert!(points.len() > EXACT);
            let sums = Sums::of(&points);
            let exact = sums.means(&best_cuts(&sums, k));
            let (ours, best) = (error(&values, &table), error(&values, &exact));
            assert!(ours <= best * 1.001, "{k}: {ours} {best}");
        }
    }

    #[test]
    fn few_values_are_kept() {
        assert_eq!(typical(vec![0.5, -1.0, 0.5, -0.0, 0.0], 4), [-1.0, 0.0, 0.5, 0.5]);
        assert_eq!(typical(vec![], 2), [0.0, 0.0]);
        // Values that differ in their last bit only.
        let close: Vec<f32> = (0..40).map(|i| f32::from_bits(1.0f32.to_bits() + i)).collect();
        assert!(typical(close, 16).is_sorted());
    }

    #[test]
    fn parts_have_tables_of_their_own() {
        let x = Tensor::new(&[2, 4], vec![0.0f32, 1.0, 10.0, 12.0, 1.0, 0.0, 12.0, 10.0]).unwrap();
        let grouped = Granularity::Blocks(Blocks::Channels { axis: 1, size: 2 });
        let (codes, tables) = Codebook::new(1, grouped).unwrap().encode(&x).unwrap();
        assert_eq!((codes.shape(), tables.shape()), (&[2, 4][..], &[1, 2, 2, 1][..]));
        assert_eq!(tables.to_f32()[..], [0.0, 1.0, 10.0, 12.0]);
        assert_eq!(codes.to_f64(), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        let (codes, tables) = Codebook::new(1, Granularity::Tensor).unwrap().encode(&x).unwrap();
        assert_eq!(tables.to_f32()[..], [0.5, 11.0]);
        assert_eq!(codes.to_f64(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
        assert!(
            Codebook::new(0, Granularity::Tensor).is_err() && Codebook::new(9, Granularity::Tensor).is_err()
        );
        let nan = Tensor::new(&[1], vec![f32::NAN]).unwrap();
        assert!(Codebook::new(4, Granularity::Tensor).unwrap().encode(&nan).unwrap_err().0.contains("NaN"));
    }
}
