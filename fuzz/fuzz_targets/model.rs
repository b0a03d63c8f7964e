//! Any bytes as the JSON of a program, in an intact archive: past the checksums that stop most changes of a file.
#![no_main]

use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [
        ("model/models/model.json", data),
        ("model/data/weights/weight_0", &[0; 64]),
        ("model/data/weights/model_weights_config.json", include_bytes!("../corpus/weights_config.json")),
    ] {
        zip.start_file(name, stored).expect("a new entry");
        zip.write_all(content).expect("memory takes it");
    }
    let file = zip.finish().expect("memory takes it").into_inner();
    let _ = lowbit_pt2::read_bytes(file.into());
});
