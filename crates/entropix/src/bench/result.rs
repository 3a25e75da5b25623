//! Results in llama-bench's words, and how they are printed.

use super::limit::{Limits, Needs};
use super::stats::Spread;
use crate::report::table::{Align, Table, csv_line};
use entropix_cpu::StepTimes;
use serde::Serialize;
use serde_json::Value;

/// What all results of a run have in common.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Setup {
    pub(crate) build_commit: String,
    pub(crate) build_version: String,
    pub(crate) cpu_info: Option<String>,
    pub(crate) backend: String,
    pub(crate) kernel_path: String,
    pub(crate) model_filename: String,
    pub(crate) model_type: String,
    /// Bytes of the weights as stored.
    pub(crate) model_size: u64,
    pub(crate) model_n_params: u64,
    pub(crate) n_threads: usize,
    pub(crate) precision: String,
    /// Type of keys and values in the cache.
    pub(crate) kv_cache: String,
    /// What computes long prompts with --fast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fast: Option<String>,
    pub(crate) policy: String,
    /// What the time that `share_of_limit` compares with is made of.
    #[serde(flatten)]
    pub(crate) limits: Limits,
}

/// Repetitions of one test.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    /// Sequences at once.
    pub(crate) rows: usize,
    /// Tokens of the prompt; 0 in a test of generation.
    pub(crate) n_prompt: usize,
    /// Tokens generated a row; 0 in a test of the prompt.
    pub(crate) n_gen: usize,
    /// Tokens in the cache before.
    pub(crate) n_depth: usize,
    /// Tokens of one repetition, all rows.
    pub(crate) tokens: usize,
    /// What each repetition must read and multiply.
    pub(crate) needs: Vec<Needs>,
    /// What the machine gave around each.
    pub(crate) given: Vec<Limits>,
    /// Seconds of each repetition.
    pub(crate) seconds: Vec<f64>,
    /// Where the time within steps went, all repetitions together.
    pub(crate) phases: StepTimes,
}

/// One line of results.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BenchResult {
    #[serde(flatten)]
    setup: Setup,
    test: String,
    rows: usize,
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    avg_ns: f64,
    stddev_ns: f64,
    avg_ts: f64,
    stddev_ts: f64,
    /// The least time this machine could take, as a share of the time it took.
    share_of_limit: f64,
    /// The same of the rates that it gave around each repetition: of a shared machine others have a part.
    share_of_given: f64,
    /// Time that went into the layers' matrix products, as a share of all; none where the device does not tell.
    linear_share: Option<f64>,
    /// Into attention.
    attention_share: Option<f64>,
    /// Into norms, rounding, rotation and writing the cache.
    elementwise_share: Option<f64>,
    /// Into the head's product.
    head_share: Option<f64>,
    /// Into signals.
    signals_share: Option<f64>,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
}

impl BenchResult {
    /// Of at least one repetition.
    pub(crate) fn of(setup: &Setup, samples: &Samples) -> Self {
        let Samples { rows, n_prompt, n_gen, n_depth, tokens, ref needs, ref given, ref seconds, ref phases } =
            *samples;
        let samples_ts: Vec<f64> = seconds.iter().map(|s| tokens as f64 / s).collect();
        let ns = Spread::of(&seconds.iter().map(|s| s * 1e9).collect::<Vec<_>>());
        let ts = Spread::of(&samples_ts);
        let total: f64 = seconds.iter().sum();
        let is_told = *phases != StepTimes::default();
        let share = |ns: u64| is_told.then(|| ns as f64 * 1e-9 / total);
        Self {
            setup: setup.clone(),
            test: name(n_prompt, n_gen, n_depth),
            rows,
            n_prompt,
            n_gen,
            n_depth,
            avg_ns: ns.mean,
            stddev_ns: ns.stddev,
            avg_ts: ts.mean,
            stddev_ts: ts.stddev,
            share_of_limit: needs.iter().map(|needs| needs.seconds(&setup.limits)).sum::<f64>() / total,
            share_of_given: needs.iter().zip(given).map(|(needs, given)| needs.seconds(given)).sum::<f64>()
                / total,
            linear_share: share(phases.linear),
            attention_share: share(phases.attention),
            elementwise_share: share(phases.elementwise),
            head_share: share(phases.head),
            signals_share: share(phases.signals),
            samples_ns: seconds.iter().map(|s| (s * 1e9) as u64).collect(),
            samples_ts,
        }
    }
}

/// `pp512`, `tg128`, `tg128 @ d1024`.
pub(crate) fn name(n_prompt: usize, n_gen: usize, n_depth: usize) -> String {
    let test = if n_gen == 0 { format!("pp{n_prompt}") } else { format!("tg{n_gen}") };
    if n_depth == 0 { test } else { format!("{test} @ d{n_depth}") }
}

/// A Markdown table, and what its last columns mean.
pub(crate) fn markdown(results: &[BenchResult]) -> String {
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("size", Align::Right),
        ("params", Align::Right),
        ("backend", Align::Left),
        ("threads", Align::Right),
        ("precision", Align::Left),
        ("rows", Align::Right),
        ("test", Align::Right),
        ("t/s", Align::Right),
        ("% of limit", Align::Right),
        ("% of given", Align::Right),
        ("signals %", Align::Right),
    ]);
    for result in results {
        let setup = &result.setup;
        table.push(vec![
            setup.model_type.clone(),
            format!("{:.2} MiB", setup.model_size as f64 / f64::from(1 << 20)),
            format!("{:.2} M", setup.model_n_params as f64 / 1e6),
            format!("{} {}", setup.backend, setup.kernel_path),
            setup.n_threads.to_string(),
            setup.precision.clone(),
            result.rows.to_string(),
            result.test.clone(),
            format!("{:.2} ± {:.2}", result.avg_ts, result.stddev_ts),
            format!("{:.1}", result.share_of_limit * 100.0),
            format!("{:.1}", result.share_of_given * 100.0),
            result.signals_share.map_or("-".into(), |share| format!("{:.2}", share * 100.0)),
        ]);
    }
    let mut text = table.markdown();
    if let Some(BenchResult { setup, .. }) = results.first() {
        let limits = &setup.limits;
        let memory = limits.limit_bytes_per_s / 1e9;
        text += &if limits.limit_weight_ops_per_s.is_finite() {
            format!(
                "\nlimits of {} threads, measured in this run: {memory:.2} GB/s of memory reads, {:.0} GOP/s on weights, \
                 {:.0} GFLOP/s in attention; % of limit: the time that reading or multiplying, whichever is slower in \
                 each phase, takes at these rates; % of given: at those that the machine gave around each repetition, less where \
                 others share it\n",
                setup.n_threads,
                limits.limit_weight_ops_per_s / 1e9,
                limits.limit_float_ops_per_s / 1e9,
            )
        } else {
            format!(
                "\nlimit, measured in this run: {memory:.2} GB/s read and written by copies on the device; % of limit: the \
                 time that reading takes at this rate\n"
            )
        };
        let fast = setup.fast.as_ref().map(|fast| format!(", long prompts by {fast}")).unwrap_or_default();
        text += &format!("keys and values in {}{fast}\n", setup.kv_cache);
        text += &format!("build: {} ({})\n", setup.build_version, setup.build_commit);
    }
    text
}

/// One JSON array.
pub(crate) fn json(results: &[BenchResult]) -> String {
    serde_json::to_string_pretty(results).expect("results have string keys") + "\n"
}

/// A header, then one line a result; lists are left to the JSON form.
pub(crate) fn csv(results: &[BenchResult]) -> String {
    let mut text = String::new();
    for (i, result) in results.iter().enumerate() {
        let value = serde_json::to_value(result).expect("results have string keys");
        let fields: Vec<(&String, &Value)> =
            value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_array()).collect();
        if i == 0 {
            text += &csv_line(fields.iter().map(|(name, _)| name.as_str()));
        }
        let cell = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        let cells: Vec<String> = fields.iter().map(|(_, value)| cell(value)).collect();
        text += &csv_line(cells.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Vec<BenchResult> {
        results_of(StepTimes { signals: 30_000_000, attention: 600_000_000, ..StepTimes::default() })
    }

    fn results_of(phases: StepTimes) -> Vec<BenchResult> {
        let setup = Setup {
            build_commit: "c".into(),
            build_version: "0".into(),
            cpu_info: None,
            backend: "CPU".into(),
            kernel_path: "portable".into(),
            model_filename: "m,n.gguf".into(),
            model_type: "llama 1M Q4_1".into(),
            model_size: 1 << 20,
            model_n_params: 1_000_000,
            n_threads: 2,
            precision: "int8".into(),
            kv_cache: "f16".into(),
            fast: None,
            policy: "greedy".into(),
            limits: Limits::default(),
        };
        let samples = Samples {
            rows: 8,
            n_prompt: 0,
            n_gen: 16,
            n_depth: 4,
            tokens: 128,
            needs: vec![],
            given: vec![],
            seconds: vec![1.0, 2.0],
            phases,
        };
        vec![BenchResult::of(&setup, &samples)]
    }

    #[test]
    fn the_json_form_is_an_array_with_these_names() {
        let value: Value = serde_json::from_str(&json(&results())).unwrap();
        let result = &value.as_array().unwrap()[0];
        for (name, expected) in
            [("n_prompt", 0.0), ("n_gen", 16.0), ("n_depth", 4.0), ("rows", 8.0), ("avg_ts", 96.0)]
        {
            assert_eq!(result[name].as_f64(), Some(expected), "{name}");
        }
        assert!((result["attention_share"].as_f64().unwrap() - 0.2).abs() < 1e-12);
        assert!((result["signals_share"].as_f64().unwrap() - 0.01).abs() < 1e-12);
        assert!((result["stddev_ts"].as_f64().unwrap() - 32.0 * 2f64.sqrt()).abs() < 1e-9);
        assert_eq!(result["samples_ns"], serde_json::json!([1_000_000_000u64, 2_000_000_000u64]));
        assert_eq!(json(&[]).trim(), "[]");
    }

    #[test]
    fn the_other_forms_have_one_line_a_result() {
        let text = csv(&results());
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("\"m,n.gguf\""), "{text}");
        let text = markdown(&results());
        assert!(text.contains("| tg16 @ d4 | 96.00 ± 45.25 |"), "{text}");
        assert!(text.contains("\nkeys and values in f16\n"), "{text}");
    }

    #[test]
    fn shares_that_nobody_measured_are_left_empty() {
        let results = results_of(StepTimes::default());
        let value: Value = serde_json::from_str(&json(&results)).unwrap();
        assert!(value[0]["signals_share"].is_null() && value[0]["linear_share"].is_null(), "{value}");
        assert!(csv(&results).contains(",,,,,"), "{}", csv(&results));
        assert!(markdown(&results).lines().nth(2).unwrap().ends_with(" - |"), "{}", markdown(&results));
    }
}
