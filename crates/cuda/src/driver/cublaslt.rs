//! cuBLASLt: NVIDIA's library of matrix products, which `--fast` takes for long prompts. It is looked for only then.
//!
//! Opened as NVRTC is, by name or path and function by function. Names and numbers are those of cublasLt.h of CUDA 12 and 13.
#![allow(unsafe_code)]

use super::library::{MAJORS, Sought};
use super::{Driver, Memory};
use crate::launch::Pointer;
use entropix_model::{Class, Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

const SOUGHT: Sought = Sought {
    name: "cuBLASLt",
    code: "NoCublasLt",
    variable: "ENTROPIX_CUBLASLT",
    file: "libcublasLt",
    package: "nvidia-cublas",
    folder: "cublas",
};

/// `CUBLAS_COMPUTE_32F`, `CUDA_R_32F`, `CUDA_R_16BF`, `CUBLAS_OP_T`.
const COMPUTE_F32: c_int = 68;
const F32: c_int = 0;
const BF16: c_int = 14;
const TRANSPOSED: c_int = 1;
/// `CUBLASLT_MATMUL_DESC_TRANSA`; `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, `..._MIN_ALIGNMENT_A_BYTES` to `D`.
const TRANSPOSE_A: c_int = 3;
const MAX_WORKSPACE: c_int = 1;
const ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];
/// What the library counts alignment up to, as a power of two: 256 bytes.
const MOST_ALIGNMENT: u32 = 8;
/// Shapes whose descriptors are kept; steps with prompts come in any length, so they are forgotten together.
const MOST_SHAPES: usize = 64;

type Handle = *mut c_void;
type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
type Release = unsafe extern "C" fn(Handle) -> c_int;
type Set = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int;
type Algorithm = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

/// An open cuBLASLt.
pub struct CublasLt {
    path: PathBuf,
    version: (u32, u32, u32),
    create: Create,
    destroy: Release,
    create_operation: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> c_int,
    set_operation: Set,
    destroy_operation: Release,
    create_layout: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> c_int,
    destroy_layout: Release,
    create_preference: Create,
    set_preference: Set,
    destroy_preference: Release,
    choose: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> c_int,
    multiply: unsafe extern "C" fn(
        Handle,
        Handle,
        *const f32,
        u64,
        Handle,
        u64,
        Handle,
        *const f32,
        u64,
        Handle,
        u64,
        Handle,
        *const Algorithm,
        u64,
        usize,
        *mut c_void,
    ) -> c_int,
}

impl CublasLt {
    fn open(path: &Path) -> Result<Self> {
        let library = SOUGHT.open(path)?;
        let refuse = |what: &str| SOUGHT.refuse(path, what);
        let lacks = |name: &str| refuse(&format!("is no {}: it has no {name}", SOUGHT.name));
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: cuBLASLt's function of that name has had the type of the field since CUDA 11.
                *unsafe { library.get($name.as_bytes()) }.map_err(|_| lacks($name))?
            };
        }
        let version: unsafe extern "C" fn() -> usize = function!("cublasLtGetVersion");
        // SAFETY: takes nothing.
        let version = u32::try_from(unsafe { version() }).unwrap_or(0);
        let version = (version / 10_000, version / 100 % 100, version % 100);
        if version.0 < MAJORS.0 {
            return Err(refuse(&format!("is not of CUDA {} or newer", MAJORS.0)));
        }
        Ok(Self {
            path: path.to_owned(),
            version,
            create: function!("cublasLtCreate"),
            destroy: function!("cublasLtDestroy"),
            create_operation: function!("cublasLtMatmulDescCreate"),
            set_operation: function!("cublasLtMatmulDescSetAttribute"),
            destroy_operation: function!("cublasLtMatmulDescDestroy"),
            create_layout: function!("cublasLtMatrixLayoutCreate"),
            destroy_layout: function!("cublasLtMatrixLayoutDestroy"),
            create_preference: function!("cublasLtMatmulPreferenceCreate"),
            set_preference: function!("cublasLtMatmulPreferenceSetAttribute"),
            destroy_preference: function!("cublasLtMatmulPreferenceDestroy"),
            choose: function!("cublasLtMatmulAlgoGetHeuristic"),
            multiply: function!("cublasLtMatmul"),
        })
    }

    /// The cuBLASLt that `$ENTROPIX_CUBLASLT` names, else the newest there is that works with a driver of that version of
    /// CUDA.
    ///
    /// # Errors
    /// `NoCublasLt` of class `Unsupported`: what was looked for and what helps.
    pub fn find(driver: (u32, u32)) -> Result<Self> {
        let found = SOUGHT.find(driver, |path| match Self::open(path)? {
            found if found.version.0 <= driver.0 => Ok(found),
            found => Err(SOUGHT.too_new(&found, driver)),
        });
        found.map_err(|none| {
            let message = format!(
                "--fast takes products by {}, and there is none: {none}; {}, or begin an output without --fast",
                SOUGHT.name,
                SOUGHT.remedy(driver)
            );
            Error::unsupported(SOUGHT.code, message)
        })
    }

    /// Major and minor version, and that of the update.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// The error of a call, by its `cublasStatus_t`.
    fn failed(&self, call: &str, status: c_int) -> Error {
        let (class, name) = match status {
            1 => (Class::Temp, "CUBLAS_STATUS_NOT_INITIALIZED"),
            3 => (Class::Temp, "CUBLAS_STATUS_ALLOC_FAILED"),
            7 => (Class::Temp, "CUBLAS_STATUS_INVALID_VALUE"),
            8 => (Class::Unsupported, "CUBLAS_STATUS_ARCH_MISMATCH"),
            11 => (Class::Temp, "CUBLAS_STATUS_MAPPING_ERROR"),
            13 => (Class::Temp, "CUBLAS_STATUS_EXECUTION_FAILED"),
            14 => (Class::Temp, "CUBLAS_STATUS_INTERNAL_ERROR"),
            15 => (Class::Unsupported, "CUBLAS_STATUS_NOT_SUPPORTED"),
            _ => (Class::Temp, "an unknown status"),
        };
        let message = format!(
            "{self} failed in {call}: {name} ({status}); try again, or begin an output without --fast"
        );
        Error::new(class, "CublasLt", message)
    }

    fn check(&self, call: &str, status: c_int) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(self.failed(call, status)) }
    }

    /// Something that `create` makes and `destroy` releases.
    fn made(
        &self,
        call: &str,
        destroy: Release,
        create: impl FnOnce(&mut Handle) -> c_int,
    ) -> Result<Descriptor> {
        let mut handle = std::ptr::null_mut();
        self.check(call, create(&mut handle))?;
        Ok(Descriptor { handle, destroy })
    }

    /// A matrix, column by column: `rows` numbers of that type, every `stride` of them.
    fn layout(&self, kind: c_int, rows: u32, columns: u32, stride: u32) -> Result<Descriptor> {
        let (rows, columns, stride) = (rows.into(), columns.into(), stride.into());
        // SAFETY: the pointer is to a live handle.
        self.made("cublasLtMatrixLayoutCreate", self.destroy_layout, |handle| unsafe {
            (self.create_layout)(handle, kind, rows, columns, stride)
        })
    }

    fn set(&self, call: &str, set: Set, of: &Descriptor, attribute: c_int, value: &[u8]) -> Result<()> {
        // SAFETY: the descriptor is live, and as many bytes are there as is told.
        self.check(call, unsafe { set(of.handle, attribute, value.as_ptr().cast(), value.len()) })
    }
}

impl fmt::Display for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, update) = self.version;
        write!(f, "{} {major}.{minor}.{update} ({})", SOUGHT.name, self.path.display())
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A description on the host, released when it is dropped. No device has a part in it.
struct Descriptor {
    handle: Handle,
    destroy: Release,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by the library of `destroy`, which is never closed, and released once.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// Y (n_tokens, stride) f32 = X W^T, or that added to it; `weights` (n_rows, n_cols) and `x` (n_tokens, n_cols) row by row in
/// bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) weights: Pointer,
    pub(crate) x: Pointer,
    pub(crate) y: Pointer,
    pub(crate) n_rows: u32,
    pub(crate) n_cols: u32,
    pub(crate) n_tokens: u32,
    /// Floats from one row of Y to the next.
    pub(crate) stride: u32,
    /// Whether Y is added to.
    pub(crate) adds: bool,
}

/// What an algorithm is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    n_rows: u32,
    n_cols: u32,
    n_tokens: u32,
    stride: u32,
    /// Bytes that the addresses of weights, X and Y are multiples of.
    alignments: [u32; 3],
}

impl Shape {
    fn of(gemm: &Gemm) -> Self {
        let Gemm { weights, x, y, n_rows, n_cols, n_tokens, stride, .. } = *gemm;
        let alignments = [weights, x, y].map(|at| 1 << at.0.trailing_zeros().min(MOST_ALIGNMENT));
        Self { n_rows, n_cols, n_tokens, stride, alignments }
    }
}

/// A product as the library takes it. It counts columns where we count rows: W^T is its A, transposed, X its B, Y its C and D.
struct Planned {
    operation: Descriptor,
    weights: Descriptor,
    x: Descriptor,
    y: Descriptor,
    algorithm: Algorithm,
}

/// cuBLASLt with what it holds on one device.
pub(super) struct Blas {
    library: CublasLt,
    handle: Handle,
    shapes: RefCell<HashMap<Shape, Planned>>,
}

impl Blas {
    fn new(library: CublasLt) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the context of the device is current.
        library.check("cublasLtCreate", unsafe { (library.create)(&mut handle) })?;
        Ok(Self { library, handle, shapes: RefCell::default() })
    }

    /// Releases everything. The device must have finished, and its context be there.
    pub(super) fn close(self) {
        self.shapes.borrow_mut().clear();
        // SAFETY: made by this library and released once.
        unsafe { (self.library.destroy)(self.handle) };
    }

    fn plan(&self, shape: &Shape, workspace: usize) -> Result<Planned> {
        let lib = &self.library;
        let Shape { n_rows, n_cols, n_tokens, stride, alignments: [of_weights, of_x, of_y] } = *shape;
        // SAFETY: the pointer is to a live handle.
        let operation = lib.made("cublasLtMatmulDescCreate", lib.destroy_operation, |handle| unsafe {
            (lib.create_operation)(handle, COMPUTE_F32, F32)
        })?;
        let call = "cublasLtMatmulDescSetAttribute";
        lib.set(call, lib.set_operation, &operation, TRANSPOSE_A, &TRANSPOSED.to_ne_bytes())?;
        let weights = lib.layout(BF16, n_cols, n_rows, n_cols)?;
        let x = lib.layout(BF16, n_cols, n_tokens, n_cols)?;
        let y = lib.layout(F32, n_rows, n_tokens, stride)?;
        // SAFETY: as above.
        let create = |handle: &mut Handle| unsafe { (lib.create_preference)(handle) };
        let preference = lib.made("cublasLtMatmulPreferenceCreate", lib.destroy_preference, create)?;
        let prefer = |attribute: c_int, value: &[u8]| {
            let call = "cublasLtMatmulPreferenceSetAttribute";
            lib.set(call, lib.set_preference, &preference, attribute, value)
        };
        prefer(MAX_WORKSPACE, &workspace.to_ne_bytes())?;
        for (attribute, bytes) in ALIGNMENTS.into_iter().zip([of_weights, of_x, of_y, of_y]) {
            prefer(attribute, &bytes.to_ne_bytes())?;
        }
        let mut best = Heuristic { algorithm: [0; 8], workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
        let mut n = 0;
        let call = "cublasLtMatmulAlgoGetHeuristic";
        // SAFETY: all descriptors are live, and there is room for the one result that is asked for.
        let status = unsafe {
            (lib.choose)(
                self.handle,
                operation.handle,
                weights.handle,
                x.handle,
                y.handle,
                y.handle,
                preference.handle,
                1,
                &mut best,
                &mut n,
            )
        };
        lib.check(call, status)?;
        lib.check(call, if n == 0 { 15 } else { best.state })?;
        Ok(Planned { operation, weights, x, y, algorithm: best.algorithm })
    }
}

impl Driver {
    /// Takes a cuBLASLt for [`Driver::multiply`].
    pub(crate) fn take_blas(&mut self, library: CublasLt) -> Result<()> {
        self.blas = Some(Blas::new(library)?);
        Ok(())
    }

    /// Version of the cuBLASLt it took.
    pub(crate) fn blas(&self) -> Option<(u32, u32, u32)> {
        self.blas.as_ref().map(|blas| blas.library.version)
    }

    /// Queues a product by cuBLASLt, which may use `workspace` until it is over.
    ///
    /// # Panics
    /// When it took none.
    pub(crate) fn multiply(&self, gemm: &Gemm, workspace: Memory) -> Result<()> {
        let blas = self.blas.as_ref().expect("a cuBLASLt was taken");
        let mut shapes = blas.shapes.borrow_mut();
        let shape = Shape::of(gemm);
        if !shapes.contains_key(&shape) {
            if shapes.len() == MOST_SHAPES {
                shapes.clear();
            }
            shapes.insert(shape, blas.plan(&shape, workspace.bytes())?);
        }
        let planned = &shapes[&shape];
        let (one, kept) = (1f32, if gemm.adds { 1f32 } else { 0.0 });
        // SAFETY: the descriptors are live and say how far the product reaches; the callers' rooms are as large, live as long
        // as this value, and are used by its stream alone.
        let status = unsafe {
            (blas.library.multiply)(
                blas.handle,
                planned.operation.handle,
                &one,
                gemm.weights.0,
                planned.weights.handle,
                gemm.x.0,
                planned.x.handle,
                &kept,
                gemm.y.0,
                planned.y.handle,
                gemm.y.0,
                planned.y.handle,
                &planned.algorithm,
                workspace.pointer().0,
                workspace.bytes(),
                self.stream.cast(),
            )
        };
        if status != 0 {
            // The library calls what broke on the device before its own failure.
            self.check_device()?;
        }
        blas.library.check("cublasLtMatmul", status)
    }
}
