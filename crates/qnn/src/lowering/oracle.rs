//! Who says what the chip runs: Qualcomm's library, or where there is none, a table.

use crate::graph::{DType, Encoding, Graph, Op};
use crate::library::{Library, LibraryError, Session, find};
use crate::settings::Settings;
use crate::soc::{self, Arch};

/// The judge.
#[derive(Clone, Debug)]
pub enum Oracle {
    /// The library, for the chip.
    Library(Session),
    /// The table, and why there is no library.
    Table(LibraryError),
}

impl Oracle {
    /// The judge that these settings lead to.
    pub fn open(settings: &Settings) -> Self {
        match session(settings) {
            Ok(session) => Oracle::Library(session),
            Err(e) => Oracle::Table(e),
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Oracle::Library(_) => "Qualcomm's library",
            Oracle::Table(_) => "lowbit's table",
        }
    }

    /// Judges all operators of a graph.
    ///
    /// # Errors
    /// A sentence: the operator, and what stands against it.
    pub fn judge(&self, graph: &Graph, soc: &soc::Soc) -> Result<(), String> {
        for op in &graph.ops {
            match self {
                Oracle::Library(session) => session.validate(graph, op).map_err(|f| {
                    let said = crate::library::words::sentence(&f.messages);
                    let code = f.code & 0xffff;
                    let said = if said.is_empty() { format!("error {code}") } else { said };
                    format!("Qualcomm's library refuses {} on {soc}: {said}", graph.describe(op))
                })?,
                Oracle::Table(_) => table(graph, op, soc.arch).map_err(|why| {
                    format!(
                        "{} on {soc}, by lowbit's table (Qualcomm's library is not here): {why}",
                        graph.describe(op)
                    )
                })?,
            }
        }
        Ok(())
    }
}

fn session(settings: &Settings) -> Result<Session, LibraryError> {
    if !settings.ask {
        return Err(LibraryError::Missing("option library=false leaves Qualcomm's library alone".into()));
    }
    let folder = find::find(settings.library.as_deref(), &find::Surroundings::here())
        .map_err(LibraryError::Missing)?;
    Session::open(Library::open(&folder, find::HTP)?, Some(settings.soc))
}

/// What is known without the library: activations of one width, weights of as many bits as the layers take.
fn table(graph: &Graph, op: &Op, arch: Arch) -> Result<(), String> {
    let tensor = |i: &usize| &graph.tensors[*i];
    let made: Vec<_> = op.outputs.iter().map(tensor).collect();
    let read: Vec<_> = op.inputs.iter().map(tensor).collect();
    let wide = made.iter().chain(&read).any(|t| t.dtype == DType::U16);
    let need = |least: Arch, what: &str| match arch < least {
        true => Err(format!("{arch} has no {what}; take soc={} or later", soc::first_with(least))),
        false => Ok(()),
    };
    if read.iter().any(|t| t.dtype == DType::S16) && wide {
        need(soc::WIDE_WEIGHTS, "16-bit weights with 16-bit activations")?;
    }
    if read.iter().any(|t| matches!(t.encoding, Encoding::Blocks { .. })) {
        need(soc::BLOCK_WEIGHTS, "scales by blocks of weights")?;
    }
    let free = ["Convert", "Quantize", "Dequantize", "Cast", "Gather", "Argmax", "Argmin"].contains(&op.kind);
    let widths: Vec<DType> =
        read.iter().take(1).chain(&made).map(|t| t.dtype).filter(|d| d.is_fixed()).collect();
    if !free && widths.windows(2).any(|w| w[0].size() != w[1].size()) {
        return Err("what it reads and what it makes are of different widths".into());
    }
    Ok(())
}
