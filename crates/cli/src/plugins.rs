//! The backends that come with the `lowbit` binary. A crate that no code names is not linked, so each has its line.

#[cfg(feature = "coreml")]
use lowbit_coreml as _;
#[cfg(feature = "qnn")]
use lowbit_qnn as _;
#[cfg(feature = "xnnpack")]
use lowbit_xnnpack as _;
