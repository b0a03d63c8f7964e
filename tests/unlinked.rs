//! A program that names no backend has none, whatever its manifest lists, and is told the cure.

use lowbit_core::Registry;

#[test]
fn backends_that_no_code_names_are_not_linked() {
    let registry = Registry::linked().unwrap();
    assert_eq!(registry.iter().count(), 0);
    let error = registry.get("xnnpack").unwrap_err().to_string();
    assert!(error.contains("linked: none") && error.contains("use lowbit_xnnpack as _;"), "{error}");
}
