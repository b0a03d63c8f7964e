//! The `lowbit` program.
fn main() {}
