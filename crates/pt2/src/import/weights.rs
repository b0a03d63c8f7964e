//! Parameters, buffers and constants: from the archive's storages to tensors that share them.

use super::symbols::dtype;
use crate::archive::Archive;
use crate::error::ImportError;
use crate::schema::{self, PayloadConfig, PayloadMeta, SymInt};
use bytes::Bytes;
use lowbit_core::{DType, Tensor};
use std::collections::HashMap;

/// What tensors whose elements share memory (an expanded buffer, say) may together grow to beyond the file's size.
const EXPAND_LIMIT: usize = 64 << 20;

/// Folder and table of parameters and buffers, then of constants.
const PLACES: [(&str, &str); 2] = [("data/weights/", "weights"), ("data/constants/", "constants")];

/// The JSON of both tables, each with its entry's name; an absent table is empty.
pub fn read_tables(archive: &mut Archive) -> Result<[(String, Bytes); 2], ImportError> {
    let mut read = |(folder, name): (&str, &str)| {
        let entry = format!("{folder}{}_{name}_config.json", archive.model());
        let json = if archive.contains(&entry) {
            archive.read(&entry)?
        } else if archive.contains(&format!("{folder}{}.pt", archive.model())) {
            let reason = "is missing; weights are pickled, as older versions of PyTorch wrote them: export the model \
                          again with PyTorch 2.13";
            return Err(archive.error(&entry, reason));
        } else {
            Bytes::from_static(b"{\"config\": {}}")
        };
        Ok((entry, json))
    };
    Ok([read(PLACES[0])?, read(PLACES[1])?])
}

/// Both tables of the archive with the storages read so far.
pub struct Weights<'a> {
    tables: [PayloadConfig<'a>; 2],
    storages: HashMap<String, Bytes>,
    /// Bytes that may still be spent on tensors whose elements share memory.
    spare: usize,
}

impl<'a> Weights<'a> {
    /// Parses the tables.
    pub fn parse(archive: &Archive, tables: &'a [(String, Bytes); 2]) -> Result<Self, ImportError> {
        let parse = |(entry, json): &'a (String, Bytes)| {
            serde_json::from_slice(json).map_err(|e| archive.error(entry, e.to_string()))
        };
        let spare = archive.len().saturating_add(EXPAND_LIMIT);
        Ok(Weights { tables: [parse(&tables[0])?, parse(&tables[1])?], storages: HashMap::new(), spare })
    }

    /// The tensor `name`; `kind` names it in errors.
    pub fn tensor(
        &mut self,
        archive: &mut Archive,
        kind: &'static str,
        name: &str,
    ) -> Result<Tensor, ImportError> {
        let fail = |reason: String| ImportError::Weight { kind, name: name.to_string(), reason };
        let found = (0..2).find_map(|i| Some((PLACES[i].0, self.tables[i].config.get(name)?)));
        let Some((folder, payload)) = found else {
            return Err(fail("the archive has no data for it".into()));
        };
        let layout = Layout::of(payload).map_err(fail)?;
        let entry = format!("{folder}{}", payload.path_name);
        let storage = match self.storages.get(&entry) {
            Some(b) => b.clone(),
            None => {
                let b = aligned(archive.read(&entry)?);
                self.storages.insert(entry.clone(), b.clone());
                b
            }
        };
        let tensor = layout.take(&storage, &mut self.spare);
        let tensor = tensor.map_err(|e| fail(format!("{e} (stored in {entry})")))?;
        let Some(map) = archive.backing(tensor.bytes()) else { return Ok(tensor) };
        let tensor = tensor.backed_by(map);
        // The checksum was taken; whoever wants the elements reads them again.
        tensor.release();
        Ok(tensor)
    }
}

/// The same bytes at an address that suits every element type. PyTorch aligns its entries; archives that were repacked
/// may not be, and are copied here once, so that tensors which share a storage still do.
fn aligned(bytes: Bytes) -> Bytes {
    struct Words(Vec<u64>);
    impl AsRef<[u8]> for Words {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    if bytes.is_empty() || (bytes.as_ptr() as usize).is_multiple_of(size_of::<u64>()) {
        return bytes;
    }
    let mut words = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
    bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(&bytes);
    Bytes::from_owner(Words(words)).slice(..bytes.len())
}

/// Where a tensor's elements lie in its storage, counted in elements.
struct Layout {
    dtype: DType,
    sizes: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl Layout {
    fn of(payload: &PayloadMeta<'_>) -> Result<Layout, String> {
        let Some(meta) = payload.tensor_meta.as_ref().filter(|_| !payload.use_pickle) else {
            return Err(
                "is pickled, as tensor subclasses and custom objects are; lowbit reads plain tensors".into(),
            );
        };
        if meta.layout != schema::STRIDED {
            return Err("is a sparse tensor; lowbit knows dense ones only".into());
        }
        let known = |n: &SymInt<'_>| match n {
            SymInt::Int(n) => usize::try_from(*n).map_err(|_| format!("has a size, stride or offset of {n}")),
            _ => Err("has a size, stride or offset that is no plain integer".to_string()),
        };
        let sizes = meta.sizes.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        let strides = meta.strides.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        if sizes.len() != strides.len() {
            return Err(format!("has {} sizes and {} strides", sizes.len(), strides.len()));
        }
        Ok(Layout { dtype: dtype(meta.dtype)?, sizes, strides, offset: known(&meta.storage_offset)? })
    }

    /// The tensor: a part of `storage` when its elements lie in order, else a copy.
    fn take(&self, storage: &Bytes, spare: &mut usize) -> Result<Tensor, String> {
        let width = self.dtype.size();
        let too_large = || format!("has too many elements: sizes {:?}", self.sizes);
        let count = self.sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
        let bytes = count.checked_mul(width).ok_or_else(too_large)?;
        if count > 0 && storage.is_empty() {
            return Err("has no data: the model was exported without its weights (fake tensors)".into());
        }
        // One past the last element.
        let reach = self.sizes.iter().zip(&self.strides).try_fold(self.offset, |at, (&n, &stride)| {
            at.checked_add(n.saturating_sub(1).checked_mul(stride)?)
        });
        let end = if count == 0 { Some(0) } else { reach.and_then(|r| r.checked_add(1)?.checked_mul(width)) };
        let Some(_) = end.filter(|&e| e <= storage.len()) else {
            return Err(format!(
                "sizes {:?}, strides {:?} and offset {} of {} reach beyond its {} bytes",
                self.sizes,
                self.strides,
                self.offset,
                self.dtype,
                storage.len()
            ));
        };
        let data = if count == 0 {
            Bytes::new()
        } else if self.is_contiguous() {
            storage.slice(self.offset * width..self.offset * width + bytes)
        } else {
            if bytes > storage.len() {
                *spare = spare.checked_sub(bytes).ok_or_else(|| {
                    format!("of sizes {:?} is expanded from {} bytes to too many", self.sizes, storage.len())
                })?;
            }
            self.copy(storage, bytes).into()
        };
        if self.dtype == DType::Bool && data.iter().any(|&b| b > 1) {
            return Err("holds bytes that are no booleans".into());
        }
        Tensor::from_bytes(self.dtype, &self.sizes, data).map_err(|e| e.to_string())
    }

    fn is_contiguous(&self) -> bool {
        let mut want = 1usize;
        for (&n, &stride) in self.sizes.iter().zip(&self.strides).rev() {
            if n != 1 && stride != want {
                return false;
            }
            want = want.saturating_mul(n);
        }
        true
    }

    /// The elements in C order. There is at least one, and all lie inside `storage`.
    fn copy(&self, storage: &[u8], bytes: usize) -> Vec<u8> {
        let width = self.dtype.size();
        let mut out = Vec::with_capacity(bytes);
        let mut index = vec![0usize; self.sizes.len()];
        let mut at = self.offset;
        loop {
            out.extend_from_slice(&storage[at * width..(at + 1) * width]);
            // The next index, as an odometer turns.
            let mut d = self.sizes.len();
            loop {
                if d == 0 {
                    return out;
                }
                d -= 1;
                index[d] += 1;
                at += self.strides[d];
                if index[d] < self.sizes[d] {
                    break;
                }
                at -= self.strides[d] * self.sizes[d];
                index[d] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sizes: &[usize], strides: &[usize], offset: usize) -> Layout {
        Layout { dtype: DType::I16, sizes: sizes.to_vec(), strides: strides.to_vec(), offset }
    }

    fn storage() -> Bytes {
        Bytes::from((0..12u8).flat_map(|i| [i, 0]).collect::<Vec<_>>())
    }

    fn ints(t: &Tensor) -> Vec<i16> {
        t.as_slice::<i16>().unwrap().to_vec()
    }

    #[test]
    fn ordered_elements_are_shared_and_others_copied() {
        let (s, mut spare) = (storage(), 100);
        let t = layout(&[2, 3], &[3, 1], 4).take(&s, &mut spare).unwrap();
        assert_eq!(ints(&t), [4, 5, 6, 7, 8, 9]);
        assert_eq!(t.bytes().as_ptr(), s[8..].as_ptr());
        let t = layout(&[3, 2], &[1, 3], 0).take(&s, &mut spare).unwrap();
        assert_eq!(ints(&t), [0, 3, 1, 4, 2, 5]);
        let t = layout(&[2, 1, 2], &[2, 99, 1], 1).take(&s, &mut spare).unwrap();
        assert_eq!(ints(&t), [1, 2, 3, 4]);
        assert_eq!(spare, 100);
    }

    #[test]
    fn expansion_is_limited() {
        let (s, mut spare) = (storage(), 100);
        assert_eq!(ints(&layout(&[40], &[0], 3).take(&s, &mut spare).unwrap()), [3; 40]);
        assert_eq!(spare, 20);
        assert!(layout(&[40], &[0], 3).take(&s, &mut spare).is_err());
    }

    #[test]
    fn lies_are_errors() {
        let (s, mut spare) = (storage(), 100);
        for (sizes, strides, offset) in [
            (&[13][..], &[1][..], 0),
            (&[2], &[1], 11),
            (&[2], &[usize::MAX], 0),
            (&[usize::MAX, 2], &[1, 1], 0),
            (&[1], &[1], usize::MAX),
        ] {
            assert!(
                layout(sizes, strides, offset).take(&s, &mut spare).is_err(),
                "{sizes:?} {strides:?} {offset}"
            );
        }
        assert!(layout(&[2], &[1], 0).take(&Bytes::new(), &mut spare).is_err());
        assert_eq!(layout(&[0, 5], &[5, 1], 0).take(&Bytes::new(), &mut spare).unwrap().numel(), 0);
    }
}
