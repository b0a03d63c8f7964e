//! The conformance kit on XNNPACK.

use lowbit_testing::Kit;

#[test]
fn conforms() {
    let summary = Kit::new(&lowbit_xnnpack::Xnnpack).check().unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.delegated > summary.outside, "{summary:?}");
}
