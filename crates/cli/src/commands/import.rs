//! Reading programs: from what `torch.export.save` wrote, or from a file that a backend's own tools take.

use crate::error::CliError;
use bytes::Bytes;
use lowbit_core::Registry;
use lowbit_core::backend::{Backend, Format};
use lowbit_core::ir::Program;
use std::path::{Component, Path};

/// What a program is read from.
#[derive(Copy, Clone, Debug)]
pub(super) enum Kind {
    /// A file of `torch.export.save`.
    Exported,
    /// A file or folder of a backend's own.
    Artifact(&'static dyn Backend, &'static Format),
}

/// Tells by the name, and folders by what is in them.
pub(super) fn kind(path: &Path) -> Result<Kind, CliError> {
    let registry = Registry::linked()?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let is = |f: &Format| {
        let marked = f.mark.is_some_and(|mark| path.join(mark).is_file());
        marked || f.extension.eq_ignore_ascii_case(extension)
    };
    for backend in registry.iter() {
        if let Some(format) = backend.formats().iter().find(|f| is(f)) {
            return Ok(Kind::Artifact(backend, format));
        }
    }
    if path.is_dir() {
        let backends: Vec<&str> = registry.iter().map(|b| b.name()).collect();
        let reason = format!("a folder that no linked backend knows ({}); give a file", backends.join(", "));
        return Err(CliError::Artifact { path: path.into(), reason });
    }
    Ok(Kind::Exported)
}

/// Reads a program of any kind.
pub(super) fn import(path: &Path) -> Result<Program, CliError> {
    match kind(path)? {
        Kind::Exported => exported(path),
        Kind::Artifact(backend, format) => artifact(path, backend, format),
    }
}

/// Reads a `.pt2` file, for commands that need PyTorch's names and types.
pub(super) fn exported(path: &Path) -> Result<Program, CliError> {
    if let Kind::Artifact(backend, _) = kind(path)? {
        return Err(CliError::Usage(format!(
            "{} is a file of backend {}; a .pt2 is wanted here",
            path.display(),
            backend.name()
        )));
    }
    lowbit_pt2::read(path).map_err(|source| CliError::Import { path: path.into(), source })
}

/// Reads a backend's own file, or folder.
fn artifact(path: &Path, backend: &dyn Backend, format: &Format) -> Result<Program, CliError> {
    let fail = |reason: String| CliError::Artifact { path: path.into(), reason };
    let (there, what) =
        if format.mark.is_some() { (path.is_dir(), "folder") } else { (path.is_file(), "file") };
    if !there {
        return Err(fail(format!("there is no such {what}")));
    }
    // A folder names its own files only.
    let inside = |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    let mut open = |name: &str| {
        let file = if name.is_empty() { path.to_owned() } else { path.join(name) };
        inside(name).then(|| std::fs::read(file).ok()).flatten().map(Bytes::from)
    };
    backend.import(format, &mut open).map_err(|e| fail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_told_by_what_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let e = import(dir.path()).unwrap_err().to_string();
        assert!(e.contains("a folder that no linked backend knows"), "{e}");
        assert!(matches!(kind(Path::new("m.pt2")), Ok(Kind::Exported)));
    }

    #[cfg(feature = "coreml")]
    #[test]
    fn packages_are_told_by_name_and_by_manifest() {
        let is_package = |path: &Path| matches!(kind(path), Ok(Kind::Artifact(b, f)) if (b.name(), f.extension) == ("coreml", "mlpackage"));
        assert!(is_package(Path::new("m.MLPackage")));
        let e = import(Path::new("nowhere.mlpackage")).unwrap_err();
        assert_eq!(e.to_string(), "nowhere.mlpackage: there is no such folder");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Manifest.json"), "{}").unwrap();
        assert!(is_package(dir.path()));
        let e = exported(dir.path()).unwrap_err();
        assert!(e.exit_code() == 2 && e.to_string().contains("is a file of backend coreml"), "{e}");
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
