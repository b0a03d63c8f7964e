//! Benchmarks of lowbit; see the `[[bench]]` targets.
