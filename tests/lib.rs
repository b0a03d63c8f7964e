//! Integration tests of lowbit live in `it/`.
