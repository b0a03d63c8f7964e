//! `convert`: observed sites become explicit quantize and dequantize nodes; quantized weights become constants.

use super::Error;
use super::prepare::Prepared;
use crate::dtype::DType;
use crate::executor::Executor;
use crate::ir::{Arg, ConstKind, Def, ModuleStack, NewNode, NodeId, Program, Use, ValueId, verify};
use crate::ops;
use crate::passes::{DeadCode, Pass, PassError};
use crate::quant::{Granularity, QParams, QuantSpec, Site, Spec};
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// A program that computes as the quantized device does, in ordinary operators.
#[derive(Debug)]
pub struct Converted {
    /// The quantized program. Values that the prepared program had keep their ids.
    pub program: Program,
    /// The prepared program, in floating point: batch norms folded, values under the same ids.
    pub reference: Program,
    /// Every quantized site with its parameters.
    pub sites: Vec<SiteParams>,
    /// Calibration samples.
    pub samples: usize,
    /// Why nodes were left in floating point, by name, where the quantizer said.
    pub reasons: BTreeMap<String, String>,
    pub(super) dynamic: BTreeMap<NodeId, Vec<usize>>,
}

/// One quantized site.
#[derive(Clone, Debug)]
pub struct SiteParams {
    /// Name of the value.
    pub value: String,
    /// The node and operand that read it; `None` where it is quantized for all readers.
    pub user: Option<(String, u32)>,
    /// Range and granularity.
    pub spec: SiteSpec,
    /// Scales and zero points; `None` when the device chooses them at run time.
    pub params: Option<QParams>,
    /// The observer's name.
    pub observer: String,
    /// The rule that annotated it.
    pub rule: String,
}

/// Range and granularity of a site.
#[derive(Copy, Clone, Debug)]
pub struct SiteSpec {
    /// The integers.
    pub range: crate::quant::QRange,
    /// What shares a scale.
    pub granularity: Granularity,
}

impl Prepared {
    /// Converts. Weights are quantized here and now; `executor` computes what is made of constants alone.
    ///
    /// # Errors
    /// [`Error::Unobserved`] lists the sites whose observers saw no data.
    pub fn convert(mut self, executor: &dyn Executor) -> Result<Converted, Error> {
        let constants = self.observe_weights(executor)?;
        let params = self.qparams()?;
        let sites = site_table(&self, &params);
        let reasons = self
            .program
            .graph
            .nodes()
            .filter_map(|n| {
                let why = self.annotations.reason(n)?;
                Some((self.program.graph.node(n).name.to_string(), why.to_string()))
            })
            .collect();
        let mut out = Rewriter { program: self.program.clone(), prepared: &self, params: &params, constants };
        out.run()?;
        let mut program = out.program;
        let dead = DeadCode;
        dead.run(&mut program).map_err(|reason| PassError::Failed { pass: dead.name(), reason })?;
        verify(&program).map_err(|errors| PassError::Invalid { pass: "convert", errors })?;
        Ok(Converted {
            program,
            sites,
            samples: self.samples(),
            reasons,
            dynamic: self.dynamic,
            reference: self.program,
        })
    }
}

fn site_table(p: &Prepared, params: &[Option<QParams>]) -> Vec<SiteParams> {
    let mut rows = Vec::new();
    for (i, g) in p.groups.groups.iter().enumerate() {
        let spec = match &g.spec {
            Spec::Observed(s) => SiteSpec { range: s.range, granularity: s.scheme.granularity },
            Spec::Fixed(q) => SiteSpec { range: q.range, granularity: q.granularity },
            Spec::Derived { range, scheme, .. } => {
                SiteSpec { range: *range, granularity: scheme.granularity }
            }
            Spec::SharedWith(_) => continue,
        };
        let observer = match (&g.spec, &p.observers[i]) {
            (Spec::Fixed(_), _) => "fixed",
            (Spec::Derived { .. }, _) => "derived",
            (_, Some(o)) => o.name(),
            _ => "none",
        };
        for &site in &g.sites {
            let Some(v) = site.value(&p.program) else { continue };
            let rule = p.annotations.get(site).map_or_else(|| g.rule.to_string(), |a| a.rule.to_string());
            rows.push(SiteParams {
                value: p.program.graph.value(v).name.to_string(),
                user: match site {
                    Site::Input(u) => Some((p.program.graph.node(u.node).name.to_string(), u.slot)),
                    Site::Output(_) => None,
                },
                spec,
                params: params[i].clone(),
                observer: observer.into(),
                rule,
            });
        }
    }
    rows
}

/// Inserts q/dq nodes.
struct Rewriter<'a> {
    program: Program,
    prepared: &'a Prepared,
    params: &'a [Option<QParams>],
    /// Values made of constants alone.
    constants: BTreeMap<ValueId, Tensor>,
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
            let q = self.quantize(v, group, None)?;
            // All readers, the program's outputs included, now read what the integers stand for.
            current = self.dequantize(q, group, None)?;
            self.program.graph.replace_uses(v, current, self.program.graph.producer(q.value));
            if let Some(chain) = q.chain {
                self.program.graph.redirect(Use { node: chain, slot: 0 }, v);
            }
            self.duplicate(q, group, &uses, current)?;
        }
        // Operands whose parameters differ from the value's own: a second pair behind the first.
        let mut by_group: BTreeMap<usize, Vec<Use>> = BTreeMap::new();
        for u in uses {
            if let Some(g) = groups.of(Site::Input(u)).filter(|g| Some(*g) != own) {
                by_group.entry(g).or_default().push(u);
            }
        }
        // A weight that is computed from constants is quantized here and now, whatever it is quantized to elsewhere.
        let float = if self.constants.contains_key(&v) { v } else { current };
        for (group, uses) in by_group {
            let q = self.quantize(float, group, Some(uses[0].node))?;
            for u in uses {
                let dq = self.dequantize(q, group, Some(u.node))?;
                self.program.graph.redirect(u, dq);
            }
        }
        Ok(())
    }

    /// A dequantize of its own for every annotated reader (torchao's `DuplicateDQPass`), so that backends can take each
    /// operator with its inputs.
    fn duplicate(&mut self, q: Quantized, group: usize, uses: &[Use], shared: ValueId) -> Result<(), Error> {
        let annotated = |u: &Use| self.prepared.annotations.is_claimed(u.node);
        let readers: Vec<Use> = uses.iter().copied().filter(annotated).collect();
        let all =
            self.program.graph.value(shared).uses().len() + usize::from(self.program.graph.is_output(shared));
        // The first reader may keep the shared one if nobody else is left with it.
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
        let ints = self.constants.get(&v).map(|t| params.quantize(t)).transpose();
        let ints = ints
            .map_err(|e| Error::Fold { value: self.program.graph.value(v).name.to_string(), reason: e.0 })?;
        let name = self.program.graph.value(v).name.to_string();
        let scales = self.channel_constants(&params, v, ints.is_none())?;
        if let Some(t) = ints {
            let fqn = self.program.constant(v).map_or(name.clone(), |c| c.name.to_string());
            let value = self.program.add_constant(&format!("{fqn}_quantized"), ConstKind::Tensor, t);
            return Ok(Quantized { value, scales, chain: None });
        }
        let mut args = vec![Arg::Value(v)];
        let op = match scales {
            Scales::Channel(s, z, axis) => {
                args.extend([s.into(), z.into(), Arg::from(axis)]);
                &ops::QUANTIZE_PER_CHANNEL
            }
            _ => {
                args.extend([Arg::Float(params.scale[0]), params.zero_point[0].into()]);
                &ops::QUANTIZE_PER_TENSOR
            }
        };
        args.extend(range_args(&params));
        let n = self.insert(NewNode::new(op, args), v, reader)?;
        Ok(Quantized { value: self.program.graph.node(n).output(), scales, chain: None })
    }

    /// Scales and zero points of channels as constants; scales are f64 if `wide`, as ExecuTorch's kernel that quantizes by
    /// channels wants them.
    fn channel_constants(&mut self, params: &QParams, v: ValueId, wide: bool) -> Result<Scales, Error> {
        let axis = match params.granularity {
            Granularity::Tensor => return Ok(Scales::Literal(params.scale[0], params.zero_point[0])),
            Granularity::Channel { axis } => axis,
            other => {
                let name = self.program.graph.value(v).name.to_string();
                return Err(Error::Fold {
                    value: name,
                    reason: format!("{other:?} has no quantize operator here"),
                });
            }
        };
        let name = self
            .program
            .constant(v)
            .map_or(self.program.graph.value(v).name.to_string(), |c| c.name.to_string());
        let n = params.scale.len();
        let scale = match wide {
            true => Tensor::new(&[n], params.scale.clone()),
            false => Tensor::new(&[n], params.scale.iter().map(|s| *s as f32).collect::<Vec<_>>()),
        };
        let tensors = scale.and_then(|s| Ok((s, Tensor::new(&[n], params.zero_point.clone())?)));
        let (s, z) = tensors.map_err(|e| Error::Fold { value: name.clone(), reason: e.to_string() })?;
        let s = self.program.add_constant(&format!("{name}_scale"), ConstKind::Buffer, s);
        let z = self.program.add_constant(&format!("{name}_zero_point"), ConstKind::Buffer, z);
        Ok(Scales::Channel(s, z, i64::from(axis)))
    }

    /// Parameters chosen from the value itself, each time.
    fn quantize_dynamic(
        &mut self,
        v: ValueId,
        group: usize,
        reader: Option<NodeId>,
    ) -> Result<Quantized, Error> {
        let spec = self.spec(group, v)?;
        let choose = match spec.scheme.mapping {
            crate::quant::Mapping::Affine => &ops::CHOOSE_QPARAMS,
            crate::quant::Mapping::Symmetric => &ops::CHOOSE_QPARAMS_SYMMETRIC,
        };
        let (min, max, dtype) = (spec.range.min(), spec.range.max(), spec.range.dtype());
        let args = [Arg::Value(v), min.into(), max.into(), Arg::Float(spec.eps), dtype.into()];
        let chain = self.insert(NewNode::new(choose, args), v, reader)?;
        let (s, z) = match self.program.graph.node(chain).outputs() {
            [s, z] => (*s, *z),
            _ => {
                return Err(Error::Fold { value: "choose_qparams".into(), reason: "has two outputs".into() });
            }
        };
        let args = [Arg::Value(v), s.into(), z.into(), min.into(), max.into(), dtype.into()];
        let new = self.named(NewNode::new(&ops::QUANTIZE_PER_TENSOR_TENSOR, args), v, reader);
        let n = self.program.graph.insert_after(chain, new).map_err(|e| self.broken(v, e))?;
        let value = self.program.graph.node(n).output();
        Ok(Quantized { value, scales: Scales::Dynamic(s, z), chain: Some(chain) })
    }

    fn dequantize(&mut self, q: Quantized, group: usize, reader: Option<NodeId>) -> Result<ValueId, Error> {
        let mut args = vec![Arg::Value(q.value)];
        let op = match q.scales {
            Scales::Literal(s, z) => {
                args.extend([Arg::Float(s), z.into()]);
                &ops::DEQUANTIZE_PER_TENSOR
            }
            Scales::Channel(s, z, axis) => {
                args.extend([s.into(), z.into(), Arg::from(axis)]);
                &ops::DEQUANTIZE_PER_CHANNEL
            }
            Scales::Dynamic(s, z) => {
                args.extend([s.into(), z.into()]);
                &ops::DEQUANTIZE_PER_TENSOR_TENSOR
            }
        };
        match &self.params[group] {
            Some(p) => args.extend(range_args(p)),
            None => {
                let r = self.spec(group, q.value)?.range;
                args.extend([r.min().into(), r.max().into(), r.dtype().into()]);
            }
        }
        let float = self.prepared.groups.groups[group].sites[0]
            .value(&self.prepared.program)
            .map_or(DType::F32, |v| self.prepared.program.graph.ty(v).dtype);
        if float != DType::F32 {
            args.push(float.into());
        }
        let n = self.insert(NewNode::new(op, args), q.value, reader)?;
        Ok(self.program.graph.node(n).output())
    }

    fn spec(&self, group: usize, v: ValueId) -> Result<QuantSpec, Error> {
        match &self.prepared.groups.groups[group].spec {
            Spec::Observed(s) => Ok(s.clone()),
            _ => Err(Error::Fold {
                value: self.program.graph.value(v).name.to_string(),
                reason: "only observed specs are dynamic".into(),
            }),
        }
    }

    /// Right behind the node that makes `v`, or in front of everything. In the module of the reader it serves, or of
    /// the producer.
    fn insert(&mut self, new: NewNode, v: ValueId, reader: Option<NodeId>) -> Result<NodeId, Error> {
        let new = self.named(new, v, reader);
        let placed = match self.program.graph.value(v).def() {
            Def::Node(p, _) => self.program.graph.insert_after(p, new),
            _ => self.program.graph.prepend(new),
        };
        placed.map_err(|e| self.broken(v, e))
    }

    fn named(&self, new: NewNode, v: ValueId, reader: Option<NodeId>) -> NewNode {
        let owner = reader.or_else(|| self.program.graph.producer(v));
        let module = owner.map_or(ModuleStack::default(), |n| self.program.graph.node(n).module.clone());
        new.in_module(&module)
    }

    fn broken(&self, v: ValueId, e: ops::InferError) -> Error {
        Error::Fold { value: self.program.graph.value(v).name.to_string(), reason: e.message }
    }
}

/// Minimum, maximum and element type, as every q/dq operator takes them.
fn range_args(p: &QParams) -> [Arg; 3] {
    [p.range.min().into(), p.range.max().into(), p.range.dtype().into()]
}

/// Integers with where their scales are.
#[derive(Copy, Clone)]
struct Quantized {
    value: ValueId,
    scales: Scales,
    /// The node that chose dynamic parameters: it must go on reading the float value.
    chain: Option<NodeId>,
}

#[derive(Copy, Clone)]
enum Scales {
    Literal(f64, i64),
    Channel(ValueId, ValueId, i64),
    Dynamic(ValueId, ValueId),
}
