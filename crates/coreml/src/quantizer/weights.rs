//! [`Compression`]: weights alone, as integers or as indices into look-up tables, laid out as coremltools does.

use lowbit_core::quant::{Blocks, Codebook, Granularity, Mapping, Spec};
use lowbit_core::quantizer::{Choice, Chooser, Intx, Weight, WeightConfig};

/// How weights are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Compression {
    /// As what.
    pub form: Form,
    /// Weights of so many elements or fewer stay in floating point.
    pub threshold: usize,
}

/// What a weight is stored as.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Integers.
    Integers {
        /// Bits of an integer: 8 or 4.
        bits: u8,
        /// Symmetric, or affine with zero points.
        mapping: Mapping,
        /// What shares a scale.
        scales: Scales,
    },
    /// Indices into tables of typical values.
    Table {
        /// Bits of an index.
        bits: u8,
        /// What shares a table: `None` for the whole weight, or so many neighbouring channels.
        channels: Option<(Side, u32)>,
    },
}

/// What shares a scale.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scales {
    /// The whole weight.
    Tensor,
    /// What makes one output channel.
    Channel,
    /// So many output channels by so many input channels, with the whole of their kernels.
    Blocks {
        /// Output channels.
        output: u32,
        /// Input channels.
        input: u32,
    },
}

/// Channels that a layer makes, or reads.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Output channels; the rows of an embedding.
    #[default]
    Output,
    /// Input channels; what a row of an embedding holds.
    Input,
}

impl Compression {
    /// The configuration of core's quantizer.
    pub fn config(&self) -> WeightConfig {
        let this = self.clone();
        WeightConfig::Chosen(Chooser::new(move |weight| this.choose(weight)))
    }

    fn choose(&self, weight: &Weight<'_>) -> Choice {
        let shape = weight.shape().ok_or("the size of its weight is open")?;
        let elements: usize = shape.iter().product();
        if elements <= self.threshold {
            let limit = self.threshold;
            return Err(format!(
                "its weight has {elements} elements; up to {limit} stay in floating point (option weight-threshold)"
            ));
        }
        match self.form {
            Form::Integers { bits, mapping, scales } => integers(weight, &shape, bits, mapping, scales),
            Form::Table { bits, channels } => table(weight, &shape, bits, channels),
        }
    }
}

fn integers(weight: &Weight<'_>, shape: &[usize], bits: u8, mapping: Mapping, scales: Scales) -> Choice {
    let spec = |bits, blocks| {
        let intx = Intx { bits, mapping, ..Intx::default() };
        intx.with_blocks(weight.ty.dtype, blocks).map(Spec::from)
    };
    let channel = Blocks::Axis(weight.output_axis);
    let (output, input) = match scales {
        Scales::Tensor => return Ok((spec(bits, Blocks::Tensor)?, None)),
        Scales::Channel => return Ok((spec(bits, channel)?, None)),
        Scales::Blocks { output, input } => (output, input),
    };
    match blocks(weight, shape, output, input) {
        Ok(blocks) => Ok((spec(bits, blocks)?, None)),
        Err(why) => {
            Ok((spec(8, channel)?, Some(format!("{why}; its weight takes 8 bits, a scale a channel"))))
        }
    }
}

/// Blocks of whole kernels, or why they do not fit.
fn blocks(weight: &Weight<'_>, shape: &[usize], output: u32, input: u32) -> Result<Blocks, String> {
    let mut block = shape.iter().map(|&n| n as u32).collect::<Vec<_>>();
    for (axis, size, what) in [(weight.output_axis, output, "output"), (weight.input_axis, input, "input")] {
        let n = shape[axis as usize];
        if !n.is_multiple_of(size as usize) {
            return Err(format!("its {n} {what} channels are no multiple of the group of {size}"));
        }
        block[axis as usize] = size;
    }
    match block[..] {
        [1, group] => Some(Blocks::Group(group)),
        // Blocks name four dimensions, and take one index of any before them.
        [1, ref rest @ ..] if rest.len() == 4 => Blocks::sizes(rest),
        ref all => Blocks::sizes(all),
    }
    .ok_or_else(|| "blocks over its five dimensions cannot be written".into())
}

fn table(weight: &Weight<'_>, shape: &[usize], bits: u8, channels: Option<(Side, u32)>) -> Choice {
    let spec = |granularity| Codebook::new(bits, granularity).map(Spec::Codebook).map_err(|e| e.to_string());
    let Some((side, size)) = channels else { return Ok((spec(Granularity::Tensor)?, None)) };
    let (axis, what) = match side {
        Side::Output => (weight.output_axis, "output"),
        Side::Input => (weight.input_axis, "input"),
    };
    match shape[axis as usize] {
        n if n.is_multiple_of(size as usize) => {
            Ok((spec(Granularity::Blocks(Blocks::Channels { axis, size }))?, None))
        }
        n => {
            let why =
                format!("its {n} {what} channels are no multiple of the group of {size}; it has one table");
            Ok((spec(Granularity::Tensor)?, Some(why)))
        }
    }
}
