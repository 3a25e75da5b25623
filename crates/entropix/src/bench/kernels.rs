//! What the kernels of a step take, and how it is printed.

use crate::report::table::{Align, Table, csv_line};
use entropix_cuda::{Ablation, OperationTime, StepTime, TimedStep};
use serde::Serialize;

/// What all steps of a run have in common.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct KernelSetup {
    pub(crate) build_commit: String,
    pub(crate) build_version: String,
    pub(crate) gpu_info: String,
    pub(crate) model: String,
    /// Bytes a second that copies on the device read and write, measured in the same run.
    pub(crate) limit_bytes_per_s: f64,
}

/// One step.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    setup: KernelSetup,
    rows: usize,
    /// New tokens a row.
    tokens: usize,
    /// Positions a row sees.
    context: usize,
    /// Microseconds of the step recorded and replayed: median, least and most.
    us: [f64; 3],
    kernels: Vec<Part>,
    /// Of decode steps.
    ablations: Vec<Cost>,
}

/// What a step takes without or with something, or what a part of it takes by itself.
#[derive(Debug, Clone, Serialize)]
struct Cost {
    name: &'static str,
    regime: Option<&'static str>,
    /// Microseconds: median, least and most.
    us: [f64; 3],
    /// Bytes that must be read and written at least.
    bytes: u64,
    /// Microseconds beyond the step before it, in pairs of neighbouring replays; none of the greedy step.
    extra_us: Option<[f64; 3]>,
    /// The median of these, of the greedy step's.
    share_of_greedy: Option<f64>,
}

/// One kernel in a step.
#[derive(Debug, Clone, Serialize)]
struct Part {
    kernel: String,
    /// The matrix it multiplies with, where a step has several.
    part: &'static str,
    grid: [u32; 3],
    /// Launches a step.
    launches: usize,
    /// Microseconds a launch: median, least and most.
    us: [f64; 3],
    /// Bytes a launch must read and write at least.
    bytes: u64,
    /// None where the clock saw no time.
    bytes_per_s: Option<f64>,
    share_of_limit: Option<f64>,
    share_of_step: f64,
}

impl Step {
    pub(crate) fn of(setup: &KernelSetup, step: TimedStep, time: &StepTime) -> Self {
        let TimedStep { rows, tokens, context } = step;
        let part = |operation: &OperationTime| {
            let OperationTime { kernel, part, grid, launches, bytes, seconds } = operation.clone();
            let bytes_per_s = Some(bytes as f64 / seconds[0]).filter(|rate| rate.is_finite() && *rate >= 0.0);
            Part {
                kernel,
                part,
                grid,
                launches,
                us: seconds.map(|s| s * 1e6),
                bytes,
                bytes_per_s,
                share_of_limit: bytes_per_s.map(|rate| rate / setup.limit_bytes_per_s),
                share_of_step: seconds[0] * launches as f64 / time.seconds[0],
            }
        };
        let greedy = time.ablations.first().map_or(f64::NAN, |greedy| greedy.seconds[0]);
        let cost = |&Ablation { name, regime, seconds, extra, bytes }: &Ablation| Cost {
            name,
            regime,
            bytes,
            us: seconds.map(|s| s * 1e6),
            extra_us: extra.map(|extra| extra.map(|s| s * 1e6)),
            share_of_greedy: extra.map(|extra| extra[0] / greedy),
        };
        Self {
            setup: setup.clone(),
            rows,
            tokens,
            context,
            us: time.seconds.map(|s| s * 1e6),
            kernels: time.operations.iter().map(part).collect(),
            ablations: time.ablations.iter().map(cost).collect(),
        }
    }
}

/// A table a step, its limits below.
pub(crate) fn markdown(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let Step { setup, rows, tokens, context, us, kernels, ablations } = step;
        let what = if *tokens == 1 {
            format!("decode of {rows} rows at {context} positions")
        } else {
            format!("prompt of {tokens} tokens")
        };
        text +=
            &format!("{what}, {}: {:.1} us a step ({:.1} to {:.1})\n\n", setup.model, us[0], us[1], us[2]);
        let mut table = Table::new(&[
            ("kernel", Align::Left),
            ("grid", Align::Left),
            ("a step", Align::Right),
            ("us", Align::Right),
            ("MB", Align::Right),
            ("GB/s", Align::Right),
            ("% of limit", Align::Right),
            ("% of step", Align::Right),
        ]);
        for part in kernels {
            table.push(vec![
                format!("{} {}", part.kernel, part.part).trim_end().to_owned(),
                part.grid.map(|n| n.to_string()).join(" x "),
                part.launches.to_string(),
                format!("{:.2}", part.us[0]),
                format!("{:.2}", part.bytes as f64 / 1e6),
                part.bytes_per_s.map_or("-".into(), |rate| format!("{:.0}", rate / 1e9)),
                part.share_of_limit.map_or("-".into(), |share| format!("{:.1}", share * 100.0)),
                format!("{:.1}", part.share_of_step * 100.0),
            ]);
        }
        text += &(table.markdown() + "\n");
        if !ablations.is_empty() {
            text += &(costs(ablations).markdown() + "\n");
        }
    }
    if let Some(Step { setup, .. }) = steps.first() {
        text += &format!(
            "{}; limit, measured in this run: {:.0} GB/s read and written by copies on the device; us: how much \
             shorter the step is without it, a launch\nbuild: {} ({})\n",
            setup.gpu_info,
            setup.limit_bytes_per_s / 1e9,
            setup.build_version,
            setup.build_commit
        );
    }
    text
}

/// What signals and draws of a step cost.
fn costs(ablations: &[Cost]) -> Table {
    let mut table = Table::new(&[
        ("what", Align::Left),
        ("us", Align::Right),
        ("MB", Align::Right),
        ("extra us", Align::Right),
        ("least", Align::Right),
        ("most", Align::Right),
        ("% of greedy", Align::Right),
    ]);
    for Cost { name, regime, us, bytes, extra_us, share_of_greedy } in ablations {
        let what = match (*name, regime) {
            ("greedy", _) => "the step, greedy without signals".to_owned(),
            ("signals", _) => "and entropy, varentropy".to_owned(),
            ("attention", _) => "and attention signals".to_owned(),
            (name, Some(regime)) => format!("{name}, {regime} logits, alone"),
            (name, None) => name.to_owned(),
        };
        let [extra, least, most] =
            [0, 1, 2].map(|i| extra_us.map_or("-".into(), |us| format!("{:.2}", us[i])));
        let share = share_of_greedy.map_or("-".into(), |share| format!("{:.2}", share * 100.0));
        let megabytes = format!("{:.2}", *bytes as f64 / 1e6);
        table.push(vec![what, format!("{:.2}", us[0]), megabytes, extra, least, most, share]);
    }
    table
}

/// One JSON array.
pub(crate) fn json(steps: &[Step]) -> String {
    serde_json::to_string_pretty(steps).expect("steps have string keys") + "\n"
}

/// A header, then one line a kernel of a step.
pub(crate) fn csv(steps: &[Step]) -> String {
    let mut text = csv_line([
        "model",
        "rows",
        "tokens",
        "context",
        "kernel",
        "part",
        "grid",
        "launches",
        "us",
        "least_us",
        "most_us",
        "bytes",
        "bytes_per_s",
        "share_of_limit",
        "share_of_step",
    ]);
    for step in steps {
        for part in &step.kernels {
            let numbers = [step.rows, step.tokens, step.context].map(|n| n.to_string());
            let grid = part.grid.map(|n| n.to_string()).join("x");
            let floats = [part.us[0], part.us[1], part.us[2]].map(|us| us.to_string());
            let rates = [part.bytes_per_s, part.share_of_limit, Some(part.share_of_step)]
                .map(|number| number.map_or(String::new(), |number| number.to_string()));
            let (launches, bytes) = (part.launches.to_string(), part.bytes.to_string());
            let matrix = part.part.to_owned();
            let cells = [&step.setup.model]
                .into_iter()
                .chain(&numbers)
                .chain([&part.kernel, &matrix, &grid, &launches])
                .chain(&floats)
                .chain([&bytes])
                .chain(&rates);
            text += &csv_line(cells.map(String::as_str));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Step> {
        steps_of([4e-6, 3e-6, 5e-6])
    }

    fn steps_of(seconds: [f64; 3]) -> Vec<Step> {
        let setup = KernelSetup {
            build_commit: "c".into(),
            build_version: "0".into(),
            gpu_info: "a GPU".into(),
            model: "m,n".into(),
            limit_bytes_per_s: 4e12,
        };
        let operation = OperationTime {
            kernel: "matmul_bf16_n8".into(),
            part: "down",
            grid: [1, 128, 1],
            launches: 16,
            bytes: 8_000_000,
            seconds,
        };
        let ablation = |name, regime, us: f64, extra: Option<f64>| Ablation {
            name,
            regime,
            seconds: [us * 1e-6, us * 1e-6 - 1e-6, us * 1e-6 + 1e-6],
            extra: extra.map(|us| [us * 1e-6, us * 1e-6 - 1e-6, us * 1e-6 + 1e-6]),
            bytes: 2_500_000,
        };
        let ablations = vec![
            ablation("greedy", None, 125.0, None),
            ablation("signals", None, 128.0, Some(2.5)),
            ablation("draw", Some("flat"), 1.25, Some(1.25)),
        ];
        let time = StepTime { seconds: [128e-6, 120e-6, 130e-6], operations: vec![operation], ablations };
        vec![Step::of(&setup, TimedStep { rows: 8, tokens: 1, context: 512 }, &time)]
    }

    #[test]
    fn rates_and_shares_follow_from_times() {
        let text = markdown(&steps());
        assert!(
            text.starts_with("decode of 8 rows at 512 positions, m,n: 128.0 us a step (120.0 to 130.0)\n"),
            "{text}"
        );
        let row =
            "| matmul_bf16_n8 down | 1 x 128 x 1 |     16 | 4.00 | 8.00 | 2000 |       50.0 |      50.0 |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("limit, measured in this run: 4000 GB/s"), "{text}");
    }

    #[test]
    fn ablations_are_told_against_the_greedy_step() {
        let text = markdown(&steps());
        for row in [
            "| the step, greedy without signals | 125.00 | 2.50 |        - |     - |    - |           - |",
            "| and entropy, varentropy          | 128.00 | 2.50 |     2.50 |  1.50 | 3.50 |        2.00 |",
            "| draw, flat logits, alone         |   1.25 | 2.50 |     1.25 |  0.25 | 2.25 |        1.00 |",
        ] {
            assert!(text.contains(row), "{row}\n{text}");
        }
        let value: serde_json::Value = serde_json::from_str(&json(&steps())).unwrap();
        let costs = &value[0]["ablations"];
        assert_eq!((&costs[0]["name"], &costs[0]["extra_us"]), (&"greedy".into(), &serde_json::Value::Null));
        assert!((costs[1]["share_of_greedy"].as_f64().unwrap() - 0.02).abs() < 1e-9, "{costs}");
        assert_eq!(costs[2]["regime"], "flat");
    }

    #[test]
    fn a_kernel_within_the_noise_has_no_rate() {
        for seconds in [-1e-7, 0.0] {
            let steps = steps_of([seconds, -1e-6, 1e-6]);
            let line = csv(&steps).lines().nth(1).unwrap().to_owned();
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells[cells.len() - 3..cells.len() - 1], ["", ""], "{line}");
            assert!(markdown(&steps).contains("| 8.00 |    - |          - |"), "{}", markdown(&steps));
            let value: serde_json::Value = serde_json::from_str(&json(&steps)).unwrap();
            assert!(value[0]["kernels"][0]["bytes_per_s"].is_null());
        }
    }

    #[test]
    fn all_forms_hold_the_same() {
        let value: serde_json::Value = serde_json::from_str(&json(&steps())).unwrap();
        assert_eq!(value[0]["kernels"][0]["grid"], serde_json::json!([1, 128, 1]));
        assert_eq!(value[0]["limit_bytes_per_s"], 4e12);
        let text = csv(&steps());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[1].starts_with("\"m,n\",8,1,512,matmul_bf16_n8,down,1x128x1,16,4,"), "{text}");
        assert_eq!(lines[0].split(',').count(), lines[1].split(',').count() - 1, "the name has a comma");
    }
}
