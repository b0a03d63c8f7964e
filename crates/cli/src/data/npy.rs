//! NumPy arrays as tensors: `.npy` files and the members of `.npz` archives.

use bytes::Bytes;
use lowbit_core::{DType, Tensor};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zip::write::SimpleFileOptions;

/// A file of arrays that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpyError {
    /// The file itself.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a zip archive, or a damaged one.
    #[error("{}: not a readable .npz archive: {source}", path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: zip::result::ZipError,
    },
    /// One array.
    #[error("{}: array {array:?}: {reason}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The array's name; empty in `.npy` files.
        array: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An array: in memory, or still in its file, where it may be much larger than memory.
#[derive(Clone, Debug)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Memory(Bytes),
    /// The elements lie behind one another, from this byte on.
    File(Arc<Mutex<File>>, u64),
}

impl Array {
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many bytes the elements have.
    pub fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// A part of its bytes as a tensor of `shape`.
    ///
    /// # Errors
    /// When the file cannot be read, or the bytes are not those of such a tensor.
    pub fn part(&self, from: usize, shape: &[usize]) -> Result<Tensor, String> {
        let length = shape.iter().product::<usize>() * self.dtype.size();
        let bytes = match &self.place {
            Place::Memory(bytes) if from + length <= bytes.len() => bytes.slice(from..from + length),
            Place::Memory(_) => return Err("it has fewer elements".into()),
            Place::File(file, at) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut data = vec![0; length];
                let found = file.seek(SeekFrom::Start(at + from as u64));
                found.and_then(|_| file.read_exact(&mut data)).map_err(|e| e.to_string())?;
                Bytes::from(data)
            }
        };
        Tensor::from_bytes(self.dtype, shape, bytes).map_err(|e| e.to_string())
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn tensor(&self) -> Result<Tensor, String> {
        self.part(0, &self.shape)
    }
}

/// Reads the arrays of an `.npz` archive whose names `wanted` accepts, sorted by name; of an `.npy` file the only
/// one, called `in0`.
///
/// # Errors
/// When the file cannot be read, or is no such file.
pub fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, NpyError> {
    let all = open(path, wanted)?.into_iter().map(|(name, array)| match array.tensor() {
        Ok(tensor) => Ok((name, tensor)),
        Err(reason) => Err(NpyError::Array { path: path.into(), array: name, reason }),
    });
    all.collect()
}

/// The same without reading what lies in the file as it is: what is neither compressed nor column by column.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, Array)>, NpyError> {
    let io_error = |source| NpyError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io_error)?;
    let size = file.metadata().map_err(io_error)?.len();
    let shared = Arc::new(Mutex::new(File::open(path).map_err(io_error)?));
    let array_error =
        |name: &str, reason: String| NpyError::Array { path: path.into(), array: name.into(), reason };
    if path.extension().is_some_and(|e| e == "npy") {
        let array =
            open_array(BufReader::new(file), size, Some((shared, 0))).map_err(|e| array_error("", e))?;
        return Ok(vec![("in0".into(), array)]);
    }
    let zip_error = |source| NpyError::Zip { path: path.into(), source };
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(zip_error)?;
    let names = zip.file_names().map(|n| n.map(|n| n.into_owned())).collect::<Result<Vec<String>, _>>();
    let mut names = names.map_err(zip_error)?;
    names.sort();
    let mut arrays = Vec::new();
    for member in names {
        let Some(name) = member.strip_suffix(".npy").filter(|n| wanted(n)) else { continue };
        let entry = zip.by_name(&member).map_err(zip_error)?;
        // Deflate cannot shrink below about a thousandth: a larger claim is a lie that would eat memory.
        let limit = entry.size().min(size.saturating_mul(1032));
        let stored = entry.compression() == zip::CompressionMethod::Stored && entry.size() <= size;
        let place = entry.data_start().filter(|_| stored).map(|at| (shared.clone(), at));
        arrays.push((name.to_string(), open_array(entry, limit, place).map_err(|e| array_error(name, e))?));
    }
    Ok(arrays)
}

/// `place`: where `from` starts in a file, if it is what the file holds.
fn open_array(
    mut from: impl Read,
    limit: u64,
    place: Option<(Arc<Mutex<File>>, u64)>,
) -> Result<Array, String> {
    let mut counted = Counted { from: &mut from, bytes: 0 };
    let header = npyz::NpyHeader::from_reader(&mut counted).map_err(|e| format!("not an array file: {e}"))?;
    let begin = counted.bytes;
    let npyz::DType::Plain(ty) = header.dtype() else {
        return Err("structured arrays are not supported; save a plain array".into());
    };
    let descr = ty.to_string();
    let dtype = match descr.trim_start_matches(['<', '|', '=']) {
        "f4" => DType::F32,
        "f2" => DType::F16,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "u2" => DType::U16,
        "i4" => DType::I32,
        "i8" => DType::I64,
        "b1" => DType::Bool,
        _ => {
            return Err(format!(
                "elements are {descr:?}; convert to float32, an integer type or bool (little endian)"
            ));
        }
    };
    let shape: Vec<usize> = header
        .shape()
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("a dimension of {d} is too large")))
        .collect::<Result<_, _>>()?;
    let bytes = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).filter(|&b| b as u64 <= limit);
    let bytes = bytes.ok_or_else(|| format!("shape {shape:?} needs more bytes than the file has"))?;
    let fortran = header.order() == npyz::Order::Fortran && shape.len() > 1;
    if let Some((file, at)) = place.filter(|_| !fortran) {
        if begin + bytes as u64 > limit {
            return Err(format!(
                "shape {shape:?} needs {bytes} bytes, the file has {}",
                limit.saturating_sub(begin)
            ));
        }
        return Ok(Array { dtype, shape, place: Place::File(file, at + begin) });
    }
    let mut data = Vec::with_capacity(bytes);
    from.take(bytes as u64).read_to_end(&mut data).map_err(|e| e.to_string())?;
    if data.len() != bytes {
        return Err(format!("shape {shape:?} needs {bytes} bytes, the file has {}", data.len()));
    }
    if fortran {
        data = fortran_to_c(&data, &shape, dtype.size());
    }
    Ok(Array { dtype, shape, place: Place::Memory(Bytes::from(data)) })
}

/// Counts the bytes that are read.
struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(to)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// Elements of `size` bytes from column-major to row-major order.
fn fortran_to_c(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = vec![size; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut out = Vec::with_capacity(data.len());
    for at in ndarray::indices(shape.to_vec()) {
        let offset: usize = (0..shape.len()).map(|i| at[i] * strides[i]).sum();
        out.extend_from_slice(&data[offset..offset + size]);
    }
    out
}

/// Writes arrays as an `.npz` archive without compression, the same bytes for the same arrays. bfloat16 has no NumPy
/// type and becomes float32.
pub fn write<W: Write + Seek>(to: W, arrays: &[(String, Tensor)]) -> io::Result<W> {
    let mut zip = zip::ZipWriter::new(to);
    let options = SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(true);
    for (name, t) in arrays {
        zip.start_file(format!("{name}.npy"), options)?;
        let widened;
        let t = match t.dtype() {
            DType::BF16 => {
                widened = Tensor::new(t.shape(), t.to_f32().into_owned()).map_err(io::Error::other)?;
                &widened
            }
            _ => t,
        };
        zip.write_all(&header(t)?)?;
        zip.write_all(t.bytes())?;
    }
    Ok(zip.finish()?)
}

/// Version 1.0 of the `.npy` header, padded to 64 bytes as NumPy does.
fn header(t: &Tensor) -> io::Result<Vec<u8>> {
    let descr = match t.dtype() {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
        other => return Err(io::Error::other(format!("{other} has no NumPy type"))),
    };
    let mut shape: String = t.shape().iter().map(|d| format!("{d}, ")).collect();
    if t.shape().len() != 1 {
        shape.truncate(shape.len().saturating_sub(2));
    }
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", shape.trim_end());
    while (text.len() + 11) % 64 != 0 {
        text.push(' ');
    }
    text.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    let len = u16::try_from(text.len()).map_err(|_| io::Error::other("too many dimensions"))?;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let arrays = vec![
            ("in0".to_string(), Tensor::new(&[2, 3], vec![1f32, 2., 3., 4., 5., 6.]).unwrap()),
            ("in1".to_string(), Tensor::scalar(7i64)),
            ("y".to_string(), Tensor::from_bools(&[2], vec![true, false]).unwrap()),
        ];
        write(File::create(&path).unwrap(), &arrays).unwrap();
        assert_eq!(read(&path, |_| true).unwrap(), arrays);
        assert_eq!(read(&path, |n| n == "y").unwrap().len(), 1);
    }

    #[test]
    fn compressed_arrays_are_read_and_others_stay_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        let x = Tensor::new(&[3, 2], vec![1f32, 2., 3., 4., 5., 6.]).unwrap();
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, method) in [("a", zip::CompressionMethod::Stored), ("b", zip::CompressionMethod::Deflated)]
        {
            let options = SimpleFileOptions::default().compression_method(method);
            zip.start_file(format!("{name}.npy"), options).unwrap();
            zip.write_all(&header(&x).unwrap()).unwrap();
            zip.write_all(x.bytes()).unwrap();
        }
        zip.finish().unwrap();
        let arrays = open(&path, |_| true).unwrap();
        let in_file: Vec<bool> = arrays.iter().map(|(_, a)| matches!(a.place, Place::File(..))).collect();
        assert_eq!(in_file, [true, false]);
        for (name, array) in arrays {
            assert_eq!(array.tensor().unwrap(), x, "{name}");
            assert_eq!(array.part(8, &[2]).unwrap().to_f64(), [3., 4.], "{name}");
        }
    }

    #[test]
    fn fortran_order_is_turned() {
        // [[0, 1, 2], [3, 4, 5]] column by column
        assert_eq!(fortran_to_c(&[0, 3, 1, 4, 2, 5], &[2, 3], 1), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn lying_headers_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let mut bytes = header(&Tensor::zeros(DType::F32, &[1000, 1000]).unwrap()).unwrap();
        bytes.extend([0; 64]);
        std::fs::write(&path, bytes).unwrap();
        let e = read(&path, |_| true).unwrap_err().to_string();
        assert!(e.contains("needs more bytes"), "{e}");
        std::fs::write(&path, b"junk").unwrap();
        assert!(read(&path, |_| true).unwrap_err().to_string().contains("not an array"));
    }
}
