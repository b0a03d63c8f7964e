//! Where the library lies.
//!
//! In this order: the option `qnn-lib`; `QNN_LIB_DIR`; `QNN_SDK_ROOT`, Qualcomm's SDK; the wheel `onnxruntime-qnn` beside a
//! Python on the `PATH` or in the active environment. No Python is run.

use std::env;
use std::path::{Path, PathBuf};

/// The file that makes a folder the library's.
pub const HTP: &str = "libQnnHtp.so";
/// The file that knows context binaries.
pub const SYSTEM: &str = "libQnnSystem.so";
/// The file that writes `.dlc`.
pub const IR: &str = "libQnnIr.so";

/// How to get it.
pub const INSTALL: &str = "python3 -m pip install --no-deps onnxruntime-qnn==2.7.0";

/// What the search looks at; a parameter so that tests can make up another.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `QNN_LIB_DIR`.
    pub lib_dir: Option<PathBuf>,
    /// `QNN_SDK_ROOT`.
    pub sdk_root: Option<PathBuf>,
    /// Folders that hold `bin/python3`, or that a Python's packages may lie in.
    pub prefixes: Vec<PathBuf>,
}

impl Surroundings {
    /// This process's.
    pub fn here() -> Self {
        let folder = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let mut prefixes: Vec<PathBuf> = folder("VIRTUAL_ENV").into_iter().collect();
        let path = env::var_os("PATH").unwrap_or_default();
        for bin in env::split_paths(&path) {
            let python = ["python3", "python"].iter().any(|p| bin.join(p).exists());
            prefixes.extend(bin.parent().filter(|_| python).map(Path::to_path_buf));
        }
        prefixes.extend(folder("HOME").map(|h| h.join(".local")));
        Surroundings { lib_dir: folder("QNN_LIB_DIR"), sdk_root: folder("QNN_SDK_ROOT"), prefixes }
    }
}

/// The folder of the library.
///
/// # Errors
/// A sentence with the places that were looked at and the command that installs it.
pub fn find(option: Option<&Path>, around: &Surroundings) -> Result<PathBuf, String> {
    // Who names a folder wants that one.
    let named = [("option qnn-lib", option), ("QNN_LIB_DIR", around.lib_dir.as_deref())];
    for (what, folder) in named {
        let Some(folder) = folder else { continue };
        return inside(folder).ok_or_else(|| {
            format!(
                "{what} names {}, where there is no {HTP}; name its folder, or install it: {INSTALL}",
                folder.display()
            )
        });
    }
    let sdk = around.sdk_root.as_ref().map(|root| root.join(SDK_FOLDER));
    let found = sdk
        .and_then(|folder| inside(&folder))
        .or_else(|| around.prefixes.iter().find_map(|p| in_packages(p)));
    found.ok_or_else(|| {
        format!("Qualcomm's library ({HTP}) is not here; install it ({INSTALL}), or say --option qnn-lib=FOLDER, or set QNN_LIB_DIR")
    })
}

/// Where the SDK has it, on the machine that compiles.
#[cfg(target_arch = "x86_64")]
const SDK_FOLDER: &str = "lib/x86_64-linux-clang";
#[cfg(not(target_arch = "x86_64"))]
const SDK_FOLDER: &str = "lib/aarch64-oe-linux-gcc11.2";

/// The folder itself, the wheel's folder in it, or the SDK's.
fn inside(folder: &Path) -> Option<PathBuf> {
    let places = [folder.to_path_buf(), folder.join("onnxruntime_qnn"), folder.join(SDK_FOLDER)];
    places.into_iter().find(|f| f.join(HTP).is_file())
}

/// The wheel among the packages of a Python with this prefix.
fn in_packages(prefix: &Path) -> Option<PathBuf> {
    for lib in ["lib", "lib64", "local/lib"] {
        let Ok(entries) = std::fs::read_dir(prefix.join(lib)) else { continue };
        let mut pythons: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        let python = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3"));
        pythons.retain(python);
        pythons.sort();
        for p in pythons {
            let packages = ["site-packages", "dist-packages"].map(|f| p.join(f));
            if let Some(found) = packages.iter().find_map(|f| inside(f)) {
                return Some(found);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn places_are_tried_in_order() {
        let root = env::temp_dir().join(format!("lowbit-qnn-find-{}", std::process::id()));
        let wheel = root.join("venv/lib/python3.12/site-packages/onnxruntime_qnn");
        let sdk = root.join("sdk");
        touch(&wheel.join(HTP));
        touch(&sdk.join(SDK_FOLDER).join(HTP));
        let mut around =
            Surroundings { prefixes: vec![root.join("none"), root.join("venv")], ..Default::default() };
        assert_eq!(find(None, &around), Ok(wheel.clone()));
        around.sdk_root = Some(sdk.clone());
        assert_eq!(find(None, &around), Ok(sdk.join(SDK_FOLDER)));
        around.lib_dir = Some(wheel.clone());
        assert_eq!(find(None, &around), Ok(wheel.clone()));
        assert_eq!(find(Some(&sdk), &around), Ok(sdk.join(SDK_FOLDER)), "the option wins");
        let e = find(Some(&root), &around).unwrap_err();
        assert!(e.contains("option qnn-lib") && e.contains(INSTALL), "{e}");
        around = Surroundings { prefixes: vec![root.join("none")], ..Default::default() };
        let e = find(None, &around).unwrap_err();
        assert!(e.contains(INSTALL) && e.contains("QNN_LIB_DIR"), "{e}");
        std::fs::remove_dir_all(root).unwrap();
    }
}
