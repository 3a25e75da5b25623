//! The functions of the driver that this crate calls, by itself and through cudarc. The binding looks each up when it is first
//! called and panics where there is none, so they are looked for before.
#![allow(unsafe_code)]

use cudarc::driver::sys;

/// All of them, as the library spells them: what the emulated driver has (tests/program.rs takes one after the other away).
const FUNCTIONS: [&str; 40] = [
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpy2DAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamQuery",
    "cuStreamSynchronize",
];

/// The first of them that the library which is there does not have.
///
/// # Panics
/// When no library is there.
pub(super) fn lacking() -> Option<&'static str> {
    // SAFETY: the library is the one whose functions the binding calls; of a symbol only the address is taken.
    FUNCTIONS.into_iter().find(|name| unsafe { sys::culib().get::<*const ()>(name.as_bytes()) }.is_err())
}
