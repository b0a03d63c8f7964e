//! NumPy arrays as tensors: `.npy` files and the members of `.npz` archives.

use bytes::Bytes;
use lowbit_core::{DType, Tensor};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
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

/// Reads the arrays of an `.npz` archive whose names `wanted` accepts, sorted by name; of an `.npy` file the only
/// one, called `in0`.
pub fn read(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, Tensor)>, NpyError> {
    let io_error = |source| NpyError::Io { path: path.into(), source };
    let file = File::open(path).map_err(io_error)?;
    let size = file.metadata().map_err(io_error)?.len();
    let array_error =
        |name: &str, reason: String| NpyError::Array { path: path.into(), array: name.into(), reason };
    if path.extension().is_some_and(|e| e == "npy") {
        let tensor = read_array(BufReader::new(file), size).map_err(|e| array_error("", e))?;
        return Ok(vec![("in0".into(), tensor)]);
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
        arrays.push((name.to_string(), read_array(entry, limit).map_err(|e| array_error(name, e))?));
    }
    Ok(arrays)
}

fn read_array(mut from: impl Read, limit: u64) -> Result<Tensor, String> {
    let header = npyz::NpyHeader::from_reader(&mut from).map_err(|e| format!("not an array file: {e}"))?;
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
    let mut data = Vec::with_capacity(bytes);
    from.take(bytes as u64).read_to_end(&mut data).map_err(|e| e.to_string())?;
    if data.len() != bytes {
        return Err(format!("shape {shape:?} needs {bytes} bytes, the file has {}", data.len()));
    }
    if header.order() == npyz::Order::Fortran && shape.len() > 1 {
        data = fortran_to_c(&data, &shape, dtype.size());
    }
    Tensor::from_bytes(dtype, &shape, Bytes::from(data)).map_err(|e| e.to_string())
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
