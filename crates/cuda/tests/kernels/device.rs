//! An emulated device: buffers, launches, and running one check in every thread order.

use bytemuck::Pod;
use entropix_cuda::launch::{Launch, Pointer};
use entropix_emulator::{Buffer, Emulator, Order, Shape, Traffic};

/// An image of the kernels and an order to run threads in.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    pub(crate) image: &'a Emulator,
    pub(crate) order: Order,
}

/// What a check gives: the bytes that must be equal in every order, or what was wrong.
pub(crate) type Outcome = Result<Vec<u8>, String>;

impl<'a> Device<'a> {
    pub(crate) fn upload<T: Pod>(&self, values: &[T]) -> Buffer<'a> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.image.allocate(bytes.len());
        buffer.write(0, bytes);
        buffer
    }

    /// Memory for `n` values that nobody wrote yet.
    pub(crate) fn empty<T: Pod>(&self, n: usize) -> Buffer<'a> {
        self.image.allocate(n * size_of::<T>())
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

    /// Runs a launch; the bytes of device memory that it touched, zero in the plain image.
    pub(crate) fn traffic(&self, launch: &Launch) -> Result<Traffic, String> {
        let values: Vec<([u8; 8], usize)> =
            launch.arguments.iter().map(|(value, bytes)| (value.to_le_bytes(), bytes as usize)).collect();
        let arguments: Vec<&[u8]> = values.iter().map(|(value, bytes)| &value[..*bytes]).collect();
        let shape = Shape { grid: launch.grid, block: launch.block, shared: launch.shared as usize };
        self.image.launch(&launch.kernel, shape, &arguments, self.order).map_err(|fault| fault.0)
    }

    /// Reads `n` values from the `first`-th on; bytes that no kernel and no upload wrote are an error.
    pub(crate) fn read<T: Pod>(&self, buffer: &Buffer<'_>, first: usize, n: usize) -> Result<Vec<T>, String> {
        let mut values = vec![T::zeroed(); n];
        let unwritten = buffer.read(first * size_of::<T>(), bytemuck::cast_slice_mut(&mut values));
        if unwritten > 0 {
            return Err(format!("unwritten: {unwritten} bytes of {n} values from {first} on"));
        }
        Ok(values)
    }
}

pub(crate) fn at(buffer: &Buffer<'_>) -> Pointer {
    Pointer(buffer.address())
}

pub(crate) const NULL: Pointer = Pointer(0);

/// Runs a check in the checked image in three orders and in the plain one; all must pass with the same bytes.
pub(crate) fn everywhere(what: &str, check: impl Fn(&Device<'_>) -> Outcome) {
    compare(what, &Order::ALL.map(|order| (Emulator::checked(), order)), check);
}

/// For large inputs of a check that small ones pass [`everywhere`]: the plain image in two orders.
pub(crate) fn at_length(what: &str, check: impl Fn(&Device<'_>) -> Outcome) {
    compare(what, &[Order::Falling, Order::Random(2)].map(|order| (Emulator::plain(), order)), check);
}

fn compare(what: &str, runs: &[(&Emulator, Order)], check: impl Fn(&Device<'_>) -> Outcome) {
    let mut first: Option<Vec<u8>> = None;
    let plain = (Emulator::plain(), Order::Rising);
    for (image, order) in runs.iter().copied().chain([plain]) {
        let device = Device { image, order };
        let bytes = check(&device).unwrap_or_else(|e| panic!("{what}, {order:?}: {e}"));
        match &first {
            None => first = Some(bytes),
            Some(first) => assert!(*first == bytes, "{what}: {order:?} gives other bits"),
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
