//! The kernels of this build: their sources, and what nvcc made of them if there was one.

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Whether the images may run with a driver of that version: there are some, it is no older than their compiler, and the user
/// named no other compiler.
pub(crate) fn are_usable(driver: (u32, u32)) -> bool {
    CUDA_MAJOR.is_some_and(|major| driver.0 >= major) && !crate::driver::Nvrtc::is_named()
}
