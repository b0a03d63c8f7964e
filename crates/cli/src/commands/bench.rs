//! `lowbit bench`: how long a program takes on this CPU, and where the time goes.

use super::Timer;
use super::import::{exported, import};
use crate::args::{Bench, Observer};
use crate::data::Dataset;
use crate::error::CliError;
use crate::output::{check_writable, peak_rss_bytes, write_file};
use lowbit_core::backend::{Backend, Options};
use lowbit_core::executor::{Session, Watchlist};
use lowbit_core::flow::{Prepared, prepare_with};
use lowbit_core::ir::{NodeId, Program, TensorType};
use lowbit_core::passes::PassError;
use lowbit_core::quant::{Annotations, ObserverKind, QuantError, Site, Spec};
use lowbit_core::quantizer::{NodeFilter, Quantizer};
use lowbit_core::{DType, Registry, Tensor};
use lowbit_cpu::{CpuExecutor, CpuSession, Isa, OperatorTime};
use serde::Serialize;
use std::time::Instant;

/// Runs before the measured ones: caches fill, the program is planned.
const WARM_UP: usize = 2;

/// What was measured.
#[derive(Debug, Serialize)]
struct Measured {
    model: String,
    /// `forward`, or `calibrate` with what watched.
    mode: String,
    threads: usize,
    /// Of one run, on the clock.
    milliseconds: Spread,
    /// Of one run, of all threads together; where the system tells.
    cpu_milliseconds: Option<Spread>,
    operators: Vec<Operator>,
    seconds: Seconds,
    /// Bytes that hold values between operators.
    buffer_bytes: usize,
    peak_rss_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    min: f64,
    /// Every run, in order.
    all: Vec<f64>,
}

/// One operator, milliseconds in one run.
#[derive(Debug, Serialize)]
struct Operator {
    node: String,
    what: String,
    milliseconds: f64,
    /// Spent by observers on what it made.
    watching: f64,
}

#[derive(Debug, Serialize)]
struct Seconds {
    import: f64,
    /// The first run, which plans the program.
    first_run: f64,
}

pub fn run(args: &Bench) -> Result<(), CliError> {
    args.report.as_deref().map(check_writable).transpose()?;
    let data = Dataset::open(&args.data, None)?;
    let executor = CpuExecutor::with_isa(if args.portable { Isa::PORTABLE } else { Isa::best() });
    let executor = executor.threads(args.threads.get())?;
    let executor = if args.simulate { executor.simulated() } else { executor };
    let mut timer = Timer::start();
    let program = if args.calibrate.is_some() { exported(&args.model)? } else { import(&args.model)? };
    let import = timer.lap();
    let mut calls: Vec<Vec<Tensor>> = vec![];
    match data.is_empty() {
        true => calls.push(random_inputs(&program)?),
        false => {
            for call in data.calls(&program) {
                calls.push(call?.inputs);
            }
        }
    }
    let mut work = Work::new(args, &program, &executor)?;
    timer.lap();
    work.once(&calls[0])?;
    let first_run = timer.lap();
    for i in 1..WARM_UP {
        work.once(&calls[i % calls.len()])?;
    }
    let (mut wall, mut cpu) = (vec![], vec![]);
    for i in 0..args.runs.get() {
        let (begin, begin_cpu) = (Instant::now(), cpu_seconds());
        work.once(&calls[i % calls.len()])?;
        wall.push(begin.elapsed().as_secs_f64() * 1e3);
        cpu.extend(begin_cpu.zip(cpu_seconds()).map(|(a, b)| (b - a) * 1e3));
    }
    // On their own: reading the clock between operators takes time too.
    work.session.measure();
    for i in 0..args.runs.get() {
        work.once(&calls[i % calls.len()])?;
    }
    let measured = Measured {
        model: args.model.display().to_string(),
        mode: args.calibrate.map_or("forward".into(), |o| format!("calibrate, {}", name(o))),
        threads: args.threads.get(),
        milliseconds: spread(wall),
        cpu_milliseconds: (!cpu.is_empty()).then(|| spread(cpu)),
        operators: operators(work.session.times(), args.runs.get()),
        seconds: Seconds { import, first_run },
        buffer_bytes: work.session.buffer_bytes(),
        peak_rss_bytes: peak_rss_bytes(),
    };
    emit(&measured, args)
}

/// What one run is: the program alone, or with observers.
struct Work {
    session: CpuSession,
    prepared: Option<Prepared>,
}

impl Work {
    fn new(args: &Bench, program: &Program, executor: &CpuExecutor) -> Result<Work, CliError> {
        let Some(observer) = args.calibrate else {
            return Ok(Work { session: executor.open(program, &Watchlist::default())?, prepared: None });
        };
        let registry = Registry::linked()?;
        let backend: &dyn Backend = match &args.backend {
            Some(name) => registry.get(name)?,
            None => registry.iter().next().ok_or_else(|| CliError::Usage("no backend is linked".into()))?,
        };
        let recipe = args.recipe.as_deref().or(backend.recipes().first().map(|r| r.name)).unwrap_or_default();
        let inner = backend.quantizer(recipe, &Options::new())?;
        let watching = Watching { inner, observer: kind(observer) };
        let prepared = prepare_with(program.clone(), &watching, executor)?;
        let session = executor.open(prepared.program(), &prepared.watchlist())?;
        Ok(Work { session, prepared: Some(prepared) })
    }

    fn once(&mut self, inputs: &[Tensor]) -> Result<(), CliError> {
        match &mut self.prepared {
            Some(p) => drop(p.calibrate(&mut self.session, inputs)?),
            None => drop(self.session.run(inputs, &mut |_, _| {})?),
        }
        Ok(())
    }
}

fn name(observer: Observer) -> &'static str {
    match observer {
        Observer::Recipe => "the recipe's observers",
        Observer::MinMax => "min-max",
        Observer::MovingAverage => "moving averages",
        Observer::Histogram => "histograms",
    }
}

fn kind(observer: Observer) -> Option<ObserverKind> {
    match observer {
        Observer::Recipe => None,
        Observer::MinMax => Some(ObserverKind::MinMax),
        Observer::MovingAverage => Some(ObserverKind::MovingAverage { constant: 0.01 }),
        Observer::Histogram => Some(ObserverKind::Histogram { bins: 2048 }),
    }
}

/// A quantizer with other observers on what changes from run to run.
#[derive(Debug)]
struct Watching {
    inner: Box<dyn Quantizer>,
    observer: Option<ObserverKind>,
}

impl Quantizer for Watching {
    fn transform(&self, program: &mut Program) -> Result<(), PassError> {
        self.inner.transform(program)
    }

    fn folds_constants(&self) -> bool {
        self.inner.folds_constants()
    }

    fn annotate(&self, program: &Program, out: &mut Annotations) -> Result<(), QuantError> {
        self.inner.annotate(program, out)?;
        let Some(observer) = &self.observer else { return Ok(()) };
        let fixed = |site: Site| site.value(program).is_some_and(|v| program.frozen(v).is_some());
        let sites: Vec<(Site, Spec)> = out.iter().map(|(site, a)| (site, a.spec.clone())).collect();
        for (site, spec) in sites {
            if let Spec::Observed(mut spec) = spec
                && !spec.dynamic
                && !fixed(site)
            {
                spec.observer = observer.clone();
                out.set(site, Spec::Observed(spec));
            }
        }
        Ok(())
    }

    fn validate(&self, program: &Program, annotations: &Annotations) -> Result<(), QuantError> {
        self.inner.validate(program, annotations)
    }

    fn adjust(&self, prepared: &mut Prepared) -> Result<(), QuantError> {
        self.inner.adjust(prepared)
    }

    fn filter(&mut self, keep: NodeFilter) -> Result<(), QuantError> {
        self.inner.filter(keep)
    }

    fn dynamic_dims(&self, program: &Program, reader: NodeId) -> Option<Vec<usize>> {
        self.inner.dynamic_dims(program, reader)
    }
}

/// Random numbers for floats, zeros for integers (which may be indices); symbols take their least value.
fn random_inputs(program: &Program) -> Result<Vec<Tensor>, CliError> {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut tensor = |ty: &TensorType| {
        let least = |d: &lowbit_core::SymInt| d.bounds(&|s| program.range(s)).0.max(1);
        let shape: Vec<usize> =
            ty.shape.iter().map(|d| d.known().unwrap_or_else(|| least(d)) as usize).collect();
        match ty.dtype.is_float() {
            true => {
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
                Tensor::from_f32(ty.dtype, &shape, &values)
            }
            false if ty.dtype == DType::Bool => {
                Tensor::from_bools(&shape, vec![true; shape.iter().product()])
            }
            false => Tensor::zeros(ty.dtype, &shape),
        }
    };
    let g = &program.graph;
    let inputs = g.inputs().iter().map(|&v| tensor(g.ty(v)));
    inputs.collect::<Result<_, _>>().map_err(|e| CliError::Other(e.to_string()))
}

/// Seconds that the CPU spent on this process, where the system tells.
fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Some(t.tv_sec as f64 + t.tv_nsec as f64 / 1e9)
    }
    #[cfg(not(unix))]
    None
}

fn spread(all: Vec<f64>) -> Spread {
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Spread { median: f64::midpoint(low, high), min: sorted[0], all }
}

fn operators(times: Vec<OperatorTime>, runs: usize) -> Vec<Operator> {
    let one = |t: std::time::Duration| t.as_secs_f64() * 1e3 / runs as f64;
    let mut all: Vec<Operator> = times
        .into_iter()
        .map(|t| Operator {
            node: t.node,
            what: t.what,
            milliseconds: one(t.time),
            watching: one(t.watching),
        })
        .collect();
    all.sort_by(|a, b| (b.milliseconds + b.watching).total_cmp(&(a.milliseconds + a.watching)));
    all
}

fn emit(measured: &Measured, args: &Bench) -> Result<(), CliError> {
    let mut text = serde_json::to_string_pretty(measured).expect("only numbers, strings and lists");
    text.push('\n');
    if let Some(path) = &args.report {
        write_file(path, text.as_bytes())?;
    }
    if args.json {
        crate::output::print(format_args!("{text}"));
        return Ok(());
    }
    let line = |what: &str, s: &Spread| {
        say!("{what:<12}{:.3} ms median, {:.3} ms least, of {} runs", s.median, s.min, s.all.len());
    };
    say!("{:<12}{}", "mode", measured.mode);
    line("run", &measured.milliseconds);
    if let Some(cpu) = &measured.cpu_milliseconds {
        line("CPU", cpu);
    }
    let Seconds { import, first_run } = measured.seconds;
    say!("{:<12}import {import:.3}, first run with planning {first_run:.3}", "seconds");
    let mib = |b: u64| b as f64 / f64::from(1 << 20);
    let peak =
        measured.peak_rss_bytes.map_or(String::new(), |b| format!(", {:.1} MiB at most in all", mib(b)));
    say!("{:<12}{:.1} MiB of buffers{peak}", "memory", mib(measured.buffer_bytes as u64));
    let total: f64 = measured.operators.iter().map(|o| o.milliseconds + o.watching).sum();
    let mut kinds: Vec<(&str, usize, f64, f64)> = vec![];
    for o in &measured.operators {
        match kinds.iter_mut().find(|k| k.0 == o.what) {
            Some(k) => *k = (k.0, k.1 + 1, k.2 + o.milliseconds, k.3 + o.watching),
            None => kinds.push((&o.what, 1, o.milliseconds, o.watching)),
        }
    }
    kinds.sort_by(|a, b| (b.2 + b.3).total_cmp(&(a.2 + a.3)));
    say!("{:>10} {:>10} {:>7}  operators", "ms", "watching", "share");
    let share = |ms: f64| 100.0 * ms / total.max(f64::MIN_POSITIVE);
    for (what, count, ms, watching) in kinds {
        say!("{ms:>10.3} {watching:>10.3} {:>6.1}%  {count} x {what}", share(ms + watching));
    }
    say!("{:>10} {:>10} {:>7}  operator", "ms", "watching", "share");
    for o in measured.operators.iter().take(args.top) {
        let share = share(o.milliseconds + o.watching);
        say!("{:>10.3} {:>10.3} {share:>6.1}%  {} ({})", o.milliseconds, o.watching, o.node, o.what);
    }
    Ok(())
}
