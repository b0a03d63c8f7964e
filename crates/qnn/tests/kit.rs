//! The kit's checks, with delegates run on the library's emulation of a chip. They run where the library is found.

use lowbit_core::backend::Lowering;
use lowbit_qnn::lowering::{Oracle, Qnn as QnnLowering};
use lowbit_qnn::{Qnn, Settings};
use lowbit_testing::Kit;

#[test]
fn delegates_compute_what_they_stand_for() {
    let lowering = QnnLowering::new(Settings::default());
    if let Oracle::Table(e) = lowering.oracle() {
        let required = std::env::var("LOWBIT_QNN_REQUIRED").is_ok_and(|v| v == "1");
        assert!(!required, "{e}");
        eprintln!("skipped: {e}");
        return;
    }
    let device = lowering.device().unwrap();
    // How good recipes are is not asked here; the smallest programs lose some decibels by a step.
    let kit = Kit::new(&Qnn).device(&*device).sqnr_floor(-10.0).device_agreement(30.0);
    // Each step rounds its states to 8 bits, for the next one.
    let kit = kit.device_agreement_of("recurrent", 28.0);
    let summary = kit.check().unwrap_or_else(|failures| panic!("{failures}"));
    assert!(summary.delegated > 0, "{summary:?}");
}
