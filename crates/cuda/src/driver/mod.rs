//! The only module that calls the CUDA driver, NVRTC and cuBLASLt: one device, one stream, memory that lives as long as both.
//!
//! Every failure is an [`Error`]. After one that cannot be undone (a kernel that broke, a device that hangs) every
//! further call gives the same error, and nothing waits for the device again.
#![allow(unsafe_code)]

mod cublaslt;
mod functions;
mod graph;
mod library;
mod memory;
mod nvrtc;
mod probe;
mod wait;

pub use cublaslt::CublasLt;
pub(crate) use cublaslt::Gemm;
pub(crate) use graph::Graph;
pub(crate) use memory::{Claims, Memory, Pinned};
pub use nvrtc::Nvrtc;
pub use probe::{Found, devices, probe};

use crate::launch::{Launch, MOST_ARGUMENTS};
use cudarc::driver::{result, sys};
use entropix_model::{Class, Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::time::Duration;

/// An open device with its stream.
pub(crate) struct Driver {
    found: Found,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Recorded behind whatever is waited for.
    event: sys::CUevent,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, Kernel>,
    memory: Vec<sys::CUdeviceptr>,
    claims: Claims,
    /// Whether the device reads ordinary memory itself, so that a copy of it may not be made when the call returns.
    reads_pageable: bool,
    pinned: Vec<*mut c_void>,
    /// Whether everything was claimed.
    is_sealed: bool,
    /// Null where one was released.
    graphs: Vec<sys::CUgraphExec>,
    blas: Option<cublaslt::Blas>,
    /// How long a wait may take.
    patience: Duration,
    /// What every further call gives.
    lost: RefCell<Option<Error>>,
}

#[derive(Clone, Copy)]
struct Kernel {
    function: sys::CUfunction,
    /// Dynamic shared memory it may be launched with.
    shared: u32,
}

// SAFETY: the handles belong to this value alone, and the driver may be called from any thread that made the context
// current, as every entry does.
unsafe impl Send for Driver {}

impl Driver {
    /// Opens a device of this machine.
    pub(crate) fn open(ordinal: u32, patience: Duration) -> Result<Self> {
        let found = probe(ordinal)?;
        let get = result::device::get(ordinal as i32);
        let device = get.map_err(|error| failed("cuDeviceGet", error.0))?;
        // SAFETY: the device was given by the driver; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(|error| failed("cuDevicePrimaryCtxRetain", error.0))?;
        let mut driver = Self {
            found,
            device,
            context,
            stream: std::ptr::null_mut(),
            event: std::ptr::null_mut(),
            modules: Vec::new(),
            functions: HashMap::new(),
            memory: Vec::new(),
            claims: Claims::default(),
            reads_pageable: false,
            pinned: Vec::new(),
            is_sealed: false,
            graphs: Vec::new(),
            blas: None,
            patience,
            lost: RefCell::new(None),
        };
        driver.enter()?;
        let pageable = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS;
        // SAFETY: the device was given by the driver.
        let pageable = unsafe { result::device::get_attribute(device, pageable) };
        driver.reads_pageable = pageable.map_err(|error| driver.note("cuDeviceGetAttribute", error.0))? != 0;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        driver.stream = stream.map_err(|error| driver.note("cuStreamCreate", error.0))?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        driver.event = event.map_err(|error| driver.note("cuEventCreate", error.0))?;
        Ok(driver)
    }

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Makes the context current; whoever calls from outside comes through here first.
    pub(crate) fn enter(&self) -> Result<()> {
        if let Some(error) = &*self.lost.borrow() {
            return Err(error.clone());
        }
        // SAFETY: the context lives as long as this value.
        let set = unsafe { result::ctx::set_current(self.context) };
        set.map_err(|error| self.note("cuCtxSetCurrent", error.0))
    }

    /// Loads an image and looks up kernels of it, each with the dynamic shared memory it may be launched with.
    pub(crate) fn load(&mut self, file: &str, image: &[u8], kernels: &[(String, u32)]) -> Result<()> {
        // The driver reads as many bytes as the image's own header says.
        // SAFETY: the image is what nvcc or NVRTC wrote, whole.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let module = module.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | sys::CUresult::CUDA_ERROR_INVALID_IMAGE
            // A device newer than the machine code takes the PTX, which some drivers cannot translate.
            | sys::CUresult::CUDA_ERROR_INVALID_PTX
            | sys::CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
            | sys::CUresult::CUDA_ERROR_JIT_COMPILATION_DISABLED => Error::unsupported(
                "KernelImage",
                format!(
                    "{}: the kernels of {file} do not run there ({})",
                    self.found,
                    probe::describe(error.0)
                ),
            ),
            other => self.note("cuModuleLoadData", other),
        })?;
        self.modules.push(module);
        for (name, shared) in kernels {
            let text = CString::new(name.as_str()).expect("kernel names are C identifiers");
            // SAFETY: the module was just loaded and lives as long as this value.
            let function = unsafe { result::module::get_function(module, text) };
            let function = function.map_err(|error| self.note("cuModuleGetFunction", error.0))?;
            // Static and dynamic together need no permission up to 48 KiB, and only the driver knows how much is static.
            if *shared > 0 {
                let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // SAFETY: the function is of a loaded module.
                let set =
                    unsafe { result::function::set_function_attribute(function, attribute, *shared as i32) };
                set.map_err(|error| match error.0 {
                    sys::CUresult::CUDA_ERROR_INVALID_VALUE => Error::unsupported(
                        "SharedMemory",
                        format!(
                            "{}: {name} needs {shared} bytes of shared memory a block, more than it has; use --device cpu",
                            self.found
                        ),
                    ),
                    other => self.note("cuFuncSetAttribute", other),
                })?;
            }
            self.functions.insert(name.clone(), Kernel { function, shared: *shared });
        }
        Ok(())
    }

    /// Queues a launch.
    pub(crate) fn launch(&self, launch: &Launch) -> Result<()> {
        let kernel = self.functions.get(&launch.kernel);
        let kernel = kernel.unwrap_or_else(|| panic!("{} was not loaded", launch.kernel));
        assert!(
            launch.shared <= kernel.shared,
            "{}: {} bytes of shared memory, {} were planned",
            launch.kernel,
            launch.shared,
            kernel.shared
        );
        let mut values = [0u64; MOST_ARGUMENTS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        let mut n = 0;
        for (value, _) in launch.arguments.iter() {
            // Little-endian: a smaller parameter is the first bytes of its word.
            values[n] = value;
            pointers[n] = (&raw mut values[n]).cast();
            n += 1;
        }
        let [x, y, z] = launch.grid;
        // SAFETY: the parameters are those of the kernel (tests hold `abi` against the compiled code) and are copied
        // before this returns; what they point at lives as long as this value.
        let launched = unsafe {
            result::launch_kernel(
                kernel.function,
                (x, y, z),
                (launch.block, 1, 1),
                launch.shared,
                self.stream,
                &mut pointers[..n],
            )
        };
        launched.map_err(|error| self.note(&format!("cuLaunchKernel of {}", launch.kernel), error.0))
    }

    /// The error of a call; one that cannot be undone is remembered.
    fn note(&self, call: &str, code: sys::CUresult) -> Error {
        let error = failed(call, code);
        if code as u32 >= 700 && (code as u32) < 800 {
            self.lost.borrow_mut().get_or_insert_with(|| error.clone());
        }
        error
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Releasing waits for the device. One that hangs is left to the end of the process.
        if self.lost.borrow().as_ref().is_some_and(|error| error.code == "DeviceHang") {
            return;
        }
        // SAFETY: every handle was given by the driver and is released once, after what uses it. What fails here has
        // nobody to be told, and the process's end releases it.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            if !self.stream.is_null() {
                let _ = result::stream::synchronize(self.stream);
            }
            if let Some(blas) = self.blas.take() {
                blas.close();
            }
            for graph in self.graphs.drain(..).filter(|graph| !graph.is_null()) {
                let _ = result::graph::exec_destroy(graph);
            }
            for at in self.memory.drain(..) {
                let _ = result::free_sync(at);
            }
            for at in self.pinned.drain(..) {
                let _ = result::free_host(at);
            }
            for module in self.modules.drain(..) {
                let _ = result::module::unload(module);
            }
            if !self.event.is_null() {
                let _ = result::event::destroy(self.event);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.found)
    }
}

fn name_of(code: sys::CUresult) -> String {
    let text = result::DriverError(code);
    text.error_name().map_or_else(|_| "an unknown error".into(), |name| name.to_string_lossy().into_owned())
}

fn failed(call: &str, code: sys::CUresult) -> Error {
    let what = probe::describe(code);
    match code {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY if call == memory::PIN => Error::new(
            Class::Temp,
            "HostMemory",
            format!(
                "{call}: this machine, not the device, has no memory that it can pin ({what}); end what else uses it, or use --device \
                 cpu"
            ),
        ),
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::new(
            Class::Temp,
            "DeviceMemory",
            format!(
                "{call}: the device has no memory left ({what}); end what else uses it, ask for less, or use --device cpu"
            ),
        ),
        _ => Error::new(
            Class::Temp,
            "DeviceError",
            format!("the CUDA device failed in {call}: {what}; try again, or use --device cpu"),
        ),
    }
}
