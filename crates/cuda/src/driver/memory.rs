//! Device memory and pinned host memory, both claimed at start and kept to the end, and copies between them.
#![allow(unsafe_code)]

use super::Driver;
use crate::launch::Pointer;
use cudarc::driver::{result, sys};
use entropix_model::Result;
use std::ffi::c_void;

/// The call that pins host memory.
pub(super) const PIN: &str = "cuMemHostAlloc";

/// From so many bytes on a piece of device memory is of whole granules.
const LARGE_BYTES: u64 = 1 << 20;
/// What a driver hands device memory out by; smaller pieces share granules.
const GRANULE_BYTES: u64 = 2 << 20;
/// What those begin at.
const SMALL_BYTES: u64 = 512;

/// What pieces of device memory take of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Claims {
    large: u64,
    small: u64,
}

impl Claims {
    pub(crate) fn add(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        if bytes < LARGE_BYTES {
            self.small += bytes.max(1).next_multiple_of(SMALL_BYTES);
        } else {
            self.large += bytes.next_multiple_of(GRANULE_BYTES);
        }
    }

    /// Bytes.
    pub(crate) fn total(self) -> u64 {
        self.large + self.small.next_multiple_of(GRANULE_BYTES)
    }
}

/// A piece of device memory, owned by the driver that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    at: u64,
    bytes: usize,
}

impl Memory {
    /// One that is only counted with.
    pub(crate) fn planned(bytes: usize) -> Self {
        Self { at: 0, bytes }
    }

    /// Where a kernel finds it.
    pub(crate) fn pointer(self) -> Pointer {
        Pointer(self.at)
    }

    /// How much it is.
    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    /// Where a kernel finds what begins `bytes` in.
    ///
    /// # Panics
    /// When that is outside.
    pub(crate) fn offset(self, bytes: usize) -> Pointer {
        assert!(bytes <= self.bytes, "{bytes} bytes into {}", self.bytes);
        Pointer(self.at + bytes as u64)
    }
}

/// Host memory that the device writes while the host does something else.
#[derive(Debug)]
pub(crate) struct Pinned {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory, used by its owner alone.
unsafe impl Send for Pinned {}

impl Pinned {
    /// One that is only counted with: nothing can be read from it.
    pub(crate) fn planned() -> Self {
        Self { at: std::ptr::null_mut(), bytes: 0 }
    }

    /// What the device wrote. Only after a wait; until then it is whatever was there.
    pub(crate) fn read(&self, first: usize, out: &mut [u8]) {
        assert!(first + out.len() <= self.bytes, "{} bytes at {first} of {}", out.len(), self.bytes);
        // SAFETY: within the allocation, which lives as long as the driver; the device writes it by address, so no
        // reference into it is ever held.
        unsafe { std::ptr::copy_nonoverlapping(self.at.add(first), out.as_mut_ptr(), out.len()) }
    }
}

impl Driver {
    /// Bytes of device memory that are free.
    pub(crate) fn free_memory(&self) -> Result<usize> {
        result::mem_get_info().map(|(free, _)| free).map_err(|error| self.note("cuMemGetInfo", error.0))
    }

    /// What was claimed of it.
    pub(crate) fn claims(&self) -> Claims {
        self.claims
    }

    /// Says that everything was claimed.
    pub(crate) fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Claims device memory; what is there at first is undefined.
    ///
    /// # Panics
    /// After [`Driver::seal`], as [`Driver::allocate_pinned`] does: amid work there may be none left.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Memory> {
        assert!(!self.is_sealed, "{bytes} bytes of device memory after the start");
        // SAFETY: what is read from it was written before, which the emulator checks.
        let at = unsafe { result::malloc_sync(bytes.max(16)) };
        let at = at.map_err(|error| self.note("cuMemAlloc", error.0))?;
        self.memory.push(at);
        self.claims.add(bytes.max(16));
        Ok(Memory { at, bytes: bytes.max(16) })
    }

    /// Gives a piece of device memory back.
    pub(crate) fn give_back(&mut self, piece: Memory) -> Result<()> {
        let at = self.memory.iter().position(|at| *at == piece.at).expect("memory of this device");
        self.memory.swap_remove(at);
        // SAFETY: given by the driver, and now forgotten.
        unsafe { result::free_sync(piece.at) }.map_err(|error| self.note("cuMemFree", error.0))
    }

    /// Claims pinned host memory.
    pub(crate) fn allocate_pinned(&mut self, bytes: usize) -> Result<Pinned> {
        assert!(!self.is_sealed, "{bytes} bytes of pinned memory after the start");
        // SAFETY: freed when this is dropped.
        let at = unsafe { result::malloc_host(bytes.max(16), 0) };
        let at = at.map_err(|error| self.note(PIN, error.0))?;
        self.pinned.push(at);
        Ok(Pinned { at: at.cast(), bytes: bytes.max(16) })
    }

    /// Queues a copy to the device; `from` may change as soon as this returns.
    pub(crate) fn write(&self, to: Memory, first: usize, from: &[u8]) -> Result<()> {
        assert!(first + from.len() <= to.bytes, "{} bytes at {first} of {}", from.len(), to.bytes);
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: the target is within device memory of this driver; the source is ordinary memory, which the driver
        // copies before it returns, but for devices that read such memory themselves, and then it lasts until the wait below.
        let copied = unsafe { result::memcpy_htod_async(to.at + first as u64, from, self.stream) };
        copied.map_err(|error| self.note("cuMemcpyHtoDAsync", error.0))?;
        if self.reads_pageable { self.wait() } else { Ok(()) }
    }

    /// Queues a copy to the host, to be read after a wait.
    pub(crate) fn read(
        &self,
        from: Memory,
        first: usize,
        bytes: usize,
        to: &Pinned,
        at: usize,
    ) -> Result<()> {
        assert!(
            first + bytes <= from.bytes && at + bytes <= to.bytes,
            "{bytes} bytes at {first} of {} to {at} of {}",
            from.bytes,
            to.bytes
        );
        if bytes == 0 {
            return Ok(());
        }
        let source = from.at + first as u64;
        // SAFETY: both ranges are within live memory; the host reads the target only after a wait.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(to.at.add(at).cast(), source, bytes, self.stream) };
        copied.result().map_err(|error| self.note("cuMemcpyDtoHAsync", error.0))
    }

    /// Queues a copy of all of one piece of device memory into another of the same size.
    pub(crate) fn copy(&self, from: Memory, to: Memory) -> Result<()> {
        assert_eq!(from.bytes, to.bytes, "a copy of all of it");
        // SAFETY: both are live memory of this driver.
        let copied = unsafe { result::memcpy_dtod_async(to.at, from.at, from.bytes, self.stream) };
        copied.map_err(|error| self.note("cuMemcpyDtoDAsync", error.0))
    }

    /// As [`Driver::read`], the first `width` bytes of each of `rows` rows that lie `pitch` bytes apart, packed.
    pub(crate) fn read_rows(
        &self,
        from: Memory,
        pitch: usize,
        width: usize,
        rows: usize,
        to: &Pinned,
    ) -> Result<()> {
        assert!(
            width <= pitch && rows * pitch <= from.bytes && rows * width <= to.bytes,
            "{rows} rows of {width} every {pitch} bytes of {} to {}",
            from.bytes,
            to.bytes
        );
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
            srcHost: std::ptr::null(),
            srcDevice: from.at,
            srcArray: std::ptr::null_mut(),
            srcPitch: pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_HOST,
            dstHost: to.at.cast::<c_void>(),
            dstDevice: 0,
            dstArray: std::ptr::null_mut(),
            dstPitch: width,
            WidthInBytes: width,
            Height: rows,
        };
        // SAFETY: as in `read`.
        let copied = unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.stream) };
        copied.result().map_err(|error| self.note("cuMemcpy2DAsync", error.0))
    }

    /// Copies device memory into ordinary memory and waits for it.
    pub(crate) fn fetch(&self, from: Memory, first: usize, out: &mut [u8]) -> Result<()> {
        assert!(first + out.len() <= from.bytes, "{} bytes at {first} of {}", out.len(), from.bytes);
        // SAFETY: the source is within device memory; a copy to ordinary memory is over when it returns or when the
        // stream was waited for, which follows.
        let copied = unsafe { result::memcpy_dtoh_async(out, from.at + first as u64, self.stream) };
        copied.map_err(|error| self.note("cuMemcpyDtoHAsync", error.0))?;
        self.wait()
    }
}
