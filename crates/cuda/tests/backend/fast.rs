//! Long steps by cuBLASLt: near the CPU, below the threshold the bits that there are without it, any call of it failing.

use crate::agreement::{FAR, apart, go_on};
use crate::checkpoints::checkpoint;
use crate::drive::{Device, device, fake, kept, open, open_cpu, options, row, same, signals};
use entropix_cpu::Precision;
use entropix_cuda::{CudaBackend, CudaOptions};
use entropix_emulator::FakeDriver;
use entropix_model::{Backend, Batch, Class, Result, Signals};
use std::collections::BTreeSet;
use std::time::Duration;

/// Tokens of the prompt of [`go_on`], and of what follows.
const PROMPT: usize = 21;
const FURTHER: usize = 6;

fn fast(least: usize) -> CudaOptions {
    CudaOptions { fast: Some(least), ..options() }
}

/// Calls of entry points whose names begin and end so.
fn calls(driver: &FakeDriver, first: &str, last: &str) -> u64 {
    let all = driver.calls().into_iter().filter(|(name, _)| name.starts_with(first) && name.ends_with(last));
    all.map(|(_, n)| n).sum()
}

/// Every way that weights lie: formats with kernels of their own, one without, parts of q, k and v apart, biases.
#[test]
fn long_prompts_by_cublaslt_go_on_as_on_the_cpu() {
    let models = [
        "llama-tied",
        "llama-tied.F16.gguf",
        "llama-tied.Q4_0.gguf",
        "llama-tied.Q4_1.gguf",
        "llama-wide.Q4_K.gguf",
        "llama-wide.Q6_K.gguf",
        "mistral.Q8_0.gguf",
        "qwen2",
    ];
    for name in models {
        let exact = go_on(&mut open_cpu(name, Precision::Exact), None, FURTHER);
        let device = device();
        let n_calls = |first, last| match &device {
            Device::Fake(driver) => Some(calls(driver, first, last)),
            Device::Real(_) => None,
        };
        let ours = go_on(&mut open(name, &options()), Some(&exact), FURTHER);
        assert!(n_calls("cublasLt", "").unwrap_or(0) == 0, "{name}: nobody asked for it");
        let mut backend = match CudaBackend::open(&checkpoint(name).unwrap(), &fast(PROMPT)) {
            // Of the machine's own that may be missing.
            Err(error) if error.code == "NoCublasLt" && n_calls("", "").is_none() => {
                return eprintln!("{error}");
            }
            opened => opened.unwrap_or_else(|e| panic!("{name}: {e}")),
        };
        let opening = n_calls("cublasLtMatmul", "Matmul");
        let got = go_on(&mut backend, Some(&exact), FURTHER);
        let layers = checkpoint(name).unwrap().config.n_layers as u64;
        if let Some((opening, all)) = opening.zip(n_calls("cublasLtMatmul", "Matmul")) {
            let of_step = all - opening;
            assert!(
                of_step >= 4 * layers && of_step <= 6 * layers,
                "{name}: {of_step} products of the prompt"
            );
            assert_eq!(opening, 2 * of_step, "{name}: of the shortest and the longest step at first");
        }
        let distance = apart(&got, &exact);
        assert!(
            distance.iter().zip(FAR).all(|(d, far)| *d < far),
            "{name}: {distance:?} from exact arithmetic"
        );
        // Other additions, other bits: they would be the same if it were not used.
        assert!(!same(&got[PROMPT - 1].logits, &ours[PROMPT - 1].logits), "{name}");
    }
}

/// Where no row is as long as the shortest step that takes part, several are; where all rows are not, none takes part.
#[test]
fn opening_takes_the_shortest_and_the_longest_step_in_rows_that_fit() {
    let Some(driver) = fake() else { return };
    for (n_blocks, max_rows, steps) in [(40, 6, 2), (4, 6, 2), (2, 6, 1), (1, 6, 0), (40, 1, 2)] {
        driver.reset();
        let opened = open("qwen2.F16.gguf", &CudaOptions { n_blocks, max_rows, ..fast(32) });
        let layers = checkpoint("qwen2.F16.gguf").unwrap().config.n_layers as u64;
        let products = calls(&driver, "cublasLtMatmul", "Matmul");
        assert_eq!(products, steps * 4 * layers, "{n_blocks} blocks, {max_rows} rows");
        drop(opened);
    }
}

#[test]
fn short_steps_have_the_bits_that_there_are_without() {
    let name = "mistral.Q8_0.gguf";
    let Some(driver) = fake() else { return };
    let ours = go_on(&mut open(name, &options()), None, FURTHER);
    let mut backend = open(name, &fast(PROMPT + 1));
    let opening = calls(&driver, "cublasLtMatmul", "Matmul");
    assert!(opening > 0, "what it loads at its first product is loaded when the backend is opened");
    let short = go_on(&mut backend, None, FURTHER);
    assert_eq!(calls(&driver, "cublasLtMatmul", "Matmul"), opening);
    assert!(ours.iter().zip(&short).all(|(a, b)| same(&a.logits, &b.logits)));
    // As many rows as that, of one token each, are no prompt.
    let many = |options: &CudaOptions| {
        let mut backend = open(name, &CudaOptions { graphs: false, ..options.clone() });
        let mut batch = Batch::default();
        (0..4).for_each(|i| batch.push(&[7 + i], 0, &[i], &[kept(0)]));
        let step = backend.submit(&batch).unwrap();
        (0..4).flat_map(|slot| backend.logits(step, slot).unwrap()).collect::<Vec<f32>>()
    };
    assert!(same(&many(&options()), &many(&fast(4))), "decoding rows take no part");
}

/// Two prompts by cuBLASLt and a step of one token, from opening to closing.
fn everything() -> Result<Vec<u8>> {
    let options = CudaOptions { max_tokens: 20, ..fast(16) };
    let mut backend = CudaBackend::open(&checkpoint("qwen2.F16.gguf").unwrap(), &options)?;
    let mut seen = Vec::new();
    for (n, start) in [(20, 0), (17, 20), (1, 37)] {
        let tokens: Vec<u32> = (0..n).map(|i| (i * 37 + 11) % 384).collect();
        let mut batch = Batch::default();
        batch.push(&tokens, start, &[0, 1, 2], &[kept(tokens.len() - 1)]);
        let step = backend.submit(&batch)?;
        let mut signals = [Signals::default()];
        backend.signals(step, &mut signals)?;
        seen.extend_from_slice(bytemuck::bytes_of(&signals[0]));
        seen.extend(backend.logits(step, 0)?.iter().flat_map(|z| z.to_le_bytes()));
    }
    Ok(seen)
}

/// Each entry point of cuBLASLt fails at its first, a middle and its last call: an error in words, nothing is left, and the
/// next backend works.
#[test]
fn every_call_of_cublaslt_may_fail() {
    let Some(driver) = fake() else { return };
    let whole = everything().unwrap();
    driver.reset();
    assert!(everything().unwrap() == whole, "twice the same");
    let entries: Vec<_> =
        driver.calls().into_iter().filter(|(name, _)| name.starts_with("cublasLt")).collect();
    assert_eq!(entries.len(), 13, "{entries:?}");
    for (name, n) in entries {
        for call in BTreeSet::from([1, n / 2 + 1, n]) {
            for (status, class) in [(3, Class::Temp), (13, Class::Temp), (15, Class::Unsupported)] {
                driver.reset();
                driver.fail(&name, call, status);
                let outcome = everything();
                let is_told = !name.ends_with("Destroy") && name != "cublasLtGetVersion";
                match outcome {
                    Ok(seen) => assert!(!is_told && seen == whole, "{name}, call {call}: {status} passes"),
                    Err(error) => {
                        assert_eq!((error.class, error.code), (class, "CublasLt"), "{name}: {error}");
                        let words = ["cuBLASLt 13.0.2", &name, &format!("({status})"), "--fast"];
                        assert!(is_told && words.iter().all(|word| error.message.contains(word)), "{error}");
                    }
                }
                let made = calls(&driver, "cublasLt", "Create") - u64::from(name.ends_with("Create"));
                assert_eq!(made, calls(&driver, "cublasLt", "Destroy"), "{name}, call {call}, {status}");
                assert_eq!(driver.counts().allocations, 0, "{name}, call {call}, {status}");
            }
        }
    }
    driver.reset();
    assert!(everything().unwrap() == whole, "a new backend works after all that");
}

/// What broke on the device before is not laid at the door of cuBLASLt, which only meets it.
#[test]
fn a_broken_device_is_not_taken_for_a_failure_of_cublaslt() {
    let Some(driver) = fake() else { return };
    let mut backend = open("qwen2.F16.gguf", &fast(2));
    let mut batch = Batch::default();
    batch.push(&[1, 2, 3], 0, &[0], &[kept(2)]);
    driver.fail("cublasLtMatmul", 1, 700);
    let first = backend.submit(&batch).unwrap_err();
    assert_eq!((first.class, first.code), (Class::Temp, "DeviceError"), "{first}");
    assert!(first.message.contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{first}");
    assert_eq!(backend.submit(&batch).unwrap_err(), first, "it stays broken");
    drop(backend);
    driver.reset();
    let mut backend = open("qwen2.F16.gguf", &fast(2));
    driver.fail("cublasLtMatmul", 1, 13);
    assert_eq!(backend.submit(&batch).unwrap_err().code, "CublasLt", "nothing else was wrong");
}

/// All memory is planned and claimed at the start, and descriptors of shapes that are gone are released.
#[test]
fn memory_of_cublaslt_is_planned_and_its_descriptors_are_few() {
    let Some(driver) = fake() else { return };
    let mut backend = open("qwen2.F16.gguf", &fast(2));
    let (before, planned) = (driver.counts(), backend.memory().total());
    let claimed = before.claimed;
    assert!(
        claimed <= planned + planned / 10 && claimed + planned / 10 >= planned,
        "{claimed} bytes claimed, {planned} planned"
    );
    assert!(planned > 32 << 20, "the workspace is in the plan: {planned}");
    let mut most = 0;
    for n in 2..26 {
        let step = row(&mut backend, &vec![9; n], 0, 0, &[kept(n - 1)]);
        signals(&mut backend, step, 1);
        let created = calls(&driver, "cublasLtM", "Create");
        most = most.max(created - calls(&driver, "cublasLtM", "Destroy"));
    }
    assert!(most > 200 && most <= 4 * 64, "{most} descriptors at once");
    assert_eq!(driver.counts().allocations, before.allocations);
    drop(backend);
    assert_eq!(calls(&driver, "cublasLt", "Create"), calls(&driver, "cublasLt", "Destroy"));
}

/// To release the library waits for the device, so where that hangs it is left.
#[test]
fn cublaslt_is_left_on_a_device_that_hangs() {
    let Some(driver) = fake() else { return };
    let patience = Duration::from_millis(80);
    let mut backend = open("qwen2.F16.gguf", &CudaOptions { patience, ..fast(2) });
    let step = row(&mut backend, &[1, 2, 3], 0, 0, &[kept(2)]);
    driver.set("hang", 1);
    assert_eq!(backend.signals(step, &mut [Signals::default()]).unwrap_err().code, "DeviceHang");
    drop(backend);
    assert_eq!(calls(&driver, "cublasLtDestroy", ""), 0);
    assert!(calls(&driver, "cublasLtMatmulDescDestroy", "") > 0, "what is on the host alone is released");
}
