//! `evaluate`: the quantized program against the float one, per output and per node, and task metrics. Streamed: what is
//! kept does not grow with the number of samples.

use super::measure::{Measure, Seen, Sums};
use super::turns::{Stopped, Turns, side_by_side};
use super::{Converted, Error, device_program, fit};
use crate::backend::Lowering;
use crate::executor::{Executor, Session};
use crate::ir::{NodeId, Program, TensorType, ValueId, text};
use crate::passes::{FoldBatchNorm, Pipeline};
use crate::tensor::Tensor;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Samples evaluated.
    pub samples: usize,
    /// Each output by name, against the float program.
    pub outputs: Vec<(String, Measure)>,
    /// Each node's output by node name, against the float program with batch norms folded, in program order.
    pub nodes: Vec<(String, Measure)>,
    /// Metrics by name: `top1`, `float_top1`, `top5`, …; empty without labels.
    pub metrics: BTreeMap<String, f64>,
}

/// Compares programs sample by sample.
#[derive(Debug)]
pub struct Evaluator {
    programs: Programs,
    comparison: Comparison,
}

/// Bytes of values that samples side by side may keep.
const MEMORY: usize = 1 << 30;

/// The programs, loaded.
#[derive(Debug)]
struct Programs {
    /// `None` where the reference computes the same.
    float: Option<Box<dyn Session>>,
    reference: Box<dyn Session>,
    quantized: Box<dyn Session>,
}

impl Programs {
    /// For several samples at once, `most` or fewer; none where that cannot be.
    fn apart(&self, most: usize) -> Vec<Programs> {
        let mut floats = self.float.as_ref().map(|float| float.apart(most).into_iter());
        let rest = self.reference.apart(most).into_iter().zip(self.quantized.apart(most));
        let together = rest.map_while(|(reference, quantized)| {
            let float = match &mut floats {
                Some(floats) => Some(floats.next()?),
                None => None,
            };
            Some(Programs { float, reference, quantized })
        });
        together.collect()
    }
}

/// What is compared, and what was found so far.
#[derive(Debug)]
struct Comparison {
    shared: Vec<Pair>,
    /// Where in `shared` the values of the quantized program are.
    index: BTreeMap<ValueId, usize>,
    /// What the quantized program takes, where that may be of other types than the float one's inputs.
    takes: Option<Vec<TensorType>>,
    names: Vec<String>,
    /// As `shared`.
    nodes: Vec<Mutex<Sums>>,
    /// The most bytes of values that a sample had to keep.
    kept: Mutex<usize>,
    results: Mutex<Results>,
}

/// Sums over the outputs of all samples.
#[derive(Debug)]
struct Results {
    outputs: Vec<Sums>,
    hits: BTreeMap<String, u64>,
    labelled: u64,
    samples: usize,
}

/// One call of the programs.
#[derive(Debug)]
pub struct Sample {
    /// Inputs, as the float program takes them.
    pub inputs: Vec<Tensor>,
    /// Class numbers, one a row of output 0.
    pub labels: Option<Vec<i64>>,
}

/// A value that both programs have.
#[derive(Debug)]
struct Pair {
    reference: ValueId,
    quantized: ValueId,
    /// The name of the node that makes it.
    name: String,
}

impl Evaluator {
    /// Loads the float program and what was made of it.
    ///
    /// # Errors
    /// When the executor cannot run one of them.
    pub fn new(float: &Program, converted: &Converted, executor: &dyn Executor) -> Result<Self, Error> {
        let device = converted.device_program()?;
        let g = &converted.reference.graph;
        let in_device: std::collections::BTreeSet<ValueId> =
            device.graph.nodes().flat_map(|n| device.graph.node(n).outputs().to_vec()).collect();
        let shared = g
            .nodes()
            .flat_map(|n| g.node(n).outputs().iter().map(move |&v| (v, n)))
            .filter(|(v, _)| in_device.contains(v) && g.ty(*v).dtype.is_float())
            .map(|(v, n)| Pair { reference: v, quantized: v, name: g.node(n).name.to_string() })
            .collect();
        let mut folded = float.clone();
        Pipeline::run_one(&FoldBatchNorm, &mut folded)?;
        let other = (!is_same(&folded, &converted.reference)).then_some(float);
        Self::load(other, &converted.reference, &device, shared, executor)
    }

    /// Loads two programs of the same model, as they were read from files. Nodes are compared where both have one of the
    /// same name and type, batch norms folded; `lowering` says how the device quantizes at run time.
    ///
    /// # Errors
    /// [`Error::Models`] when inputs or outputs differ; when the executor cannot run one of the programs.
    pub fn of_programs(
        float: &Program,
        quantized: &Program,
        lowering: &dyn Lowering,
        executor: &dyn Executor,
    ) -> Result<Self, Error> {
        same_border(float, quantized)?;
        let device = device_program(quantized, &|p, n| lowering.dynamic_dims(p, n))?;
        let mut reference = float.clone();
        Pipeline::run_one(&FoldBatchNorm, &mut reference)?;
        let (g, d) = (&reference.graph, &device.graph);
        let by_name: BTreeMap<&str, NodeId> = d.nodes().map(|n| (&*d.node(n).name, n)).collect();
        let mut shared = vec![];
        for n in g.nodes() {
            let node = g.node(n);
            let Some(twin) = by_name.get(&*node.name).map(|n| d.node(*n)) else { continue };
            if twin.op().packet() != node.op().packet() {
                continue;
            }
            for (&reference, &quantized) in node.outputs().iter().zip(twin.outputs()) {
                if g.ty(reference) == d.ty(quantized) && g.ty(reference).dtype.is_float() {
                    shared.push(Pair { reference, quantized, name: node.name.to_string() });
                }
            }
        }
        Self::load(None, &reference, &device, shared, executor)
    }

    /// Loads the float program and another form of it, whose nodes and names are its own: a file for a device, read back.
    /// Outputs alone are compared. Inputs are brought to the types that it takes: see [`fit`].
    ///
    /// # Errors
    /// [`Error::Models`] when the programs do not take and give as many tensors; when the executor cannot run one of them.
    pub fn of_outputs(float: &Program, other: &Program, executor: &dyn Executor) -> Result<Self, Error> {
        let counts = |p: &Program| (p.graph.inputs().len(), p.user_outputs().len());
        let (a, b) = (counts(float), counts(other));
        if a != b {
            return Err(Error::Models(format!(
                "the programs are not of one model: {} inputs and {} outputs in the first, {} and {} in the second",
                a.0, a.1, b.0, b.1
            )));
        }
        let takes = other.graph.inputs().iter().map(|&v| other.graph.ty(v).clone()).collect();
        let mut evaluator = Self::load(None, float, other, vec![], executor)?;
        evaluator.comparison.takes = Some(takes);
        Ok(evaluator)
    }

    fn load(
        float: Option<&Program>,
        reference: &Program,
        device: &Program,
        shared: Vec<Pair>,
        executor: &dyn Executor,
    ) -> Result<Self, Error> {
        let watch: Vec<ValueId> = shared.iter().map(|p| p.reference).collect();
        let watch_device: Vec<ValueId> = shared.iter().map(|p| p.quantized).collect();
        let index = shared.iter().enumerate().map(|(i, p)| (p.quantized, i)).collect();
        let outputs = &reference.signature.outputs;
        let results = Results {
            outputs: vec![Sums::default(); outputs.len()],
            hits: BTreeMap::new(),
            labelled: 0,
            samples: 0,
        };
        Ok(Evaluator {
            programs: Programs {
                float: float.map(|float| executor.load(float, &[])).transpose()?,
                reference: executor.load(reference, &watch)?,
                quantized: executor.load(device, &watch_device)?,
            },
            comparison: Comparison {
                names: outputs.iter().map(|n| n.to_string()).collect(),
                nodes: shared.iter().map(|_| Mutex::default()).collect(),
                shared,
                index,
                kept: Mutex::new(0),
                takes: None,
                results: Mutex::new(results),
            },
        })
    }

    /// Runs one sample through all programs. `labels`: class numbers, one a row of output 0.
    ///
    /// # Errors
    /// When inputs or labels do not fit.
    pub fn add(&mut self, inputs: &[Tensor], labels: Option<&[i64]>) -> Result<(), Error> {
        self.comparison.add(&mut self.programs, inputs, labels, &|_, f| f())
    }

    /// Runs all samples, several at once where the sessions have several threads. Sums are made in the order of samples, so that
    /// they are the same.
    ///
    /// # Errors
    /// [`Stopped`]: a sample could not be had, or failed as in [`add`](Self::add).
    pub fn add_all<E>(
        &mut self,
        mut samples: impl Iterator<Item = Result<Sample, E>>,
    ) -> Result<(), Stopped<E>> {
        let Evaluator { programs, comparison } = self;
        let alone = |programs: &mut Programs, number: usize, sample: Result<Sample, E>| {
            let Sample { inputs, labels } = sample.map_err(Stopped::Source)?;
            comparison
                .add(programs, &inputs, labels.as_deref(), &|_, f| f())
                .map_err(|error| Stopped::Sample { number, error })
        };
        // What all sessions share is made ready by the first run.
        let Some(first) = samples.next() else { return Ok(()) };
        alone(programs, 0, first)?;
        // Each sample keeps what it has seen of the one program until the other has made it too.
        let kept = *comparison.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let apart = programs.apart(MEMORY / kept.max(1));
        if apart.len() < 2 {
            return samples.enumerate().try_for_each(|(i, sample)| alone(programs, 1 + i, sample));
        }
        // Behind the nodes come the outputs.
        let turns = Turns::new(vec![1; comparison.nodes.len() + 1]);
        let run = |programs: &mut Programs, number: usize, sample: Sample| {
            comparison.add(programs, &sample.inputs, sample.labels.as_deref(), &|item, f| {
                turns.take(item, number, f);
            })
        };
        side_by_side(apart, &turns, samples, run).map(drop).map_err(|stopped| stopped.after(1))
    }

    /// What was found so far.
    pub fn finish(self) -> Evaluation {
        let Comparison { shared, names, nodes, results, .. } = self.comparison;
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let metric = |(name, hits): (String, u64)| (name, hits as f64 / results.labelled.max(1) as f64);
        let nodes = nodes.into_iter().map(|sums| sums.into_inner().unwrap_or_else(PoisonError::into_inner));
        Evaluation {
            samples: results.samples,
            outputs: names.into_iter().zip(results.outputs.iter().map(Sums::measure)).collect(),
            nodes: shared
                .iter()
                .zip(nodes)
                .filter(|(_, s)| !s.is_empty())
                .map(|(p, s)| (p.name.clone(), s.measure()))
                .collect(),
            metrics: results.hits.into_iter().map(metric).collect(),
        }
    }
}

impl Comparison {
    /// Runs one sample; `turn` does something with a node, or with what comes behind the nodes, in the order of samples.
    fn add(
        &self,
        programs: &mut Programs,
        inputs: &[Tensor],
        labels: Option<&[i64]>,
        turn: &dyn Fn(usize, &mut dyn FnMut()),
    ) -> Result<(), Error> {
        let mut seen: BTreeMap<ValueId, Seen> = BTreeMap::new();
        let reference = programs.reference.run(inputs, &mut |v, t| {
            seen.insert(v, Seen::new(&t.view));
        })?;
        let bytes: usize = seen.values().map(Seen::bytes).sum();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = bytes.max(*kept);
        drop(kept);
        let float = match &mut programs.float {
            Some(float) => float.run(inputs, &mut |_, _| {})?,
            None => reference,
        };
        let fitted = match &self.takes {
            None => None,
            Some(types) => {
                let fitted =
                    inputs.iter().zip(types).map(|(t, ty)| fit(t, ty)).collect::<Result<Vec<_>, _>>();
                Some(fitted.map_err(Error::Models)?)
            }
        };
        let actual = programs.quantized.run(fitted.as_deref().unwrap_or(inputs), &mut |v, t| {
            let Some(&i) = self.index.get(&v) else { return };
            let Some(r) = seen.remove(&self.shared[i].reference) else { return };
            turn(i, &mut || {
                self.nodes[i].lock().unwrap_or_else(PoisonError::into_inner).compare(&r, &t.view)
            });
        })?;
        let mut done = Ok(());
        turn(self.nodes.len(), &mut || {
            let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            done = results.add(&float, &actual, labels);
        });
        done
    }
}

impl Results {
    fn add(&mut self, float: &[Tensor], actual: &[Tensor], labels: Option<&[i64]>) -> Result<(), Error> {
        for (i, (sums, (r, a))) in self.outputs.iter_mut().zip(float.iter().zip(actual)).enumerate() {
            if r.numel() != a.numel() {
                let (r, a) = (r.shape(), a.shape());
                return Err(Error::Models(format!(
                    "output {i} is {r:?} in the first program, {a:?} in the second"
                )));
            }
            sums.add(&r.to_f32(), &a.to_f32());
        }
        if let (Some(labels), Some(f), Some(q)) = (labels, float.first(), actual.first()) {
            self.count(labels, f, q)?;
        }
        self.samples += 1;
        Ok(())
    }

    fn count(&mut self, labels: &[i64], float: &Tensor, quantized: &Tensor) -> Result<(), Error> {
        let classes = quantized.shape().last().copied().unwrap_or(1);
        if classes < 2 || quantized.numel() != classes * labels.len() {
            return Err(Error::Labels(format!(
                "{} labels do not fit output 0 of shape {:?}: one for each row of scores is needed",
                labels.len(),
                quantized.shape()
            )));
        }
        for (prefix, t) in [("", quantized), ("float_", float)] {
            for (row, &label) in t.to_f32().chunks(classes).zip(labels) {
                let Some(&score) = usize::try_from(label).ok().and_then(|l| row.get(l)) else {
                    return Err(Error::Labels(format!("label {label} is none of {classes} classes")));
                };
                // Ties go to the class that comes first, as in an argmax.
                let rank = row
                    .iter()
                    .enumerate()
                    .filter(|(i, s)| **s > score || (**s == score && (*i as i64) < label))
                    .count();
                for k in [1, 5] {
                    if k == 1 || classes > 5 {
                        *self.hits.entry(format!("{prefix}top{k}")).or_default() += u64::from(rank < k);
                    }
                }
            }
        }
        self.labelled += labels.len() as u64;
        Ok(())
    }
}

/// Whether two programs are one, constants included.
fn is_same(a: &Program, b: &Program) -> bool {
    let shared = |a: &Tensor, b: &Tensor| a.bytes().as_ptr() == b.bytes().as_ptr() && a.shape() == b.shape();
    let constants = || a.constants.iter().zip(b.constants.iter());
    a.constants.len() == b.constants.len()
        && constants().all(|((_, a), (_, b))| shared(&a.tensor, &b.tensor) || a.tensor == b.tensor)
        && text::print(a) == text::print(b)
}

/// Programs of one model take and give the same.
fn same_border(float: &Program, quantized: &Program) -> Result<(), Error> {
    let types = |p: &Program, values: &[ValueId]| -> String {
        values.iter().map(|&v| p.graph.ty(v).to_string()).collect::<Vec<_>>().join(", ")
    };
    for (what, a, b) in [
        ("inputs", float.graph.inputs(), quantized.graph.inputs()),
        ("outputs", float.user_outputs(), quantized.user_outputs()),
    ] {
        let (a, b) = (types(float, a), types(quantized, b));
        if a != b {
            return Err(Error::Models(format!(
                "the programs are not of one model: {what} are {a} in the first, {b} in the second"
            )));
        }
    }
    Ok(())
}

/// Orders SQNRs from the worst to the best: NaN before all numbers.
pub(super) fn worse(a: f64, b: f64) -> Ordering {
    b.is_nan().cmp(&a.is_nan()).then_with(|| a.total_cmp(&b))
}

/// Orders nodes from the worst to the best; equal ones keep their order.
pub fn worst_first(nodes: &[(String, Measure)]) -> Vec<&(String, Measure)> {
    let mut sorted: Vec<_> = nodes.iter().collect();
    sorted.sort_by(|a, b| worse(a.1.sqnr_db, b.1.sqnr_db));
    sorted
}
