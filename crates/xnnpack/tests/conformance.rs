//! The conformance kit on XNNPACK.

use lowbit_testing::Kit;
use lowbit_xnnpack::{Xnnpack, quantizer};

#[test]
fn conforms() {
    let kit = Kit::new(&Xnnpack);
    // Sixteen integers: a linear layer alone is left with some 22 dB.
    let kit = kit.sqnr_floor_of(quantizer::INT4_CHANNEL, 15.0).sqnr_floor_of(quantizer::INT4_GROUP, 15.0);
    let summary = kit.check().unwrap_or_else(|e| panic!("{e}"));
    assert!(summary.delegated > summary.outside, "{summary:?}");
}

#[test]
fn conforms_with_quantized_embeddings() {
    let options = [("embedding".to_string(), "int8".to_string())].into();
    let kit = Kit::new(&Xnnpack).options(options);
    let kit = kit.sqnr_floor_of(quantizer::INT4_CHANNEL, 15.0).sqnr_floor_of(quantizer::INT4_GROUP, 15.0);
    kit.check().unwrap_or_else(|e| panic!("{e}"));
}
