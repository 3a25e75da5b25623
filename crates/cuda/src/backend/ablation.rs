//! What signals, attention signals and draws cost beyond a greedy step, told apart in one run.
//!
//! The same decode step is recorded three times: with the likeliest token alone, with the signals of [`Signals`] too, with
//! attention signals too. The recordings are replayed in turn, and what one takes longer than the one before counts round by
//! round, so that a device that gets slower meanwhile slows both. Draws and lists of candidates are measured by themselves, from
//! logits of three kinds.

use super::CudaBackend;
use super::timing::{TimedStep, spread};
use crate::draws::Orders;
use crate::forward::{Forward, Shape};
use crate::launch::Launch;
use crate::ops;
use crate::rooms::key_parts_bytes;
use crate::step::narrow;
use entropix_model::random::splitmix64;
use entropix_model::sampling::signals_of;
use entropix_model::{Backend, Coin, Draw, Filters, Result, Signals, Slot, Temperature};

/// Rounds of replays; the median counts.
const ROUNDS: usize = 9;
/// Rows of random logits that are made, one after the other for all rows of a step: they lie apart on the device.
const MADE_ROWS: usize = 4;
/// Coins a draw, of which the likeliest token is kept, and the filters: those of the family's sampler (the branch attic of
/// xjdr-alt/entropix, `crates/engine/presets/attic.toml`) where it adapts.
const COINS: usize = 5;
const FILTERS: Filters = Filters {
    temperature: Temperature::Fixed(0.8),
    top_k: 27,
    top_p: 0.9,
    min_p: 0.03,
    top_n_sigma: f32::INFINITY,
    p_less: false,
};
/// Candidates a list.
const LISTED: u32 = 20;

/// Kinds of logits, as scripts/torch_sampler.py has them: name, standard deviation, what so many tokens at random get on top.
const REGIMES: [(&str, f64, &[f64]); 3] = [
    ("flat", 0.9, &[]),
    (
        "typical",
        3.0,
        &[
            6.0, 6.3, 6.6, 6.9, 7.3, 7.6, 7.9, 8.2, 8.5, 8.8, 9.2, 9.5, 9.8, 10.1, 10.4, 10.7, 11.1, 11.4,
            11.7, 12.0,
        ],
    ),
    ("peaked", 0.9, &[20.0]),
];

/// A step with something left out, or a part of it by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ablation {
    /// Whole steps: `greedy`, no signals but the likeliest token; `signals`, all of them; `attention`, and attention signals of
    /// every row. By themselves: `draw`, a draw a row; `candidates`, a list of 20 a row.
    pub name: &'static str,
    /// What the logits are like, of what is measured by itself: `flat`, `typical` or `peaked`.
    pub regime: Option<&'static str>,
    /// Seconds: median, least and most.
    pub seconds: [f64; 3],
    /// Seconds beyond the whole step before it in this list, in pairs of neighbouring replays; of what is measured by itself all
    /// its seconds; none of the greedy step.
    pub extra: Option<[f64; 3]>,
    /// Bytes that its launches must read and write at least.
    pub bytes: u64,
}

impl CudaBackend {
    /// Measures a decode step's ablations. Attention signals are left out where the rows' do not fit at once, draws where their
    /// coins do not.
    pub(super) fn ablations(&mut self, step: TimedStep) -> Result<Vec<Ablation>> {
        let asked = 4 * step.rows * step.context.div_ceil(64) <= key_parts_bytes(&self.sizes);
        let batch = self.timed_batch(step, asked)?;
        let submitted = self.submit(&batch)?;
        self.signals(submitted, &mut vec![Signals::default(); step.rows])?;
        let mut all = self.whole_steps()?;
        for (regime, deviation, peaks) in REGIMES {
            self.write_logits(step.rows, deviation, peaks)?;
            let alone = [("draw", self.draws(step.rows)?), ("candidates", Some(self.lists(step.rows)?))];
            for (name, launch) in alone {
                let Some(launch) = launch else { continue };
                let seconds = self.time_alone(&launch)?;
                let (regime, extra) = (Some(regime), Some(seconds));
                all.push(Ablation { name, regime, seconds, extra, bytes: launch.bytes });
            }
        }
        Ok(all)
    }

    /// Greedy, with signals, with attention signals, of the step that was submitted last.
    fn whole_steps(&mut self) -> Result<Vec<Ablation>> {
        let shape = self.exact_shape();
        let plain = Shape { attention: 0, key_parts: 0, ..shape };
        let mut kinds = vec![("greedy", plain, false), ("signals", plain, true)];
        if shape.attention > 0 {
            kinds.push(("attention", shape, true));
        }
        let (mut graphs, mut bytes) = (Vec::with_capacity(kinds.len()), Vec::with_capacity(kinds.len()));
        for &(_, shape, measures) in &kinds {
            let launches = Forward { measures, ..self.forward() }.launches(shape)?;
            bytes.push(launches.iter().map(|launch| launch.bytes).sum());
            graphs.push(self.record(launches.iter())?);
        }
        let replays = self.replays_of(graphs[0])?;
        let mut seconds = vec![Vec::with_capacity(ROUNDS); kinds.len()];
        for _ in 0..ROUNDS {
            for (graph, seconds) in graphs.iter().zip(&mut seconds) {
                seconds.push(self.replay(*graph, replays)?);
            }
        }
        graphs.into_iter().try_for_each(|graph| self.driver.release(graph))?;
        let beyond = |i: usize| {
            spread(seconds[i].iter().zip(&seconds[i - 1]).map(|(with, without)| with - without).collect())
        };
        let kinds = kinds.iter().enumerate();
        Ok(kinds
            .map(|(i, &(name, ..))| Ablation {
                name,
                regime: None,
                seconds: spread(seconds[i].clone()),
                extra: (i > 0).then(|| beyond(i)),
                bytes: bytes[i],
            })
            .collect())
    }

    /// Fills the kept rows with random logits, and what the head and its merge would say of them.
    fn write_logits(&mut self, rows: usize, deviation: f64, peaks: &[f64]) -> Result<()> {
        let (vocab, stride, mut state) = (self.sizes.vocab, self.sizes.stride, 1);
        self.driver.enter()?;
        let made: Vec<Vec<f32>> =
            (0..rows.min(MADE_ROWS)).map(|_| random_logits(vocab, deviation, peaks, &mut state)).collect();
        let maxima: Vec<Vec<f32>> = made
            .iter()
            .map(|row| {
                row.chunks(ops::CHUNK)
                    .map(|chunk| chunk.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                    .collect()
            })
            .collect();
        let signals: Vec<Signals> = made.iter().map(|row| signals_of(row, None)).collect();
        for row in 0..rows {
            let from = row % made.len();
            self.driver.write(self.rooms.logits, 4 * row * stride, bytemuck::cast_slice(&made[from]))?;
            self.driver.write(
                self.rooms.maxima,
                4 * row * maxima[from].len(),
                bytemuck::cast_slice(&maxima[from]),
            )?;
            self.driver.write(
                self.rooms.signals,
                row * size_of::<Signals>(),
                bytemuck::bytes_of(&signals[from]),
            )?;
        }
        self.driver.wait()
    }

    /// A draw a row; none where there is no room for so many.
    fn draws(&self, rows: usize) -> Result<Option<Launch>> {
        let mut state = 2;
        let coins: Vec<Coin> = (0..rows * COINS).map(|_| Coin(splitmix64(&mut state))).collect();
        let mut orders = Orders::default();
        for (row, coins) in coins.chunks(COINS).enumerate() {
            let draw = Draw { slot: row as Slot, filters: FILTERS, edits: &[], mask: None, coins };
            if !orders.push(&draw, narrow(row), &self.sizes) {
                return Ok(None);
            }
        }
        let logits = self.forward().logits(0, 0, self.rooms.orders.pointer());
        orders.upload(&self.driver, &self.rooms, logits).map(Some)
    }

    /// A list of candidates a row.
    fn lists(&self, rows: usize) -> Result<Launch> {
        self.list_candidates((0..narrow(rows)).map(|place| (place, LISTED)))
    }
}

/// Normal numbers, and peaks on tokens at random.
fn random_logits(vocab: usize, deviation: f64, peaks: &[f64], state: &mut u64) -> Vec<f32> {
    // Box and Muller's, from (0, 1].
    let uniform = |state: &mut u64| ((splitmix64(state) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let mut logits: Vec<f32> = (0..vocab)
        .map(|_| {
            let (radius, angle) = (uniform(state), uniform(state));
            (deviation * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
        })
        .collect();
    for peak in peaks {
        let at = (uniform(state) * vocab as f64) as usize;
        logits[at.min(vocab - 1)] += *peak as f32;
    }
    logits
}
