//! Reading programs: from what `torch.export.save` wrote, or from a package that a backend's own tools take.

use crate::error::CliError;
use lowbit_core::ir::Program;
use std::path::Path;

/// What a program is read from.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of `torch.export.save`.
    Exported,
    /// A folder `.mlpackage`.
    Package,
}

/// Tells by what is there: packages are folders.
pub(super) fn kind(path: &Path) -> Kind {
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("mlpackage"));
    if path.is_dir() || named { Kind::Package } else { Kind::Exported }
}

/// Reads a program of any kind.
pub(super) fn import(path: &Path) -> Result<Program, CliError> {
    match kind(path) {
        Kind::Exported => exported(path),
        Kind::Package => package(path),
    }
}

/// Reads a `.pt2` file, for commands that need PyTorch's names and types.
pub(super) fn exported(path: &Path) -> Result<Program, CliError> {
    if kind(path) == Kind::Package {
        return Err(CliError::Usage(format!(
            "{} is a package: run, inspect and evaluate read those, this command reads .pt2 files",
            path.display()
        )));
    }
    lowbit_pt2::read(path).map_err(|source| CliError::Import { path: path.into(), source })
}

/// Reads a package; values are rounded to the types it computes in.
#[cfg(feature = "coreml")]
fn package(path: &Path) -> Result<Program, CliError> {
    use lowbit_coreml::{package::Package, raise};
    use std::path::Component;
    let fail = |reason: String| CliError::Package { path: path.into(), reason };
    if !path.is_dir() {
        return Err(fail("there is no such folder".into()));
    }
    // A package names its own files only.
    let inside = |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    let mut file = |name: &str| {
        let read = inside(name).then(|| std::fs::read(path.join(name)).ok()).flatten();
        read.map(bytes::Bytes::from)
    };
    let package = Package::read(&mut file).map_err(|e| fail(e.to_string()))?;
    raise::raise(&package, raise::Rounding::AsTyped).map_err(|e| fail(e.to_string()))
}

/// Says that packages cannot be read.
#[cfg(not(feature = "coreml"))]
fn package(path: &Path) -> Result<Program, CliError> {
    let reason = "this lowbit was built without Core ML, whose packages it cannot read".into();
    Err(CliError::Package { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_folders() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kind(dir.path()), Kind::Package);
        assert_eq!(kind(Path::new("m.pt2")), Kind::Exported);
        assert_eq!(kind(Path::new("m.MLPackage")), Kind::Package);
        let e = exported(dir.path()).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("is a package"), "{e}");
        let e = import(Path::new("nowhere.mlpackage")).unwrap_err();
        assert!(e.to_string().starts_with("nowhere.mlpackage: "), "{e}");
        let e = import(dir.path()).unwrap_err().to_string();
        #[cfg(feature = "coreml")]
        assert!(e.contains("Manifest.json: it is missing"), "{e}");
        #[cfg(not(feature = "coreml"))]
        assert!(e.contains("without Core ML"), "{e}");
    }

    /// A manifest that points outside its folder leads nowhere.
    #[cfg(feature = "coreml")]
    #[test]
    fn files_outside_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.mlmodel"), []).unwrap();
        let package = dir.path().join("m.mlpackage");
        std::fs::create_dir(&package).unwrap();
        let manifest =
            r#"{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../model.mlmodel"}}}"#;
        std::fs::write(package.join("Manifest.json"), manifest).unwrap();
        let e = import(&package).unwrap_err().to_string();
        assert!(e.ends_with("Data/../../model.mlmodel: it is missing"), "{e}");
    }
}
