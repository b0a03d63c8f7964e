//! The CPU executor of lowbit: plans a program once for its shapes, then runs it.
//!
//! ```
//! use lowbit_core::{Tensor, executor::Executor, ir::text};
//! let program = text::parse("program {
//!   %x : f32[2] = input
//!   %y : f32[2] = aten.relu.default(%x)
//!   return %y
//! }").unwrap();
//! let mut session = lowbit_cpu::CpuExecutor::default().load(&program, &[]).unwrap();
//! let x = Tensor::new(&[2], vec![-1.0f32, 2.0]).unwrap();
//! let y = session.run(&[x], &mut |_, _| {}).unwrap();
//! assert_eq!(y[0].to_f32(), [0.0, 2.0].as_slice());
//! ```
#![deny(unsafe_code)] // allowed in `simd` and `pages` alone

mod dense;
pub mod kernel;
mod kernels;
mod math;
mod memory;
mod pages;
mod parallel;
mod plan;
mod profile;
mod scan;
mod session;
mod simd;
mod spread;
mod steps;

pub use profile::OperatorTime;
pub use session::{CpuExecutor, CpuSession};
pub use simd::Isa;
