//! Runs the CUDA kernels of this project on the CPU, from their own sources, so that they can be tested on
//! machines without a GPU.
//!
//! `runtime/` holds what CUDA provides: one fiber a thread, barriers, warp operations, `cp.async`, `ldmatrix`,
//! `mma`. Blocks run one after the other; threads of a block run in an order that the caller picks, so that a
//! kernel that depends on luck gives different results. In the checked image the compiler reports every access
//! to the runtime, which then knows of accesses out of bounds, of memory nobody wrote, of races inside a block
//! and between blocks, of divergent barriers.
//!
//! What it cannot see: the inline PTX of `kernels/dev.cuh`, register pressure, bank conflicts, weak memory
//! order, and the rounding of the GPU's own approximations.
#![allow(unsafe_code)]

mod driver;

pub use driver::{Counts, FakeDriver};

use libloading::Library;
use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// One launch at a time in the whole process: images share the process's signal handlers.
static LAUNCHING: Mutex<()> = Mutex::new(());

/// An image of all kernels (or some, see [`Emulator::compile`]) and the runtime they run on.
pub struct Emulator {
    library: Library,
    is_checked: bool,
}

/// What a kernel did wrong, in words: kernel, kind of fault, place, block and thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Bytes of global memory a launch touched; zero in unchecked images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// In which order threads run between the places where they must wait for one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Blocks, warps and lanes by rising index.
    Rising,
    /// By falling index.
    Falling,
    /// Warps and lanes drawn anew at every barrier, with preemption between warps.
    Random(u64),
}

impl Order {
    /// The three that every kernel is tested in.
    pub const ALL: [Order; 3] = [Order::Rising, Order::Falling, Order::Random(2)];

    fn number(self) -> u64 {
        match self {
            Order::Rising => 0,
            Order::Falling => 1,
            Order::Random(seed) => seed.max(2),
        }
    }
}

/// Where blocks and threads of a launch lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

impl Emulator {
    /// All kernels, without checks: for bulk.
    pub fn plain() -> &'static Emulator {
        static IMAGE: OnceLock<Emulator> = OnceLock::new();
        IMAGE.get_or_init(|| {
            Self::load(Path::new(env!("EMULATOR_PLAIN")))
                .expect("the plain image was built beside this crate")
        })
    }

    /// All kernels, every access checked; 2 to 4 times slower.
    pub fn checked() -> &'static Emulator {
        static IMAGE: OnceLock<Emulator> = OnceLock::new();
        IMAGE.get_or_init(|| {
            Self::load(Path::new(env!("EMULATOR_CHECKED")))
                .expect("the checked image was built beside this crate")
        })
    }

    /// The folder of the kernels' sources.
    pub fn kernel_sources() -> PathBuf {
        PathBuf::from(env!("EMULATOR_KERNELS"))
    }

    /// Compiles one kernel file, which includes its headers from its own folder, into a checked image of its own in
    /// `folder`, together with the kernels of the files named `with` (no extension) as they are.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn compile(source: &Path, with: &[&str], folder: &Path) -> Result<Emulator, String> {
        let split = |list: &'static str| list.split('\u{1f}');
        let object = folder.join("kernel.o");
        let library = folder.join("libkernel.so");
        let run = |command: &mut Command| -> Result<(), String> {
            let output = command.output().map_err(|e| format!("{}: {e}", env!("EMULATOR_COMPILER")))?;
            if output.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&output.stderr).into_owned())
            }
        };
        run(Command::new(env!("EMULATOR_COMPILER"))
            .args(split(env!("EMULATOR_CHECKED_FLAGS")))
            .arg("-w")
            .arg(source)
            .arg("-o")
            .arg(&object))?;
        run(Command::new(env!("EMULATOR_COMPILER"))
            .args(["-shared", "-Wl,-Bsymbolic", "-Wl,-z,defs"])
            .args(split(env!("EMULATOR_CHECKED_RUNTIME")))
            .arg(&object)
            .args(
                with.iter()
                    .map(|name| Path::new(env!("EMULATOR_CHECKED")).with_file_name(name).with_extension("o")),
            )
            .arg("-o")
            .arg(&library))?;
        Self::load(&library)
    }

    fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: the library was made by this crate; its initialisers only fill a table of kernels.
        let library = unsafe { Library::new(path) }.map_err(|e| format!("{}: {e}", path.display()))?;
        let mut image = Self { library, is_checked: false };
        // SAFETY: the signature is that of runtime/api.cpp.
        let is_checked: unsafe extern "C" fn() -> i32 = unsafe { image.symbol("emulator_is_checked") };
        // SAFETY: takes nothing and only reads a constant.
        image.is_checked = unsafe { is_checked() } != 0;
        Ok(image)
    }

    /// # Safety
    /// `T` must be the type of that function in runtime/api.cpp, and must not outlive the image.
    unsafe fn symbol<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the caller vouches for the type.
        *unsafe { self.library.get::<T>(name.as_bytes()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Whether this image checks every access.
    pub fn is_checked(&self) -> bool {
        self.is_checked
    }

    /// Every kernel of the image and the sizes of its parameters in bytes, by name.
    pub fn kernels(&self) -> Vec<(String, Vec<u32>)> {
        // SAFETY: the signatures are those of runtime/api.cpp.
        let name_at: unsafe extern "C" fn(usize, *mut c_char, usize) -> usize =
            unsafe { self.symbol("emulator_kernel_name") };
        // SAFETY: as above.
        let parameters: unsafe extern "C" fn(*const c_char, *mut u32, usize) -> usize =
            unsafe { self.symbol("emulator_parameters") };
        let mut all = Vec::new();
        loop {
            let mut text = [0u8; 128];
            // SAFETY: the buffer has the length that is told.
            let length = unsafe { name_at(all.len(), text.as_mut_ptr().cast(), text.len()) };
            if length == 0 {
                return all;
            }
            let name = String::from_utf8(text[..length].to_vec()).expect("kernel names are C identifiers");
            let mut sizes = vec![0u32; 64];
            let c_name = CString::new(name.clone()).expect("no zero byte in an identifier");
            // SAFETY: the name ends with zero and the buffer has the length that is told.
            let n = unsafe { parameters(c_name.as_ptr(), sizes.as_mut_ptr(), sizes.len()) };
            sizes.truncate(n);
            all.push((name, sizes));
        }
    }

    /// Device memory of `bytes` bytes, 0xff in each and known to be unwritten, its end against a page that
    /// nothing may touch.
    pub fn allocate(&self, bytes: usize) -> Buffer<'_> {
        // SAFETY: the signature is that of runtime/api.cpp.
        let allocate: unsafe extern "C" fn(usize) -> *mut c_void =
            unsafe { self.symbol("emulator_allocate") };
        let _guard = LAUNCHING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: any size may be asked for.
        let base = unsafe { allocate(bytes) };
        assert!(!base.is_null(), "no memory for {bytes} bytes");
        Buffer { base, bytes, image: self, _not_send: PhantomData }
    }

    /// Runs a kernel to its end. `arguments` holds each parameter's bytes.
    ///
    /// # Errors
    /// What the kernel did wrong. Memory is then as the fault left it.
    ///
    /// # Panics
    /// When an argument's size is not the parameter's.
    pub fn launch(
        &self,
        kernel: &str,
        shape: Shape,
        arguments: &[&[u8]],
        order: Order,
    ) -> Result<Traffic, Fault> {
        type Launch = unsafe extern "C" fn(
            *const c_char,
            *const u32,
            *const u32,
            usize,
            *mut *mut c_void,
            usize,
            u64,
            *mut c_char,
            usize,
            *mut u64,
        ) -> usize;
        // SAFETY: the signatures are those of runtime/api.cpp.
        let launch: Launch = unsafe { self.symbol("emulator_launch") };
        // SAFETY: as above.
        let parameters: unsafe extern "C" fn(*const c_char, *mut u32, usize) -> usize =
            unsafe { self.symbol("emulator_parameters") };
        let name = CString::new(kernel).expect("no zero byte in an identifier");
        let mut sizes = [0u32; 64];
        // SAFETY: the name ends with zero and the buffer has the length that is told.
        let n = unsafe { parameters(name.as_ptr(), sizes.as_mut_ptr(), sizes.len()) };
        if n == arguments.len() {
            for (i, (argument, &size)) in arguments.iter().zip(&sizes).enumerate() {
                assert_eq!(argument.len(), size as usize, "{kernel}: bytes of argument {i}");
            }
        }
        // Aligned copies: the image reads a pointer as a pointer.
        let mut values: Vec<[u64; 2]> = arguments
            .iter()
            .map(|argument| {
                let mut bytes = [0u8; 16];
                bytes[..argument.len()].copy_from_slice(argument);
                [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")))
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
        let block = [shape.block, 1, 1];
        let mut text = vec![0u8; 1024];
        let mut traffic = [0u64; 2];
        let _guard = LAUNCHING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: all pointers are to live buffers of the lengths that are told; the runtime checks name and count.
        // A kernel may only touch memory of this image; where it does not, the fault is caught and returned.
        let length = unsafe {
            launch(
                name.as_ptr(),
                shape.grid.as_ptr(),
                block.as_ptr(),
                shape.shared,
                pointers.as_mut_ptr(),
                pointers.len(),
                order.number(),
                text.as_mut_ptr().cast(),
                text.len(),
                traffic.as_mut_ptr(),
            )
        };
        if length == 0 {
            return Ok(Traffic { read: traffic[0], written: traffic[1] });
        }
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        Err(Fault(String::from_utf8_lossy(&text[..end]).into_owned()))
    }
}

/// Device memory of an image; freed when dropped.
pub struct Buffer<'a> {
    base: *mut c_void,
    bytes: usize,
    image: &'a Emulator,
    _not_send: PhantomData<*mut ()>,
}

impl Buffer<'_> {
    /// The device address.
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies `bytes` to the device, from `offset` on.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "{} bytes at {offset} of {}", bytes.len(), self.bytes);
        // SAFETY: the signature is that of runtime/api.cpp.
        let write: unsafe extern "C" fn(*mut c_void, *const c_void, usize) =
            unsafe { self.image.symbol("emulator_write") };
        let _guard = LAUNCHING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: both ranges are valid, as just asserted.
        unsafe { write(self.base.cast::<u8>().add(offset).cast(), bytes.as_ptr().cast(), bytes.len()) }
    }

    /// Copies `out.len()` bytes from `offset` on to the host; how many of them nobody ever wrote (in checked images).
    ///
    /// # Panics
    /// When they are not all there.
    pub fn read(&self, offset: usize, out: &mut [u8]) -> usize {
        assert!(offset + out.len() <= self.bytes, "{} bytes at {offset} of {}", out.len(), self.bytes);
        // SAFETY: the signature is that of runtime/api.cpp.
        let read: unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> usize =
            unsafe { self.image.symbol("emulator_read") };
        let _guard = LAUNCHING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: both ranges are valid, as just asserted.
        unsafe { read(out.as_mut_ptr().cast(), self.base.cast::<u8>().add(offset).cast(), out.len()) }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the signature is that of runtime/api.cpp.
        let release: unsafe extern "C" fn(*mut c_void) = unsafe { self.image.symbol("emulator_release") };
        let _guard = LAUNCHING.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: `base` came from this image and is released once.
        unsafe { release(self.base) }
    }
}
