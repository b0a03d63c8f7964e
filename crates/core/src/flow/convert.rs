//! `convert`: observed sites become explicit quantize and dequantize nodes; quantized weights become constants.

use super::Error;
use super::prepare::Prepared;
use super::sites::{SiteParams, site_table};
use crate::dtype::DType;
use crate::executor::Executor;
use crate::ir::{Arg, ConstKind, NewNode, NodeId, NodeWriter, Program, Use, ValueId, verify};
use crate::ops;
use crate::passes::{DeadCode, IntegerArithmetic, Pass, PassError, Pipeline};
use crate::quant::{Granularity, Mapping, QParams, QuantSpec, Site, Spec, block_counts};
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A program that computes as the quantized device does, in ordinary operators.
#[derive(Debug)]
pub struct Converted {
    /// The quantized program. Values that the prepared program had keep their ids.
    pub program: Program,
    /// The prepared program, in floating point: batch norms folded, values under the same ids.
    pub reference: Program,
    /// Every quantized site with its parameters.
    pub sites: Vec<SiteParams>,
    /// The node that each quantize, dequantize and choose-parameters node belongs to, and whose module it is in: the one that
    /// makes the value, or the annotated one that reads it where it is quantized or dequantized for that reader alone
    /// (torchao's `PortNodeMetaForQDQ`). Values that no node makes belong to their first reader.
    pub sources: BTreeMap<NodeId, NodeId>,
    /// Calibration samples.
    pub samples: usize,
    /// Why nodes were left in floating point, by name, where the quantizer said.
    pub reasons: BTreeMap<String, String>,
    /// Why nodes are quantized in another way than they were configured, by name.
    pub remarks: BTreeMap<String, String>,
    pub(super) dynamic: BTreeMap<NodeId, Vec<usize>>,
}

/// What [`Prepared::convert_with`] quantizes here and now instead of writing quantize nodes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Fold {
    /// Nothing: weights stay in floating point, with quantize nodes behind them (`fold_quantize=False`).
    Nothing,
    /// Constants, and what is computed from constants alone.
    #[default]
    Constants,
    /// These, and buffers that the program overwrites, where all that is read from and written to one are the same integers:
    /// the caches of attention then hold integers (`fold_quantize_into_mutable_buffers`).
    ConstantsAndBuffers,
}

/// How [`Prepared::convert_with`] converts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvertOptions {
    /// What is quantized here and now.
    pub fold: Fold,
    /// Write what a device computes, in integers, instead of operators between dequantize and quantize nodes
    /// (`use_reference_representation`); see [`IntegerArithmetic`]. Backends do not know layers in this form.
    pub integers: bool,
}

impl From<Fold> for ConvertOptions {
    fn from(fold: Fold) -> Self {
        ConvertOptions { fold, ..Self::default() }
    }
}

impl Prepared {
    /// Converts. Weights are quantized here and now; `executor` computes what is made of constants alone.
    ///
    /// # Errors
    /// [`Error::Unobserved`] lists the sites whose observers saw no data.
    pub fn convert(self, executor: &dyn Executor) -> Result<Converted, Error> {
        self.convert_with(executor, ConvertOptions::default())
    }

    /// As [`convert`](Self::convert), with options.
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    pub fn convert_with(
        mut self,
        executor: &dyn Executor,
        options: impl Into<ConvertOptions>,
    ) -> Result<Converted, Error> {
        let ConvertOptions { fold, integers } = options.into();
        let constants = self.observe_weights(executor)?;
        let params = self.qparams()?;
        let sites = site_table(&self, &params);
        let left = |n| self.annotations.reason(n).filter(|_| !self.annotations.is_claimed(n));
        let (reasons, remarks) = (by_name(&self, left), by_name(&self, |n| self.annotations.remarked(n)));
        let sources = BTreeMap::new();
        let mut out = Rewriter {
            program: self.program.clone(),
            prepared: &self,
            params: &params,
            constants,
            fold,
            sources,
        };
        out.run()?;
        let Rewriter { mut program, mut sources, .. } = out;
        if fold == Fold::ConstantsAndBuffers {
            super::buffers::fold(&mut program)?;
        }
        let dead = DeadCode;
        dead.run(&mut program).map_err(|reason| PassError::Failed { pass: dead.name(), reason })?;
        verify(&program).map_err(|errors| PassError::Invalid { pass: "convert", errors })?;
        if integers {
            Pipeline::run_one(&IntegerArithmetic, &mut program)?;
        }
        let alive: BTreeSet<NodeId> = program.graph.nodes().collect();
        sources.retain(|n, _| alive.contains(n));
        Ok(Converted {
            program,
            sources,
            sites,
            samples: self.samples(),
            reasons,
            remarks,
            dynamic: self.dynamic,
            reference: self.program,
        })
    }
}

/// What is said of nodes, by their names.
fn by_name<'a>(p: &'a Prepared, said: impl Fn(NodeId) -> Option<&'a str>) -> BTreeMap<String, String> {
    let g = &p.program.graph;
    g.nodes().filter_map(|n| Some((g.node(n).name.to_string(), said(n)?.to_string()))).collect()
}

/// Inserts q/dq nodes.
pub(super) struct Rewriter<'a> {
    pub(super) program: Program,
    prepared: &'a Prepared,
    params: &'a [Option<Arc<QParams>>],
    /// Values made of constants alone.
    pub(super) constants: BTreeMap<ValueId, Tensor>,
    fold: Fold,
    sources: BTreeMap<NodeId, NodeId>,
}

impl Rewriter<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let before = &self.prepared.program;
        let g = &before.graph;
        let constants = before.constants.iter().map(|(_, c)| c.value);
        let made = g.nodes().flat_map(|n| g.node(n).outputs().iter().copied());
        let values: Vec<ValueId> = g.inputs().iter().copied().chain(constants).chain(made).collect();
        for v in values {
            self.value(v)?;
        }
        Ok(())
    }

    /// Quantizes one value: where it is made, and where single operands read it with parameters of their own.
    fn value(&mut self, v: ValueId) -> Result<(), Error> {
        let before = &self.prepared.program;
        let groups = &self.prepared.groups;
        let uses = before.graph.value(v).uses().to_vec();
        let own = groups.of(Site::Output(v));
        let mut current = v;
        if let Some(group) = own {
            // As in torchao, an annotated reader owns what dequantizes for it, and nobody else does.
            let annotated = |u: &Use| self.prepared.annotations.is_claimed(u.node);
            let all = !before.graph.is_output(v) && uses.iter().all(annotated);
            let first = uses.first().filter(|_| all).map(|u| u.node);
            if let Some(written) = self.own_nodes(v, group, None)? {
                current = written;
            } else {
                let q = self.quantize(v, group, None)?;
                current = self.dequantize(q, group, first)?;
                self.duplicate(q, group, &uses)?;
            }
            // All other readers, the program's outputs included, now read what the integers stand for.
            for u in uses
                .iter()
                .filter(|u| self.program.graph.operand(**u) == Some(v))
                .copied()
                .collect::<Vec<_>>()
            {
                self.program.graph.redirect(u, current);
            }
            let outputs = self.program.graph.outputs().iter().map(|&o| if o == v { current } else { o });
            let outputs = outputs.collect();
            self.program.graph.set_outputs(outputs);
        }
        // Operands whose parameters differ from the value's own: a second pair behind the first.
        let mut by_group: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
        for u in uses {
            if let Some(g) = groups.of(Site::Input(u)).filter(|g| Some(*g) != own) {
                by_group.entry(g).or_default().push(u);
            }
        }
        // A weight that is computed from constants is quantized here and now, whatever it is quantized to elsewhere.
        let float = if self.folded(v).is_some() { v } else { current };
        for (group, uses) in by_group {
            let reader = Some(uses[0].node);
            if let Some(written) = self.own_nodes(float, group, reader)? {
                uses.into_iter().for_each(|u| self.program.graph.redirect(u, written));
                continue;
            }
            let q = self.quantize(float, group, reader)?;
            for u in uses {
                let dq = self.dequantize(q, group, Some(u.node))?;
                self.program.graph.redirect(u, dq);
            }
        }
        Ok(())
    }

    /// A value that is quantized here and now.
    pub(super) fn folded(&self, v: ValueId) -> Option<&Tensor> {
        self.constants.get(&v).filter(|_| self.fold != Fold::Nothing)
    }

    /// The nodes of a spec without scales, or of an observer that writes its own.
    fn own_nodes(
        &mut self,
        v: ValueId,
        group: usize,
        reader: Option<NodeId>,
    ) -> Result<Option<ValueId>, Error> {
        let owner = self.owner(v, reader);
        match self.prepared.groups.groups[group].spec {
            Spec::Cast(dtype) => return self.cast(v, dtype, owner).map(Some),
            Spec::Codebook(codebook) => return self.look_up(v, codebook, owner).map(Some),
            _ => {}
        }
        let Some(observer) = &self.prepared.observers[group] else { return Ok(None) };
        let mut nodes = NodeWriter::behind(&mut self.program, v, owner);
        let Some(written) = observer.write(v, &mut nodes) else { return Ok(None) };
        let made = nodes.made();
        self.sources.extend(made.into_iter().filter_map(|n| Some((n, owner?))));
        written.map(Some).map_err(|e| self.broken(v, e))
    }

    /// A dequantize of its own for every annotated reader (torchao's `DuplicateDQPass`), so that backends can take each
    /// operator with its inputs.
    fn duplicate(&mut self, q: Quantized, group: usize, uses: &[Use]) -> Result<(), Error> {
        let annotated = |u: &Use| self.prepared.annotations.is_claimed(u.node);
        let readers: Vec<Use> = uses.iter().copied().filter(annotated).collect();
        // The first reader may keep the shared one if nobody else is left with it.
        let before = &self.prepared.program.graph;
        let all = uses.len() + usize::from(before.is_output(q.float));
        let spared = usize::from(all == readers.len());
        for u in readers.into_iter().skip(spared) {
            let dq = self.dequantize(q, group, Some(u.node))?;
            self.program.graph.redirect(u, dq);
        }
        Ok(())
    }

    /// The integers of `v`: a constant where `v` is one, a node otherwise.
    fn quantize(&mut self, v: ValueId, group: usize, reader: Option<NodeId>) -> Result<Quantized, Error> {
        let Some(params) = self.params[group].clone() else { return self.quantize_dynamic(v, group, reader) };
        let quantized = |t: &Tensor| {
            let ints = params.quantize(t);
            t.release();
            ints
        };
        let ints = self.folded(v).map(quantized).transpose();
        let ints = ints.map_err(|e| self.failed(v, e.0))?;
        if ints.is_none() && params.zero_point.iter().any(|z| z.fract() != 0.0) {
            return Err(self.failed(v, "fractional zero points are for constants, which are folded"));
        }
        let scales = self.scales(&params, v, ints.is_none())?;
        if let Some(t) = ints {
            let value = self.constant(v, "quantized", ConstKind::Tensor, t);
            return Ok(Quantized { value, float: v, scales });
        }
        let [min, max, dtype] = range_args(&params);
        let (op, args) = match scales {
            Scales::Literal(s, z) => {
                (&ops::QUANTIZE_PER_TENSOR, vec![v.into(), Arg::Float(s), z.into(), min, max, dtype])
            }
            Scales::Channel(s, z, axis) => {
                (&ops::QUANTIZE_PER_CHANNEL, vec![v.into(), s.into(), z.into(), axis.into(), min, max, dtype])
            }
            Scales::Blocks(s, z) => (
                &ops::QUANTIZE_AFFINE,
                vec![v.into(), self.block(group, v)?, s.into(), z.into(), dtype, min, max],
            ),
            Scales::Dynamic(..) => return Err(self.failed(v, "these parameters are known")),
        };
        let n = self.insert(NewNode::new(op, args), v, self.owner(v, reader))?;
        Ok(Quantized { value: self.program.graph.node(n).output(), float: v, scales })
    }

    /// Where the scales and zero points of `v` are. Those of channels are f64 if `wide`, as ExecuTorch's kernel that quantizes
    /// by channels wants them.
    fn scales(&mut self, params: &QParams, v: ValueId, wide: bool) -> Result<Scales, Error> {
        let whole = || params.zero_point.iter().map(|&z| z as i64).collect::<Vec<_>>();
        let f32s = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let n = params.scale.len();
        let (scale, zero) = match params.granularity {
            Granularity::Tensor => return Ok(Scales::Literal(params.scale[0], whole()[0])),
            Granularity::Channel { .. } => {
                let scale = match wide {
                    true => Tensor::new(&[n], params.scale.clone()),
                    false => Tensor::new(&[n], f32s(&params.scale)),
                };
                let fractions = params.zero_point.iter().any(|z| z.fract() != 0.0);
                let zero = match fractions {
                    true => Tensor::new(&[n], f32s(&params.zero_point)),
                    false => Tensor::new(&[n], whole()),
                };
                (scale, zero)
            }
            Granularity::Blocks(_) => {
                let shape = &self.program.graph.ty(v).shape;
                let block = params.granularity.block_sizes(shape).map_err(|e| self.failed(v, e))?;
                let counts: Option<Vec<usize>> = block_counts(shape, &block)
                    .iter()
                    .map(|n| n.known().and_then(|n| usize::try_from(n).ok()))
                    .collect();
                let counts = counts.filter(|c| c.iter().product::<usize>() == n).ok_or_else(|| {
                    self.failed(
                        v,
                        format!("{n} scales do not fit a value of open size; quantize it dynamically"),
                    )
                })?;
                let of = |dtype: Option<DType>, x: &[f64]| match dtype.unwrap_or(DType::F32) {
                    DType::F64 => Tensor::new(&counts, x.to_vec()),
                    DType::I64 => Tensor::new(&counts, x.iter().map(|&x| x as i64).collect()),
                    DType::I32 => Tensor::new(&counts, x.iter().map(|&x| x as i32).collect()),
                    DType::I16 => Tensor::new(&counts, x.iter().map(|&x| x as i16).collect()),
                    DType::I8 => Tensor::new(&counts, x.iter().map(|&x| x as i8).collect()),
                    DType::U8 => Tensor::new(&counts, x.iter().map(|&x| x as u8).collect()),
                    float => Tensor::from_f32(float, &counts, &f32s(x)),
                };
                (of(params.types.scale, &params.scale), of(params.types.zero_point, &params.zero_point))
            }
        };
        let tensors = scale.and_then(|s| Ok((s, zero?)));
        let (s, z) = tensors.map_err(|e| self.failed(v, e.to_string()))?;
        let s = self.constant(v, "scale", ConstKind::Buffer, s);
        let z = self.constant(v, "zero_point", ConstKind::Buffer, z);
        Ok(match params.granularity {
            Granularity::Channel { axis } => Scales::Channel(s, z, i64::from(axis)),
            _ => Scales::Blocks(s, z),
        })
    }

    /// A constant named after `v`.
    pub(super) fn constant(&mut self, v: ValueId, suffix: &str, kind: ConstKind, t: Tensor) -> ValueId {
        let name = match self.program.constant(v) {
            Some(c) => format!("{}_{suffix}", c.name),
            None => format!("{}_{suffix}", self.program.graph.value(v).name),
        };
        self.program.add_constant(&name, kind, t)
    }

    /// The size of a block in each dimension of `v`.
    fn block(&self, group: usize, v: ValueId) -> Result<Arg, Error> {
        let granularity = match &self.params[group] {
            Some(p) => p.granularity,
            None => self.spec(group, v)?.scheme.granularity,
        };
        let shape = &self.program.graph.ty(v).shape;
        granularity.block_sizes(shape).map(Arg::Ints).map_err(|e| self.failed(v, e))
    }

    /// Parameters chosen from the value itself, each time.
    fn quantize_dynamic(
        &mut self,
        v: ValueId,
        group: usize,
        reader: Option<NodeId>,
    ) -> Result<Quantized, Error> {
        let spec = self.spec(group, v)?;
        let r = spec.range;
        let [min, max, dtype]: [Arg; 3] = [r.min().into(), r.max().into(), r.dtype().into()];
        let optional = |t: Option<DType>| t.map_or(Arg::None, Arg::from);
        let blocks = matches!(spec.scheme.granularity, Granularity::Blocks(_));
        let new = match (spec.scheme.granularity, spec.scheme.mapping) {
            (Granularity::Blocks(_), mapping) => {
                let mapping = match mapping {
                    Mapping::Affine => "ASYMMETRIC",
                    Mapping::Symmetric => "SYMMETRIC",
                    Mapping::SymmetricNoClipping => "SYMMETRIC_NO_CLIPPING_ERR",
                    Mapping::AffineFloat => return Err(self.failed(v, NO_FRACTIONS)),
                };
                let (scale, zero) = (optional(spec.types.scale), optional(spec.types.zero_point));
                let block = self.block(group, v)?;
                let (min, max, dtype) = (min.clone(), max.clone(), dtype.clone());
                let eps = Arg::Float(spec.eps);
                let args = [v.into(), mapping.into(), block, dtype, min, max, eps, scale, zero];
                NewNode::new(&ops::CHOOSE_QPARAMS_AFFINE, args)
            }
            (Granularity::Tensor, Mapping::Affine | Mapping::Symmetric) => {
                let op = match spec.scheme.mapping {
                    Mapping::Affine => &ops::CHOOSE_QPARAMS,
                    _ => &ops::CHOOSE_QPARAMS_SYMMETRIC,
                };
                let (min, max, dtype) = (min.clone(), max.clone(), dtype.clone());
                NewNode::new(op, [v.into(), min, max, Arg::Float(spec.eps), dtype])
            }
            (_, Mapping::AffineFloat) => return Err(self.failed(v, NO_FRACTIONS)),
            (granularity, _) => {
                let why =
                    format!("{granularity:?} is not chosen at run time; use blocks, or the whole tensor");
                return Err(self.failed(v, why));
            }
        };
        let chosen = self.insert(new, v, self.owner(v, reader))?;
        let &[s, z] = self.program.graph.node(chosen).outputs() else {
            return Err(self.failed(v, "the choice of parameters has two results"));
        };
        let new = match blocks {
            true => {
                let args = [v.into(), self.block(group, v)?, s.into(), z.into(), dtype, min, max];
                NewNode::new(&ops::QUANTIZE_AFFINE, args)
            }
            false => NewNode::new(
                &ops::QUANTIZE_PER_TENSOR_TENSOR,
                [v.into(), s.into(), z.into(), min, max, dtype],
            ),
        };
        let n = self.insert(new, s, self.owner(v, reader))?;
        let scales = if blocks { Scales::Blocks(s, z) } else { Scales::Dynamic(s, z) };
        Ok(Quantized { value: self.program.graph.node(n).output(), float: v, scales })
    }

    fn dequantize(&mut self, q: Quantized, group: usize, reader: Option<NodeId>) -> Result<ValueId, Error> {
        let range = match &self.params[group] {
            Some(p) => p.range,
            None => self.spec(group, q.float)?.range,
        };
        let [min, max, dtype]: [Arg; 3] = [range.min().into(), range.max().into(), range.dtype().into()];
        let (op, mut args) = match q.scales {
            Scales::Literal(s, z) => {
                (&ops::DEQUANTIZE_PER_TENSOR, vec![q.value.into(), Arg::Float(s), z.into(), min, max, dtype])
            }
            Scales::Channel(s, z, axis) => {
                let args = vec![q.value.into(), s.into(), z.into(), axis.into(), min, max, dtype];
                (&ops::DEQUANTIZE_PER_CHANNEL, args)
            }
            Scales::Dynamic(s, z) => {
                let args = vec![q.value.into(), s.into(), z.into(), min, max, dtype];
                (&ops::DEQUANTIZE_PER_TENSOR_TENSOR, args)
            }
            Scales::Blocks(s, z) => {
                let block = self.block(group, q.float)?;
                (&ops::DEQUANTIZE_AFFINE, vec![q.value.into(), block, s.into(), z.into(), dtype, min, max])
            }
        };
        // Every one of these operators makes f32 unless told otherwise.
        let float = self.program.graph.ty(q.float).dtype;
        if float != DType::F32 {
            args.push(float.into());
        }
        let n = self.insert(NewNode::new(op, args), q.value, self.owner(q.float, reader))?;
        Ok(self.program.graph.node(n).output())
    }

    fn spec(&self, group: usize, v: ValueId) -> Result<QuantSpec, Error> {
        match &self.prepared.groups.groups[group].spec {
            Spec::Observed(s) => Ok(s.clone()),
            _ => Err(self.failed(v, "only observed specs are dynamic")),
        }
    }

    /// The node that q/dq nodes of `v` belong to: the one reader they serve, or what makes `v`, or its first reader.
    fn owner(&self, v: ValueId, reader: Option<NodeId>) -> Option<NodeId> {
        let first = || self.prepared.program.graph.value(v).uses().first().map(|u| u.node);
        reader.or_else(|| self.program.graph.producer(v)).or_else(first)
    }

    /// Inserts a node right behind the one that makes `v`, or in front of everything.
    pub(super) fn insert(
        &mut self,
        new: NewNode,
        v: ValueId,
        owner: Option<NodeId>,
    ) -> Result<NodeId, Error> {
        let n = NodeWriter::behind(&mut self.program, v, owner).node(new);
        let n = n.map_err(|e| self.broken(v, e))?;
        self.sources.extend(owner.map(|o| (n, o)));
        Ok(n)
    }

    fn broken(&self, v: ValueId, e: ops::InferError) -> Error {
        self.failed(v, e.message)
    }

    pub(super) fn failed(&self, v: ValueId, reason: impl Into<String>) -> Error {
        Error::Fold { value: self.program.graph.value(v).name.to_string(), reason: reason.into() }
    }
}

const NO_FRACTIONS: &str = "fractional zero points are for constants, not chosen at run time";

/// Minimum, maximum and element type, as every q/dq operator takes them.
fn range_args(p: &QParams) -> [Arg; 3] {
    [p.range.min().into(), p.range.max().into(), p.range.dtype().into()]
}

/// Integers, what they were made of, and where their scales are.
#[derive(Copy, Clone)]
struct Quantized {
    value: ValueId,
    float: ValueId,
    scales: Scales,
}

#[derive(Copy, Clone)]
enum Scales {
    Literal(f64, i64),
    Channel(ValueId, ValueId, i64),
    /// Of the whole tensor, chosen at run time.
    Dynamic(ValueId, ValueId),
    /// Known, or chosen at run time.
    Blocks(ValueId, ValueId),
}
