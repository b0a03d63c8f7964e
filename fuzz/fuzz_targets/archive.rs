//! Any bytes as a `.pt2` file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = lowbit_pt2::read_bytes(bytes::Bytes::copy_from_slice(data));
});
