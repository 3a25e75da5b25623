//! Steps taken apart.

use crate::drive::{device, fake, kept, open, options, row, same, signals};
use entropix_cuda::{Ablation, CudaBackend, CudaOptions, OperationTime, TimedStep};
use entropix_model::{Backend, Checkpoint, Class, Error, Signals};
use std::time::Duration;

fn tiny(name: &str, rows: usize) -> CudaBackend {
    let options = CudaOptions { n_blocks: 40, max_rows: rows, max_tokens: 96, max_kept: rows, ..options() };
    CudaBackend::open(&Checkpoint::random(name).unwrap(), &options).unwrap()
}

#[test]
fn every_launch_of_a_step_belongs_to_one_operation() {
    let _device = device();
    for (step, attention) in [
        (
            TimedStep { rows: 2, tokens: 1, context: 256 },
            ["attend_decode_bf16_16", "attend_merge_16"].as_slice(),
        ),
        (TimedStep { rows: 1, tokens: 33, context: 64 }, &["attend_prefill_bf16_16"]),
    ] {
        let mut backend = tiny("tiny:Q4_0", 2);
        let time = backend.time_step(step).unwrap();
        let launches = |prefix: &str| -> usize {
            let all = time.operations.iter();
            all.filter(|operation| operation.kernel.starts_with(prefix))
                .map(|operation| operation.launches)
                .sum()
        };
        // Two layers: two norms each and one before the head; q, k and v at once or one by one, o, gate and up, down.
        assert_eq!((launches("embed"), launches("rms_norm"), launches("rope_store")), (1, 5, 2));
        let matmuls = launches("matmul_q4_0");
        assert!((8..=12).contains(&matmuls), "{matmuls} products");
        for part in ["qkv", "o", "gate_up", "down"] {
            let launches: usize = time.operations.iter().filter(|o| o.part == part).map(|o| o.launches).sum();
            assert!(launches >= 2, "{part}: {:?}", time.operations);
        }
        for kernel in attention {
            assert_eq!(launches(kernel), 2, "{kernel}");
        }
        assert_eq!((launches("head_q4_0_n8"), launches("signals_merge")), (1, 1));
        let known = 1 + 5 + 2 + matmuls + 2 * attention.len() + 2;
        assert_eq!(launches(""), known, "{:?}", time.operations);
        for operation in &time.operations {
            let [median, least, most] = operation.seconds;
            assert!(least <= median && median <= most && most.is_finite(), "{operation:?}");
            assert!(operation.bytes > 0, "{operation:?}");
        }
        // The head reads 512 rows of 64 numbers in 4 bits with a scale for every 32, and says 36 bytes of every 128 logits.
        let is_head = |o: &&OperationTime| o.kernel.starts_with("head");
        let (weights, tokens) = (512 * 64 / 32 * 18, step.rows);
        let head = time.operations.iter().find(is_head).unwrap();
        assert_eq!(head.grid, [1, 512 / 128, 1]);
        assert_eq!(head.bytes, (weights + tokens * (64 * 2 + 512 * 4 + 512 / 128 * 36)) as u64);
        let [median, least, most] = time.seconds;
        assert!(0.0 < least && least <= median && median <= most && most.is_finite(), "{:?}", time.seconds);
        // Keys and values: two heads of 16 components in bf16.
        if let Some(decode) = time.operations.iter().find(|o| o.kernel.starts_with("attend_decode")) {
            assert_eq!(decode.bytes, (step.rows * step.context * 2 * 16 * 2 * 2) as u64);
        }
    }
}

#[test]
fn decode_steps_are_measured_with_and_without_signals() {
    let _device = device();
    let mut backend = tiny("tiny:Q4_0", 3);
    let time = backend.time_step(TimedStep { rows: 3, tokens: 1, context: 192 }).unwrap();
    let names: Vec<_> = time.ablations.iter().map(|a| (a.name, a.regime)).collect();
    let alone =
        ["flat", "typical", "peaked"].map(|regime| [("draw", Some(regime)), ("candidates", Some(regime))]);
    let whole = ["greedy", "signals", "attention"].map(|name| (name, None));
    assert_eq!(names, [&whole[..], alone.as_flattened()].concat());
    // Without measures, 32 bytes fewer of each of 4 chunks a row are written and read, and the second best is not looked up; with
    // attention signals, both layers write and read 16 bytes more of each of 4 heads, and the last one's keys are read again.
    let bytes = |name: &str| time.ablations.iter().find(|a| a.name == name).unwrap().bytes;
    assert_eq!(bytes("signals") - bytes("greedy"), 3 * 4 * 32 * 2 + 3 * 128 * 4);
    assert!(bytes("attention") - bytes("signals") >= 2 * 3 * 4 * 16 * 2, "{:?}", time.ablations);
    for Ablation { name, seconds: [median, least, most], extra, .. } in time.ablations {
        assert!(0.0 < least && least <= median && median <= most && most.is_finite(), "{name}");
        assert_eq!(extra.is_some(), name != "greedy", "{name}");
        let [median, least, most] = extra.unwrap_or_default();
        assert!(least <= median && median <= most && most.is_finite(), "{name}");
    }
    // A prompt has none.
    let time = backend.time_step(TimedStep { rows: 1, tokens: 33, context: 64 }).unwrap();
    assert_eq!(time.ablations, []);
}

#[test]
fn a_step_that_does_not_fit_is_refused() {
    let _device = device();
    let mut backend = tiny("tiny", 2);
    for step in [
        TimedStep { rows: 0, tokens: 1, context: 16 },
        TimedStep { rows: 3, tokens: 1, context: 16 },
        TimedStep { rows: 2, tokens: 49, context: 64 },
        TimedStep { rows: 1, tokens: 2, context: 1 },
        TimedStep { rows: 2, tokens: 1, context: 336 },
    ] {
        let error = backend.time_step(step).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Usage, "TimedStep"), "{step:?}: {error}");
    }
}

/// The host sleeps between its questions where nothing is measured, and never where something is.
#[test]
fn what_is_timed_is_waited_for_awake() {
    let Some(driver) = fake() else { return };
    // Questions before a device that hangs from the n-th wait on is given up.
    let questions = |hang: u64, run: &dyn Fn(&mut CudaBackend) -> Error| {
        driver.reset();
        let mut backend =
            open("llama-tied", &CudaOptions { patience: Duration::from_millis(200), ..options() });
        let before = driver.calls();
        driver.set("hang", hang);
        assert_eq!(run(&mut backend).code, "DeviceHang");
        let of = |calls: Vec<(String, u64)>| {
            calls.into_iter().find(|(name, _)| name == "cuEventQuery").map_or(0, |(_, n)| n)
        };
        of(driver.calls()) - of(before)
    };
    let napping = questions(1, &|backend| {
        let step = row(backend, &[1, 2], 0, 0, &[kept(1)]);
        backend.signals(step, &mut [Signals::default()]).unwrap_err()
    });
    // The cache is filled and a step taken first.
    let awake = questions(3, &|backend| {
        backend.time_step(TimedStep { rows: 1, tokens: 1, context: 16 }).unwrap_err()
    });
    assert!(awake > 3 * napping, "{awake} questions, {napping} with naps");
}

#[test]
fn a_backend_computes_as_before_when_it_was_timed() {
    let _device = device();
    let mut backend = open("llama-tied", &options());
    let tokens: Vec<u32> = (0..20).collect();
    let step = row(&mut backend, &tokens, 0, 0, &[kept(19)]);
    let before = signals(&mut backend, step, 1);
    backend.time_step(TimedStep { rows: 1, tokens: 1, context: 16 }).unwrap();
    let step = row(&mut backend, &tokens, 0, 0, &[kept(19)]);
    assert!(same(&before, &signals(&mut backend, step, 1)));
}
