//! DATA arguments: files of arrays as calls of a program.
//!
//! An array named `in0`, `in1`, … or like an input of the program is data for that input:
//! * of exactly the input's shape: one call;
//! * with one more leading axis: one call an index of it;
//! * with a larger axis 0 than the input's batch, a multiple of it: one call a batch.
//!
//! Another array of integers holds labels, when output 0 gives scores of two classes or more. All inputs of a file must
//! give the same number of calls.

pub mod npy;

use lowbit_core::ir::{Program, TensorType};
use lowbit_core::{DType, Tensor};
use npy::{Array, NpyError};
use std::path::{Path, PathBuf};

/// Data that does not fit the program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file that cannot be read.
    #[error(transparent)]
    Npy(#[from] NpyError),
    /// No usable files.
    #[error("{}: {reason}", path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Arrays that do not fit the inputs.
    #[error("{}: {reason}", path.display())]
    Fit {
        /// The file.
        path: PathBuf,
        /// What is wrong, both shapes included.
        reason: String,
    },
}

/// One call of the program.
#[derive(Clone, Debug)]
pub struct Call {
    /// The file it comes from.
    pub file: PathBuf,
    /// One tensor an input.
    pub inputs: Vec<Tensor>,
    /// The labels of this call, when there are any.
    pub labels: Option<Vec<i64>>,
}

/// Files of calls, each call read when its turn comes.
#[derive(Clone, Debug)]
pub struct Dataset {
    files: Vec<PathBuf>,
    labels: Option<String>,
}

impl Dataset {
    /// Takes `.npz` and `.npy` files, and folders of them (sorted by name). `labels` names the label array.
    pub fn open(paths: &[PathBuf], labels: Option<&str>) -> Result<Self, DataError> {
        let mut files = Vec::new();
        for path in paths {
            let fail = |reason: String| DataError::Path { path: path.clone(), reason };
            if !path.is_dir() {
                if !is_array_file(path) {
                    return Err(fail("data is a .npz or .npy file, or a folder of them".into()));
                }
                if !path.exists() {
                    return Err(fail("there is no such file".into()));
                }
                files.push(path.clone());
                continue;
            }
            let entries = std::fs::read_dir(path).and_then(|d| d.collect::<Result<Vec<_>, _>>());
            let mut found: Vec<PathBuf> = entries
                .map_err(|e| fail(e.to_string()))?
                .into_iter()
                .map(|e| e.path())
                .filter(|p| is_array_file(p))
                .collect();
            if found.is_empty() {
                return Err(fail("the folder holds no .npz or .npy file".into()));
            }
            found.sort();
            files.extend(found);
        }
        Ok(Dataset { files, labels: labels.map(String::from) })
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The calls, file by file; stops at the first error.
    pub fn calls<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = Result<Call, DataError>> + 'a {
        self.files.iter().flat_map(move |path| {
            let (calls, error) = match self.file_calls(path, program) {
                Ok(calls) => (Some(calls), None),
                Err(e) => (None, Some(Err(e))),
            };
            calls.into_iter().flatten().chain(error)
        })
    }

    fn file_calls(
        &self,
        path: &Path,
        program: &Program,
    ) -> Result<impl Iterator<Item = Result<Call, DataError>> + use<>, DataError> {
        let fail = |reason: String| DataError::Fit { path: path.into(), reason };
        let names = &program.signature.inputs;
        let place = |name: &str| {
            let number = name.strip_prefix("in").and_then(|n| n.parse::<usize>().ok());
            names.iter().position(|n| &**n == name).or(number.filter(|&i| i < names.len()))
        };
        let mut arrays: Vec<Option<(String, Array)>> = vec![None; names.len()];
        let mut others = Vec::new();
        for (name, array) in npy::open(path, |_| true)? {
            match place(&name) {
                Some(i) if arrays[i].is_some() => {
                    return Err(fail(format!("two arrays are for input {:?}; remove {name:?}", names[i])));
                }
                Some(i) => arrays[i] = Some((name, array)),
                None => others.push((name, array)),
            }
        }
        let mut per_input = Vec::new();
        for (i, array) in arrays.into_iter().enumerate() {
            let Some((name, array)) = array else {
                let has: Vec<&str> = others.iter().map(|(n, _)| &n[..]).collect();
                let has = if has.is_empty() { "nothing else".into() } else { has.join(", ") };
                return Err(fail(format!("no array for input {:?}: name it in{i} (found: {has})", names[i])));
            };
            let v = program.graph.value(program.graph.inputs()[i]);
            let (count, dims) = split(program, &v.ty, &array).map_err(|e| {
                let got = TensorType::new(array.dtype(), array.shape().iter().copied());
                fail(format!("array {name:?} is {got}, input {:?} is {}: {e}", names[i], v.ty))
            })?;
            per_input.push(Calls { name, array, count, dims });
        }
        let count = per_input.first().map_or(1, |c| c.count);
        if let Some(other) = per_input.iter().find(|c| c.count != count) {
            let first = &per_input[0].name;
            return Err(fail(format!(
                "array {first:?} gives {count} calls, array {:?} gives {}",
                other.name, other.count
            )));
        }
        if count == 0 {
            return Err(fail("it holds no samples".into()));
        }
        let mut labels = self.labels(program, &others, count).map_err(fail)?;
        let file = path.to_path_buf();
        Ok((0..count).map(move |i| {
            let inputs = per_input.iter().map(|calls| {
                let array = || calls.name.clone();
                let fail = |reason| NpyError::Array { path: file.clone(), array: array(), reason };
                calls.array.part(i * (calls.array.size() / count), &calls.dims).map_err(fail)
            });
            Ok(Call {
                file: file.clone(),
                inputs: inputs.collect::<Result<_, _>>()?,
                labels: labels.as_mut().map(|l| std::mem::take(&mut l[i])),
            })
        }))
    }

    /// The labels of each call: from the array that was named, or the only integer array that is no input of a program
    /// that classifies.
    fn labels(
        &self,
        program: &Program,
        others: &[(String, Array)],
        calls: usize,
    ) -> Result<Option<Vec<Vec<i64>>>, String> {
        let scores = program.user_outputs().first().map(|&v| program.graph.ty(v));
        let classes = scores.and_then(|ty| ty.shape.last()?.known()).unwrap_or(0);
        let integers = || others.iter().filter(|(_, a)| a.dtype().is_int());
        let found = match &self.labels {
            Some(name) => {
                let found = others.iter().find(|(n, _)| n == name);
                Some(found.ok_or_else(|| format!("there is no label array {name:?}"))?)
            }
            None if integers().count() == 1 && classes > 1 => integers().next(),
            None => None,
        };
        let Some((name, array)) = found else { return Ok(None) };
        if !array.dtype().is_int() {
            return Err(format!("label array {name:?} is {}; class numbers are integers", array.dtype()));
        }
        let all: Vec<i64> = array.tensor()?.to_f64().into_iter().map(|x| x as i64).collect();
        if calls == 0 || !all.len().is_multiple_of(calls) {
            return Err(format!("label array {name:?} has {} entries for {calls} calls", all.len()));
        }
        Ok(Some(all.chunks(all.len() / calls).map(<[i64]>::to_vec).collect()))
    }
}

fn is_array_file(p: &Path) -> bool {
    p.extension().is_some_and(|e| e == "npz" || e == "npy")
}

/// The calls of an input: equal parts of an array.
struct Calls {
    name: String,
    array: Array,
    count: usize,
    /// The sizes of a part.
    dims: Vec<usize>,
}

/// How many calls an array holds by the rules of the module, and the sizes of each.
fn split(program: &Program, ty: &TensorType, array: &Array) -> Result<(usize, Vec<usize>), String> {
    if array.dtype() != ty.dtype {
        let cure = match (array.dtype(), ty.dtype) {
            (DType::F64, DType::F32) => "; NumPy's default is float64, save it with .astype(\"float32\")",
            _ => "; save it with that element type",
        };
        return Err(format!("element types differ{cure}"));
    }
    let shape = array.shape();
    let fits = |dims: &[usize]| {
        dims.len() == ty.rank()
            && dims.iter().zip(&ty.shape).all(|(&n, d)| {
                let n = i64::try_from(n).unwrap_or(i64::MAX);
                let (lo, hi) = d.bounds(&|s| program.range(s));
                d.known().map_or(lo <= n && n <= hi, |want| want == n)
            })
    };
    if fits(shape) {
        return Ok((1, shape.to_vec()));
    }
    if let [n, rest @ ..] = shape
        && fits(rest)
    {
        return Ok((*n, rest.to_vec()));
    }
    if let ([n, rest @ ..], Some(batch)) = (shape, ty.shape.first())
        && rest.len() + 1 == ty.rank()
        && let Some(batch) = batch.known().and_then(|b| usize::try_from(b).ok())
        && batch > 0
        && n % batch == 0
    {
        let dims: Vec<usize> = [batch].into_iter().chain(rest.iter().copied()).collect();
        if fits(&dims) {
            return Ok((n / batch, dims));
        }
    }
    Err("give one call, calls along one more leading axis, or a multiple of the batch along the first axis"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowbit_core::ir::text;
    use std::fs::File;

    fn program() -> Program {
        let text = "program {\n symbol s0 in 1..4\n %x : f32[2, 3] = input\n %n : f32[s0, 1] = input\n return %x, %n\n}";
        text::parse(text).unwrap()
    }

    fn calls(x: &[usize], n: &[usize]) -> Result<Vec<Call>, DataError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        let arrays = vec![
            ("in0".to_string(), Tensor::zeros(DType::F32, x).unwrap()),
            ("n".to_string(), Tensor::zeros(DType::F32, n).unwrap()),
            ("y".to_string(), Tensor::new(&[4], vec![1i64, 2, 3, 4]).unwrap()),
        ];
        npy::write(File::create(&path).unwrap(), &arrays).unwrap();
        Dataset::open(&[path], None).unwrap().calls(&program()).collect()
    }

    #[test]
    fn shapes_become_calls() {
        for (x, n, want) in
            [(&[2, 3][..], &[1, 1][..], 1), (&[4, 2, 3], &[4, 2, 1], 4), (&[4, 3], &[2, 4, 1], 2)]
        {
            let calls = calls(x, n).unwrap();
            assert_eq!(calls.len(), want, "{x:?} {n:?}");
            assert!(calls.iter().all(|c| c.inputs[0].shape() == [2, 3]));
            assert_eq!(calls[0].labels.as_ref().unwrap().len(), 4 / want);
        }
    }

    #[test]
    fn what_does_not_fit_shows_both_shapes() {
        for (x, n, want) in [
            (&[3, 3][..], &[1, 1][..], "array \"in0\" is f32[3, 3], input \"x\" is f32[2, 3]"),
            (&[2, 3], &[9, 1], "array \"n\" is f32[9, 1], input \"n\" is f32[s0, 1]"),
            (&[4, 2, 3], &[1, 1], "gives 4 calls"),
        ] {
            let e = calls(x, n).unwrap_err().to_string();
            assert!(e.contains(want), "{e}");
        }
    }
}
