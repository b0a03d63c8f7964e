//! Writing files atomically, printing, progress on a terminal, and peak memory.

use crate::error::CliError;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Prints a line on the standard output, as [`print`] does.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints on the standard output. Ends the program where that cannot be written to: quietly, as done, where whoever read it has
/// closed it, like `head`.
pub fn print(text: std::fmt::Arguments<'_>) {
    if let Err(e) = std::io::stdout().write_fmt(text) {
        if e.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("error: the standard output cannot be written: {e}");
        std::process::exit(1);
    }
}

/// Writes a file whole or not at all: beside its place first, then moved there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    write_with(path, |f| f.write_all(bytes))
}

/// As [`write_file`], for contents that are written in steps.
pub fn write_with(
    path: &Path,
    fill: impl FnOnce(&mut std::fs::File) -> std::io::Result<()>,
) -> Result<(), CliError> {
    let fail = |source| CliError::Output { path: path.into(), source };
    let mut file = beside(path).map_err(fail)?;
    fill(file.as_file_mut()).map_err(fail)?;
    // A temporary file is private; the result is a file like any other.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode());
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    }
    file.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

/// Writes a folder whole or not at all: beside its place first, then moved there. A folder that is there already goes when
/// the new one is in its place.
pub fn write_folder(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<(), CliError> {
    let fail = |source| CliError::Output { path: path.into(), source };
    let make = || -> std::io::Result<()> {
        let work = tempfile::Builder::new().prefix(".lowbit-").tempdir_in(parent(path))?;
        let new = work.path().join("new");
        std::fs::create_dir(&new)?;
        for (name, bytes) in files {
            let file = new.join(name);
            std::fs::create_dir_all(file.parent().unwrap_or(&new))?;
            std::fs::write(file, bytes)?;
        }
        let old = work.path().join("old");
        if path.exists() {
            std::fs::rename(path, &old)?;
        }
        std::fs::rename(&new, path).inspect_err(|_| {
            // Nothing is lost: what was there goes back.
            let _ = std::fs::rename(&old, path);
        })
    };
    make().map_err(fail)
}

/// Fails early when a folder cannot be made at `path`, or something else is there: a file, or a folder without `mark`.
pub fn check_folder(path: &Path, mark: &str) -> Result<(), CliError> {
    let fail = |why: &str| CliError::Output { path: path.into(), source: std::io::Error::other(why) };
    if path.is_file() {
        return Err(fail("there is a file of that name; move it away"));
    }
    if path.is_dir() && !path.join(mark).is_file() {
        return Err(fail("there is a folder of that name, which is no such package; move it away"));
    }
    beside(path).map(drop).map_err(|source| CliError::Output { path: path.into(), source })
}

/// Fails early when a file cannot be made at `path`: before the work, not after it.
pub fn check_writable(path: &Path) -> Result<(), CliError> {
    let fail = |source| CliError::Output { path: path.into(), source };
    if path.is_dir() {
        return Err(fail(std::io::Error::other("it is a folder; give a file name")));
    }
    beside(path).map(drop).map_err(fail)
}

/// The folder that `path` is in.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A temporary file in the folder of `path`.
fn beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let folder = parent(path);
    let no_folder =
        || std::io::Error::other(format!("there is no folder {}; make it first", folder.display()));
    tempfile::Builder::new().prefix(".lowbit-").tempfile_in(folder).map_err(|e| match folder.is_dir() {
        // Its text names the temporary file, which nobody asked for.
        true => e.kind().into(),
        false => no_folder(),
    })
}

/// A progress line on a terminal, nothing elsewhere.
pub fn progress(what: &'static str, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos} samples, {per_sec}");
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar
}

/// The most memory this process has held so far, in bytes, where the system tells.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
