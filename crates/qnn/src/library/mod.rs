//! Qualcomm's library, loaded at run time: the only unsafe code of this crate.
//!
//! lowbit declares just what it calls ([`abi`]), takes the library from where the user has it ([`find`]), and keeps what it
//! logs, which is all the reasons it gives ([`words`] makes sentences of them). The library on a PC compiles for a chip *and*
//! emulates it.

mod abi;
mod container;
mod error;
pub mod find;
mod held;
mod loaded;
mod log;
mod open;
mod session;
pub mod words;

pub use container::container;
pub use error::{Failure, LibraryError};
pub use loaded::{Loaded, Port};
pub use open::{Library, NEWEST, OLDEST};
pub use session::{Compiled, Session, Tuning};
