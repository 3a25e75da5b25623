//! Whether there is a device to use, said in words when there is none.
#![allow(unsafe_code)]

use super::{Nvrtc, check, name_of};
use crate::images::{self, CUDA_MAJOR};
use cudarc::driver::{result, sys};
use entropix_model::{Class, Error, Result};

/// Least compute capability: bf16 tensor cores and asynchronous copies.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// What the driver says where its parts do not fit together, or where it is a stand-in for building only.
const BROKEN: [sys::CUresult; 3] = [
    sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
    sys::CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
    sys::CUresult::CUDA_ERROR_STUB_LIBRARY,
];

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
/// `NoKernels`, `NoDriver`, `DriverTooOld`, `NoDevice`, `DeviceTooOld` of class `Unsupported`; `DeviceIndex` of class `Usage`.
pub fn probe(ordinal: u32) -> Result<Found> {
    // SAFETY: only tries to load libraries by the names of the driver.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unsupported(
            "NoDriver",
            "no CUDA driver: libcuda.so was not found or is none; install NVIDIA's driver, or use --device cpu",
        ));
    }
    let mut version = 0;
    // SAFETY: the pointer is to a live number.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let version = u32::try_from(version).unwrap_or(0);
    let driver = (version / 1000, version % 1000 / 10);
    let no_device = || {
        let hidden = match std::env::var_os("CUDA_VISIBLE_DEVICES") {
            Some(shown) => format!("; CUDA_VISIBLE_DEVICES is {shown:?} and hides those not named there"),
            None => String::new(),
        };
        Error::unsupported("NoDevice", format!("the CUDA driver sees no device{hidden}; use --device cpu"))
    };
    match result::init() {
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(no_device()),
        // Nothing of that heals by itself.
        Err(error) if BROKEN.contains(&error.0) => {
            let what = describe(error.0);
            let message =
                format!("the CUDA driver cannot be used: {what}; install it anew, or use --device cpu");
            return Err(Error::unsupported("DriverBroken", message));
        }
        other => other.map_err(|error| super::failed("cuInit", error.0))?,
    }
    let count = result::device::get_count().map_err(|error| super::failed("cuDeviceGetCount", error.0))?;
    let count = u32::try_from(count).unwrap_or(0);
    if count == 0 {
        return Err(no_device());
    }
    if ordinal >= count {
        let there = match count {
            1 => "there is one device, cuda:0".to_owned(),
            _ => format!("there are {count} devices, cuda:0 to cuda:{}", count - 1),
        };
        let message = format!("--device cuda:{ordinal}: {there}");
        return Err(Error::new(Class::Usage, "DeviceIndex", message));
    }
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
    if capability < LEAST_CAPABILITY {
        return Err(Error::unsupported(
            "DeviceTooOld",
            format!(
                "cuda:{ordinal} ({name}) has compute capability {}.{}; at least {}.{} is needed (Ampere or newer)",
                capability.0, capability.1, LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
            ),
        ));
    }
    if !images::are_usable(driver) {
        Nvrtc::find(driver).map_err(|none| no_kernels(driver, &none))?;
    }
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) };
    let memory = memory.map_err(|error| super::failed("cuDeviceTotalMem", error.0))? as u64;
    Ok(Found { ordinal, name, capability, memory, driver })
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
