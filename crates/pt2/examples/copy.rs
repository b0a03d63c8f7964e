//! Reads a program and writes it again: `cargo run -p lowbit-pt2 --example copy -- MODEL.pt2 COPY.pt2`.

use std::fs::File;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = std::env::args().skip(1);
    let (Some(from), Some(to)) = (files.next(), files.next()) else {
        return Err("usage: copy MODEL.pt2 COPY.pt2".into());
    };
    lowbit_pt2::write(&lowbit_pt2::read(from.as_ref())?, File::create(to)?)?;
    Ok(())
}
