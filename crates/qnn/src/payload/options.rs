//! The delegate's options: the FlatBuffer `QnnExecuTorchOptions` of ExecuTorch 1.4 (`qc_compiler_spec.fbs`).

use crate::lowering::Settings;
use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, WIPOffset};

type Table = WIPOffset<TableFinishedWIPOffset>;

/// The place of field number `i` in a table.
fn slot(i: u16) -> u16 {
    4 + 2 * i
}

/// `QnnExecuTorchBackendType`: the tensor processor.
const HTP: i32 = 2;
/// `QnnExecuTorchHtpPerformanceMode`: as fast as it can, as ExecuTorch's own flow asks for.
const BURST: i32 = 2;
/// `QnnExecuTorchHtpPrecision`.
const HALF: i32 = 1;

/// The options for a chip.
pub fn options(settings: &Settings) -> Vec<u8> {
    let mut b = FlatBufferBuilder::with_capacity(256);
    let soc = settings.soc;
    let start = b.start_table();
    b.push_slot::<i32>(slot(0), soc.arch as i32, 0);
    b.push_slot::<u32>(slot(1), soc.vtcm, 0);
    let htp_info: Table = b.end_table(start);
    let start = b.start_table();
    b.push_slot::<i32>(slot(0), soc.id as i32, 0);
    b.push_slot_always(slot(1), htp_info);
    let soc_info: Table = b.end_table(start);
    let start = b.start_table();
    b.push_slot::<i32>(slot(1), BURST, 0);
    b.push_slot::<i32>(slot(2), if settings.half() { HALF } else { 0 }, 0);
    // use_conv_hmx, use_fold_relu
    b.push_slot::<bool>(slot(4), true, false);
    b.push_slot::<bool>(slot(6), true, false);
    let htp: Table = b.end_table(start);
    let start = b.start_table();
    b.push_slot::<i32>(slot(0), HTP, 0);
    b.push_slot_always(slot(1), htp);
    let backend: Table = b.end_table(start);
    // The runtime reads these strings and the list without asking whether they are there.
    let library = b.create_string("");
    let saver = b.create_string("saver_output");
    let none = b.create_vector::<WIPOffset<TableFinishedWIPOffset>>(&[]);
    let start = b.start_table();
    b.push_slot_always(slot(0), none);
    let packages: Table = b.end_table(start);
    let start = b.start_table();
    b.push_slot_always(slot(0), soc_info);
    b.push_slot_always(slot(1), backend);
    b.push_slot_always(slot(2), library);
    b.push_slot_always(slot(10), saver);
    b.push_slot_always(slot(11), packages);
    let root: Table = b.end_table(start);
    b.finish(root, None);
    b.finished_data().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soc;

    /// The table that field `i` of the table at `at` leads to, or the place of the field.
    fn field(bytes: &[u8], at: usize, i: usize) -> Option<usize> {
        let u16_at = |p: usize| usize::from(u16::from_le_bytes([bytes[p], bytes[p + 1]]));
        let vtable = usize::try_from(at as i64 - i64::from(int(bytes, at))).unwrap();
        let slot = 4 + 2 * i;
        (slot < u16_at(vtable)).then(|| u16_at(vtable + slot)).filter(|o| *o > 0).map(|o| at + o)
    }

    fn int(bytes: &[u8], at: usize) -> i32 {
        i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn table(bytes: &[u8], at: usize, i: usize) -> usize {
        let place = field(bytes, at, i).unwrap();
        place + int(bytes, place) as usize
    }

    #[test]
    fn fields_are_where_the_runtime_looks() {
        let settings = Settings { soc: soc::find("SM8750").unwrap(), ..Settings::default() };
        let bytes = options(&settings);
        let root = int(&bytes, 0) as usize;
        let soc = table(&bytes, root, 0);
        assert_eq!(int(&bytes, field(&bytes, soc, 0).unwrap()), 69);
        let htp = table(&bytes, soc, 1);
        assert_eq!(int(&bytes, field(&bytes, htp, 0).unwrap()), 79);
        assert_eq!(int(&bytes, field(&bytes, htp, 1).unwrap()), 8);
        let backend = table(&bytes, root, 1);
        assert_eq!(int(&bytes, field(&bytes, backend, 0).unwrap()), 2);
        let options = table(&bytes, backend, 1);
        assert_eq!(int(&bytes, field(&bytes, options, 1).unwrap()), 2);
        assert_eq!(bytes[field(&bytes, options, 4).unwrap()], 1);
        assert_eq!(bytes[field(&bytes, options, 6).unwrap()], 1);
        // Logging, online preparation, profiling, shared buffers, and whether it comes from elsewhere: all off.
        for off in [3, 4, 5, 6, 7, 8, 9, 12] {
            assert_eq!(field(&bytes, root, off), None);
        }
        let packages = table(&bytes, root, 11);
        assert_eq!(int(&bytes, table(&bytes, packages, 0)), 0);
        assert_eq!(super::options(&settings), bytes);
    }
}
