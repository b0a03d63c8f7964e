//! Zeroed memory in huge pages, where the system has those. The processor remembers where some thousand pages lie; networks have more
//! of the usual size, and looking up the others takes 2 to 5 % of a run.

#![allow(unsafe_code)]

use memmap2::{MmapMut, MmapRaw};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of a huge page, as most processors have them.
pub(crate) const HUGE: usize = 2 << 20;

/// Bytes that are mapped for pieces to be cut from. Pages that nothing was cut from take no memory.
const CHUNK: usize = 32 * HUGE;

/// Bytes that pieces are aligned to: a cache line.
pub(crate) const LINE: usize = 64;

/// Part of a mapping, that nothing else reads or writes.
#[derive(Debug)]
pub(crate) struct Piece {
    start: NonNull<u8>,
    len: usize,
    /// Holds the memory.
    _chunk: Arc<MmapRaw>,
}

// SAFETY: a piece is the only one that refers to its bytes, like a `Box<[u8]>`.
unsafe impl Send for Piece {}
// SAFETY: as above; they change through `&mut` only.
unsafe impl Sync for Piece {}

/// What is left of a mapping.
struct Rest {
    chunk: Arc<MmapRaw>,
    start: NonNull<u8>,
    len: usize,
}

thread_local! {
    static REST: RefCell<Option<Rest>> = const { RefCell::new(None) };
}

impl Rest {
    /// All of a new mapping of at least so many bytes, from a huge page on. `None`: the system has none to give.
    fn mapped(bytes: usize) -> Option<Rest> {
        let len = bytes.checked_next_multiple_of(LINE)?;
        let map = MmapMut::map_anon(len.checked_add(HUGE)?).ok()?;
        // A system that knows no huge pages may say so: others do as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let chunk = MmapRaw::from(map);
        let first = chunk.as_mut_ptr();
        let skipped = first.addr().next_multiple_of(HUGE) - first.addr();
        // SAFETY: the mapping is longer by what aligning takes at most.
        let start = NonNull::new(unsafe { first.add(skipped) })?;
        Some(Rest { chunk: Arc::new(chunk), start, len })
    }

    /// The first bytes of it, up to a line's end, if it has so many.
    fn cut(&mut self, bytes: usize) -> Option<Piece> {
        let len = bytes.checked_next_multiple_of(LINE).filter(|&len| len <= self.len)?;
        let start = self.start;
        // SAFETY: there are so many bytes behind it, or it points to their end.
        self.start = unsafe { start.add(len) };
        self.len -= len;
        Some(Piece { start, len, _chunk: self.chunk.clone() })
    }
}

impl Piece {
    /// A mapping of its own, which goes with it.
    pub fn alone(bytes: usize) -> Option<Piece> {
        Rest::mapped(bytes)?.cut(bytes)
    }

    /// Cut from pages where this thread's others are, which stay until all of them are gone: for what is made once and stays.
    pub fn beside_others(bytes: usize) -> Option<Piece> {
        if bytes > CHUNK / 2 {
            return Piece::alone(bytes);
        }
        REST.with_borrow_mut(|rest| {
            // Where all pieces are gone, so may their pages.
            rest.take_if(|rest| rest.len < CHUNK && Arc::strong_count(&rest.chunk) == 1);
            if let Some(piece) = rest.as_mut().and_then(|rest| rest.cut(bytes)) {
                return Some(piece);
            }
            *rest = Rest::mapped(CHUNK);
            rest.as_mut()?.cut(bytes)
        })
    }

    /// All of it, whole lines.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is held, has so many bytes from there, was zeroed, and no other piece has any of them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All of it, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeroed_aligned_and_their_own() {
        let sizes = [1, 64, 100, 5000, HUGE, 3 * HUGE, CHUNK / 2, CHUNK / 2 + 1, 700_000, 0, 7];
        let cut = |i: usize, bytes| match i % 3 {
            0 => Piece::alone(bytes).unwrap(),
            _ => Piece::beside_others(bytes).unwrap(),
        };
        let mut pieces: Vec<Piece> =
            sizes.iter().cycle().take(20).enumerate().map(|(i, &n)| cut(i, n)).collect();
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.bytes().iter().all(|&b| b == 0));
            assert!(
                piece.bytes().as_ptr().addr() % LINE == 0 && piece.bytes().len() >= sizes[i % sizes.len()]
            );
            piece.bytes_mut().fill(i as u8 + 1);
        }
        // Others go, and new ones come; those that stay keep what they hold.
        pieces = pieces.into_iter().step_by(2).collect();
        let more: Vec<Piece> = sizes.iter().enumerate().map(|(i, &n)| cut(i, n)).collect();
        assert!(more.iter().all(|piece| piece.bytes().iter().all(|&b| b == 0)));
        let kept = |(i, piece): (usize, &Piece)| piece.bytes().iter().all(|&b| usize::from(b) == 2 * i + 1);
        assert!(std::thread::spawn(move || pieces.iter().enumerate().all(kept)).join().unwrap());
        drop(more);
        assert!(Piece::beside_others(5000).unwrap().bytes().iter().all(|&b| b == 0));
    }
}
