//! The inputs of a product, rounded once and read by every row of the matrix.
//!
//! Some tokens make a panel, and a panel is (n_blocks, tokens, one block of 32 columns), so that a kernel reaches
//! twelve tokens from at most three pointers and constants, and sixteen 8-bit or bf16 ones with one stride.
#![allow(unsafe_code)]

use super::Matrix;
use super::layout::BLOCK;
use crate::features::KernelPath;
use crate::memory::Zeroed;

/// One rounding of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are: (32) f32.
    F32,
    /// Rounded to bf16 and kept in f32: (32) f32.
    Rounded,
    /// `x = dx q`: (32) i8 q; f32 dx, see [`Int8Block`]; f32 dx sum q; then -128 sum q over the block and over its
    /// first half, as i32; then the parts of dx for [`MULTIPLES`].
    Int8,
    /// Rounded to bf16: (32) bf16; their sum in f32.
    Pairs,
}

impl Form {
    pub(crate) const ALL: [Form; 4] = [Form::F32, Form::Rounded, Form::Int8, Form::Pairs];

    /// Tokens of a panel, whose blocks lie side by side.
    pub(crate) const fn panel(self) -> usize {
        match self {
            Form::F32 | Form::Rounded => 4,
            Form::Int8 | Form::Pairs => 16,
        }
    }

    /// Bytes of one block of one token.
    pub(crate) const fn token_bytes(self) -> usize {
        match self {
            Form::F32 | Form::Rounded => 4 * BLOCK,
            Form::Int8 => BLOCK + 5 * 4,
            Form::Pairs => 2 * BLOCK + 4,
        }
    }
}

/// Which roundings of the same activations are kept, since matrices that share an input may differ in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms([bool; Form::ALL.len()]);

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
    forms: [Option<Zeroed<u8>>; Form::ALL.len()],
    path: KernelPath,
}

impl Activations {
    /// Columns that share a scale when they are rounded to 8 bits.
    pub const BLOCK: usize = BLOCK;

    /// Room for `max_tokens` rows of `n_cols`.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(max_tokens: usize, n_cols: usize, forms: Forms, path: KernelPath) -> Self {
        assert!(path.is_available(), "the {path} kernels cannot run on this machine");
        assert!(
            !forms.has(Form::Int8) || n_cols.is_multiple_of(BLOCK),
            "{n_cols} columns are no whole blocks of {BLOCK} 8-bit activations"
        );
        assert!(
            !forms.has(Form::Pairs) || KernelPath::Avx512Bf16.is_available(),
            "pairs of bf16 on a machine without them"
        );
        let n_blocks = n_cols.div_ceil(BLOCK);
        let forms = Form::ALL.map(|form| {
            // Kernels may read, and then forget, a panel's worth of tokens from any token on.
            let n_tokens = max_tokens.next_multiple_of(form.panel()) * n_blocks + form.panel();
            let n_bytes = n_tokens * form.token_bytes();
            forms.has(form).then(|| Zeroed::new(n_bytes, "activations").unwrap_or_else(|e| panic!("{e}")))
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
        assert_eq!(values.len(), self.n_cols, "columns of an activation row");
        // SAFETY: promised by the caller.
        unsafe { self.write_columns_shared(token, 0, values) }
    }

    /// As [`Activations::write_row_shared`], for some columns: blocks are rounded each by itself, so a row may be
    /// written in pieces, by several threads. `first` is a multiple of [`Activations::BLOCK`], and so is the end
    /// unless it is the end of the row.
    ///
    /// # Safety
    /// No other thread may write or multiply these columns of this row meanwhile.
    pub unsafe fn write_columns_shared(&self, token: usize, first: usize, values: &[f32]) {
        assert!(token < self.max_tokens, "row {token} of {} activations", self.max_tokens);
        let end = first + values.len();
        assert!(
            first.is_multiple_of(BLOCK)
                && (end == self.n_cols || end < self.n_cols && end.is_multiple_of(BLOCK)),
            "columns {first}..{end} of {} are no whole blocks of {BLOCK}",
            self.n_cols
        );
        for form in Form::ALL {
            let Some((panel, _)) = self.panel(form, token / form.panel()) else { continue };
            let stride = form.panel() * form.token_bytes();
            let offset = token % form.panel() * form.token_bytes() + first / BLOCK * stride;
            let row = Row { first: panel.wrapping_add(offset).cast_mut(), stride, values };
            // SAFETY: the row lies within the panel, and by the contract above nobody else touches it; `new`
            // checked that the machine has the instructions of the path.
            unsafe {
                match (form, self.path) {
                    (Form::F32, _) => row.write_floats(|x| x),
                    (Form::Rounded, _) => row.write_floats(round_to_bf16),
                    (Form::Int8, KernelPath::Portable) => row.write_int8(),
                    #[cfg(target_arch = "x86_64")]
                    (Form::Int8, KernelPath::Avx2) => super::avx2::write_int8(&row),
                    #[cfg(target_arch = "x86_64")]
                    (Form::Int8, _) => super::avx512::write_int8(&row),
                    #[cfg(target_arch = "x86_64")]
                    (Form::Pairs, _) => super::avx512::write_pairs(&row),
                    #[cfg(not(target_arch = "x86_64"))]
                    (Form::Int8, _) => row.write_int8(),
                    #[cfg(not(target_arch = "x86_64"))]
                    (Form::Pairs, _) => unreachable!("the {} kernels read no pairs", self.path),
                }
            }
        }
    }

    /// Where panel `panel` starts, and how far the next one is; none when the form is not kept.
    pub(crate) fn panel(&self, form: Form, panel: usize) -> Option<(*const u8, usize)> {
        let bytes = self.forms[form as usize].as_ref()?;
        let stride = form.panel() * self.n_blocks * form.token_bytes();
        Some((bytes.as_ptr().wrapping_add(panel * stride), stride))
    }
}

/// One row on its way into one form.
pub(crate) struct Row<'a> {
    /// Where its first block goes.
    pub(crate) first: *mut u8,
    /// From one block to the next.
    pub(crate) stride: usize,
    pub(crate) values: &'a [f32],
}

impl Row<'_> {
    /// # Safety
    /// There is room for every block of a form of f32, and nobody else touches it.
    unsafe fn write_floats(&self, round: impl Fn(f32) -> f32) {
        for (i, values) in self.values.chunks(BLOCK).enumerate() {
            let mut block = [0.0; BLOCK];
            for (to, x) in block.iter_mut().zip(values) {
                *to = round(*x);
            }
            // SAFETY: promised by the caller.
            unsafe { self.first.add(i * self.stride).cast::<[f32; BLOCK]>().write_unaligned(block) };
        }
    }

    /// # Safety
    /// There is room for every block of the 8-bit form, and nobody else touches it.
    unsafe fn write_int8(&self) {
        for (i, block) in self.values.as_chunks::<BLOCK>().0.iter().enumerate() {
            // SAFETY: promised by the caller.
            unsafe { Int8Block::new(block).write(self.first.add(i * self.stride)) };
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

/// dx is `2^e (1 + k / 16)`, so a kernel that has the sixteen multiples `d (1 + k / 16)` of a scale of weights at hand gets
/// the product `d dx` by adding e to the exponent of the k-th: an addition of integers in place of a multiplication, for
/// which processors have fewer units to spare. All of it is exact, since d has at most 17 bits.
pub(crate) const MULTIPLES: usize = 16;
/// Where the parts of dx are, the u32 `(e << 23) + 64 k`: its lower half is the offset of the k-th among vectors, and all
/// of it is added to that, which is less by `64 k` for the purpose. What is not finite has e = 0 and k = 16, no multiple
/// but something that makes the sum NaN.
pub(crate) const PARTS_AT: usize = BLOCK + 16;
/// Bits of the significand of an f32 that are below sixteenths.
const LOW_BITS: u32 = f32::MANTISSA_DIGITS - 1 - MULTIPLES.ilog2();

/// dx of a block whose largest magnitude this is, in [`ORDINARY`].
#[inline(always)]
pub(crate) fn int8_scale(largest: f32) -> f32 {
    let least = largest * (1.0 / 127.0);
    const LOW: u32 = (1 << LOW_BITS) - 1;
    f32::from_bits((least.to_bits() + LOW) & !LOW)
}

/// What stands behind the quants of a block.
///
/// # Safety
/// `to` has room for a block of one token.
#[inline(always)]
pub(crate) unsafe fn write_int8_scale(to: *mut u8, scale: f32, sums: [i32; 2]) {
    let total = sums[0] + sums[1];
    let sixteenths = scale.to_bits() >> LOW_BITS & (MULTIPLES as u32 - 1);
    let exponent = (scale.to_bits() & f32::INFINITY.to_bits()).wrapping_sub(1f32.to_bits());
    let parts = match scale {
        // Any multiple will do, since all quants are zeros.
        0.0 => 0,
        _ if scale.is_nan() => 64 * MULTIPLES as u32,
        _ => exponent.wrapping_add(64 * sixteenths),
    };
    // SAFETY: promised by the caller.
    unsafe {
        to.add(BLOCK).cast::<[f32; 2]>().write_unaligned([scale, scale * total as f32]);
        to.add(BLOCK + 8).cast::<[i32; 2]>().write_unaligned([-128 * total, -128 * sums[0]]);
        to.add(PARTS_AT).cast::<u32>().write_unaligned(parts);
    }
}

/// Magnitudes whose scale is an ordinary number, and so are its products with any scale of weights that is.
pub(crate) const ORDINARY: std::ops::Range<f32> = 1e-24..1e30;

/// A block of 32 in 8 bits.
pub(crate) struct Int8Block {
    /// x / scale, to the nearest, ties to even.
    pub(crate) quants: [i8; BLOCK],
    /// The least `2^e (1 + k / 16)` from max |x| / 127 on. 0 for a block of numbers below 1e-24, which no sum of a network
    /// can feel and whose products would leave the range of f32; NaN when a number is NaN, infinite or 1e30 and more.
    pub(crate) scale: f32,
    /// Sums of the quants of each half.
    pub(crate) sums: [i32; 2],
}

impl Int8Block {
    pub(crate) fn new(block: &[f32; BLOCK]) -> Self {
        // As integers, magnitudes of floats are in their own order with NaN above infinity.
        let largest = block.iter().fold(0, |largest: i32, x| largest.max((x.to_bits() & 0x7fff_ffff) as i32));
        let largest = f32::from_bits(largest as u32);
        if !ORDINARY.contains(&largest) {
            let scale = if largest < 1.0 { 0.0 } else { f32::NAN };
            return Self { quants: [0; BLOCK], scale, sums: [0; 2] };
        }
        let scale = int8_scale(largest);
        let inverse = 1.0 / scale;
        // Adding 1.5 x 2^23 leaves the number rounded to even in the low bits of the significand.
        const MAGIC: f32 = 12_582_912.0;
        let quants: [i32; BLOCK] =
            std::array::from_fn(|i| (block[i] * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32);
        let sum = |half: &[i32]| half.iter().sum();
        Self { quants: quants.map(|q| q as i8), scale, sums: [sum(&quants[..16]), sum(&quants[16..])] }
    }

    /// # Safety
    /// `to` has room for a block of one token.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, to: *mut u8) {
        // SAFETY: promised by the caller.
        unsafe {
            to.cast::<[i8; BLOCK]>().write_unaligned(self.quants);
            write_int8_scale(to, self.scale, self.sums);
        }
    }
}
