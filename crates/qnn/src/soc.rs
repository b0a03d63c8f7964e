//! Qualcomm's chips, and what their tensor processors (HTP) can do.
//!
//! Names and numbers are those of ExecuTorch's `QcomChipset`.

use std::fmt;

/// A generation of the tensor processor.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Arch {
    V68 = 68,
    V69 = 69,
    V73 = 73,
    V75 = 75,
    V79 = 79,
    V81 = 81,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{}", *self as u32)
    }
}

/// A chip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soc {
    /// Its name: `SM8650`.
    pub name: &'static str,
    /// The number that Qualcomm's library knows it by.
    pub id: u32,
    /// Its tensor processor.
    pub arch: Arch,
    /// Megabytes of memory that is tightly coupled to it.
    pub vtcm: u32,
}

impl fmt::Display for Soc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const fn soc(name: &'static str, id: u32, arch: Arch, vtcm: u32) -> Soc {
    Soc { name, id, arch, vtcm }
}

/// The chip when none is named: of 2024's phones.
pub static DEFAULT: &Soc = &SOCS[3];

/// All that are known; phones first, by age.
pub static SOCS: [Soc; 21] = [
    soc("SM8350", 30, Arch::V68, 4),
    soc("SM8450", 36, Arch::V69, 8),
    soc("SM8550", 43, Arch::V73, 8),
    soc("SM8650", 57, Arch::V75, 8),
    soc("SM8750", 69, Arch::V79, 8),
    soc("SM8850", 87, Arch::V81, 8),
    soc("SM8475", 42, Arch::V69, 8),
    soc("SM8845", 97, Arch::V81, 8),
    soc("SA8295", 39, Arch::V68, 8),
    soc("SA8540", 62, Arch::V68, 8),
    soc("SA8255", 52, Arch::V73, 8),
    soc("SA8797", 72, Arch::V81, 16),
    soc("SSG2115P", 46, Arch::V73, 2),
    soc("SSG2125P", 58, Arch::V73, 2),
    soc("SXR1230P", 45, Arch::V73, 2),
    soc("SXR2230P", 53, Arch::V69, 8),
    soc("SXR2330P", 75, Arch::V79, 8),
    soc("QCS9100", 77, Arch::V73, 8),
    soc("QCM6490", 93, Arch::V68, 2),
    soc("SAR2230P", 95, Arch::V81, 4),
    soc("SW6100", 96, Arch::V81, 4),
];

/// The chip of this name.
pub fn find(name: &str) -> Option<&'static Soc> {
    SOCS.iter().find(|s| s.name.eq_ignore_ascii_case(name.trim()))
}

/// The first phone's chip with at least this processor: what to say instead.
pub fn first_with(arch: Arch) -> &'static Soc {
    SOCS.iter().find(|s| s.arch >= arch).unwrap_or(DEFAULT)
}

/// The first processor that multiplies 16-bit activations with 16-bit weights.
pub const WIDE_WEIGHTS: Arch = Arch::V73;
/// The first processor with scales by blocks of weights.
pub const BLOCK_WEIGHTS: Arch = Arch::V69;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_found() {
        assert_eq!(DEFAULT.name, "SM8650");
        assert_eq!(find("sm8350").map(|s| (s.id, s.arch)), Some((30, Arch::V68)));
        assert_eq!(find("SM1"), None);
        assert_eq!(first_with(WIDE_WEIGHTS).name, "SM8550");
        assert_eq!(first_with(BLOCK_WEIGHTS).name, "SM8450");
        let mut ids: Vec<u32> = SOCS.iter().map(|s| s.id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|w| w[0] != w[1]));
    }
}
