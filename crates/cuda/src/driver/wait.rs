//! Waiting for the device without trusting it.
#![allow(unsafe_code)]

use super::Driver;
use cudarc::driver::{result, sys};
use entropix_model::{Class, Error, Result};
use std::time::{Duration, Instant};

/// How long the host asks over and over before it sleeps between questions: most decode steps end within it.
const SPIN: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(100);

impl Driver {
    /// What has broken on the device, without waiting for it.
    pub(super) fn check_device(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this value.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            sys::CUresult::CUDA_SUCCESS | sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
            broken => Err(self.note("a kernel", broken)),
        }
    }

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// What broke on the device; `DeviceHang` when it does not answer in time. Nothing waits for it after that.
    pub(crate) fn wait(&self) -> Result<()> {
        self.wait_with(SPIN)
    }

    /// As [`Driver::wait`], without a nap however long it takes: for what is timed.
    ///
    /// # Errors
    /// As [`Driver::wait`].
    pub(crate) fn wait_awake(&self) -> Result<()> {
        self.wait_with(Duration::MAX)
    }

    fn wait_with(&self, spin: Duration) -> Result<()> {
        // SAFETY: event and stream live as long as this value.
        let recorded = unsafe { result::event::record(self.event, self.stream) };
        recorded.map_err(|error| self.note("cuEventRecord", error.0))?;
        let start = Instant::now();
        loop {
            // SAFETY: as above.
            match unsafe { result::event::query(self.event) } {
                Ok(()) => return Ok(()),
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
                Err(error) => return Err(self.note("a kernel", error.0)),
            }
            let waited = start.elapsed();
            if waited > self.patience {
                let error = Error::new(
                    Class::Temp,
                    "DeviceHang",
                    format!(
                        "{} did not finish a step within {} s; rows that were finished are kept. Start again, with more seconds in \
                         ENTROPIX_CUDA_TIMEOUT if it only is slow, or use --device cpu",
                        self.found(),
                        self.patience.as_secs_f32()
                    ),
                );
                self.lost.borrow_mut().get_or_insert_with(|| error.clone());
                return Err(error);
            }
            if waited < spin {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(NAP);
            }
        }
    }
}
