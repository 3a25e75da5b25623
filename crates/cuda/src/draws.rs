//! Draws as the records that kernels/draw.cu reads.

use crate::driver::Driver;
use crate::launch::Launch;
use crate::ops::{self, DrawBuffers, LogitBuffers};
use crate::options::Sizes;
use crate::rooms::{ORDER_BYTES, Rooms};
use crate::step::NO_TOKEN;
use entropix_model::{Draw, Drawn, Result, Temperature, TokenMask};

/// Draws on their way to the device.
#[derive(Debug, Default)]
pub(crate) struct Orders<'a> {
    /// 16 words each: `DrawOrder`.
    orders: Vec<u32>,
    /// {token, penalty, bias}
    edits: Vec<u32>,
    masks: Vec<u32>,
    /// Masks already there, and their first words: rows usually share one.
    seen: Vec<(&'a TokenMask, u32)>,
    coins: Vec<u64>,
}

impl<'a> Orders<'a> {
    pub(crate) fn len(&self) -> usize {
        self.orders.len() * 4 / ORDER_BYTES
    }

    /// Appends a draw from the logits at `place`; false when there is no room for it, which the first always has.
    ///
    /// # Panics
    /// When it alone is more than there is room for.
    pub(crate) fn push(&mut self, draw: &Draw<'a>, place: u32, sizes: &Sizes) -> bool {
        let fits = self.len() < sizes.draws
            && self.edits.len() / 3 + draw.edits.len() <= sizes.edits
            && self.coins.len() + draw.coins.len() <= sizes.coins;
        if !fits {
            assert!(
                self.len() > 0,
                "a draw with {} edits and {} coins, at most {} and {}",
                draw.edits.len(),
                draw.coins.len(),
                sizes.edits,
                sizes.coins
            );
            return false;
        }
        let narrow = |n: usize| u32::try_from(n).expect("lists that fit the device fit 32 bits");
        let f = &draw.filters;
        let (kind, temperature) = match f.temperature {
            Temperature::Greedy => (0, 0.0),
            Temperature::Fixed(t) => (1, t),
            Temperature::TargetEntropy(h) => (2, h),
        };
        let (first_edit, first_coin) = (narrow(self.edits.len() / 3), narrow(self.coins.len()));
        self.edits.extend(draw.edits.iter().flat_map(|e| [e.token, e.penalty.to_bits(), e.bias.to_bits()]));
        self.coins.extend(draw.coins.iter().map(|coin| coin.0));
        let mask = draw.mask.map_or(NO_TOKEN, |mask| self.mask(mask, sizes.mask_words()));
        self.orders.extend([
            place,
            kind,
            temperature.to_bits(),
            f.top_k,
            f.top_p.to_bits(),
            f.min_p.to_bits(),
            f.top_n_sigma.to_bits(),
            f.p_less.into(),
            first_edit,
            narrow(self.edits.len() / 3),
            mask,
            first_coin,
            narrow(self.coins.len()),
            0,
            0,
            0,
        ]);
        true
    }

    fn mask(&mut self, mask: &'a TokenMask, words: usize) -> u32 {
        if let Some(&(_, first)) = self.seen.iter().find(|(seen, _)| std::ptr::eq(*seen, mask)) {
            return first;
        }
        let first = u32::try_from(self.masks.len()).expect("masks that fit the device fit 32 bits");
        let halves = mask.words.iter().flat_map(|word| [*word as u32, (word >> 32) as u32]);
        self.masks.extend(halves.chain(std::iter::repeat(0)).take(words));
        self.seen.push((mask, first));
        first
    }

    /// Queues the copies to the device; the launch that is to follow.
    pub(crate) fn upload(&self, driver: &Driver, rooms: &Rooms, logits: LogitBuffers) -> Result<Launch> {
        let n = u32::try_from(self.len()).expect("as many as there is room for");
        let mut words = vec![0; ORDER_BYTES / 4];
        words[0] = n;
        words.extend(&self.orders);
        driver.write(rooms.orders, 0, bytemuck::cast_slice(&words))?;
        driver.write(rooms.edits, 0, bytemuck::cast_slice(&self.edits))?;
        driver.write(rooms.masks, 0, bytemuck::cast_slice(&self.masks))?;
        driver.write(rooms.coins, 0, bytemuck::cast_slice(&self.coins))?;
        let buffers = DrawBuffers {
            orders: rooms.orders.offset(ORDER_BYTES),
            edits: rooms.edits.pointer(),
            masks: rooms.masks.pointer(),
            coins: rooms.coins.pointer(),
            drawn: rooms.drawn.pointer(),
            n_draws: rooms.orders.pointer(),
        };
        Ok(ops::draw(logits, buffers, n))
    }
}

/// A result as the kernel writes it.
pub(crate) fn drawn([token, logprob, temperature]: [u32; 3]) -> Drawn {
    Drawn {
        token: (token != NO_TOKEN).then_some(token),
        logprob: f32::from_bits(logprob),
        temperature: f32::from_bits(temperature),
    }
}
