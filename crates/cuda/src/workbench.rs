//! A device with every kernel loaded, for those who run one by itself: the tests of kernels on a real device.

use crate::driver::{Driver, Memory};
use crate::kernels;
use crate::launch::{Launch, Pointer};
use crate::options::CudaOptions;
use entropix_model::Result;
use std::collections::HashMap;

/// Largest vocabulary to draw from.
const VOCABULARY: u32 = 1 << 18;
/// Most query heads.
const HEADS: u32 = 128;

/// One device, its kernels, and memory that is asked for and given back piece by piece.
#[derive(Debug)]
pub struct Workbench {
    driver: Driver,
    /// By address.
    pieces: HashMap<u64, Memory>,
}

impl Workbench {
    /// Opens a device and loads every kernel.
    ///
    /// # Errors
    /// As [`crate::probe`]; `KernelImage` or `KernelCompile` when the kernels do not run there.
    pub fn open(ordinal: u32) -> Result<Self> {
        let mut driver = Driver::open(ordinal, CudaOptions::default().patience)?;
        kernels::load_all(&mut driver, VOCABULARY, HEADS)?;
        Ok(Self { driver, pieces: HashMap::new() })
    }

    /// Claims memory; what is there at first is undefined.
    ///
    /// # Errors
    /// When there is none left, or the device failed.
    pub fn allocate(&mut self, bytes: usize) -> Result<Pointer> {
        self.driver.enter()?;
        let piece = self.driver.allocate(bytes)?;
        self.pieces.insert(piece.pointer().0, piece);
        Ok(piece.pointer())
    }

    /// Gives a piece back.
    ///
    /// # Errors
    /// When the device failed.
    ///
    /// # Panics
    /// When the piece is not [`Workbench::allocate`]'s.
    pub fn release(&mut self, at: Pointer) -> Result<()> {
        self.driver.enter()?;
        let piece = self.pieces.remove(&at.0).expect("memory of this device");
        self.driver.give_back(piece)
    }

    /// Writes into a piece, `first` bytes in.
    ///
    /// # Errors
    /// When the device failed.
    ///
    /// # Panics
    /// When the piece is not [`Workbench::allocate`]'s, or shorter.
    pub fn write(&mut self, at: Pointer, first: usize, bytes: &[u8]) -> Result<()> {
        self.driver.enter()?;
        self.driver.write(self.pieces[&at.0], first, bytes)
    }

    /// Reads from a piece, `first` bytes in.
    ///
    /// # Errors
    /// When the device failed.
    ///
    /// # Panics
    /// When the piece is not [`Workbench::allocate`]'s, or shorter.
    pub fn read(&mut self, at: Pointer, first: usize, out: &mut [u8]) -> Result<()> {
        self.driver.enter()?;
        self.driver.fetch(self.pieces[&at.0], first, out)
    }

    /// Launches a kernel and waits for its end.
    ///
    /// # Errors
    /// When the device failed, or took longer than it is given.
    ///
    /// # Panics
    /// When there is no such kernel, or it is not meant to have so much shared memory.
    pub fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.driver.enter()?;
        self.driver.launch(launch)?;
        self.driver.wait()
    }
}
