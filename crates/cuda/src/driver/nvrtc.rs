//! NVRTC: NVIDIA's compiler as a library, which makes kernels at run time where this build holds none that run there.
//!
//! It is opened here and not by cudarc, which takes whatever library has the first fitting name, cannot be given a path, and
//! panics where a function is missing.
#![allow(unsafe_code)]

use super::library::{MAJORS, Sought};
use crate::images::{HEADERS, SOURCES};
use entropix_model::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

/// One that the user names is used even where this build holds kernels. The oldest of [`MAJORS`] is the first that knows
/// sm_90a.
const SOUGHT: Sought = Sought {
    name: "NVRTC",
    code: "NoNvrtc",
    variable: "ENTROPIX_NVRTC",
    file: "libnvrtc",
    package: "nvidia-cuda-nvrtc",
    folder: "cuda_nvrtc",
};
/// Most bytes of what it says of a file that an error tells.
const MOST_LOG_BYTES: usize = 4000;
type Handle = *mut c_void;
type Strings = *const *const c_char;

/// An open NVRTC.
pub struct Nvrtc {
    path: PathBuf,
    version: (u32, u32),
    create: unsafe extern "C" fn(*mut Handle, *const c_char, *const c_char, c_int, Strings, Strings) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, Strings) -> c_int,
    log_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    cubin_size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
    cubin: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    name_of: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Nvrtc {
    /// As nvcc is called, and one thing that nvcc does by itself: a lambda in a kernel is the device's.
    pub(crate) const OPTIONS: [&str; 2] = ["--std=c++17", "--device-as-default-execution-space"];

    /// Opens the library at `path`, or of that name where the system looks for libraries. It stays open to the end of the
    /// process.
    ///
    /// # Errors
    /// `NoNvrtc` of class `Unsupported` when it is not there, cannot be loaded, or is no NVRTC of CUDA 12 or newer.
    pub fn open(path: &Path) -> Result<Self> {
        // It asks for its second half by name alone, and a library of that name which is open already is found.
        for half in second_halves(path) {
            // SAFETY: a library of NVIDIA's that lies beside the one asked for; its initialisers need nothing of us.
            if let Ok(half) = unsafe { Library::new(half) } {
                std::mem::forget(half);
            }
        }
        let library = SOUGHT.open(path)?;
        let refuse = |what: &str| SOUGHT.refuse(path, what);
        let lacks = |name: &str| refuse(&format!("is no NVRTC that can make machine code: it has no {name}"));
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: NVRTC's function of that name has had the type of the field since CUDA 11.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| lacks($name))?
            };
        }
        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int = function!("nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to live numbers.
        unsafe { version(&mut major, &mut minor) };
        let version = (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0));
        if version.0 < MAJORS.0 {
            return Err(refuse(&format!(
                "is {} {}.{}; {}.0 is needed",
                SOUGHT.name, version.0, version.1, MAJORS.0
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            version,
            create: function!("nvrtcCreateProgram"),
            compile: function!("nvrtcCompileProgram"),
            log_size: function!("nvrtcGetProgramLogSize"),
            log: function!("nvrtcGetProgramLog"),
            cubin_size: function!("nvrtcGetCUBINSize"),
            cubin: function!("nvrtcGetCUBIN"),
            destroy: function!("nvrtcDestroyProgram"),
            name_of: function!("nvrtcGetErrorString"),
        })
    }

    /// The NVRTC that the user names, else the newest there is whose machine code a driver of that version takes.
    ///
    /// # Errors
    /// Why there is none, in half a sentence.
    pub(crate) fn find(driver: (u32, u32)) -> Result<Self, String> {
        SOUGHT.find(driver, |path| match Self::open(path)? {
            found if found.version.0 <= driver.0 => Ok(found),
            found => Err(SOUGHT.too_new(&found, driver)),
        })
    }

    /// What helps when there is none.
    pub(crate) fn remedy(driver: (u32, u32)) -> String {
        SOUGHT.remedy(driver)
    }

    /// Whether the user named one.
    pub(crate) fn is_named() -> bool {
        SOUGHT.is_named()
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compiles a kernel file of this build to machine code for an architecture, e.g. `sm_90a`.
    ///
    /// # Errors
    /// As [`Nvrtc::compile_source`].
    ///
    /// # Panics
    /// When there is no such file.
    pub fn compile(&self, file: &str, architecture: &str) -> Result<Vec<u8>> {
        let source = SOURCES.iter().find(|(name, _)| *name == file);
        let (_, source) = source.unwrap_or_else(|| panic!("{file} is no kernel file of this build"));
        self.compile_source(file, source, architecture)
    }

    /// Compiles `source`, which may include the headers of this build and is called `file` in messages.
    ///
    /// # Errors
    /// `KernelCompile` of class `Unsupported` with what the compiler said.
    pub fn compile_source(&self, file: &str, source: &str, architecture: &str) -> Result<Vec<u8>> {
        let text = |text: &str| CString::new(text).expect("no zero byte in source code");
        let (source, name) = (text(source), text(file));
        let headers: Vec<CString> = HEADERS.iter().map(|(_, header)| text(header)).collect();
        let includes: Vec<CString> = HEADERS.iter().map(|(name, _)| text(name)).collect();
        let options: Vec<CString> = Self::OPTIONS
            .iter()
            .map(|o| text(o))
            .chain([text(&format!("--gpu-architecture={architecture}"))])
            .collect();
        let pointers = |list: &[CString]| list.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let (headers, includes, options) = (pointers(&headers), pointers(&includes), pointers(&options));
        let n = |list: &[*const c_char]| c_int::try_from(list.len()).expect("a few");
        let mut program = Program { nvrtc: self, handle: std::ptr::null_mut() };
        // SAFETY: all strings end with zero and live to the end of this function, as does the program; the lists are as long
        // as is told.
        let created = unsafe {
            (self.create)(
                &mut program.handle,
                source.as_ptr(),
                name.as_ptr(),
                n(&headers),
                headers.as_ptr(),
                includes.as_ptr(),
            )
        };
        let failed = |code: c_int, log: &str| {
            let message = format!(
                "{self} could not compile {file} for {architecture}: {}{log}\ninstall another version of NVRTC, or use \
                 --device cpu",
                self.describe(code)
            );
            Error::unsupported("KernelCompile", message)
        };
        if created != 0 {
            return Err(failed(created, ""));
        }
        // SAFETY: the program was just made, and the list is as long as is told.
        let compiled = unsafe { (self.compile)(program.handle, n(&options), options.as_ptr()) };
        if compiled != 0 {
            let log = program.take(self.log_size, self.log).unwrap_or_default();
            return Err(failed(compiled, &shortened(&log)));
        }
        let cubin = program.take(self.cubin_size, self.cubin).map_err(|code| failed(code, ""))?;
        if cubin.is_empty() { Err(failed(0, ", but gave no machine code")) } else { Ok(cubin) }
    }

    /// What NVRTC calls an error.
    fn describe(&self, code: c_int) -> String {
        // SAFETY: any number may be asked for.
        let name = unsafe { (self.name_of)(code) };
        if name.is_null() {
            return format!("error {code}");
        }
        // SAFETY: a string of the library's own, which ends with zero and lives as long as it.
        let name = unsafe { CStr::from_ptr(name) };
        format!("{} ({code})", name.to_string_lossy())
    }
}

impl std::fmt::Display for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NVRTC {}.{} ({})", self.version.0, self.version.1, self.path.display())
    }
}

impl std::fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// What NVRTC keeps of one file; null before it is made.
struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: Handle,
}

impl Program<'_> {
    /// Something of which NVRTC first tells the size.
    fn take(
        &self,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        copy: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, c_int> {
        let told = |code: c_int| if code == 0 { Ok(()) } else { Err(code) };
        let mut n = 0;
        // SAFETY: the program was compiled, and the pointer is to a live number.
        told(unsafe { size(self.handle, &mut n) })?;
        let mut bytes = vec![0u8; n];
        // SAFETY: as many bytes are there as it just said it writes.
        told(unsafe { copy(self.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by this library and released once.
            unsafe { (self.nvrtc.destroy)(&mut self.handle) };
        }
    }
}

/// The libraries of built-in functions beside an NVRTC that is named by its place.
fn second_halves(path: &Path) -> Vec<PathBuf> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Vec::new();
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_half = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libnvrtc-builtins.so.")
    };
    files.filter(is_half).collect()
}

/// The beginning of a log, on lines of its own.
fn shortened(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(&log[..log.len().min(MOST_LOG_BYTES)]);
    let text = text.trim_end_matches('\0').trim();
    let more = if log.len() > MOST_LOG_BYTES { "\n..." } else { "" };
    if text.is_empty() { String::new() } else { format!("\n{text}{more}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_cut() {
        assert_eq!(shortened(b"\0"), "");
        assert_eq!(shortened(b"error: no\n\0"), "\nerror: no");
        let long = shortened(&[b'x'; 2 * MOST_LOG_BYTES]);
        assert!(long.len() < MOST_LOG_BYTES + 10 && long.ends_with("x\n..."), "{} bytes", long.len());
    }
}
