//! A device, emulated or real: buffers, launches, and running one check in every thread order.

use bytemuck::Pod;
use entropix_cuda::Workbench;
use entropix_cuda::launch::{Launch, Pointer};
use entropix_emulator::{self as emulator, Emulator, Order, Shape, Traffic};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Where the kernels run.
#[derive(Clone, Copy)]
pub(crate) enum Device<'a> {
    /// An image of the kernels and an order to run threads in.
    Emulated(&'a Emulator, Order),
    /// The first device of the driver that is installed.
    Real(&'static Mutex<Workbench>),
}

/// Memory of a device.
pub(crate) enum Buffer<'a> {
    Emulated(emulator::Buffer<'a>),
    Real { of: &'static Mutex<Workbench>, at: Pointer },
}

/// What a check gives: the bytes that must be equal in every order, or what was wrong.
pub(crate) type Outcome = Result<Vec<u8>, String>;

/// The real device, where the tests are told to run on it (`ENTROPIX_TEST_GPU=real`).
fn real() -> Option<&'static Mutex<Workbench>> {
    static REAL: OnceLock<Option<Mutex<Workbench>>> = OnceLock::new();
    REAL.get_or_init(|| {
        let is_real = std::env::var_os("ENTROPIX_TEST_GPU").is_some_and(|which| which == "real");
        is_real.then(|| Mutex::new(Workbench::open(0).unwrap_or_else(|error| panic!("{error}"))))
    })
    .as_ref()
}

/// One launch at a time.
fn lock(of: &Mutex<Workbench>) -> MutexGuard<'_, Workbench> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buffer<'_> {
    fn write(&self, first: usize, bytes: &[u8]) {
        match self {
            Buffer::Emulated(buffer) => buffer.write(first, bytes),
            Buffer::Real { of, at } => {
                lock(of).write(*at, first, bytes).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if let Buffer::Real { of, at } = self {
            // After an error of the device there is nothing to give back, and the error was told.
            let _ = lock(of).release(*at);
        }
    }
}

impl<'a> Device<'a> {
    /// Whether every access is checked and counted.
    pub(crate) fn is_checked(&self) -> bool {
        matches!(self, Device::Emulated(image, _) if image.is_checked())
    }

    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> Buffer<'a> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.empty::<u8>(bytes.len());
        buffer.write(0, bytes);
        buffer
    }

    /// Memory for `n` values that nobody wrote yet.
    pub(crate) fn empty<T: Pod>(&self, n: usize) -> Buffer<'a> {
        let bytes = n * size_of::<T>();
        match *self {
            Device::Emulated(image, _) => Buffer::Emulated(image.allocate(bytes)),
            Device::Real(of) => {
                let at = lock(of).allocate(bytes).unwrap_or_else(|error| panic!("{error}"));
                Buffer::Real { of, at }
            }
        }
    }

    /// Memory whose every byte is written, as a NaN.
    pub(crate) fn poisoned<T: Pod>(&self, n: usize) -> Buffer<'a> {
        let buffer = self.empty::<T>(n);
        buffer.write(0, &vec![0xff; n * size_of::<T>()]);
        buffer
    }

    pub(crate) fn count(&self, n: usize) -> Buffer<'a> {
        self.upload(&[n as u32])
    }

    pub(crate) fn run(&self, launch: &Launch) -> Result<(), String> {
        self.traffic(launch).map(|_| ())
    }

    /// Runs a launch; the bytes of device memory that it touched, zero where accesses are not checked.
    pub(crate) fn traffic(&self, launch: &Launch) -> Result<Traffic, String> {
        let (image, order) = match *self {
            Device::Emulated(image, order) => (image, order),
            Device::Real(of) => {
                return lock(of)
                    .launch(launch)
                    .map(|()| Traffic::default())
                    .map_err(|error| error.to_string());
            }
        };
        let values: Vec<([u8; 8], usize)> =
            launch.arguments.iter().map(|(value, bytes)| (value.to_le_bytes(), bytes as usize)).collect();
        let arguments: Vec<&[u8]> = values.iter().map(|(value, bytes)| &value[..*bytes]).collect();
        let shape = Shape { grid: launch.grid, block: launch.block, shared: launch.shared as usize };
        image.launch(&launch.kernel, shape, &arguments, order).map_err(|fault| fault.0)
    }

    /// Reads `n` values from the `first`-th on; bytes that no kernel and no upload wrote are an error.
    pub(crate) fn read<T: Pod>(&self, buffer: &Buffer<'_>, first: usize, n: usize) -> Result<Vec<T>, String> {
        let mut values = vec![T::zeroed(); n];
        let (first_byte, bytes) = (first * size_of::<T>(), bytemuck::cast_slice_mut(&mut values));
        let unwritten = match buffer {
            Buffer::Emulated(buffer) => buffer.read(first_byte, bytes),
            Buffer::Real { of, at } => {
                lock(of).read(*at, first_byte, bytes).map_err(|error| error.to_string())?;
                0
            }
        };
        if unwritten > 0 {
            return Err(format!("unwritten: {unwritten} bytes of {n} values from {first} on"));
        }
        Ok(values)
    }
}

pub(crate) fn at(buffer: &Buffer<'_>) -> Pointer {
    match buffer {
        Buffer::Emulated(buffer) => Pointer(buffer.address()),
        Buffer::Real { at, .. } => *at,
    }
}

pub(crate) const NULL: Pointer = Pointer(0);

/// Runs a check in the checked image in three orders and in the plain one, or twice on the real device; all must pass with the
/// same bytes.
pub(crate) fn everywhere(what: &str, check: impl Fn(&Device<'_>) -> Outcome) {
    compare(what, &Order::ALL.map(|order| (Emulator::checked as Image, order)), check);
}

/// For large inputs of a check that small ones pass [`everywhere`]: the plain image in two orders.
pub(crate) fn at_length(what: &str, check: impl Fn(&Device<'_>) -> Outcome) {
    compare(what, &[Order::Falling, Order::Random(2)].map(|order| (Emulator::plain as Image, order)), check);
}

type Image = fn() -> &'static Emulator;

/// The plain image with an order, or the real device.
pub(crate) fn plain(order: Order) -> Device<'static> {
    real().map_or_else(|| Device::Emulated(Emulator::plain(), order), Device::Real)
}

/// The checked image with an order, or the real device.
pub(crate) fn checked(order: Order) -> Device<'static> {
    real().map_or_else(|| Device::Emulated(Emulator::checked(), order), Device::Real)
}

fn compare(what: &str, runs: &[(Image, Order)], check: impl Fn(&Device<'_>) -> Outcome) {
    let devices: Vec<(String, Device<'_>)> = match real() {
        Some(of) => ["once", "again"].map(|time| (time.to_owned(), Device::Real(of))).into(),
        None => {
            let plain: (Image, Order) = (Emulator::plain, Order::Rising);
            let emulated = runs.iter().copied().chain([plain]);
            emulated.map(|(image, order)| (format!("{order:?}"), Device::Emulated(image(), order))).collect()
        }
    };
    let mut first: Option<Vec<u8>> = None;
    for (which, device) in devices {
        let bytes = check(&device).unwrap_or_else(|e| panic!("{what}, {which}: {e}"));
        match &first {
            None => first = Some(bytes),
            Some(first) => assert!(*first == bytes, "{what}: {which} gives other bits"),
        }
    }
}

pub(crate) fn bytes_of<T: Pod>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// Fails with place and numbers when `got` is further than `tolerance` from `want`; NaN is never near.
pub(crate) fn near(what: impl std::fmt::Display, got: f32, want: f64, tolerance: f64) -> Result<(), String> {
    let distance = (f64::from(got) - want).abs();
    if distance <= tolerance {
        Ok(())
    } else {
        Err(format!("{what}: {got}, not {want} within {tolerance:e}"))
    }
}
