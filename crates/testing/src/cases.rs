//! The programs of the kit: files in `cases/`, in lowbit's text form. Each says in its first line what it is about.
//!
//! Adding one is a file and a line here; a test compares the folder with the list.

use crate::data;
use lowbit_core::ir::text::{self, ParseError};
use lowbit_core::ir::{Program, VerifyErrors, verify};

/// A small program that every backend is checked with.
#[derive(Copy, Clone, Debug)]
pub struct Case {
    /// Name of its file, without `.ir`.
    pub name: &'static str,
    /// Its text form; constants without elements in the text get some from their names.
    pub text: &'static str,
}

/// A case that is no program: a mistake in the kit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// The text is not understood.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// The program is invalid.
    #[error(transparent)]
    Verify(#[from] VerifyErrors),
}

impl Case {
    /// The program, with numbers in its weights.
    ///
    /// # Errors
    /// When the text is no valid program.
    pub fn program(&self) -> Result<Program, CaseError> {
        let mut program = text::parse(self.text)?;
        data::fill(&mut program);
        verify(&program)?;
        Ok(program)
    }
}

macro_rules! cases {
    ($($name:literal),* $(,)?) => {
        /// All cases, by name.
        pub static CASES: &[Case] =
            &[$(Case { name: $name, text: include_str!(concat!("../cases/", $name, ".ir")) }),*];
    };
}

cases! {
    "add",
    "add_broadcast",
    "add_itself",
    "add_relu",
    "add_scalar",
    "attention",
    "buffer_update",
    "cat",
    "cat_itself",
    "clamped",
    "classifier",
    "conv",
    "conv_1d",
    "conv_batch_norm",
    "conv_depthwise",
    "conv_geometry",
    "conv_grouped",
    "conv_relu",
    "conv_transpose",
    "dynamic_batch",
    "dynamic_batch_conv",
    "empty",
    "integer_arithmetic",
    "integer_inputs",
    "linear",
    "linear_chain",
    "linear_core_aten",
    "linear_no_bias",
    "linear_rank3",
    "linear_relu",
    "linear_two_relus",
    "mul_relu",
    "normalised",
    "output_read_on",
    "output_twice",
    "recurrent",
    "recurrent_dynamic_batch",
    "residual",
    "two_outputs",
    "unsupported_middle",
    "unsupported_only",
    "unsupported_side",
    "unused_input",
    "weight_computed",
    "weight_twice",
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::executor::Executor;
    use lowbit_cpu::CpuExecutor;

    #[test]
    fn the_list_is_the_folder() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, CASES.iter().map(|c| c.name).collect::<Vec<_>>());
    }

    #[test]
    fn cases_are_programs_that_run() {
        for case in CASES {
            assert!(case.text.starts_with("; "), "{} does not say what it is about", case.name);
            let p = case.program().unwrap_or_else(|e| panic!("{}: {e}", case.name));
            let inputs = data::inputs(&p, 1);
            let mut session = CpuExecutor::default().load(&p, &[]).unwrap();
            let out = session.run(&inputs, &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            for t in out {
                assert!(t.to_f32().iter().any(|x| *x != 0.0), "{} makes only zeros", case.name);
                assert!(t.to_f32().iter().all(|x| x.is_finite()), "{}", case.name);
            }
        }
    }
}
