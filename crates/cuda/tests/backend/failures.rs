//! What is said when there is no device to use, when it breaks, and when it does not answer.

use crate::checkpoints::checkpoint;
use crate::drive::{device, fake, kept, open, options, row, signals};
use entropix_cuda::{CudaBackend, CudaOptions, probe};
use entropix_model::{
    Ask, Backend, Batch, BlockCopy, Candidates, Class, Coin, Draw, Drawn, Error, Filters, Result, Signals,
};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const MODEL: &str = "qwen2.F16.gguf";

/// Everything a backend can be asked, twice over, from opening to closing.
fn everything(graphs: bool) -> Result<Vec<u8>> {
    let options = CudaOptions { graphs, ..options() };
    let mut backend = CudaBackend::open(&checkpoint(MODEL).unwrap(), &options)?;
    let mut seen = Vec::new();
    for first in 0..2 {
        let mut batch = Batch::default();
        let wanting = Ask { attention: true, ..kept(4) };
        batch.push(&[1, 2, 3, 4, 5], 0, &[first], &[Ask { keep_logits: false, ..kept(0) }, wanting]);
        let step = backend.submit(&batch)?;
        let mut signals = [Signals::default(); 2];
        backend.signals(step, &mut signals)?;
        seen.extend_from_slice(bytemuck::bytes_of(&signals[1]));
        backend.attention(step, &[1], &mut [Default::default()])?;
        backend.copy_blocks(&[BlockCopy { from: first, to: first + 2, tokens: 5 }])?;
        batch.clear();
        batch.push(&[6], 5, &[first + 2], &[kept(0)]);
        let step = backend.submit(&batch)?;
        backend.signals(step, &mut signals[..1])?;
        backend.candidates(step, &[(0, 3)], &mut Candidates::default())?;
        let draw = Draw { slot: 0, filters: Filters::default(), edits: &[], mask: None, coins: &[Coin(7)] };
        backend.draw(step, &[draw], &mut [Drawn { token: None, logprob: 0.0, temperature: 0.0 }])?;
        seen.extend_from_slice(bytemuck::bytes_of(&signals[0]));
        seen.extend(backend.logits(step, 0)?.iter().flat_map(|z| z.to_le_bytes()));
    }
    Ok(seen)
}

/// Each entry point fails at its first, a middle and its last call, with an error that breaks the device and with one that
/// does not. Every failure is an error in words and never a panic; everything is released, and the next backend works.
#[test]
fn every_call_may_fail() {
    let Some(driver) = fake() else { return };
    let whole = everything(true).unwrap();
    assert!(whole == everything(false).unwrap(), "recorded steps have the bits of steps that are not");
    driver.reset();
    everything(true).unwrap();
    let calls = driver.calls();
    assert!(calls.len() > 25, "only {} entry points: {calls:?}", calls.len());
    for (name, n) in calls {
        let codes: &[i32] = if name.contains("Alloc") { &[1, 2, 719] } else { &[1, 719] };
        for call in BTreeSet::from([1, n / 2 + 1, n]) {
            for &code in codes {
                driver.reset();
                let before = driver.counts().allocations;
                driver.fail(&name, call, code);
                let outcome = everything(true);
                let releases = ["Free", "Destroy", "Release", "Unload", "cuStreamSynchronize"]
                    .iter()
                    .any(|part| name.contains(part))
                    || name == "cuCtxSetCurrent" && call == n;
                match outcome {
                    // Nobody is there to be told about a failure while everything is given back.
                    Ok(seen) => {
                        assert!(releases && seen == whole, "{name}, call {call}: {code} passes unnoticed")
                    }
                    Err(error) => {
                        assert!(
                            ["DeviceError", "OutOfMemory", "SharedMemory"].contains(&error.code),
                            "{name}, call {call}: {error:?}"
                        );
                        assert!(error.message.len() > 40, "{name}: {error}");
                    }
                }
                let alive = driver.counts().allocations;
                assert!(
                    alive == before || releases,
                    "{name}, call {call}, {code}: {alive} allocations are left"
                );
            }
        }
    }
    driver.reset();
    assert!(everything(true).unwrap() == whole, "a new backend works after all that");
}

/// A broken device keeps saying so, and nothing panics.
#[test]
fn a_broken_device_stays_broken() {
    let Some(driver) = fake() else { return };
    let mut backend = open(MODEL, &options());
    let step = row(&mut backend, &[1, 2], 0, 0, &[kept(1)]);
    signals(&mut backend, step, 1);
    driver.fail("cuEventQuery", 1, 700);
    let mut batch = Batch::default();
    batch.push(&[3], 2, &[0], &[kept(0)]);
    let step = backend.submit(&batch).unwrap();
    let first = backend.signals(step, &mut [Signals::default()]).unwrap_err();
    assert_eq!((first.class, first.code), (Class::Temp, "DeviceError"), "{first}");
    assert!(first.message.contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{first}");
    for _ in 0..2 {
        assert_eq!(backend.submit(&batch).unwrap_err(), first);
        assert_eq!(backend.copy_blocks(&[]).unwrap_err(), first);
    }
}

#[test]
fn a_device_that_hangs_is_given_up() {
    let Some(driver) = fake() else { return };
    let patience = Duration::from_millis(80);
    let mut backend = open(MODEL, &CudaOptions { patience, ..options() });
    let step = row(&mut backend, &[1, 2], 0, 0, &[kept(1)]);
    driver.set("hang", 1);
    let start = Instant::now();
    let error = backend.signals(step, &mut [Signals::default()]).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Temp, "DeviceHang"), "{error}");
    assert!(start.elapsed() >= patience && start.elapsed() < Duration::from_secs(20));
    let waits = driver.calls();
    assert_eq!(backend.signals(step, &mut [Signals::default()]).unwrap_err(), error);
    drop(backend);
    // Nothing waits for it any more, not even to release what it holds.
    assert_eq!(driver.calls(), waits);
}

#[test]
fn what_cannot_be_used_says_why() {
    let Some(driver) = fake() else { return };
    let refused = |what: &str, value: u64, ordinal: u32| -> Error {
        driver.reset();
        driver.set(what, value);
        probe(ordinal).unwrap_err()
    };
    for (error, class, code, words) in [
        (refused("devices", 0, 0), Class::Unsupported, "NoDevice", "no device"),
        (refused("devices", 2, 2), Class::Usage, "DeviceIndex", "cuda:0 to cuda:1"),
        (refused("devices", 1, 1), Class::Usage, "DeviceIndex", "one device, cuda:0"),
        (refused("version", 11080, 0), Class::Unsupported, "DriverTooOld", "CUDA 11.8"),
        (refused("capability", 75, 0), Class::Unsupported, "DeviceTooOld", "7.5"),
    ] {
        assert_eq!((error.class, error.code), (class, code), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    // A library for building only, and parts of different ages: trying again would not help.
    for what in [34, 803] {
        driver.reset();
        driver.fail("cuInit", 1, what);
        let error = probe(0).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Unsupported, "DriverBroken"), "{error}");
    }
    driver.reset();
    assert_eq!(probe(0).unwrap().capability, (9, 0));
}

/// A plan that cannot fit is refused before anything is claimed; one that fits claims no more than it said, but for what
/// alignment takes, and nothing later.
#[test]
fn memory_is_planned_and_then_left_alone() {
    let Some(driver) = fake() else { return };
    driver.set("memory", 1 << 19);
    let error = CudaBackend::open(&checkpoint(MODEL).unwrap(), &options()).unwrap_err();
    assert_eq!((error.class, error.code), (Class::Temp, "OutOfMemory"), "{error}");
    for word in ["weights", "cache", "0.5 MiB free", "fewer blocks"] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    driver.reset();
    let mut backend = open(MODEL, &options());
    let (claimed, planned) = (driver.counts().claimed, backend.memory().total());
    assert!(
        claimed <= planned + planned / 10 && claimed + planned / 10 >= planned,
        "{claimed} bytes claimed, {planned} planned"
    );
    let before = driver.counts().allocations;
    for start in 0..20 {
        let step = row(&mut backend, &[start as u32], start, 0, &[kept(0)]);
        signals(&mut backend, step, 1);
    }
    assert_eq!(driver.counts().allocations, before);
    let allocated = driver.calls().into_iter().find(|(name, _)| name == "cuMemAlloc_v2").map(|(_, n)| n);
    assert_eq!(allocated, Some(before), "everything was claimed once");
}

/// Broken batches are faults of the engine and say so.
#[test]
#[should_panic(expected = "of a vocabulary of")]
fn a_token_outside_the_vocabulary_is_a_fault_of_ours() {
    let _device = device();
    let mut backend = open(MODEL, &options());
    row(&mut backend, &[999_999], 0, 0, &[]);
}
