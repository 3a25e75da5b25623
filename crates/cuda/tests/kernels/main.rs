//! Every kernel, run on the CPU from its own source, against the reference: ragged shapes, three thread orders with
//! bit-equal results, every access checked; and planted faults, each of which must be caught. The checks of results run on a real
//! device instead where they are told to (`ENTROPIX_TEST_GPU=real`).
#![forbid(unsafe_code)]

mod abi;
mod attend;
mod candidates;
#[path = "../compilers/mod.rs"]
mod compilers;
mod device;
mod draw;
mod fast;
mod faults;
mod head;
mod kv;
mod matmul;
mod nvrtc;
mod random;
mod resources;
mod signals;
mod small;
mod wrappers;
