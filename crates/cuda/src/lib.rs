//! The CUDA backend of entropix: hand-written kernels, a paged cache in bf16, f16 or 8 bits, decode steps recorded once and replayed.
//!
//! [`CudaBackend`] is the way in; [`probe`] says whether it can be had. The kernels are `kernels/*.cu` at the top of the
//! repository (`kernels/README.md` has one row a kernel), [`ops`] the launch plan of each, [`pack`] how weights lie on the
//! device. Nothing is linked: the driver is found when it is first asked for.

pub mod abi;
mod backend;
mod ceiling;
mod cubins;
mod draws;
mod driver;
mod forward;
mod images;
mod kernels;
pub mod launch;
pub mod ops;
mod options;
pub mod pack;
mod rooms;
mod step;
mod weights;
mod workbench;

pub use backend::CudaBackend;
pub use backend::ablation::Ablation;
pub use backend::timing::{OperationTime, StepTime, TimedStep, whole_splits};
pub use ceiling::copy_bandwidth;
pub use driver::{CublasLt, Found, Nvrtc, devices, probe};
pub use kernels::compiler;
pub use ops::KvType;
pub use options::{CudaOptions, FAST_TOKENS, plan};
pub use weights::{Opening, Progress};
pub use workbench::Workbench;
