//! Writes ExecuTorch programs (`.pte`): one method, `forward`, with its delegates, portable kernels around them, planned
//! memory, and constants in segments.
#![forbid(unsafe_code)]

mod emit;
mod flat;
mod kernels;
mod loops;
mod memory;
mod portable;
pub mod schema;

use lowbit_core::flow::Lowered;
use lowbit_core::passes::PassError;
use schema::{Delegate, Program};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Why a program could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Nodes outside delegates that the runtime has no kernel for, and that nothing simpler expresses.
    #[error("ExecuTorch has no kernel for {} nodes; change the model or lower them to a backend:\n  {}", .0.len(), .0.join("\n  "))]
    NoKernel(Vec<String>),
    /// An element type the runtime does not have.
    #[error("%{value} is {ty}; ExecuTorch has no such tensors, cast it")]
    Type {
        /// The value.
        value: String,
        /// Its type.
        ty: String,
    },
    /// A dynamic size without a largest value.
    #[error("%{value} is {ty}: a size has no upper bound; export with Dim(..., max=...)")]
    Unbounded {
        /// The value.
        value: String,
        /// Its type.
        ty: String,
    },
    /// A symbol that is no input's size.
    #[error("symbol {0} is the size of no input dimension; export so that an input has it")]
    Symbol(String),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A bug in the writer.
    #[error("internal error of the .pte writer: {0}")]
    Internal(String),
}

/// Alignment of segments in the file.
const SEGMENT_ALIGNMENT: u64 = 128;
/// Length of the extended header.
const HEADER: usize = 32;

/// Refuses programs whose inputs no lowering can mend, before any work is done for them.
///
/// # Errors
/// [`WriteError::Type`] and [`WriteError::Unbounded`] name the input.
pub fn check_inputs(program: &lowbit_core::ir::Program) -> Result<(), WriteError> {
    program.graph.inputs().iter().try_for_each(|&v| emit::planned(program, v).map(|_| ()))
}

/// Writes a lowered program.
///
/// # Errors
/// [`WriteError::NoKernel`] and others name the nodes and values in the way.
pub fn write(lowered: &Lowered) -> Result<Vec<u8>, WriteError> {
    let (mut program, mut bodies) = (lowered.program.clone(), lowered.bodies.clone());
    [&mut program].into_iter().chain(&mut bodies).try_for_each(portable::prepare)?;
    let emitted = emit::emit(&program, &bodies)?;
    let mut file = Program { plan: emitted.plan, ..Program::default() };
    let mut segments: Vec<(Cow<'_, [u8]>, u64)> = vec![];

    // The runtime takes a file without a table of constants for one of the format before segments, and refuses it.
    file.constants = Some((0, vec![0]));
    if !emitted.constants.is_empty() {
        let packed = pack(&emitted.constants, memory::ALIGNMENT, &mut file.constants);
        segments.push((packed.into(), 1));
    }
    if !emitted.states.is_empty() {
        file.states = Some((u32::try_from(segments.len()).expect("few segments"), vec![]));
        segments.push((pack(&emitted.states, 1, &mut file.states).into(), 1));
    }
    // Equal blobs are stored once.
    let mut blobs: BTreeMap<&[u8], u32> = BTreeMap::new();
    for d in &lowered.delegates {
        let next = u32::try_from(segments.len()).expect("few segments");
        let segment = *blobs.entry(&d.blob.bytes).or_insert_with(|| {
            segments.push(((&d.blob.bytes[..]).into(), 1));
            next
        });
        file.plan.delegates.push(Delegate {
            id: d.id.into(),
            segment,
            compile_specs: d.blob.compile_specs.clone(),
        });
    }
    let mut named: BTreeMap<&str, (&[u8], u32)> = BTreeMap::new();
    for data in lowered.delegates.iter().flat_map(|d| &d.blob.named_data) {
        let known = named.entry(&data.key).or_insert((&data.bytes, data.alignment));
        if known.0 != &*data.bytes {
            return Err(WriteError::Internal(format!("two constants have the key {}", data.key)));
        }
        known.1 = known.1.max(data.alignment);
    }
    for (key, (bytes, alignment)) in named {
        file.named.push((key.to_string(), u32::try_from(segments.len()).expect("few segments")));
        segments.push((bytes.into(), alignment.into()));
    }
    Ok(assemble(file, &segments))
}

/// Constants behind one another; their offsets go to `table`, where number 0 is reserved.
fn pack(tensors: &[lowbit_core::Tensor], alignment: u64, table: &mut Option<(u32, Vec<u64>)>) -> Vec<u8> {
    let mut bytes = vec![];
    let mut offsets = vec![0u64];
    for t in tensors {
        bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
        offsets.push(bytes.len() as u64);
        bytes.extend_from_slice(t.bytes());
    }
    if let Some((_, o)) = table {
        *o = offsets;
    }
    bytes
}

/// Header, buffer and segments in one file.
fn assemble(mut file: Program, segments: &[(Cow<'_, [u8]>, u64)]) -> Vec<u8> {
    let mut end = 0u64;
    for (bytes, alignment) in segments {
        let offset = end.next_multiple_of(SEGMENT_ALIGNMENT.max(*alignment));
        file.segments.push((offset, bytes.len() as u64));
        end = offset + bytes.len() as u64;
    }
    let flat = flat::write(&file);
    if segments.is_empty() {
        return flat;
    }
    let program_size = (flat.len() + HEADER) as u64;
    let base = program_size.next_multiple_of(SEGMENT_ALIGNMENT);
    // The header goes between the buffer's first eight bytes (root offset, identifier) and the rest, so that offset
    // grows by the header's length.
    let root = u32::from_le_bytes([flat[0], flat[1], flat[2], flat[3]]) + HEADER as u32;
    let mut out = Vec::with_capacity((base + end) as usize);
    out.extend_from_slice(&root.to_le_bytes());
    out.extend_from_slice(&flat[4..8]);
    out.extend_from_slice(b"eh00");
    out.extend_from_slice(&(HEADER as u32).to_le_bytes());
    out.extend_from_slice(&program_size.to_le_bytes());
    out.extend_from_slice(&base.to_le_bytes());
    out.extend_from_slice(&end.to_le_bytes());
    out.extend_from_slice(&flat[8..]);
    for ((bytes, _), (offset, _)) in segments.iter().zip(&file.segments) {
        out.resize((base + offset) as usize, 0);
        out.extend_from_slice(bytes);
    }
    out
}
