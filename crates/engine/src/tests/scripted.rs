//! A made-up model. The logits of a position are a function of the tokens up to it, but the backend works
//! them out from what it finds in its cache blocks: a block in the wrong hands, taken too early or read
//! before it was written shows as a wrong token.

use crate::{
    Decision, History, Needs, Phrase, Policy, PolicyState, RegionId, TokenClass, TokenClasses, Verdict,
};
use entropix_model::sampling::{self, DrawScratch, signals_of};
use entropix_model::{
    AttentionSignals, Backend, Batch, BlockCopy, Candidates, Capacity, Draw, Drawn, Filters, Result, Signals,
    Slot, StepId, Temperature, TokenId,
};
use std::sync::Arc;

pub(super) const VOCAB: usize = 24;
/// Ends an answer.
pub(super) const END: TokenId = 0;

/// The model itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Model {
    /// After this token the logits are not numbers.
    pub(super) nan_after: Option<TokenId>,
}

/// What the cache holds of a position: a digest of its token and of everything before it.
type Key = u64;

fn mix(a: u64, b: u64) -> u64 {
    let x = (a ^ b.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x ^ (x >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB) ^ (x >> 32)
}

/// What a position attends to, given what the positions before it left and its own token.
fn key(context: u64, token: TokenId) -> Key {
    mix(context, u64::from(token) + 1)
}

fn attend(context: u64, key: Key) -> u64 {
    mix(context.rotate_left(7), key)
}

impl Model {
    /// The context after `tokens`, without any cache.
    pub(super) fn context(tokens: &[TokenId]) -> u64 {
        tokens.iter().fold(0, |context, &token| attend(context, key(context, token)))
    }

    /// (VOCAB) logits after `context`, whose last token is `last`: flat, peaked and in between, with holes.
    pub(super) fn logits(self, context: u64, last: TokenId) -> Vec<f32> {
        if self.nan_after == Some(last) {
            return vec![f32::NAN; VOCAB];
        }
        let scale = [0.2, 1.0, 3.0, 9.0][(context >> 60) as usize & 3];
        let logit = |token: usize| {
            let bits = mix(context, 1000 + token as u64);
            let is_hole = bits.is_multiple_of(11) && token as u64 != context % VOCAB as u64;
            if is_hole { f32::NEG_INFINITY } else { ((bits >> 40) as f32 / 16_777_216.0 - 0.5) * scale }
        };
        (0..VOCAB).map(logit).collect()
    }

    pub(super) fn attention(context: u64) -> AttentionSignals {
        let part = |n| (mix(context, n) >> 40) as f32 / 16_777_216.0;
        AttentionSignals {
            entropy: part(1) * 3.0,
            entropy_rel: part(2),
            varentropy: part(3),
            head_spread: part(4),
            head_disagreement: part(5),
            interaction: part(6) * 5.0,
        }
    }

    /// Signals of the distribution after `tokens`.
    pub(super) fn signals(self, tokens: &[TokenId], target: Option<TokenId>) -> Signals {
        let last = tokens[tokens.len() - 1];
        signals_of(&self.logits(Self::context(tokens), last), target)
    }
}

pub(super) fn classes() -> TokenClasses {
    let mut classes = TokenClasses::new(VOCAB);
    classes.add(END, TokenClass::End);
    classes.add(3, TokenClass::Newline);
    classes
}

struct Asked {
    context: u64,
    logits: Vec<f32>,
    signals: Signals,
    is_kept: bool,
    wants_attention: bool,
}

/// The model behind a paged cache.
pub(super) struct Scripted {
    pub(super) capacity: Capacity,
    model: Model,
    /// (n_blocks, block_size)
    cache: Vec<Key>,
    step: u64,
    asked: Vec<Asked>,
    scratch: DrawScratch,
    /// From this step on every submit fails.
    pub(super) fails_at: u64,
    /// Whether logits may be kept and drawn from.
    pub(super) may_draw: bool,
}

impl Scripted {
    pub(super) fn new(capacity: Capacity, model: Model) -> Self {
        let n = capacity.n_blocks * capacity.block_size;
        // What nobody wrote differs from place to place.
        let cache = (0..n as u64).map(|place| mix(0xBAD, place)).collect();
        Self {
            capacity,
            model,
            cache,
            step: 0,
            asked: Vec::new(),
            scratch: DrawScratch::default(),
            fails_at: u64::MAX,
            may_draw: true,
        }
    }

    fn place(&self, blocks: &[u32], position: usize) -> usize {
        let size = self.capacity.block_size;
        blocks[position / size] as usize * size + position % size
    }
}

impl Backend for Scripted {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn submit(&mut self, batch: &Batch) -> Result<StepId> {
        self.step += 1;
        if self.step >= self.fails_at {
            return Err(entropix_model::Error::new(
                entropix_model::Class::Temp,
                "DeviceLost",
                "the device is gone",
            ));
        }
        let c = &self.capacity;
        assert!(batch.rows.len() <= c.max_rows && batch.tokens.len() <= c.max_tokens, "a step of {batch:?}");
        assert!(batch.asks.iter().filter(|ask| ask.keep_logits).count() <= c.max_kept, "kept asks");
        assert!(self.may_draw || batch.asks.iter().all(|ask| !ask.keep_logits), "logits kept for nothing");
        self.asked.clear();
        // A row sees the cache as the step found it, and its own tokens.
        let mut writes = Vec::new();
        for row in &batch.rows {
            let blocks = &batch.blocks[row.blocks.clone()];
            let tokens = &batch.tokens[row.tokens.clone()];
            assert_eq!(blocks.len(), (row.start + tokens.len()).div_ceil(c.block_size), "blocks of {row:?}");
            let mut asks = batch.asks[row.asks.clone()].iter().peekable();
            let mut context =
                (0..row.start).fold(0, |context, p| attend(context, self.cache[self.place(blocks, p)]));
            for (index, &token) in tokens.iter().enumerate() {
                let key = key(context, token);
                writes.push((self.place(blocks, row.start + index), key));
                context = attend(context, key);
                if let Some(ask) = asks.next_if(|ask| ask.index == index) {
                    let logits = self.model.logits(context, token);
                    let signals = signals_of(&logits, ask.target);
                    let (is_kept, wants_attention) = (ask.keep_logits, ask.attention);
                    self.asked.push(Asked { context, logits, signals, is_kept, wants_attention });
                }
            }
            assert!(asks.next().is_none(), "asks of {row:?} out of order");
        }
        for (place, key) in writes {
            self.cache[place] = key;
        }
        Ok(StepId(self.step))
    }

    fn signals(&mut self, step: StepId, out: &mut [Signals]) -> Result<()> {
        assert_eq!((step.0, out.len()), (self.step, self.asked.len()), "step and asks");
        out.iter_mut().zip(&self.asked).for_each(|(out, asked)| *out = asked.signals);
        Ok(())
    }

    fn attention(&mut self, step: StepId, asks: &[Slot], out: &mut [AttentionSignals]) -> Result<()> {
        assert_eq!(step.0, self.step);
        for (out, &slot) in out.iter_mut().zip(asks) {
            let asked = &self.asked[slot as usize];
            assert!(asked.wants_attention, "attention of slot {slot} was not asked for");
            *out = Model::attention(asked.context);
        }
        Ok(())
    }

    fn candidates(&mut self, step: StepId, asks: &[(Slot, u16)], out: &mut Candidates) -> Result<()> {
        assert_eq!(step.0, self.step);
        out.clear();
        for &(slot, k) in asks {
            let asked = &self.asked[slot as usize];
            assert!(asked.is_kept, "candidates of slot {slot}, whose logits were not kept");
            sampling::candidates(&asked.logits, &asked.signals, usize::from(k), &mut self.scratch, out);
        }
        Ok(())
    }

    fn draw(&mut self, step: StepId, draws: &[Draw<'_>], out: &mut [Drawn]) -> Result<()> {
        assert_eq!((step.0, out.len()), (self.step, draws.len()));
        for (out, draw) in out.iter_mut().zip(draws) {
            let asked = &self.asked[draw.slot as usize];
            assert!(asked.is_kept, "a draw from slot {}, whose logits were not kept", draw.slot);
            assert!(draw.edits.is_sorted_by(|a, b| a.token < b.token), "edits in order");
            *out = sampling::draw(&asked.logits, &asked.signals, draw, &mut self.scratch);
        }
        Ok(())
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) -> Result<()> {
        let size = self.capacity.block_size;
        // All are read before any is written: the engine may not count on an order inside one call.
        let read: Vec<Vec<Key>> = copies
            .iter()
            .map(|copy| self.cache[copy.from as usize * size..][..copy.tokens].to_vec())
            .collect();
        for (copy, keys) in copies.iter().zip(read) {
            for slot in 0..size {
                let garbage = mix(0xC0B1, self.step * 64 + slot as u64);
                self.cache[copy.to as usize * size + slot] = keys.get(slot).copied().unwrap_or(garbage);
            }
        }
        Ok(())
    }

    fn logits(&self, step: StepId, slot: Slot) -> Result<Vec<f32>> {
        assert_eq!(step.0, self.step);
        Ok(self.asked[slot as usize].logits.clone())
    }
}

/// A policy that takes every kind of decision, looks at everything it may, and remembers.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    pub(super) attention: bool,
    pub(super) phrases: Vec<Phrase>,
    pub(super) regions: Vec<Arc<str>>,
    /// Whether it may end answers.
    pub(super) stops: bool,
}

impl Judge {
    pub(super) fn new(attention: bool, stops: bool) -> Self {
        let phrase = |tokens: &[TokenId], cap, cooldown| Phrase { tokens: tokens.to_vec(), cap, cooldown };
        let regions = ["argmax", "draw", "best", "say", "stop", "target"];
        Self {
            attention,
            stops,
            phrases: vec![phrase(&[5, 6, 7], 2, 0), phrase(&[9], 3, 4)],
            regions: regions.iter().map(|&name| name.into()).collect(),
        }
    }
}

impl Policy for Judge {
    fn name(&self) -> &str {
        "judge"
    }

    fn regions(&self) -> &[Arc<str>] {
        &self.regions
    }

    fn needs(&self) -> Needs {
        Needs { attention: self.attention, logits: true, trace: false }
    }

    fn phrases(&self) -> &[Phrase] {
        &self.phrases
    }

    fn start(&self) -> PolicyState {
        PolicyState { numbers: vec![0.0, 0.0] }
    }

    fn decide(
        &self,
        signals: &Signals,
        attention: Option<&AttentionSignals>,
        history: &History<'_>,
        state: &mut PolicyState,
    ) -> Verdict {
        assert_eq!(attention.is_some(), self.attention, "attention was asked for or not");
        state.numbers[0] += 1.0;
        // Everything that could go wrong on the way here is in this number.
        let doubt = f64::from(signals.entropy)
            + f64::from(signals.varentropy)
            + state.numbers.iter().sum::<f64>()
            + attention.map_or(0.0, |a| f64::from(a.entropy + a.interaction))
            + f64::from(u8::from(history.last_injected()))
            + f64::from(u8::from(history.last_is(TokenClass::Newline)))
            + history.output().len() as f64 * 0.37;
        let case = (doubt * 1000.0) as u64 % 16;
        let temperature = Temperature::Fixed(0.5 + case as f32 / 8.0);
        let filters = Filters { temperature, ..Filters::default() };
        let (region, decision) = match case {
            0..4 => (0, Decision::Argmax),
            4..8 => (1, Decision::Draw(Filters { top_k: 7, top_p: 0.95, ..filters })),
            8..11 => (2, Decision::BestOf { n: 3, filters: Filters { min_p: 0.05, ..filters } }),
            11 | 12 => (3, Decision::Inject { phrase: case as usize - 11 }),
            13 if self.stops && history.output().len() > 3 => (4, Decision::Stop { reason: "doubt".into() }),
            _ => (5, Decision::Draw(Filters { temperature: Temperature::TargetEntropy(1.0), ..filters })),
        };
        Verdict { region: RegionId(region), decision }
    }

    fn observe(&self, token: TokenId, logprob: f32, state: &mut PolicyState) {
        state.numbers[1] += f64::from(logprob.max(-20.0)) + f64::from(token) * 0.01;
    }
}
