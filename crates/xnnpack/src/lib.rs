//! XNNPACK backend of lowbit: quantizer and lowering.
