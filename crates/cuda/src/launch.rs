//! A launch as plain data: what a driver, or the emulator, needs to run one kernel once.

/// A device address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pointer(pub u64);

/// Most parameters of a kernel.
pub const MOST_ARGUMENTS: usize = 16;

/// The values of a kernel's parameters, in order, each in 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Arguments {
    values: [u64; MOST_ARGUMENTS],
    sizes: [u8; MOST_ARGUMENTS],
    len: usize,
}

/// A value that a kernel takes.
pub trait Argument: Copy {
    /// Its bits and how many bytes of them count.
    fn bits(self) -> (u64, u8);
}

impl Argument for Pointer {
    fn bits(self) -> (u64, u8) {
        (self.0, 8)
    }
}

impl Argument for u32 {
    fn bits(self) -> (u64, u8) {
        (self.into(), 4)
    }
}

impl Argument for f32 {
    fn bits(self) -> (u64, u8) {
        (self.to_bits().into(), 4)
    }
}

impl Arguments {
    /// Appends a value.
    pub fn with(mut self, argument: impl Argument) -> Self {
        let (value, size) = argument.bits();
        (self.values[self.len], self.sizes[self.len]) = (value, size);
        self.len += 1;
        self
    }

    /// (value, bytes) of each parameter.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        self.values[..self.len].iter().copied().zip(self.sizes[..self.len].iter().copied())
    }
}

/// One launch of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The entry point.
    pub kernel: String,
    /// Which matrix it multiplies with, where a step has several.
    pub part: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Parameters.
    pub arguments: Arguments,
    /// Bytes that it must read and write when everything it has room for is there; what its time is measured against.
    pub bytes: u64,
}
