//! [`Map`]: a file in memory, whose pages can go while nobody reads them.

use bytes::Bytes;
use lowbit_core::tensor::Backing;
use memmap2::Mmap;
use std::fs::File;
use std::sync::Arc;

/// A file, mapped for reading.
pub struct Map(Mmap);

impl Map {
    /// Maps a file that is not empty.
    #[allow(unsafe_code)]
    pub fn new(file: &File) -> std::io::Result<Map> {
        // SAFETY: the map is read-only and private to us, and lives as long as any `Bytes` made from it. What the compiler
        // assumes of a `&[u8]` could only be broken by another process that changes the file meanwhile; `read` documents
        // that this must not happen (as for every program that maps its input).
        Ok(Map(unsafe { Mmap::map(file) }?))
    }

    /// The whole file.
    pub fn bytes(self: &Arc<Self>) -> Bytes {
        struct Whole(Arc<Map>);
        impl AsRef<[u8]> for Whole {
            fn as_ref(&self) -> &[u8] {
                &self.0.0
            }
        }
        Bytes::from_owner(Whole(self.clone()))
    }

    /// Where `part` begins, if it is a part of this map.
    fn offset(&self, part: &[u8]) -> Option<usize> {
        let (whole, part) = (self.0.as_ptr_range(), part.as_ptr_range());
        (whole.start <= part.start && part.end <= whole.end)
            .then(|| part.start as usize - whole.start as usize)
    }

    /// Whether these bytes are a part of the file, not a copy.
    pub fn holds(&self, part: &[u8]) -> bool {
        self.offset(part).is_some()
    }
}

impl Backing for Map {
    #[cfg(unix)]
    #[allow(unsafe_code)]
    fn release(&self, bytes: &[u8]) {
        let Some(offset) = self.offset(bytes).filter(|_| !bytes.is_empty()) else { return };
        // SAFETY: nobody has written to these pages, as the map is read-only: the next reader gets them from the file again,
        // with what they held, under the condition that `new` names. A failure leaves them where they are.
        let _ =
            unsafe { self.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len()) };
    }

    #[cfg(not(unix))]
    fn release(&self, _bytes: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn released_bytes_are_read_again() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let map = Arc::new(Map::new(&file).unwrap());
        let part = map.bytes().slice(5000..90_001);
        assert_eq!(part, content[5000..90_001]);
        map.release(&part);
        assert_eq!(part, content[5000..90_001]);
        assert!(map.holds(&part) && !map.holds(&content));
        map.release(&content);
        assert_eq!(map.bytes(), content);
    }
}
