//! `links` in the manifest needs a build script; it makes two copies of core in one program a build error.
fn main() {}
