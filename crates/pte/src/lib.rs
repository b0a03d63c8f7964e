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

use lowbit_core::Tensor;
use lowbit_core::flow::Lowered;
use lowbit_core::passes::PassError;
use schema::{Delegate, Program};
use std::collections::BTreeMap;
use std::io::Write;

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

/// A program ready to be written: its parts still lie where they are, as copies of all weights would take as much room again.
#[derive(Debug)]
pub struct Pte<'a> {
    /// Everything up to the first segment.
    head: Vec<u8>,
    /// Where each piece lies in the file.
    pieces: Vec<(u64, Piece<'a>)>,
}

#[derive(Debug)]
enum Piece<'a> {
    Constant(Tensor),
    Delegated(&'a [u8]),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Constant(t) => t.bytes(),
            Piece::Delegated(bytes) => bytes,
        }
    }
}

/// Writes a lowered program into memory.
///
/// # Errors
/// As [`Pte::new`].
pub fn write(lowered: &Lowered) -> Result<Vec<u8>, WriteError> {
    let mut out = vec![];
    let pte = Pte::new(lowered)?;
    pte.write_to(&mut out).map_err(|e| WriteError::Internal(e.to_string()))?;
    Ok(out)
}

impl<'a> Pte<'a> {
    /// Makes everything but the weights, which `lowered` keeps.
    ///
    /// # Errors
    /// [`WriteError::NoKernel`] and others name the nodes and values in the way.
    pub fn new(lowered: &'a Lowered) -> Result<Pte<'a>, WriteError> {
        let (mut program, mut bodies) = (lowered.program.clone(), lowered.bodies.clone());
        [&mut program].into_iter().chain(&mut bodies).try_for_each(portable::prepare)?;
        let emitted = emit::emit(&program, &bodies)?;
        let mut file = Program { plan: emitted.plan, ..Program::default() };
        let mut segments: Vec<Segment<'a>> = vec![];

        // The runtime takes a file without a table of constants for one of the format before segments, and refuses it.
        file.constants = Some((0, vec![0]));
        if !emitted.constants.is_empty() {
            segments.push(Segment::of_constants(emitted.constants, memory::ALIGNMENT, &mut file.constants));
        }
        if !emitted.states.is_empty() {
            file.states = Some((u32::try_from(segments.len()).expect("few segments"), vec![]));
            segments.push(Segment::of_constants(emitted.states, 1, &mut file.states));
        }
        // Equal blobs are stored once.
        let mut blobs: BTreeMap<&[u8], u32> = BTreeMap::new();
        for d in &lowered.delegates {
            let next = u32::try_from(segments.len()).expect("few segments");
            let segment = *blobs.entry(&d.blob.bytes).or_insert_with(|| {
                segments.push(Segment::of_bytes(&d.blob.bytes, 1));
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
            segments.push(Segment::of_bytes(bytes, alignment.into()));
        }
        Ok(assemble(file, segments))
    }

    /// Writes the file.
    ///
    /// # Errors
    /// As `out` does.
    pub fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        out.write_all(&self.head)?;
        let mut end = self.head.len() as u64;
        for (offset, piece) in &self.pieces {
            // No more than an alignment.
            out.write_all(&vec![0; (offset - end) as usize])?;
            out.write_all(piece.bytes())?;
            end = offset + piece.bytes().len() as u64;
        }
        Ok(())
    }
}

/// Bytes behind one another: each piece with its place.
struct Segment<'a> {
    pieces: Vec<(u64, Piece<'a>)>,
    alignment: u64,
    len: u64,
}

impl<'a> Segment<'a> {
    fn of_bytes(bytes: &'a [u8], alignment: u64) -> Self {
        Segment { pieces: vec![(0, Piece::Delegated(bytes))], alignment, len: bytes.len() as u64 }
    }

    /// Constants; their offsets go to `table`, where number 0 is reserved.
    fn of_constants(tensors: Vec<Tensor>, alignment: u64, table: &mut Option<(u32, Vec<u64>)>) -> Self {
        let mut segment = Segment { pieces: vec![], alignment: 1, len: 0 };
        let mut offsets = vec![0u64];
        for t in tensors {
            let at = segment.len.next_multiple_of(alignment);
            offsets.push(at);
            segment.len = at + t.bytes().len() as u64;
            segment.pieces.push((at, Piece::Constant(t)));
        }
        if let Some((_, o)) = table {
            *o = offsets;
        }
        segment
    }
}

/// Header and buffer, and where the segments' pieces go.
fn assemble(mut file: Program, segments: Vec<Segment<'_>>) -> Pte<'_> {
    let mut end = 0u64;
    for s in &segments {
        let offset = end.next_multiple_of(SEGMENT_ALIGNMENT.max(s.alignment));
        file.segments.push((offset, s.len));
        end = offset + s.len;
    }
    let flat = flat::write(&file);
    if segments.is_empty() {
        return Pte { head: flat, pieces: vec![] };
    }
    let program_size = (flat.len() + HEADER) as u64;
    let base = program_size.next_multiple_of(SEGMENT_ALIGNMENT);
    // The header goes between the buffer's first eight bytes (root offset, identifier) and the rest, so that offset
    // grows by the header's length.
    let root = u32::from_le_bytes([flat[0], flat[1], flat[2], flat[3]]) + HEADER as u32;
    let mut head = Vec::with_capacity(flat.len() + HEADER);
    head.extend_from_slice(&root.to_le_bytes());
    head.extend_from_slice(&flat[4..8]);
    head.extend_from_slice(b"eh00");
    head.extend_from_slice(&(HEADER as u32).to_le_bytes());
    head.extend_from_slice(&program_size.to_le_bytes());
    head.extend_from_slice(&base.to_le_bytes());
    head.extend_from_slice(&end.to_le_bytes());
    head.extend_from_slice(&flat[8..]);
    let places = segments.into_iter().zip(&file.segments);
    let pieces = places.flat_map(|(s, (offset, _))| {
        s.pieces.into_iter().map(move |(at, piece)| (base + offset + at, piece))
    });
    let pieces = pieces.collect();
    Pte { head, pieces }
}
