//! [`Library`]: a loaded library, its version checked, and its functions.

use super::abi::{Handle, Provider, Status, SystemProvider, Version};
use super::error::{Failure, LibraryError};
use super::find;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};

/// The oldest version of the interface that has been seen to work: SDK 2.37's.
pub const OLDEST: (u32, u32) = (2, 27);
/// The version of the interface that lowbit is tested with (SDK 2.51); later ones of the same major number keep what is called.
pub const NEWEST: (u32, u32) = (2, 40);

/// A loaded file. It is never unloaded: the library leaves threads behind.
pub struct Library {
    /// Where it lies.
    pub path: PathBuf,
    file: libloading::Library,
    provider: *const Provider,
    /// The number of the chip that the process chose last, 0 for none; used by who may call the library.
    pub(super) chip: AtomicU32,
}

// SAFETY: the table behind `provider` is constant and lies in the library, which stays loaded.
unsafe impl Sync for Library {}
// SAFETY: as above; no function is called through it without `Listening`.
unsafe impl Send for Library {}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("path", &self.path).finish_non_exhaustive()
    }
}

type GetProviders<T> = unsafe extern "C" fn(*mut *const *const T, *mut u32) -> Status;

impl Library {
    /// The library in this folder: `file` is [`find::HTP`] or [`find::IR`]. Loaded once.
    ///
    /// # Errors
    /// When it cannot be loaded, or is of a version that is not known.
    pub fn open(folder: &Path, file: &str) -> Result<&'static Library, LibraryError> {
        static OPEN: Mutex<BTreeMap<PathBuf, &'static Library>> = Mutex::new(BTreeMap::new());
        let path = folder.join(file);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = open.get(&path) {
            return Ok(library);
        }
        let library: &'static Library = Box::leak(Box::new(Self::load(path.clone())?));
        open.insert(path, library);
        Ok(library)
    }

    fn load(path: PathBuf) -> Result<Library, LibraryError> {
        let (file, provider) = load::<Provider>(&path, b"QnnInterface_getProviders\0")?;
        // SAFETY: `load` gives a provider that is not null, and lives as long as the file.
        let version = unsafe { (*provider).core };
        check(&path, version)?;
        Ok(Library { path, file, provider, chip: AtomicU32::new(0) })
    }

    /// The provider that the system library offers, from the same folder.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn system(&self) -> Result<SystemTable, LibraryError> {
        let path = self.path.with_file_name(find::SYSTEM);
        let (file, provider) = load::<SystemProvider>(&path, b"QnnSystemInterface_getProviders\0")?;
        Ok(SystemTable { _file: file, provider })
    }

    /// The version of the interface: `2.40.0`.
    pub fn version(&self) -> String {
        // SAFETY: see `load`.
        let v = unsafe { (*self.provider).core };
        format!("{}.{}.{}", v.major, v.minor, v.patch)
    }

    /// Function number `place` of the table.
    ///
    /// # Errors
    /// When the table has none there.
    ///
    /// # Safety
    /// `F` is the type of that function.
    pub(super) unsafe fn function<F: Copy>(&self, call: &'static str, place: usize) -> Result<F, Failure> {
        // SAFETY: the table lives as long as the library.
        let table = unsafe { &(*self.provider).functions };
        // SAFETY: handed on.
        unsafe { function(table, call, place) }
    }

    /// Whether the file has a symbol.
    pub fn has(&self, symbol: &CStr) -> bool {
        // SAFETY: the symbol is only looked for, not used.
        unsafe { self.file.get::<*const ()>(symbol.to_bytes_with_nul()).is_ok() }
    }
}

/// The system library's functions.
pub(super) struct SystemTable {
    _file: libloading::Library,
    provider: *const SystemProvider,
}

impl SystemTable {
    /// Function number `place` of the table.
    ///
    /// # Safety
    /// `F` is the type of that function.
    pub(super) unsafe fn function<F: Copy>(&self, call: &'static str, place: usize) -> Result<F, Failure> {
        // SAFETY: the table lives as long as the file, which is kept.
        let table = unsafe { &(*self.provider).functions };
        // SAFETY: handed on.
        unsafe { function(table, call, place) }
    }
}

/// # Safety
/// `F` is the type of function number `place` of the table.
unsafe fn function<F: Copy>(table: &[Handle], call: &'static str, place: usize) -> Result<F, Failure> {
    assert_eq!(size_of::<F>(), size_of::<Handle>(), "functions are pointers");
    let missing =
        || Failure { call, code: 0, op: None, messages: vec!["this library does not have it".into()] };
    let pointer = table.get(place).filter(|p| !p.is_null()).ok_or_else(missing)?;
    // SAFETY: the caller says what type it has; pointers to functions are as large as any other.
    Ok(unsafe { std::mem::transmute_copy(pointer) })
}

/// Loads a file and asks for the first provider it lists.
fn load<T>(path: &Path, symbol: &[u8]) -> Result<(libloading::Library, *const T), LibraryError> {
    let fail = |reason: String| LibraryError::Load { path: path.display().to_string(), reason };
    // SAFETY: the user named this library; its initializers are Qualcomm's.
    let file = unsafe { libloading::Library::new(path) }.map_err(|e| fail(e.to_string()))?;
    // SAFETY: the name belongs to a function of this type.
    let get = unsafe { file.get::<GetProviders<T>>(symbol) };
    let get = *get.map_err(|e| fail(format!("it is no QNN library: {e}")))?;
    let (mut list, mut count) = (std::ptr::null(), 0u32);
    // SAFETY: both are places to write to.
    let status = unsafe { get(&raw mut list, &raw mut count) };
    if status != 0 || count == 0 || list.is_null() {
        return Err(fail(format!("it offers no interface (error {status})")));
    }
    // SAFETY: the list has `count` entries, at least one.
    let provider = unsafe { *list };
    if provider.is_null() {
        return Err(fail("its first interface is nothing".into()));
    }
    Ok((file, provider))
}

fn check(path: &Path, v: Version) -> Result<(), LibraryError> {
    if v.major == OLDEST.0 && v.minor >= OLDEST.1 {
        return Ok(());
    }
    Err(LibraryError::Version {
        path: path.display().to_string(),
        found: format!("{}.{}.{}", v.major, v.minor, v.patch),
        known: format!(
            "{}.{} and later ones of major version {}, tested up to {}.{}",
            OLDEST.0, OLDEST.1, OLDEST.0, NEWEST.0, NEWEST.1
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_checked() {
        let v = |major, minor| Version { major, minor, patch: 0 };
        let path = Path::new("libQnnHtp.so");
        for good in [v(2, 27), v(2, 40), v(2, 99)] {
            check(path, good).unwrap();
        }
        for bad in [v(2, 26), v(1, 40), v(3, 0)] {
            let e = check(path, bad).unwrap_err().to_string();
            assert!(
                e.contains(&format!("interface {}.{}.0", bad.major, bad.minor)) && e.contains(find::INSTALL),
                "{e}"
            );
        }
    }

    #[test]
    fn what_is_no_library_is_refused() {
        let folder = std::env::temp_dir();
        let name = format!("lowbit-qnn-{}.so", std::process::id());
        std::fs::write(folder.join(&name), b"no library").unwrap();
        let e = Library::open(&folder, &name).unwrap_err();
        assert!(matches!(&e, LibraryError::Load { path, .. } if path.ends_with(&name)), "{e}");
        std::fs::remove_file(folder.join(&name)).unwrap();
        assert!(matches!(Library::open(&folder, "no.so"), Err(LibraryError::Load { .. })));
    }
}
