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
use npy::NpyError;
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

/// Files of calls, read one at a time.
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
        self.files.iter().flat_map(move |path| match self.file_calls(path, program) {
            Ok(calls) => calls.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(e) => vec![Err(e)],
        })
    }

    fn file_calls(&self, path: &Path, program: &Program) -> Result<Vec<Call>, DataError> {
        let fail = |reason: String| DataError::Fit { path: path.into(), reason };
        let names = &program.signature.inputs;
        let place = |name: &str| {
            let number = name.strip_prefix("in").and_then(|n| n.parse::<usize>().ok());
            names.iter().position(|n| &**n == name).or(number.filter(|&i| i < names.len()))
        };
        let mut arrays: Vec<Option<(String, Tensor)>> = vec![None; names.len()];
        let mut others = Vec::new();
        for (name, tensor) in npy::read(path, |_| true)? {
            match place(&name) {
                Some(i) if arrays[i].is_some() => {
                    return Err(fail(format!("two arrays are for input {:?}; remove {name:?}", names[i])));
                }
                Some(i) => arrays[i] = Some((name, tensor)),
                None => others.push((name, tensor)),
            }
        }
        let mut per_input = Vec::new();
        for (i, array) in arrays.into_iter().enumerate() {
            let Some((name, tensor)) = array else {
                let has: Vec<&str> = others.iter().map(|(n, _)| &n[..]).collect();
                let has = if has.is_empty() { "nothing else".into() } else { has.join(", ") };
                return Err(fail(format!("no array for input {:?}: name it in{i} (found: {has})", names[i])));
            };
            let v = program.graph.value(program.graph.inputs()[i]);
            let calls = split(program, &v.ty, &tensor).map_err(|e| {
                let got = TensorType::new(tensor.dtype(), tensor.shape().iter().copied());
                fail(format!("array {name:?} is {got}, input {:?} is {}: {e}", names[i], v.ty))
            })?;
            per_input.push((name, calls));
        }
        let count = per_input.first().map_or(1, |(_, c)| c.len());
        if let Some((name, calls)) = per_input.iter().find(|(_, c)| c.len() != count) {
            let (first, _) = &per_input[0];
            return Err(fail(format!(
                "array {first:?} gives {count} calls, array {name:?} gives {}",
                calls.len()
            )));
        }
        if count == 0 {
            return Err(fail("it holds no samples".into()));
        }
        let mut labels = self.labels(program, &others, count).map_err(fail)?;
        let mut columns: Vec<_> = per_input.into_iter().map(|(_, c)| c.into_iter()).collect();
        Ok((0..count)
            .map(|i| Call {
                file: path.into(),
                inputs: columns.iter_mut().filter_map(Iterator::next).collect(),
                labels: labels.as_mut().map(|l| std::mem::take(&mut l[i])),
            })
            .collect())
    }

    /// The labels of each call: from the array that was named, or the only integer array that is no input of a program
    /// that classifies.
    fn labels(
        &self,
        program: &Program,
        others: &[(String, Tensor)],
        calls: usize,
    ) -> Result<Option<Vec<Vec<i64>>>, String> {
        let scores = program.user_outputs().first().map(|&v| program.graph.ty(v));
        let classes = scores.and_then(|ty| ty.shape.last()?.known()).unwrap_or(0);
        let integers = || others.iter().filter(|(_, t)| t.dtype().is_int());
        let found = match &self.labels {
            Some(name) => {
                let found = others.iter().find(|(n, _)| n == name);
                Some(found.ok_or_else(|| format!("there is no label array {name:?}"))?)
            }
            None if integers().count() == 1 && classes > 1 => integers().next(),
            None => None,
        };
        let Some((name, tensor)) = found else { return Ok(None) };
        if !tensor.dtype().is_int() {
            return Err(format!("label array {name:?} is {}; class numbers are integers", tensor.dtype()));
        }
        let all: Vec<i64> = tensor.to_f64().into_iter().map(|x| x as i64).collect();
        if calls == 0 || !all.len().is_multiple_of(calls) {
            return Err(format!("label array {name:?} has {} entries for {calls} calls", all.len()));
        }
        Ok(Some(all.chunks(all.len() / calls).map(<[i64]>::to_vec).collect()))
    }
}

fn is_array_file(p: &Path) -> bool {
    p.extension().is_some_and(|e| e == "npz" || e == "npy")
}

/// Cuts an array into calls by the rules of the module.
fn split(program: &Program, ty: &TensorType, array: &Tensor) -> Result<Vec<Tensor>, String> {
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
        return Ok(vec![array.clone()]);
    }
    let cut = |count: usize, dims: &[usize]| -> Result<Vec<Tensor>, String> {
        let size = array.bytes().len().checked_div(count).unwrap_or(0);
        (0..count)
            .map(|i| Tensor::from_bytes(array.dtype(), dims, array.bytes().slice(i * size..(i + 1) * size)))
            .map(|t| t.map_err(|e| e.to_string()))
            .collect()
    };
    if let [n, rest @ ..] = shape
        && fits(rest)
    {
        return cut(*n, rest);
    }
    if let ([n, rest @ ..], Some(batch)) = (shape, ty.shape.first())
        && rest.len() + 1 == ty.rank()
        && let Some(batch) = batch.known().and_then(|b| usize::try_from(b).ok())
        && batch > 0
        && n % batch == 0
    {
        let dims: Vec<usize> = [batch].into_iter().chain(rest.iter().copied()).collect();
        if fits(&dims) {
            return cut(n / batch, &dims);
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
