//! What the library says: its log, kept while it is called, since it gives reasons nowhere else.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Errors and warnings that came since the last [`Listening`] began. The library's callback has no argument of one's own, so
/// there is one list, and [`Listening`] lets one thread at a time call.
static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());
static CALLS: Mutex<()> = Mutex::new(());

/// The least important level that is kept: 1 errors, 2 warnings.
pub const LEVEL: u32 = 1;

/// The right to call the library. Messages from now on are this caller's.
pub struct Listening {
    _calls: MutexGuard<'static, ()>,
}

impl Listening {
    /// Waits for other callers to be done.
    pub fn begin() -> Self {
        let calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        heard().clear();
        Listening { _calls: calls }
    }

    /// What was said, each message once, without what only repeats that something failed.
    pub fn messages(&self) -> Vec<String> {
        let mut said: Vec<String> = vec![];
        for m in heard().drain(..) {
            let idle = NOTHING.iter().any(|n| m.contains(n));
            if !idle && !m.is_empty() && !said.contains(&m) {
                said.push(m);
            }
        }
        said
    }
}

/// Messages that tell nothing: said at every graph, or of every failure.
const NOTHING: &[&str] = &[
    "unexpected GraphHtpSettings option",
    "Op specific validation failed",
    "validateNativeOps",
    "QnnBackend_validateOpConfig failed",
    "Failed to validate op",
];

fn heard() -> MutexGuard<'static, Vec<String>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

unsafe extern "C" {
    /// The C library's. A `va_list` parameter is a pointer on every system that has this library.
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

/// The callback that the library logs through.
pub unsafe extern "C" fn callback(format: *const c_char, level: u32, _time: u64, arguments: *mut c_void) {
    if level > LEVEL || format.is_null() {
        return;
    }
    let mut text = vec![0u8; 4096];
    // SAFETY: the library hands over a format and the arguments that go with it; the buffer is as long as said.
    let length = unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, arguments) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len() - 1);
    let message =
        String::from_utf8_lossy(&text[..length]).trim().trim_start_matches("<E>").trim().to_string();
    let mut list = heard();
    // A graph can fail thousands of times.
    if list.len() < 1000 {
        list.push(message);
    }
}
