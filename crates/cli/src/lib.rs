//! The command line of lowbit.
#![forbid(unsafe_code)]

pub mod data;
