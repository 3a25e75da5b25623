//! Draws against the recorded table (tests/data/samplers.json): the token of every toss, the best of several, the temperature.

use crate::device::{self, Device, Outcome, at, bytes_of, everywhere, near};
use crate::random::Random;
use crate::signals::{Scored, logits_of, score, table};
use entropix_cuda::ops::{self, DrawBuffers};
use entropix_emulator::Order;
use entropix_model::sampling::{DrawScratch, draw, signals_of};
use entropix_model::{Coin, Draw, Edit, Filters, Temperature, TokenMask};
use serde_json::Value;

/// A draw as the host would send it.
#[derive(Debug, Clone)]
pub(crate) struct Order1 {
    pub(crate) slot: u32,
    pub(crate) filters: Filters,
    pub(crate) edits: Vec<Edit>,
    pub(crate) mask: Option<TokenMask>,
    pub(crate) coins: Vec<u64>,
}

/// What `draw.cu` writes.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Drawn {
    pub(crate) token: u32,
    pub(crate) logprob: f32,
    pub(crate) temperature: f32,
}

/// Runs draws on scored rows.
pub(crate) fn run(device: &Device<'_>, scored: &Scored<'_>, orders: &[Order1]) -> Result<Vec<Drawn>, String> {
    let (mut words, mut edits, mut masks, mut coins) =
        (Vec::<[u32; 16]>::new(), vec![0u32; 3], vec![0u32], vec![0u64]);
    for order in orders {
        let f = &order.filters;
        let (kind, temperature) = match f.temperature {
            Temperature::Greedy => (0, 0.0),
            Temperature::Fixed(t) => (1, t),
            Temperature::TargetEntropy(h) => (2, h),
        };
        let (first_edit, first_coin) = (edits.len() as u32 / 3, coins.len() as u32);
        for e in &order.edits {
            edits.extend([e.token, e.penalty.to_bits(), e.bias.to_bits()]);
        }
        coins.extend(&order.coins);
        let mask = order.mask.as_ref().map_or(u32::MAX, |mask| {
            let first = masks.len() as u32;
            masks.extend(mask.words.iter().flat_map(|w| [*w as u32, (*w >> 32) as u32]));
            first
        });
        words.push([
            order.slot,
            kind,
            temperature.to_bits(),
            f.top_k,
            f.top_p.to_bits(),
            f.min_p.to_bits(),
            f.top_n_sigma.to_bits(),
            f.p_less.into(),
            first_edit,
            edits.len() as u32 / 3,
            mask,
            first_coin,
            coins.len() as u32,
            0,
            0,
            0,
        ]);
    }
    let (list, edits, masks, coins) = (
        device.upload(words.as_flattened()),
        device.upload(&edits),
        device.upload(&masks),
        device.upload(&coins),
    );
    let (drawn, count) = (device.empty::<Drawn>(orders.len()), device.count(orders.len()));
    let buffers = DrawBuffers {
        orders: at(&list),
        edits: at(&edits),
        masks: at(&masks),
        coins: at(&coins),
        drawn: at(&drawn),
        n_draws: at(&count),
    };
    device.run(&ops::draw(scored.buffers, buffers, orders.len() as u32 + 1))?;
    device.read(&drawn, 0, orders.len())
}

/// A line of the table and the draws that it judges: all coins together, then single ones.
struct Line {
    text: String,
    orders: Vec<Order1>,
    tokens: Vec<u32>,
    logprobs: Vec<Option<f64>>,
    temperature: Option<f64>,
}

fn line(draw: &Value, vocab: usize, most_tosses: usize) -> Line {
    let number = |key: &str| draw[key].as_f64().map(|v| v as f32);
    let temperature = match (number("target_entropy"), number("temperature")) {
        (Some(h), _) => Temperature::TargetEntropy(h),
        (None, Some(0.0)) => Temperature::Greedy,
        (None, t) => Temperature::Fixed(t.unwrap_or(1.0)),
    };
    let filters = Filters {
        temperature,
        top_k: draw["top_k"].as_u64().unwrap_or(0) as u32,
        top_p: number("top_p").unwrap_or(1.0),
        min_p: number("min_p").unwrap_or(0.0),
        top_n_sigma: number("top_n_sigma").unwrap_or(f32::INFINITY),
        p_less: draw["p_less"].as_bool().unwrap_or(false),
    };
    let edits = draw["edits"].as_array().into_iter().flatten().map(|e| Edit {
        token: e[0].as_u64().expect("token") as u32,
        penalty: e[1].as_f64().expect("penalty") as f32,
        bias: e[2].as_f64().map_or(f32::NEG_INFINITY, |b| b as f32),
    });
    let mask = draw["allowed"].as_array().map(|allowed| {
        let mut mask = TokenMask::none(vocab);
        allowed.iter().for_each(|t| mask.allow(t.as_u64().expect("token") as u32));
        mask
    });
    let tosses = draw["tosses"].as_array().expect("tosses");
    let coins: Vec<u64> = tosses.iter().map(|t| t[0].as_u64().expect("coin")).collect();
    let all = Order1 { slot: 0, filters, edits: edits.collect(), mask, coins: coins.clone() };
    let mut line = Line {
        text: draw.to_string().chars().take(300).collect(),
        orders: vec![all.clone()],
        tokens: vec![draw["best_of"].as_u64().expect("best_of") as u32],
        logprobs: vec![None],
        temperature: draw["used_temperature"].as_f64(),
    };
    for (toss, coin) in tosses.iter().zip(coins).take(most_tosses) {
        line.orders.push(Order1 { coins: vec![coin], ..all.clone() });
        line.tokens.push(toss[1].as_u64().expect("token") as u32);
        line.logprobs.push(toss[2].as_f64());
    }
    line
}

fn check_lines(device: &Device<'_>, row: &[f32], lines: &[Line]) -> Outcome {
    let scored = score(device, &[row.to_vec()], &[None])?;
    let orders: Vec<Order1> = lines.iter().flat_map(|l| l.orders.clone()).collect();
    let drawn = run(device, &scored, &orders)?;
    let mut at = drawn.iter();
    for line in lines {
        for ((token, logprob), got) in line.tokens.iter().zip(&line.logprobs).zip(&mut at) {
            if got.token != *token {
                return Err(format!("token {}, not {token}: {}", got.token, line.text));
            }
            if let Some(want) = logprob {
                near(&line.text, got.logprob, *want, want.abs() * 2e-6 + 3e-5)?;
            }
            if let Some(want) = line.temperature {
                near(&line.text, got.temperature, want, want * 2e-5)?;
            }
        }
    }
    Ok(bytes_of(&drawn))
}

/// The draws of a row, but for entropies that no temperature from 0.01 on reaches: those end at a limit, which the table's
/// own bisection has elsewhere.
fn draws_of<'a>(table: &'a Value, name: &'a Value) -> impl Iterator<Item = &'a Value> {
    let reachable = |d: &&Value| d["used_temperature"].as_f64().is_none_or(|t| t > 0.01);
    table["draws"].as_array().expect("draws").iter().filter(move |d| d["row"] == *name).filter(reachable)
}

/// Every draw and toss in the plain image, some draws in every order with every access checked.
#[test]
fn draws_from_short_rows_are_those_of_the_table() {
    let table = table();
    for row in table["rows"].as_array().expect("rows") {
        let logits = logits_of(row);
        if logits.len() <= 1000 {
            let lines: Vec<Line> = draws_of(&table, &row["name"]).map(|d| line(d, logits.len(), 4)).collect();
            let plain = device::plain(Order::Random(4));
            check_lines(&plain, &logits, &lines).unwrap_or_else(|e| panic!("{}: {e}", row["name"]));
            let lines: Vec<Line> =
                draws_of(&table, &row["name"]).step_by(5).map(|d| line(d, logits.len(), 0)).collect();
            everywhere(&row["name"].to_string(), |device| check_lines(device, &logits, &lines));
        }
    }
}

/// The long rows in the plain image, each draw of them once in the checked one.
#[test]
fn draws_from_long_rows_are_those_of_the_table() {
    let table = table();
    for row in table["rows"].as_array().expect("rows") {
        let logits = logits_of(row);
        if logits.len() > 1000 {
            let lines: Vec<Line> = draws_of(&table, &row["name"]).map(|d| line(d, logits.len(), 1)).collect();
            let plain = device::plain(Order::Random(3));
            check_lines(&plain, &logits, &lines).unwrap_or_else(|e| panic!("{}: {e}", row["name"]));
            let few: Vec<Line> =
                draws_of(&table, &row["name"]).step_by(9).map(|d| line(d, logits.len(), 0)).collect();
            let checked = device::checked(Order::Falling);
            check_lines(&checked, &logits, &few).unwrap_or_else(|e| panic!("{}: {e}", row["name"]));
        }
    }
}

/// Draws of several rows and settings in one launch against the reference, a poisoned row and an empty mask among them.
pub(crate) fn check_mixed(device: &Device<'_>) -> Outcome {
    let vocab = 3001;
    let mut random = Random(8);
    let mut rows: Vec<Vec<f32>> =
        (0..3).map(|_| random.normals(vocab).iter().map(|z| z * 3.0).collect()).collect();
    rows[1][5] = f32::NAN;
    let scored = score(device, &rows, &[None; 3])?;
    let mut nothing = TokenMask::none(vocab);
    let mut some = TokenMask::none(vocab);
    (0..vocab as u32).step_by(5).for_each(|t| some.allow(t));
    nothing.words.fill(0);
    let order = |slot, filters, edits: &[Edit], mask, n_coins: usize| Order1 {
        slot,
        filters,
        edits: edits.to_vec(),
        mask,
        coins: (0..n_coins).map(|i| Random(i as u64 + 77).bits()).collect(),
    };
    let plain = Filters::default();
    let edits = [
        Edit { token: 17, penalty: 1.5, bias: 9.0 },
        Edit { token: 2999, penalty: 0.5, bias: f32::NEG_INFINITY },
    ];
    let orders = [
        order(2, plain, &[], None, 1),
        order(0, plain, &edits, Some(some.clone()), 37),
        order(1, plain, &[], None, 1),
        order(0, plain, &[], Some(nothing), 1),
        order(0, Filters { temperature: Temperature::Greedy, ..plain }, &edits, None, 0),
        order(2, Filters { top_p: 0.7, ..plain }, &edits, None, 3),
        order(2, Filters { top_p: 1e-9, ..plain }, &[], None, 1),
        order(2, Filters { top_p: 0.999, min_p: 1e-4, ..plain }, &[], None, 3),
        order(0, Filters { top_k: 2000, p_less: true, top_n_sigma: 2.0, ..plain }, &[], None, 1),
        order(
            0,
            Filters { temperature: Temperature::TargetEntropy(3.0), top_k: 5, ..plain },
            &[],
            Some(some),
            1,
        ),
    ];
    let drawn = run(device, &scored, &orders)?;
    let mut scratch = DrawScratch::default();
    for (i, (order, got)) in orders.iter().zip(&drawn).enumerate() {
        let coins: Vec<Coin> = order.coins.iter().map(|&c| Coin(c)).collect();
        let row = &rows[order.slot as usize];
        let asked = Draw {
            slot: order.slot,
            filters: order.filters,
            edits: &order.edits,
            mask: order.mask.as_ref(),
            coins: &coins,
        };
        let want = draw(row, &signals_of(row, None), &asked, &mut scratch);
        if got.token != want.token.unwrap_or(u32::MAX) {
            return Err(format!("draw {i}: token {}, not {:?}", got.token, want.token));
        }
        if want.token.is_some() {
            near(format_args!("draw {i}"), got.logprob, want.logprob.into(), 1e-4)?;
            near(format_args!("draw {i}"), got.temperature, want.temperature.into(), 1e-4)?;
        }
    }
    Ok(bytes_of(&drawn))
}

#[test]
fn draws_of_one_launch_do_not_meet() {
    everywhere("mixed draws", check_mixed);
}
