//! Kernels by family, as the operator table has them. Each file ends in its `TABLE`.

use crate::kernel::Kernel;

mod activation;
mod attention;
mod cast;
pub(crate) mod channels_last;
pub(crate) mod conv;
mod create;
mod elementwise;
pub(crate) mod format;
mod index;
mod linear;
mod norm;
mod pool;
mod quantized;
mod reduce;
mod resize;
mod rnn;
pub(crate) mod shape;

/// Operator name and kernel.
pub(crate) type Table = &'static [(&'static str, Kernel)];

static TABLES: &[Table] = &[
    activation::TABLE,
    attention::TABLE,
    cast::TABLE,
    conv::TABLE,
    create::TABLE,
    elementwise::TABLE,
    index::TABLE,
    linear::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantized::TABLE,
    reduce::TABLE,
    resize::TABLE,
    rnn::TABLE,
    shape::TABLE,
];

/// Every kernel.
pub(crate) fn all() -> impl Iterator<Item = &'static (&'static str, Kernel)> {
    TABLES.iter().flat_map(|t| t.iter())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_operator_has_its_kernel() {
        let kernels: Vec<&str> = super::all().map(|(name, _)| *name).collect();
        let set: BTreeSet<&str> = kernels.iter().copied().collect();
        assert_eq!(set.len(), kernels.len(), "an operator has two kernels");
        let ops: BTreeSet<&str> =
            lowbit_core::ops::all().filter(|o| !o.traits.declared_types).map(|o| o.name).collect();
        assert_eq!(
            ops.difference(&set).collect::<Vec<_>>(),
            Vec::<&&str>::new(),
            "operators without a kernel"
        );
        assert_eq!(
            set.difference(&ops).collect::<Vec<_>>(),
            Vec::<&&str>::new(),
            "kernels without an operator"
        );
    }
}
