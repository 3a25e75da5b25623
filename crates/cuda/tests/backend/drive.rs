//! Steps as the engine would make them.

use crate::checkpoints::{checkpoint, root};
use entropix_cpu::{CpuBackend, CpuOptions, Precision};
use entropix_cuda::{CudaBackend, CudaOptions};
use entropix_emulator::FakeDriver;
use entropix_model::{Ask, Backend, Batch, Signals, StepId};
use std::sync::{Mutex, MutexGuard};

/// The driver of this process, for one test at a time.
pub(crate) enum Device {
    /// Its device is the emulator.
    Fake(MutexGuard<'static, FakeDriver>),
    /// The machine's own.
    Real(#[allow(dead_code, reason = "held, not read")] MutexGuard<'static, ()>),
}

/// The fake driver, or with ENTROPIX_TEST_GPU=real the machine's own.
pub(crate) fn device() -> Device {
    static REAL: Mutex<()> = Mutex::new(());
    match std::env::var("ENTROPIX_TEST_GPU").as_deref() {
        Ok("real") => Device::Real(REAL.lock().unwrap_or_else(|e| e.into_inner())),
        _ => Device::Fake(FakeDriver::lock()),
    }
}

/// For tests that make a driver fail or look into it; none on a real one.
pub(crate) fn fake() -> Option<MutexGuard<'static, FakeDriver>> {
    match device() {
        Device::Fake(driver) => Some(driver),
        Device::Real(_) => {
            eprintln!("not on a real driver");
            None
        }
    }
}

impl Device {
    /// Launches of graphs, if that is known.
    pub(crate) fn graph_launches(&self) -> Option<u64> {
        match self {
            Device::Fake(driver) => Some(driver.counts().graph_launches),
            Device::Real(_) => None,
        }
    }
}

/// Every tiny model that is there.
pub(crate) fn models() -> Vec<String> {
    let folder = root().join("tests/data/tiny");
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut models: Vec<String> = names.filter(|name| name != "README.md").collect();
    models.sort();
    models
}

pub(crate) fn options() -> CudaOptions {
    CudaOptions { n_blocks: 40, max_rows: 6, max_tokens: 96, max_kept: 40, ..CudaOptions::default() }
}

pub(crate) fn open(name: &str, options: &CudaOptions) -> CudaBackend {
    CudaBackend::open(&checkpoint(name).unwrap(), options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub(crate) fn open_cpu(name: &str, precision: Precision) -> CpuBackend {
    let options = CpuOptions {
        threads: 1,
        precision,
        n_blocks: 40,
        max_tokens: 96,
        max_kept: 40,
        ..CpuOptions::default()
    };
    CpuBackend::open(&checkpoint(name).unwrap(), &options).unwrap()
}

pub(crate) fn kept(index: usize) -> Ask {
    Ask { index, target: None, attention: false, keep_logits: true }
}

pub(crate) fn signals(backend: &mut dyn Backend, step: StepId, n: usize) -> Vec<Signals> {
    let mut signals = vec![Signals::default(); n];
    backend.signals(step, &mut signals).unwrap();
    signals
}

/// To the bit, NaN included.
pub(crate) fn same<T: bytemuck::NoUninit>(a: &[T], b: &[T]) -> bool {
    bytemuck::cast_slice::<_, u8>(a) == bytemuck::cast_slice::<_, u8>(b)
}

/// One row from position `start` in consecutive blocks.
pub(crate) fn row(
    backend: &mut dyn Backend,
    tokens: &[u32],
    start: usize,
    first_block: u32,
    asks: &[Ask],
) -> StepId {
    let size = backend.capacity().block_size;
    let blocks: Vec<u32> = (first_block..).take((start + tokens.len()).div_ceil(size)).collect();
    let mut batch = Batch::default();
    batch.push(tokens, start, &blocks, asks);
    backend.submit(&batch).unwrap()
}
