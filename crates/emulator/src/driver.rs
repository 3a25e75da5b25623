//! A libcuda whose device is the emulator: an unmodified CUDA program runs on it, and it fails where it is told to. Beside it
//! lies a libcublasLt that computes there.
#![allow(unsafe_code)]

use libloading::Library;
use std::ffi::{CString, c_char};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock};

/// The fake driver, loaded into this process before anything looks for the real one. One at a time uses it.
pub struct FakeDriver {
    library: Library,
}

/// What went through the driver since the last [`FakeDriver::reset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Bytes copied to the device.
    pub bytes_in: u64,
    /// Bytes copied to the host.
    pub bytes_out: u64,
    /// Launches of kernels by themselves.
    pub launches: u64,
    /// Launches of graphs.
    pub graph_launches: u64,
    /// Pieces of device memory that are claimed now.
    pub allocations: u64,
    /// Their bytes.
    pub claimed: u64,
    /// What these take of the device's memory, which is handed out in larger pieces.
    pub taken: u64,
}

impl FakeDriver {
    /// The folder of a `libcuda.so` and a `libcublasLt.so.13` for other processes: put it first in `LD_LIBRARY_PATH`. Not checked, so quicker.
    pub fn folder() -> &'static Path {
        Path::new(env!("EMULATOR_PLAIN")).parent().expect("a file in a folder")
    }

    /// The driver of this process, with every access of kernels checked, and the right to use it until the guard is
    /// dropped. It is as new: nothing counted, nothing failing.
    ///
    /// # Panics
    /// When the library cannot be loaded.
    pub fn lock() -> MutexGuard<'static, FakeDriver> {
        static DRIVER: OnceLock<Mutex<FakeDriver>> = OnceLock::new();
        let driver = DRIVER.get_or_init(|| {
            let path = Path::new(env!("EMULATOR_CHECKED")).with_file_name("libcuda.so");
            let load = |path: &Path| {
                // SAFETY: the library was made by this crate; its initialisers only fill a table of kernels. Whoever asks
                // for a library of its name from now on is given this one.
                unsafe { Library::new(path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
            };
            let library = load(&path);
            std::mem::forget(load(&path.with_file_name("libcublasLt.so.13")));
            Mutex::new(FakeDriver { library })
        });
        let driver = driver.lock().unwrap_or_else(|e| e.into_inner());
        driver.reset();
        driver
    }

    /// # Safety
    /// `T` must be the type of that function in driver/control.cpp, and must not outlive the library.
    unsafe fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller vouches for the type.
        *unsafe { self.library.get::<T>(name.as_bytes()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Forgets counts and failures; a broken device works again.
    pub fn reset(&self) {
        // SAFETY: the signature is that of driver/control.cpp.
        let reset: unsafe extern "C" fn() = unsafe { self.symbol("fake_driver_reset") };
        // SAFETY: takes nothing.
        unsafe { reset() }
    }

    /// Makes the `call`-th call from now on (1 is the next) of an entry point, named as the driver exports it, give an
    /// error of the driver. Codes from 700 to 799 break the device.
    pub fn fail(&self, entry: &str, call: u64, code: i32) {
        let already = self.calls().into_iter().find(|(name, _)| name == entry).map_or(0, |(_, n)| n);
        let name = CString::new(entry).expect("no zero byte in an identifier");
        // SAFETY: the signature is that of driver/control.cpp.
        let fail: unsafe extern "C" fn(*const c_char, u64, i32) = unsafe { self.symbol("fake_driver_fail") };
        // SAFETY: the name ends with zero.
        unsafe { fail(name.as_ptr(), already + call, code) }
    }

    /// Changes the device: `memory` (bytes), `devices`, `version` (13000 is CUDA 13.0), `capability` (90 is 9.0), `hang` (n: from
    /// the n-th event recorded from now on none is ever done; 0: no such), `pageable` (1: copies of ordinary memory read it when
    /// they run), `order` (of threads, 0 and 1 as [`crate::Order`], else a seed).
    pub fn set(&self, what: &str, value: u64) {
        let name = CString::new(what).expect("no zero byte in a name");
        // SAFETY: the signature is that of driver/control.cpp.
        let set: unsafe extern "C" fn(*const c_char, u64) = unsafe { self.symbol("fake_driver_set") };
        // SAFETY: the name ends with zero.
        unsafe { set(name.as_ptr(), value) }
    }

    /// What went through since the last reset.
    pub fn counts(&self) -> Counts {
        // SAFETY: the signature is that of driver/control.cpp.
        let counts: unsafe extern "C" fn(*mut u64) = unsafe { self.symbol("fake_driver_counts") };
        let mut out = [0u64; 7];
        // SAFETY: seven numbers are written.
        unsafe { counts(out.as_mut_ptr()) };
        let [bytes_in, bytes_out, launches, graph_launches, allocations, claimed, taken] = out;
        Counts { bytes_in, bytes_out, launches, graph_launches, allocations, claimed, taken }
    }

    /// Makes device memory that nobody wrote pass for written: every byte of it is 0xff, and every float a NaN.
    pub fn fill_unwritten(&self) {
        // SAFETY: the signature is that of driver/control.cpp.
        let fill: unsafe extern "C" fn() = unsafe { self.symbol("fake_driver_fill") };
        // SAFETY: takes nothing.
        unsafe { fill() }
    }

    /// Every entry point called since the last reset, and how often.
    pub fn calls(&self) -> Vec<(String, u64)> {
        // SAFETY: the signature is that of driver/control.cpp.
        let calls: unsafe extern "C" fn(usize, *mut c_char, usize) -> u64 =
            unsafe { self.symbol("fake_driver_calls") };
        let mut all = Vec::new();
        loop {
            let mut text = [0u8; 128];
            // SAFETY: the buffer has the length that is told.
            let n = unsafe { calls(all.len(), text.as_mut_ptr().cast(), text.len()) };
            if n == 0 {
                return all;
            }
            let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
            all.push((String::from_utf8_lossy(&text[..end]).into_owned(), n));
        }
    }
}
