//! Pooling.

use super::conv::{Window, of_rank, padded, spatial};
use super::{Table, kept, new, one};
use crate::raise::call::Call;
use crate::raise::{Raised, Value};
use lowbit_core::ir::{Arg, ValueId};
use lowbit_core::ops;

pub static TABLE: Table = &[kept("max_pool", max), new("avg_pool", average), new("l2_pool", l2)];

/// A pool: what it goes over, how, and whether a last window may reach beyond the image.
struct Pool {
    x: ValueId,
    window: Window,
    ceil: bool,
}

impl Pool {
    fn read(c: &mut Call<'_>) -> Raised<Self> {
        let x = c.tensor("x")?;
        let kernel = c.ints("kernel_sizes")?;
        if c.rank(x) != kernel.len() + 2 {
            return Err(format!("argument x is {}, kernel_sizes are {kernel:?}", c.ty(x)));
        }
        let window = Window::read(c, kernel.clone(), &spatial(c, x, kernel.len()), "valid")?;
        Ok(Pool { x, window, ceil: c.truth("ceil_mode", false)? })
    }

    /// The padding, when PyTorch's operators take it: equal on both sides, at most half the kernel.
    fn padding(&self) -> Option<Vec<i64>> {
        let pads = self.window.symmetric()?;
        pads.iter().zip(&self.window.kernel).all(|(p, k)| *p <= k / 2).then_some(pads)
    }

    /// The image with its padding around it, for a pool without.
    fn around(&self, c: &mut Call<'_>, x: ValueId, value: f64) -> Raised<ValueId> {
        if self.ceil {
            return Err("argument ceil_mode is true, padding is not the same on both sides".into());
        }
        padded(c, x, &self.window.pads, value)
    }

    /// The mean of each window, whose padding counts or not.
    fn mean(&self, c: &mut Call<'_>, x: ValueId, padding: Vec<i64>, count: bool) -> Raised<ValueId> {
        let op = of_rank(padding.len(), [&ops::AVG_POOL1D, &ops::AVG_POOL2D, &ops::AVG_POOL3D])?;
        let w = &self.window;
        let args = [
            x.into(),
            Arg::ints(w.kernel.iter().copied()),
            Arg::ints(w.stride.iter().copied()),
            Arg::ints(padding),
            self.ceil.into(),
            count.into(),
        ];
        c.node(op, args)
    }
}

fn max(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let p = Pool::read(c)?;
    let n = p.window.kernel.len();
    let (x, padding) = match p.padding() {
        Some(padding) => (p.x, padding),
        None => (p.around(c, p.x, f64::NEG_INFINITY)?, vec![0; n]),
    };
    let op = of_rank(n, [&ops::MAX_POOL1D, &ops::MAX_POOL2D, &ops::MAX_POOL3D])?;
    let args = [
        x.into(),
        Arg::ints(p.window.kernel),
        Arg::ints(p.window.stride),
        Arg::ints(padding),
        Arg::ints(vec![1; n]),
        p.ceil.into(),
    ];
    one(c.node(op, args)?)
}

fn average(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let p = Pool::read(c)?;
    let count = !c.truth("exclude_padding_from_average", false)?;
    if let Some(padding) = p.padding() {
        return one(p.mean(c, p.x, padding, count)?);
    }
    let none = vec![0; p.window.kernel.len()];
    let x = p.around(c, p.x, 0.0)?;
    let sums = p.mean(c, x, none.clone(), true)?;
    if count {
        return one(sums);
    }
    // What part of each window lies in the image.
    let ones = c.node(&ops::ONES_LIKE, [p.x.into()])?;
    let ones = p.around(c, ones, 0.0)?;
    let parts = p.mean(c, ones, none, true)?;
    one(c.node(&ops::DIV, [sums.into(), parts.into()])?)
}

/// The root of the sum of squares.
fn l2(c: &mut Call<'_>) -> Raised<Vec<Value>> {
    let p = Pool::read(c)?;
    if p.ceil {
        return Err("argument ceil_mode is true".into());
    }
    let squares = c.node(&ops::SQUARE, [p.x.into()])?;
    let x = p.around(c, squares, 0.0)?;
    let mean = p.mean(c, x, vec![0; p.window.kernel.len()], true)?;
    let size: f64 = p.window.kernel.iter().map(|&k| k as f64).product();
    let sum = c.scaled(mean, size)?;
    one(c.node(&ops::SQRT, [sum.into()])?)
}
