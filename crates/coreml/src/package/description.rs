//! What the caller of a model sees: names, element types and sizes of inputs, outputs and states.

use crate::mil::proto::{
    ArrayFeatureType, EnumeratedShapes, FeatureDescription, FeatureType, Metadata, ModelDescription, Shape,
    ShapeRange, SizeRange, StateFeatureType,
};
use crate::mil::{DType, read::ReadError};

/// A model's border.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Border {
    /// What it takes, in order.
    pub inputs: Vec<Feature>,
    /// What it gives, in order.
    pub outputs: Vec<Feature>,
    /// What it keeps from run to run.
    pub states: Vec<Feature>,
}

/// An input, output or state.
#[derive(Clone, Debug, PartialEq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Its element type: `fp32`, `fp16` or `int32`.
    pub dtype: DType,
    /// Its sizes.
    pub sizes: Sizes,
}

/// The sizes of a feature.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// Always these; of an output, none when they depend on inputs.
    Fixed(Vec<i64>),
    /// Each dimension from its least to its greatest size, if that is bounded; and the shape to prepare for.
    Range(Vec<(u64, Option<u64>)>, Vec<i64>),
    /// One of these, the first by default.
    Enumerated(Vec<Vec<i64>>),
}

/// Numbers of element types in `FeatureTypes.proto`.
static ARRAY_TYPES: &[(DType, i32)] =
    &[(DType::F32, 65568), (DType::F16, 65552), (DType::I32, 131104), (DType::I8, 131080)];

impl Border {
    /// The message.
    pub fn message(&self) -> ModelDescription {
        let all = |l: &[Feature], state| l.iter().map(|f| f.message(state)).collect();
        let tool = [("lowbit", env!("CARGO_PKG_VERSION"))].map(|(k, v)| (k.to_string(), v.to_string()));
        ModelDescription {
            input: all(&self.inputs, false),
            output: all(&self.outputs, false),
            state: all(&self.states, true),
            metadata: Some(Metadata { user_defined: tool.into(), ..Metadata::default() }),
        }
    }

    /// Reads the message.
    ///
    /// # Errors
    /// Names a feature that is no array, or has an unknown element type.
    pub fn read(d: &ModelDescription) -> Result<Border, ReadError> {
        let all = |l: &[FeatureDescription]| l.iter().map(Feature::read).collect::<Result<_, _>>();
        Ok(Border { inputs: all(&d.input)?, outputs: all(&d.output)?, states: all(&d.state)? })
    }
}

impl Feature {
    fn message(&self, state: bool) -> FeatureDescription {
        let code = ARRAY_TYPES.iter().find(|(t, _)| *t == self.dtype).map(|(_, code)| *code);
        let mut array =
            ArrayFeatureType { data_type: code.unwrap_or_default(), ..ArrayFeatureType::default() };
        match &self.sizes {
            Sizes::Fixed(shape) => array.shape = shape.clone(),
            Sizes::Range(ranges, shape) => {
                array.shape = shape.clone();
                let range = |&(lower_bound, upper): &(u64, Option<u64>)| {
                    let upper_bound = upper.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
                    SizeRange { lower_bound, upper_bound }
                };
                array.shape_range = Some(ShapeRange { size_ranges: ranges.iter().map(range).collect() });
            }
            Sizes::Enumerated(shapes) => {
                array.shape = shapes.first().cloned().unwrap_or_default();
                let shapes = shapes.iter().map(|s| Shape { shape: s.clone() }).collect();
                array.enumerated_shapes = Some(EnumeratedShapes { shapes });
            }
        }
        let ty = if state {
            let state = StateFeatureType { array_type: Some(array) };
            FeatureType { multi_array_type: None, state_type: Some(state) }
        } else {
            FeatureType { multi_array_type: Some(array), state_type: None }
        };
        FeatureDescription { name: self.name.clone(), short_description: String::new(), r#type: Some(ty) }
    }

    fn read(f: &FeatureDescription) -> Result<Feature, ReadError> {
        let fail = |reason: &str| ReadError { place: format!("feature {:?}", f.name), reason: reason.into() };
        let ty = f.r#type.clone().unwrap_or_default();
        let array = ty.multi_array_type.or(ty.state_type.and_then(|s| s.array_type));
        let array = array.ok_or_else(|| fail("it is no array"))?;
        let dtype = ARRAY_TYPES.iter().find(|(_, code)| *code == array.data_type).map(|(t, _)| *t);
        let sizes = match (array.enumerated_shapes, array.shape_range) {
            (Some(e), _) => Sizes::Enumerated(e.shapes.into_iter().map(|s| s.shape).collect()),
            (None, Some(r)) => {
                let range = |r: &SizeRange| (r.lower_bound, u64::try_from(r.upper_bound).ok());
                Sizes::Range(r.size_ranges.iter().map(range).collect(), array.shape)
            }
            (None, None) => Sizes::Fixed(array.shape),
        };
        Ok(Feature {
            name: f.name.clone(),
            dtype: dtype.ok_or_else(|| fail("its element type is unknown"))?,
            sizes,
        })
    }
}
