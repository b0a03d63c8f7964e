//! `prepare`: annotations become groups with observers.

use super::Error;
use super::calibrate::Watchers;
use crate::executor::{Executor, Watchlist};
use crate::ir::{Key, NodeId, Program, ValueId};
use crate::passes::{FoldBatchNorm, FoldConstants, Pass, PassError, Pipeline, fold_constants};
use crate::quant::{
    Annotations, DeriveRule, Group, Groups, Observer, ObserverError, ObserverState, QParams, QuantError,
    Site, Spec, observer,
};
use crate::quantizer::Quantizer;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A program with observers at its annotated sites. The graph itself is as it was.
#[derive(Debug)]
pub struct Prepared {
    pub(super) program: Program,
    pub(super) annotations: Annotations,
    pub(super) groups: Groups,
    /// One a group; `None` where parameters are fixed or derived.
    pub(super) observers: Vec<Option<Box<dyn Observer>>>,
    /// Readers whose device takes ranges at run time over these dimensions of their input.
    pub(super) dynamic: BTreeMap<NodeId, Vec<usize>>,
    /// Which groups watch a value that changes from run to run.
    pub(super) watch: BTreeMap<ValueId, Watchers>,
    /// Which groups watch a value that only constants feed: looked at once.
    weights: BTreeMap<ValueId, Watchers>,
    weights_seen: bool,
    pub(super) samples: usize,
    /// Values that held something not finite, with the number of such elements.
    pub(super) not_finite: BTreeMap<ValueId, usize>,
}

/// Prepares a program: folds batch norms, lets the quantizer transform and annotate it, and makes observers. With an executor
/// at hand, [`prepare_with`] is better for some quantizers, and the same for the others.
///
/// # Errors
/// When the quantizer refuses, or specs contradict each other.
pub fn prepare(mut program: Program, quantizer: &dyn Quantizer) -> Result<Prepared, Error> {
    let fold = FoldBatchNorm;
    fold.run(&mut program).map_err(|reason| PassError::Failed { pass: fold.name(), reason })?;
    quantizer.transform(&mut program)?;
    let mut annotations = Annotations::default();
    quantizer.annotate(&program, &mut annotations)?;
    quantizer.validate(&program, &annotations)?;
    let mut prepared = Prepared::new(program, annotations)?;
    quantizer.adjust(&mut prepared)?;
    prepared.dynamic = dynamic_readers(&prepared, quantizer);
    Ok(prepared)
}

/// As [`prepare`], for quantizers that want what only constants feed to be computed first, which `executor` does.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(
    mut program: Program,
    quantizer: &dyn Quantizer,
    executor: &dyn Executor,
) -> Result<Prepared, Error> {
    if quantizer.folds_constants() {
        Pipeline::run_one(&FoldConstants { executor }, &mut program)?;
    }
    prepare(program, quantizer)
}

/// Nodes with an input that is quantized at run time, and what shares a range there.
pub(super) fn dynamic_readers(
    prepared: &Prepared,
    quantizer: &dyn Quantizer,
) -> BTreeMap<NodeId, Vec<usize>> {
    let dynamic = |g: &&Group| matches!(&g.spec, Spec::Observed(spec) if spec.dynamic);
    let sites = prepared.groups.groups.iter().filter(dynamic).flat_map(|g| &g.sites);
    let reader = |site: &Site| match site {
        Site::Input(u) => Some((u.node, quantizer.dynamic_dims(&prepared.program, u.node)?)),
        Site::Output(_) => None,
    };
    sites.filter_map(reader).collect()
}

impl Prepared {
    /// Makes groups and observers for annotations that are already there.
    ///
    /// # Errors
    /// When specs contradict each other, or an observer cannot do what its spec asks.
    pub fn new(program: Program, annotations: Annotations) -> Result<Prepared, Error> {
        let groups = Groups::form(&program, &annotations)?;
        let mut observers = Vec::with_capacity(groups.groups.len());
        for g in &groups.groups {
            observers.push(match &g.spec {
                Spec::Observed(spec) => Some(
                    observer::create(spec)
                        .map_err(|e| Annotations::bad_spec(&program, g.sites[0], e.to_string()))?,
                ),
                _ => None,
            });
        }
        let fixed = fold_constants::constant_values(&program);
        let (mut watch, mut weights) = (BTreeMap::new(), BTreeMap::new());
        for (i, g) in groups.groups.iter().enumerate() {
            let Spec::Observed(spec) = &g.spec else { continue };
            for site in &g.sites {
                let bad = |reason: String| Annotations::bad_spec(&program, *site, reason);
                let value = site
                    .value(&program)
                    .ok_or_else(|| bad("there is no such operand; annotate tensors that exist".into()))?;
                let ty = program.graph.ty(value);
                if !ty.dtype.is_float() {
                    return Err(bad(format!("{ty} holds no floats; leave it unannotated")).into());
                }
                spec.scheme.granularity.block_sizes(&ty.shape).map_err(bad)?;
                // Dynamic parameters are chosen by the device: nothing to watch.
                if spec.dynamic {
                    continue;
                }
                let table = if fixed[value.index()] { &mut weights } else { &mut watch };
                let watchers = table.entry(value).or_insert_with(|| Watchers::of(&program, value));
                if !watchers.groups.contains(&i) {
                    watchers.groups.push(i);
                }
            }
        }
        Ok(Prepared {
            program,
            annotations,
            groups,
            observers,
            dynamic: BTreeMap::new(),
            watch,
            weights,
            weights_seen: false,
            samples: 0,
            not_finite: BTreeMap::new(),
        })
    }

    /// The program as it will be quantized: batch norms folded, transformed by the quantizer, still in floating point.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What was annotated.
    pub fn annotations(&self) -> &Annotations {
        &self.annotations
    }

    /// Which sites share parameters.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Settles the parameters of a site and of all that share with it: the inputs and outputs of a program, say, whose
    /// parameters somebody else has fixed. Their observer goes.
    ///
    /// # Errors
    /// When nothing is annotated there.
    pub fn pin(&mut self, site: Site, params: QParams) -> Result<(), QuantError> {
        let Some(group) = self.groups.of(site) else {
            return Err(Annotations::bad_spec(&self.program, site, "is not quantized; annotate it first"));
        };
        self.groups.groups[group].spec = Spec::Fixed(params);
        self.observers[group] = None;
        for table in [&mut self.watch, &mut self.weights] {
            table.values_mut().for_each(|watchers| watchers.groups.retain(|g| *g != group));
            table.retain(|_, watchers| !watchers.groups.is_empty());
        }
        Ok(())
    }

    /// Calibration samples seen so far.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Whether any observer waits for calibration data.
    pub fn needs_data(&self) -> bool {
        !self.watch.is_empty()
    }

    /// The values that observers watch while the program runs, and what they need to see of them.
    pub fn watchlist(&self) -> Watchlist {
        let looks = |g: &usize| self.observers[*g].as_ref().is_some_and(|o| o.needs_elements());
        let (elements, extremes): (Vec<_>, Vec<_>) =
            self.watch.iter().partition(|(_, watchers)| watchers.groups.iter().any(looks));
        let values = |list: Vec<(&ValueId, _)>| list.into_iter().map(|(v, _)| *v).collect();
        Watchlist { elements: values(elements), extremes: values(extremes) }
    }

    /// Values that were not finite during calibration, by name, with the number of such elements. Observers left those
    /// elements out.
    pub fn not_finite(&self) -> Vec<(String, usize)> {
        let describe = |(v, n): (&ValueId, &usize)| (Site::Output(*v).describe(&self.program), *n);
        self.not_finite.iter().map(describe).collect()
    }

    /// What every observer has seen, for a checkpoint or another process.
    pub fn states(&self) -> Vec<ObserverState> {
        self.observers
            .iter()
            .map(|o| match o {
                Some(o) => o.state(),
                None => ObserverState { observer: "none".into(), fields: BTreeMap::new() },
            })
            .collect()
    }

    /// Adds what another calibration of the same prepared program has seen, as if it came after this one.
    ///
    /// # Errors
    /// When the states belong to another program or configuration.
    pub fn merge(&mut self, later: &[ObserverState], samples: usize) -> Result<(), Error> {
        if later.len() != self.observers.len() {
            let (got, want) = (later.len(), self.observers.len());
            return Err(Error::States(format!(
                "{got} observer states for {want} groups; prepare the same program alike"
            )));
        }
        for (i, (o, state)) in self.observers.iter_mut().zip(later).enumerate() {
            if let Some(o) = o {
                let place = || self.groups.groups[i].sites[0].describe(&self.program);
                o.merge(state).map_err(|e| Error::States(format!("{}: {e}", place())))?;
            }
        }
        self.samples += samples;
        Ok(())
    }

    /// Lets observers look at constants, and at what is computed from constants alone, once.
    pub(super) fn observe_weights(
        &mut self,
        executor: &dyn Executor,
    ) -> Result<BTreeMap<ValueId, Tensor>, Error> {
        let mut computed: BTreeSet<ValueId> = BTreeSet::new();
        let mut known: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        // Fixed and derived parameters may stand on constants too: those are needed for folding.
        let fixed = fold_constants::constant_values(&self.program);
        let sites = self.groups.groups.iter().flat_map(|g| &g.sites).filter_map(|s| s.value(&self.program));
        for v in sites.filter(|v| fixed[v.index()]) {
            match self.program.frozen(v) {
                Some(t) => {
                    known.insert(v, t.clone());
                }
                None => {
                    computed.insert(v);
                }
            }
        }
        if !computed.is_empty() {
            let computed: Vec<ValueId> = computed.into_iter().collect();
            let results = fold_constants::evaluate(&self.program, &computed, executor)?;
            known.extend(computed.into_iter().zip(results));
        }
        if !self.weights_seen {
            for (v, Watchers { groups, .. }) in &self.weights {
                let Some(t) = known.get(v) else { continue };
                let x = t.to_f32();
                let x = ndarray::ArrayViewD::from_shape(ndarray::IxDyn(t.shape()), &x)
                    .expect("elements fit the shape");
                for &g in groups {
                    if let Some(o) = &mut self.observers[g] {
                        o.observe(x.view());
                    }
                }
                t.release();
            }
            self.weights_seen = true;
        }
        Ok(known)
    }

    /// The parameters of every group that has any; `None` for dynamic ones.
    ///
    /// # Errors
    /// Lists every site whose observer saw nothing.
    pub(super) fn qparams(&self) -> Result<Vec<Option<Arc<QParams>>>, Error> {
        let mut done: Vec<Option<Option<Arc<QParams>>>> = vec![None; self.groups.groups.len()];
        let mut unobserved = Vec::new();
        for (i, g) in self.groups.groups.iter().enumerate() {
            done[i] = match (&g.spec, &self.observers[i]) {
                (Spec::Observed(s), _) if s.dynamic => Some(None),
                (Spec::Cast(_) | Spec::Codebook(_), _) => Some(None),
                // torchao keeps them in an f32 tensor.
                (Spec::Fixed(p), _) => {
                    let scale = p.scale.iter().map(|s| f64::from(*s as f32)).collect();
                    Some(Some(Arc::new(QParams { scale, ..p.clone() })))
                }
                (Spec::Observed(_), Some(o)) => match o.qparams() {
                    Ok(p) => Some(Some(Arc::new(p))),
                    Err(ObserverError::SawNothing) => {
                        unobserved.extend(g.sites.iter().map(|s| s.describe(&self.program)));
                        Some(None)
                    }
                    Err(e) => {
                        return Err(Annotations::bad_spec(&self.program, g.sites[0], e.to_string()).into());
                    }
                },
                _ => None,
            };
        }
        if !unobserved.is_empty() {
            return Err(Error::Unobserved(unobserved));
        }
        self.fit_biases(&mut done);
        // Derived parameters may stand on derived ones.
        for _ in 0..done.len() {
            for (i, g) in self.groups.groups.iter().enumerate() {
                let (None, Spec::Derived { from, rule, range, scheme }) = (&done[i], &g.spec) else {
                    continue;
                };
                let known = |k: usize| done[k].as_ref()?.as_deref().cloned();
                let sources: Option<Vec<QParams>> =
                    from.iter().map(|s| self.groups.of(*s).and_then(known)).collect();
                if let Some(sources) = sources {
                    done[i] = Some(Some(Arc::new(super::derive::derive(rule, &sources, *range, *scheme))));
                }
            }
        }
        let underived = |i: &usize| done[*i].is_none();
        if let Some(i) = (0..done.len()).find(underived) {
            let reason = "is derived from sites that have no parameters";
            return Err(Annotations::bad_spec(&self.program, self.groups.groups[i].sites[0], reason).into());
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Raises the scales of weights where biases have to fit, before anything is derived from them.
    fn fit_biases(&self, done: &mut [Option<Option<Arc<QParams>>>]) {
        for g in &self.groups.groups {
            let Spec::Derived { from, rule: DeriveRule::FittingBias, range, .. } = &g.spec else { continue };
            let place = |i: usize| from.get(i).and_then(|&s| self.groups.of(s));
            let bias = g.sites[0].value(&self.program).and_then(|v| self.program.frozen(v));
            let (Some(bias), Some(activation), Some(weight)) = (bias, place(0), place(1)) else { continue };
            if let (Some(Some(activation)), Some(Some(weight))) =
                (done[activation].clone(), &mut done[weight])
            {
                super::derive::fit_bias(bias, &activation, Arc::make_mut(weight), *range);
            }
        }
    }
}
