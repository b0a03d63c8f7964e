//! [`Layout`]: the order in which the dimensions of a value lie in memory.
//!
//! XNNPACK's convolutions and pools want channels last, everything else takes what comes. A value may exist in several
//! layouts; permuting or squeezing one only gives its dimensions other names, and costs nothing. Dimensions of size 1
//! hold no data, so they are not told apart: a layout says where *some* dimension of size 1 is, not which.

use lowbit_core::SymInt;
use lowbit_core::ir::{Program, TensorType};
use lowbit_core::symint::Bindings;

/// One axis of a tensor in memory: a dimension of the value, or a size of 1.
pub type Axis = Option<usize>;

/// Axes of a tensor in memory, outermost first. Every dimension of a size other than 1 occurs once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout(Vec<Axis>);

/// Whether a dimension holds no data.
pub fn is_unit(d: &SymInt) -> bool {
    d.known() == Some(1)
}

impl Layout {
    /// Axes as they are; those that are dimensions of size 1 lose their names.
    pub fn new(ty: &TensorType, axes: impl IntoIterator<Item = Axis>) -> Self {
        Layout(axes.into_iter().map(|a| a.filter(|&d| !is_unit(&ty.shape[d]))).collect())
    }

    /// The order of the dimensions themselves: how the caller's tensors lie. A scalar is one element of one axis.
    pub fn plain(ty: &TensorType) -> Self {
        if ty.rank() == 0 { Layout(vec![None]) } else { Self::new(ty, (0..ty.rank()).map(Some)) }
    }

    /// `[N, H, W, C]` of `[N, C, H, W]`; `[N, 1, L, C]` of `[N, C, L]`; without a batch, that is 1. `spatial` says how
    /// many dimensions follow the channels.
    pub fn channels_last(ty: &TensorType, spatial: usize) -> Self {
        let channel = ty.rank() - spatial - 1;
        let batch = channel.checked_sub(1);
        let image: Vec<Axis> = (channel + 1..ty.rank()).map(Some).collect();
        let mut axes = vec![batch];
        axes.extend(std::iter::repeat_n(None, 2 - spatial.min(2)));
        axes.extend(image);
        axes.push(Some(channel));
        Self::new(ty, axes)
    }

    /// The axes.
    pub fn axes(&self) -> &[Axis] {
        &self.0
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Where dimension `d` is.
    pub fn position(&self, d: usize) -> Option<usize> {
        self.0.iter().position(|a| *a == Some(d))
    }

    /// The dimensions that hold data, in memory order.
    pub fn order(&self) -> Vec<usize> {
        self.0.iter().flatten().copied().collect()
    }

    /// Gives dimensions other names; `None` for those that are no more.
    pub fn renamed(&self, name: impl Fn(usize) -> Option<usize>) -> Self {
        Layout(self.0.iter().map(|a| a.and_then(&name)).collect())
    }

    /// Whether the innermost axis is dimension `d` of `ty`, also when its size is 1.
    pub fn ends_with(&self, ty: &TensorType, d: usize) -> bool {
        match self.0.last() {
            Some(Some(last)) => *last == d,
            Some(None) => is_unit(&ty.shape[d]),
            None => false,
        }
    }

    /// Whether both only differ in leading axes of size 1, which broadcasting ignores.
    pub fn broadcasts_as(&self, other: &Layout) -> bool {
        let strip = |l: &Layout| l.0.iter().skip_while(|a| a.is_none()).copied().collect::<Vec<_>>();
        strip(self) == strip(other)
    }

    /// Sizes as XNNPACK sees them.
    pub fn dims(&self, program: &Program, ty: &TensorType) -> Vec<u32> {
        self.0.iter().map(|a| a.map_or(1, |d| upper_bound(program, &ty.shape[d]))).collect()
    }

    /// Sizes for a reshape, where 0 stands for whatever is left.
    ///
    /// # Errors
    /// When two sizes depend on symbols.
    pub fn reshape_dims(&self, ty: &TensorType) -> Result<Vec<u32>, String> {
        let mut symbols = 0;
        let dims = self.0.iter().map(|a| match a.map(|d| &ty.shape[d]) {
            None => 1,
            Some(SymInt::Known(n)) => u32::try_from(*n).unwrap_or(u32::MAX),
            Some(_) => {
                symbols += 1;
                0
            }
        });
        let dims = dims.collect();
        if symbols > 1 {
            return Err(format!(
                "XNNPACK infers one size of a reshape, {ty} has {symbols} that depend on symbols"
            ));
        }
        Ok(dims)
    }

    /// Sizes for a slice, where 0 stands for a whole axis, whatever its size.
    pub fn slice_dims(&self, ty: &TensorType) -> Vec<u32> {
        let size = |d: &SymInt| d.known().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        self.0.iter().map(|a| a.map_or(1, |d| size(&ty.shape[d]))).collect()
    }

    /// The layout of a reshaped value whose elements stay where they are, if there is one: dimensions that are merged
    /// or split must be neighbours in memory, in order.
    pub fn reshaped(&self, from: &[SymInt], to: &[SymInt]) -> Option<Layout> {
        let groups = matching(from, to)?;
        let mut axes: Vec<Axis> = Vec::new();
        let mut rest = &self.0[..];
        while let Some((first, tail)) = rest.split_first() {
            let Some(d) = first else {
                axes.push(None);
                rest = tail;
                continue;
            };
            let (ins, outs) = groups.iter().find(|(ins, _)| ins.first() == Some(d))?;
            let mut wanted = ins.iter();
            while let Some(want) = wanted.next() {
                // Sizes of 1 between neighbours do not matter.
                while rest.first() == Some(&None) {
                    rest = &rest[1..];
                }
                if rest.first() != Some(&Some(*want)) {
                    return None;
                }
                rest = &rest[1..];
                if wanted.len() == 0 {
                    break;
                }
            }
            axes.extend(outs.iter().map(|&o| Some(o)));
        }
        Some(Layout(axes))
    }
}

/// The greatest size a dimension can have, or the least, where it has no bound.
pub fn upper_bound(program: &Program, d: &SymInt) -> u32 {
    let (lo, hi) = d.bounds(&|s| program.range(s));
    u32::try_from(hi).ok().filter(|&h| h < 1 << 31).unwrap_or_else(|| u32::try_from(lo.max(1)).unwrap_or(1))
}

/// Dimensions that hold data, in groups of equal product: `[2, 6] → [2, 2, 3]` is `{0} = {0}`, `{1} = {1, 2}`.
fn matching(from: &[SymInt], to: &[SymInt]) -> Option<Vec<(Vec<usize>, Vec<usize>)>> {
    let solid = |s: &[SymInt]| (0..s.len()).filter(|&i| !is_unit(&s[i])).collect::<Vec<_>>();
    let (ins, outs) = (solid(from), solid(to));
    // Symbols are compared by trying them with large numbers that have no common factor.
    let mut symbols: Vec<_> = from.iter().chain(to).flat_map(SymInt::symbols).collect();
    symbols.sort();
    symbols.dedup();
    const PRIMES: [i64; 6] = [1009, 1013, 1019, 1021, 1031, 1033];
    let bindings: Bindings = symbols.into_iter().zip(PRIMES.into_iter().cycle()).collect();
    let size = |d: &SymInt| d.eval(&bindings).ok();
    let (mut i, mut o) = (0, 0);
    let mut groups = Vec::new();
    while i < ins.len() || o < outs.len() {
        let (i0, o0) = (i, o);
        let (mut a, mut b) = (1i64, 1i64);
        loop {
            if a == b && i > i0 && o > o0 {
                break;
            }
            if (a <= b && i < ins.len()) || o == outs.len() {
                a = a.checked_mul(size(&from[*ins.get(i)?])?)?;
                i += 1;
            } else {
                b = b.checked_mul(size(&to[outs[o]])?)?;
                o += 1;
            }
        }
        let product = |s: &[SymInt], which: &[usize]| which.iter().map(|&k| s[k].clone()).product::<SymInt>();
        if product(from, &ins[i0..i]) != product(to, &outs[o0..o]) {
            return None;
        }
        groups.push((ins[i0..i].to_vec(), outs[o0..o].to_vec()));
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::DType;

    fn sizes(list: &[i64]) -> Vec<SymInt> {
        list.iter().map(|&n| if n < 0 { SymInt::symbol("s") } else { n.into() }).collect()
    }

    fn layout(axes: &[i64]) -> Layout {
        Layout(axes.iter().map(|&a| usize::try_from(a).ok()).collect())
    }

    #[test]
    fn layouts_of_images() {
        for (shape, spatial, want) in [
            (&[2, 3, 4, 5][..], 2, &[0, 2, 3, 1][..]),
            (&[1, 3, 4, 5], 2, &[-1, 2, 3, 1]),
            (&[1, 3, 1, 5], 2, &[-1, -1, 3, 1]),
            (&[2, 3, 4], 1, &[0, -1, 2, 1]),
            (&[3, 4], 1, &[-1, -1, 1, 0]),
            (&[3, 4, 5], 2, &[-1, 1, 2, 0]),
            (&[2, 3], 0, &[0, -1, -1, 1]),
        ] {
            let ty = TensorType { dtype: DType::F32, shape: sizes(shape) };
            assert_eq!(Layout::channels_last(&ty, spatial), layout(want), "{shape:?}");
        }
    }

    #[test]
    fn reshapes_that_move_nothing() {
        for (axes, from, to, want) in [
            // A flattened image, channels last: its pixels are merged.
            (&[0, 2, 3, 1][..], &[2, 3, 4, 5][..], &[2, 3, 20][..], Some(&[0, 2, 1][..])),
            (&[0, 2, 3, 1], &[2, 3, 4, 5], &[2, 60], None),
            (&[0, 1, 2, 3], &[2, 3, 4, 5], &[2, 60], Some(&[0, 1])),
            // After pooling nothing is left to merge.
            (&[0, -1, -1, 1], &[2, 3, 1, 1], &[2, 3], Some(&[0, -1, -1, 1])),
            // Heads of an attention.
            (&[0, 1, 2], &[2, 7, 12], &[2, 7, 4, 3], Some(&[0, 1, 2, 3])),
            (&[0, 2, 1], &[2, 7, 12], &[2, 7, 4, 3], Some(&[0, 2, 3, 1])),
            (&[0, 1, 2], &[-1, 7, 12], &[-1, 84], Some(&[0, 1])),
            (&[0, 1], &[-1, 84], &[-1, 7, 12], Some(&[0, 1, 2])),
            (&[1, 0], &[6, 4], &[4, 6], None),
            (&[0, 1], &[6, 4], &[4, 6], Some(&[0, 1])),
        ] {
            let got = layout(axes).reshaped(&sizes(from), &sizes(to));
            assert_eq!(got, want.map(layout), "{axes:?} {from:?} {to:?}");
        }
    }
}
