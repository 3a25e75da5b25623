use super::*;
use crate::Coin;
use proptest::prelude::*;

fn order<'a>(filters: Filters, coins: &'a [Coin]) -> Draw<'a> {
    Draw { slot: 0, filters, edits: &[], mask: None, coins }
}

fn kept_of(logits: &[f32], draw: &Draw<'_>) -> Vec<(TokenId, f64)> {
    distribution(logits, &signals_of(logits, None), draw, &mut DrawScratch::default())
}

fn draw_of(logits: &[f32], draw: &Draw<'_>) -> Drawn {
    super::draw(logits, &signals_of(logits, None), draw, &mut DrawScratch::default())
}

/// The filters again by their definitions: one sort, then a loop a filter.
fn by_definition(logits: &[f32], draw: &Draw<'_>) -> Vec<(TokenId, f64)> {
    let f = draw.filters;
    let sigma = f64::from(signals_of(logits, None).logit_std);
    let mut z: Vec<f32> = logits.to_vec();
    for e in draw.edits {
        let at = &mut z[e.token as usize];
        *at = if *at > 0.0 { *at / e.penalty } else { *at * e.penalty } + e.bias;
    }
    let allowed = |t: usize| draw.mask.is_none_or(|m| m.allows(t as u32));
    let mut set: Vec<(usize, f64)> = z
        .iter()
        .enumerate()
        .filter(|(t, z)| allowed(*t) && z.is_finite())
        .map(|(t, z)| (t, f64::from(*z)))
        .collect();
    set.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if set.is_empty() {
        return Vec::new();
    }
    let Temperature::Fixed(t) = f.temperature else { panic!("only fixed temperatures here") };
    let (t, max) = (f64::from(t), set[0].1);
    let weigh = |set: &[(usize, f64)]| -> Vec<f64> {
        let w: Vec<f64> = set.iter().map(|(_, z)| ((z - max) / t).exp()).collect();
        let sum: f64 = w.iter().sum();
        w.iter().map(|w| w / sum).collect()
    };
    if f.top_k > 0 {
        set.truncate(f.top_k as usize);
    }
    if f.top_p < 1.0 {
        let mut mass = 0.0;
        let reached = weigh(&set).iter().position(|p| {
            mass += p;
            mass >= f64::from(f.top_p)
        });
        set.truncate(reached.map_or(set.len(), |i| i + 1));
    }
    if f.min_p > 0.0 {
        let p = weigh(&set);
        let n = p.iter().take_while(|q| **q >= f64::from(f.min_p) * p[0]).count();
        set.truncate(n);
    }
    if f.top_n_sigma.is_finite() {
        let n = set.iter().take_while(|(_, z)| *z >= max - f64::from(f.top_n_sigma) * sigma).count();
        set.truncate(n);
    }
    if f.p_less {
        let p = weigh(&set);
        let least: f64 = p.iter().map(|p| p * p).sum();
        let n = p.iter().take_while(|q| **q >= least).count();
        set.truncate(n);
    }
    let mut kept: Vec<_> = set.iter().map(|(t, _)| *t as TokenId).zip(weigh(&set)).collect();
    kept.sort_by_key(|(t, _)| *t);
    kept
}

/// Logits on a coarse grid, so that ties are common; -inf now and then.
fn any_row() -> impl Strategy<Value = Vec<f32>> {
    let z = prop_oneof![
        8 => (-400i32..400).prop_map(|i| i as f32 / 32.0),
        1 => Just(f32::NEG_INFINITY),
        1 => (-400i32..400).prop_map(|i| i as f32 / 32.0 + 5.0),
    ];
    proptest::collection::vec(z, 1..400).prop_filter("one finite", |row| row.iter().any(|z| z.is_finite()))
}

fn any_filters() -> impl Strategy<Value = Filters> {
    (
        prop_oneof![Just(1.0f32), 0.2f32..3.0],
        prop_oneof![Just(0u32), 1u32..80],
        prop_oneof![Just(1.0f32), 0.01f32..1.0],
        prop_oneof![Just(0.0f32), 0.001f32..0.9],
        prop_oneof![Just(f32::INFINITY), 0.1f32..3.0],
        any::<bool>(),
    )
        .prop_map(|(t, top_k, top_p, min_p, top_n_sigma, p_less)| Filters {
            temperature: Temperature::Fixed(t),
            top_k,
            top_p,
            min_p,
            top_n_sigma,
            p_less,
        })
}

fn any_edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = (0.5f32..2.0, prop_oneof![3 => -3.0f32..3.0, 1 => Just(f32::NEG_INFINITY)]);
    proptest::collection::btree_map(0u32..400, edit, 0..12).prop_map(|edits| {
        edits.into_iter().map(|(token, (penalty, bias))| Edit { token, penalty, bias }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    // Catches: a filter out of order, ties to the wrong side, a prefix one short or long, a threshold
    // without slack, a list that lost its order.
    #[test]
    fn the_kept_set_is_the_one_the_definitions_give(
        row in any_row(), filters in any_filters(), edits in any_edits(), masked in any::<Option<u64>>(),
    ) {
        let edits: Vec<Edit> = edits.into_iter().filter(|e| (e.token as usize) < row.len()).collect();
        let mask = masked.map(|word| TokenMask { words: vec![word; row.len().div_ceil(64)] });
        let draw = Draw { slot: 0, filters, edits: &edits, mask: mask.as_ref(), coins: &[Coin(1 << 62)] };
        let (got, want) = (kept_of(&row, &draw), by_definition(&row, &draw));
        // p-less at an exact tie of p and sum p^2 (a uniform set) may go either way in the last bit; the
        // set itself is then the same or the tie's.
        let tokens = |set: &[(TokenId, f64)]| set.iter().map(|(t, _)| *t).collect::<Vec<_>>();
        if tokens(&got) != tokens(&want) {
            let near = near_a_threshold(&row, &draw);
            prop_assert!(near, "{:?} is not {:?}", tokens(&got), tokens(&want));
            return Ok(());
        }
        for (g, w) in got.iter().zip(&want) {
            prop_assert!((g.1 - w.1).abs() < 1e-12);
        }
        let drawn = draw_of(&row, &draw);
        prop_assert_eq!(drawn.token.is_some(), !want.is_empty());
        if let Some(token) = drawn.token {
            prop_assert!(want.iter().any(|(t, _)| *t == token), "{} was not kept", token);
        }
    }

    #[test]
    fn candidates_are_the_largest_in_order(row in any_row(), k in 0usize..100) {
        let signals = signals_of(&row, None);
        let mut out = Candidates::default();
        candidates(&row, &signals, k, &mut DrawScratch::default(), &mut out);
        let mut all: Vec<TokenId> = (0..row.len() as u32).filter(|t| row[*t as usize].is_finite()).collect();
        // -0.0 ties with 0.0.
        let by_logit = |a: &u32, b: &u32| row[*b as usize].partial_cmp(&row[*a as usize]).unwrap();
        all.sort_by(|a, b| by_logit(a, b).then(a.cmp(b)));
        all.truncate(k);
        let got: Vec<TokenId> = out.list(0).iter().map(|c| c.token).collect();
        prop_assert_eq!(got, all);
        for (c, best) in out.list(0).iter().zip(signals.best) {
            prop_assert_eq!(c.token, best.token);
            prop_assert!((c.logprob - best.logprob).abs() <= 1e-6 * (1.0 + best.logprob.abs()));
        }
    }

    #[test]
    fn any_bits_at_all_give_a_token_or_none(
        bits in proptest::collection::vec(any::<u32>(), 1..200), filter_bits in any::<[u32; 5]>(),
        edit_bits in any::<[u32; 2]>(), coin in any::<u64>(),
    ) {
        let row: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let [t, top_p, min_p, sigma, top_k] = filter_bits;
        let filters = Filters {
            temperature: Temperature::Fixed(f32::from_bits(t)), top_k, top_p: f32::from_bits(top_p),
            min_p: f32::from_bits(min_p), top_n_sigma: f32::from_bits(sigma), p_less: coin & 1 == 1,
        };
        let edits = [Edit { token: 0, penalty: f32::from_bits(edit_bits[0]), bias: f32::from_bits(edit_bits[1]) }];
        let draw = Draw { slot: 0, filters, edits: &edits, mask: None, coins: &[Coin(coin)] };
        let drawn = draw_of(&row, &draw);
        let finite = row[1..].iter().any(|z| z.is_finite());
        let broken = row.iter().any(|z| z.is_nan() || *z == f32::INFINITY);
        if broken { prop_assert_eq!(drawn.token, None); }
        if finite && !broken {
            let token = drawn.token.expect("something finite");
            prop_assert!(token == 0 || row[token as usize].is_finite());
        }
    }
}

/// Whether some filter's inequality is an equality up to rounding, where f64 sums in another order may
/// differ.
fn near_a_threshold(row: &[f32], draw: &Draw<'_>) -> bool {
    let nudged = |by: f32| {
        let mut d = *draw;
        d.filters.top_p *= 1.0 + by;
        d.filters.min_p *= 1.0 + by;
        d.filters.top_n_sigma *= 1.0 + by;
        by_definition(row, &d).len()
    };
    let uniform = |set: Vec<(TokenId, f64)>| set.iter().all(|(_, p)| (p - set[0].1).abs() < 1e-12);
    let mut without = *draw;
    without.filters.p_less = false;
    nudged(1e-6) != nudged(-1e-6) || draw.filters.p_less && uniform(by_definition(row, &without))
}

#[test]
fn golden_values_of_the_signals() {
    let check = |p: &[f64], h: f64, v: f64| {
        let z: Vec<f32> = p.iter().map(|p| p.ln() as f32).collect();
        let s = signals_of(&z, Some(0));
        assert!((f64::from(s.entropy) - h).abs() < 1e-6, "H = {}, not {h}", s.entropy);
        assert!((f64::from(s.varentropy) - v).abs() < 1e-6, "V = {}, not {v}", s.varentropy);
        assert!((f64::from(s.target_logprob) - p[0].ln()).abs() < 1e-6);
    };
    check(&[0.01; 100], 100f64.ln(), 0.0);
    check(&[1.0, 0.0, 0.0], 0.0, 0.0);
    check(&[0.5, 0.5], 2f64.ln(), 0.0);
    check(&[0.9, 0.1], 0.325_083, 0.434_502);
    assert_eq!(signals_of(&[0.0, f32::NAN], None).status(), Status::NotFinite);
    assert_eq!(signals_of(&[0.0, f32::INFINITY], None).status(), Status::NotFinite);
    assert_eq!(signals_of(&[f32::NEG_INFINITY; 4], None).status(), Status::NotFinite);
    let one = signals_of(&[f32::NEG_INFINITY, 3.0], None);
    assert_eq!((one.status(), one.entropy, one.logit_std, one.log_z), (Status::Ok, 0.0, 0.0, 3.0));
}

/// The frequencies of draws with evenly spread coins are the probabilities: inverse CDF over a
/// grid is exact to one coin a boundary. Catches an off-by-one in the tile or the token.
#[test]
fn an_even_grid_of_coins_draws_the_distribution() {
    let row: Vec<f32> = (0..3000).map(|i| ((i * 7919 % 3001) as f32) / 500.0).collect();
    let signals = signals_of(&row, None);
    let mut scratch = DrawScratch::default();
    for (filters, n) in [(Filters::default(), 20_000), (Filters { top_k: 50, ..Filters::default() }, 100_000)]
    {
        let mut counts = vec![0f64; row.len()];
        for i in 0..n {
            let coin = Coin(((f64::from(i) + 0.5) / f64::from(n) * 2f64.powi(64)) as u64);
            let drawn = super::draw(&row, &signals, &order(filters, &[coin]), &mut scratch);
            counts[drawn.token.unwrap() as usize] += 1.0;
        }
        for (token, p) in kept_of(&row, &order(filters, &[])) {
            let share = std::mem::take(&mut counts[token as usize]) / f64::from(n);
            assert!((share - p).abs() <= 1.01 / f64::from(n), "token {token}: {share}, not {p}");
        }
        assert!(counts.iter().all(|c| *c == 0.0), "only kept tokens are drawn");
    }
}

/// Far from zero an f32 ln Z has few digits left; the log-probabilities must not take them from it.
#[test]
fn log_probabilities_survive_an_offset() {
    let row: Vec<f32> = (0..100).map(|i| 1e4 + (i % 10) as f32 * 0.25).collect();
    let signals = signals_of(&row, None);
    let mut out = Candidates::default();
    candidates(&row, &signals, 3, &mut DrawScratch::default(), &mut out);
    let near: Vec<f32> = row.iter().map(|z| z - 1e4).collect();
    let want = signals_of(&near, None).best[0].logprob;
    assert!((out.list(0)[2].logprob - want).abs() < 1e-6);
    let drawn = draw_of(&row, &order(Filters { top_k: 1, ..Filters::default() }, &[Coin(5)]));
    assert!((drawn.logprob - want).abs() < 1e-6);
}

#[test]
fn several_coins_keep_the_likeliest_and_ties_keep_the_earlier() {
    let row = [0.0, 1.0, 1.0, -1.0];
    let coin = |u: f64| Coin((u * 2f64.powi(64)) as u64);
    let all = order(Filters::default(), &[]);
    let edges: Vec<f64> = kept_of(&row, &all).iter().map(|(_, p)| *p).collect();
    let (first, second, third) = (0.01, edges[0] + 0.01, edges[0] + edges[1] + 0.01);
    let drawn = |coins: &[Coin]| draw_of(&row, &order(Filters::default(), coins)).token.unwrap();
    assert_eq!(drawn(&[coin(first), coin(third)]), 2);
    assert_eq!(drawn(&[coin(third), coin(second)]), 2);
    assert_eq!(drawn(&[coin(second), coin(third)]), 1);
    // At temperature 1 before edits: a biased token does not win by its bias.
    let edits = [Edit { token: 3, penalty: 1.0, bias: 20.0 }];
    let draw = Draw { edits: &edits, ..order(Filters::default(), &[]) };
    let coins = [coin(0.5), coin(1e-12)];
    let drawn = draw_of(&row, &Draw { coins: &coins, ..draw });
    assert_eq!(drawn.token, Some(0));
}

#[test]
fn the_temperature_reaches_its_entropy() {
    let mut row: Vec<f32> = (0..2000).map(|i| ((i * 7919 % 2003) as f32) / 200.0).collect();
    (row[7], row[1500]) = (14.0, 12.5);
    for target in [0.05f32, 0.5, 2.0, 5.0, 7.0] {
        let filters = Filters { temperature: Temperature::TargetEntropy(target), ..Filters::default() };
        let kept = kept_of(&row, &order(filters, &[]));
        let h: f64 = -kept.iter().map(|(_, p)| p * p.max(1e-300).ln()).sum::<f64>();
        assert!((h - f64::from(target)).abs() < 1e-3, "entropy {h} for target {target}");
    }
    let at = |target| {
        let filters = Filters { temperature: Temperature::TargetEntropy(target), ..Filters::default() };
        draw_of(&row, &order(filters, &[Coin(0)])).temperature
    };
    assert!(at(-1.0) < 0.1 && at(100.0) > 10.0 && at(f32::NAN) == 1.0);
}

#[test]
fn greedy_takes_the_lowest_of_the_largest_after_edits() {
    let row = [1.0, 3.0, 3.0, 2.0, -0.0, 0.0];
    let greedy = Filters { temperature: Temperature::Greedy, top_k: 1, ..Filters::default() };
    assert_eq!(draw_of(&row, &order(greedy, &[])).token, Some(1));
    let edits = [1, 2].map(|token| Edit { token, penalty: 1.0, bias: f32::NEG_INFINITY });
    let drawn = draw_of(&row, &Draw { edits: &edits, ..order(greedy, &[]) });
    assert_eq!((drawn.token, drawn.temperature), (Some(3), 0.0));
    assert!((drawn.logprob - (2.0 - signals_of(&row, None).log_z)).abs() < 1e-6);
    let mask = TokenMask::none(row.len());
    assert_eq!(draw_of(&row, &Draw { mask: Some(&mask), ..order(greedy, &[]) }).token, None);
}
