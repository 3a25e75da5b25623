//! Whether there is a device to use, said in words when there is none.
#![allow(unsafe_code)]

use super::functions::lacking;
use super::{Nvrtc, name_of};
use crate::images::{self, CUDA_MAJOR};
use cudarc::driver::{result, sys};
use entropix_model::{Class, Error, Result};

/// Least compute capability: bf16 tensor cores and asynchronous copies.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// What a driver gives that is older than its kernel module or than what it is asked for: the runtime's code of it, which some
/// pass on and the binding has no name for, and its own.
const REQUIRES_NEWER: [u32; 2] = [35, 36];

/// A CUDA device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub ordinal: u32,
    /// What it calls itself.
    pub name: String,
    /// Compute capability, e.g. (9, 0).
    pub capability: (u32, u32),
    /// Bytes of its memory.
    pub memory: u64,
    /// CUDA version of the driver, e.g. (13, 0).
    pub driver: (u32, u32),
}

/// The device of that number, if this build can use it. Costs milliseconds and changes nothing.
///
/// # Errors
/// As [`devices`] and [`Found::check`]; `DeviceIndex` of class `Usage`.
pub fn probe(ordinal: u32) -> Result<Found> {
    let (driver, count) = start()?;
    if ordinal >= count {
        let there = match count {
            1 => "there is one device, cuda:0".to_owned(),
            _ => format!("there are {count} devices, cuda:0 to cuda:{}", count - 1),
        };
        let message = format!("--device cuda:{ordinal}: {there}{}", hidden());
        return Err(Error::new(Class::Usage, "DeviceIndex", message));
    }
    let found = look(ordinal, driver)?;
    found.check()?;
    Ok(found)
}

/// Every device that the driver shows, in order, whether this build can use it or not; or why nothing is known of it.
///
/// # Errors
/// `NoDriver`, `DriverBroken` and `NoDevice` of class `Unsupported`, and whatever else the driver does not begin with.
pub fn devices() -> Result<Vec<Result<Found>>> {
    let (driver, count) = start()?;
    Ok((0..count).map(|ordinal| look(ordinal, driver)).collect())
}

/// The version of the driver, and how many devices it shows: one at least.
fn start() -> Result<((u32, u32), u32)> {
    // SAFETY: only tries to load libraries by the names of the driver.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unsupported(
            "NoDriver",
            "no CUDA driver: libcuda.so was not found or is none; install NVIDIA's driver, or use --device cpu",
        ));
    }
    if let Some(name) = lacking() {
        let message = format!(
            "the libcuda that was found is no CUDA driver, or one too old: it lacks {name}; install NVIDIA's driver anew, \
             look for a stand-in on LD_LIBRARY_PATH, or use --device cpu"
        );
        return Err(Error::unsupported("DriverBroken", message));
    }
    let no_device = || {
        let message = format!("the CUDA driver sees no device{}; use --device cpu", hidden());
        Error::unsupported("NoDevice", message)
    };
    let begun = |call: &str, code| match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Err(no_device()),
        code => Err(broken(code).unwrap_or_else(|| super::failed(call, code))),
    };
    let mut version = 0;
    // SAFETY: the pointer is to a live number.
    begun("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    // SAFETY: takes no pointer.
    begun("cuInit", unsafe { sys::cuInit(0) })?;
    let version = u32::try_from(version).unwrap_or(0);
    let count = result::device::get_count().map_err(|error| super::failed("cuDeviceGetCount", error.0))?;
    match u32::try_from(count).unwrap_or(0) {
        0 => Err(no_device()),
        count => Ok(((version / 1000, version % 1000 / 10), count)),
    }
}

/// What is wrong with a driver that says so, where that does not heal by itself.
fn broken(code: sys::CUresult) -> Option<Error> {
    let too_old = REQUIRES_NEWER.contains(&(code as u32));
    let remedy = match code {
        _ if too_old => "update the driver",
        // A stand-in for building only, which answers every call so.
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => "take the folder of stubs off LD_LIBRARY_PATH",
        sys::CUresult::CUDA_ERROR_SYSTEM_NOT_READY => "start nvidia-fabricmanager",
        sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => {
            "start the machine anew if the driver was updated, else install it anew"
        }
        sys::CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "take the folder cuda/compat off LD_LIBRARY_PATH, or update the driver"
        }
        _ => return None,
    };
    let message =
        format!("the CUDA driver cannot be used: {}; {remedy}, or use --device cpu", describe(code));
    Some(Error::unsupported("DriverBroken", message))
}

/// That the user hides devices, if so.
fn hidden() -> String {
    match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(shown) => format!("; CUDA_VISIBLE_DEVICES is {shown:?} and hides those not named there"),
        None => String::new(),
    }
}

/// What the device of that number is.
fn look(ordinal: u32, driver: (u32, u32)) -> Result<Found> {
    let device =
        result::device::get(ordinal as i32).map_err(|error| super::failed("cuDeviceGet", error.0))?;
    let name = result::device::get_name(device).map_err(|error| super::failed("cuDeviceGetName", error.0))?;
    let attribute = |which| {
        // SAFETY: the device was just given by the driver.
        let value = unsafe { result::device::get_attribute(device, which) };
        value
            .map(|value| u32::try_from(value).unwrap_or(0))
            .map_err(|error| super::failed("cuDeviceGetAttribute", error.0))
    };
    let capability = (
        attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) };
    let memory = memory.map_err(|error| super::failed("cuDeviceTotalMem", error.0))? as u64;
    Ok(Found { ordinal, name, capability, memory, driver })
}

impl Found {
    /// Whether this build can use it.
    ///
    /// # Errors
    /// `DeviceTooOld`, and `NoKernels` or `DriverTooOld` where there are none for it; all of class `Unsupported`.
    pub fn check(&self) -> Result<()> {
        let (major, minor) = self.capability;
        if self.capability < LEAST_CAPABILITY {
            return Err(Error::unsupported(
                "DeviceTooOld",
                format!(
                    "{self} has compute capability {major}.{minor}; at least {}.{} is needed (Ampere or newer): name another \
                     device (--device cuda:N or ENTROPIX_DEVICE), or use --device cpu",
                    LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
                ),
            ));
        }
        if images::are_usable(self.driver) {
            return Ok(());
        }
        Nvrtc::find(self.driver).map(|_| ()).map_err(|none| no_kernels(self.driver, &none))
    }
}

/// Why nothing computes on a device that is there; `none` says why no NVRTC is.
fn no_kernels(driver: (u32, u32), none: &str) -> Error {
    let remedy = Nvrtc::remedy(driver);
    let (code, message) = match CUDA_MAJOR {
        None => {
            // What get_nvcc gets makes kernels that older drivers do not take.
            let build = if driver.0 >= 13 { ", build with NVCC=$(scripts/get_nvcc)" } else { "" };
            let message = format!(
                "this build holds no CUDA kernels, for it found no nvcc, and there is no NVRTC to compile them: {none}; {remedy}{build}"
            );
            ("NoKernels", message)
        }
        Some(_) if Nvrtc::is_named() => {
            ("NoKernels", format!("there is no NVRTC to compile the CUDA kernels: {none}; {remedy}"))
        }
        Some(major) => {
            let build = if driver.0 >= 12 { ", build with an older nvcc" } else { "" };
            let message = format!(
                "the CUDA driver is of CUDA {}.{}, the kernels of this build need {major}.0, and there is no NVRTC to compile them \
                 for it: {none}; {remedy}{build}",
                driver.0, driver.1
            );
            ("DriverTooOld", message)
        }
    };
    Error::unsupported(code, format!("{message}, or use --device cpu"))
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

/// For messages: what the driver calls an error.
pub(super) fn describe(code: sys::CUresult) -> String {
    format!("{} ({})", name_of(code), code as u32)
}
