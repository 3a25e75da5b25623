//! The inputs of a product, rounded once and read by every row of the matrix.
//!
//! Four tokens make a panel, and a panel is (n_blocks, 4 tokens, one block of 32 columns), so that a kernel
//! reaches twelve tokens from three pointers and constants.

use super::Matrix;
use super::layout::BLOCK;
use super::memory::AlignedBytes;
use crate::features::KernelPath;

/// Tokens whose blocks lie side by side.
pub(crate) const PANEL: usize = 4;

/// One rounding of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are: (32) f32.
    F32,
    /// Rounded to bf16 and kept in f32: (32) f32.
    Rounded,
    /// `x = dx q`: (32) i8 q; f32 dx = max |x| / 127; f32 dx sum q; then -128 sum q over the block, its
    /// first half and its second half, as i32.
    Int8,
}

impl Form {
    pub(crate) const ALL: [Form; 3] = [Form::F32, Form::Rounded, Form::Int8];

    /// Bytes of one block of one token.
    pub(crate) const fn token_bytes(self) -> usize {
        match self {
            Form::F32 | Form::Rounded => 4 * BLOCK,
            Form::Int8 => BLOCK + 5 * 4,
        }
    }
}

/// Which roundings of the same activations are kept, since matrices that share an input may differ in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms([bool; 3]);

impl Forms {
    /// What these matrices read.
    pub fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Self {
        matrices.into_iter().fold(Self::default(), |forms, matrix| forms.and(matrix.forms()))
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    pub(crate) fn with(mut self, form: Form) -> Self {
        self.0[form as usize] = true;
        self
    }

    pub(crate) fn has(self, form: Form) -> bool {
        self.0[form as usize]
    }
}

/// Room for (max_tokens, n_cols) activations in one or more forms. Each row is rounded by itself, so a token's
/// numbers do not depend on its neighbours.
#[derive(Debug)]
pub struct Activations {
    max_tokens: usize,
    n_cols: usize,
    n_blocks: usize,
    forms: [Option<AlignedBytes>; 3],
    path: KernelPath,
}

impl Activations {
    /// Room for `max_tokens` rows of `n_cols`.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(max_tokens: usize, n_cols: usize, forms: Forms, path: KernelPath) -> Self {
        assert!(path.is_available(), "the {path} kernels cannot run on this machine");
        let n_blocks = n_cols.div_ceil(BLOCK);
        let n_panels = max_tokens.div_ceil(PANEL);
        let forms = Form::ALL.map(|form| {
            let n_bytes = n_panels * PANEL * n_blocks * form.token_bytes();
            forms
                .has(form)
                .then(|| AlignedBytes::zeroed(n_bytes, "activations").unwrap_or_else(|e| panic!("{e}")))
        });
        Self { max_tokens, n_cols, n_blocks, forms, path }
    }

    /// Rows there is room for.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Columns.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Rounds and stores row `token`; `values` is (n_cols). A NaN or an infinity in a row leaves no output of
    /// that token finite.
    pub fn write_row(&mut self, token: usize, values: &[f32]) {
        // SAFETY: the borrow is exclusive.
        unsafe { self.write_row_shared(token, values) }
    }

    /// As [`Activations::write_row`], for several threads writing different rows at once.
    ///
    /// # Safety
    /// No other thread may write or multiply this row meanwhile.
    pub unsafe fn write_row_shared(&self, token: usize, values: &[f32]) {
        assert!(token < self.max_tokens, "row {token} of {} activations", self.max_tokens);
        assert_eq!(values.len(), self.n_cols, "columns of an activation row");
        for form in Form::ALL {
            let Some((panel, _)) = self.panel(form, token / PANEL) else { continue };
            let row = Row {
                form,
                first: panel.wrapping_add(token % PANEL * form.token_bytes()).cast_mut(),
                values,
            };
            match self.path {
                KernelPath::Portable => row.write(),
                // SAFETY: `new` checked that the machine has these instructions.
                #[cfg(target_arch = "x86_64")]
                KernelPath::Avx2 => unsafe { row.write_avx2() },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                KernelPath::Avx512 => unsafe { row.write_avx512() },
                #[cfg(not(target_arch = "x86_64"))]
                _ => row.write(),
            }
        }
    }

    /// Where panel `panel` starts, and how far the next one is; none when the form is not kept.
    pub(crate) fn panel(&self, form: Form, panel: usize) -> Option<(*const u8, usize)> {
        let bytes = self.forms[form as usize].as_ref()?;
        let stride = PANEL * self.n_blocks * form.token_bytes();
        Some((bytes.as_ptr().wrapping_add(panel * stride), stride))
    }
}

/// One row on its way into one form; `first` is where its first block goes.
struct Row<'a> {
    form: Form,
    first: *mut u8,
    values: &'a [f32],
}

impl Row<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn write_avx2(&self) {
        self.write();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    fn write_avx512(&self) {
        self.write();
    }

    /// One source for all families: the compiler makes vectors of it, and no rounding depends on how.
    #[inline(always)]
    fn write(&self) {
        let stride = PANEL * self.form.token_bytes();
        for (i, values) in self.values.chunks(BLOCK).enumerate() {
            let mut block = [0.0; BLOCK];
            block[..values.len()].copy_from_slice(values);
            let to = self.first.wrapping_add(i * stride);
            // SAFETY: `write_row_shared` points `first` at one of PANEL tokens of a panel of enough blocks, and
            // its callers promise that nobody else touches them. The arrays below are `token_bytes` long.
            unsafe {
                match self.form {
                    Form::F32 => to.cast::<[f32; BLOCK]>().write_unaligned(block),
                    Form::Rounded => to.cast::<[f32; BLOCK]>().write_unaligned(block.map(round_to_bf16)),
                    Form::Int8 => {
                        let Int8Block { quants, scale, sums } = Int8Block::new(&block);
                        to.cast::<[i8; BLOCK]>().write_unaligned(quants);
                        let meta = to.add(BLOCK);
                        let total = sums[0] + sums[1];
                        meta.cast::<[f32; 2]>().write_unaligned([scale, scale * total as f32]);
                        meta.add(8).cast::<[i32; 3]>().write_unaligned([
                            -128 * total,
                            -128 * sums[0],
                            -128 * sums[1],
                        ]);
                    }
                }
            }
        }
    }
}

/// To the nearest bf16, ties to even; a NaN stays one.
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if bits & 0x7fff_ffff > 0x7f80_0000 { f32::NAN } else { f32::from_bits(rounded) }
}

/// A block of 32 in 8 bits.
pub(crate) struct Int8Block {
    /// x / scale, to the nearest, ties to even.
    pub(crate) quants: [i8; BLOCK],
    /// max |x| / 127. 0 for a block of numbers below 1e-24, which no sum of a network can feel and whose
    /// products would leave the range of f32; NaN when a number is NaN or infinite.
    pub(crate) scale: f32,
    /// Sums of the quants of each half.
    pub(crate) sums: [i32; 2],
}

impl Int8Block {
    #[inline(always)]
    pub(crate) fn new(block: &[f32; BLOCK]) -> Self {
        // As integers, magnitudes of floats are in their own order with NaN above infinity.
        let largest = block.iter().fold(0, |largest: i32, x| largest.max((x.to_bits() & 0x7fff_ffff) as i32));
        let largest = f32::from_bits(largest as u32);
        if !(1e-24..f32::INFINITY).contains(&largest) {
            let scale = if largest < 1.0 { 0.0 } else { f32::NAN };
            return Self { quants: [0; BLOCK], scale, sums: [0; 2] };
        }
        let inverse = 127.0 / largest;
        // Adding 1.5 x 2^23 leaves the number rounded to even in the low bits of the significand.
        const MAGIC: f32 = 12_582_912.0;
        let quants: [i32; BLOCK] =
            std::array::from_fn(|i| (block[i] * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32);
        let sum = |half: &[i32]| half.iter().sum();
        Self {
            quants: quants.map(|q| q as i8),
            scale: largest / 127.0,
            sums: [sum(&quants[..16]), sum(&quants[16..])],
        }
    }
}
