//! What is said when there is no device to use, when it breaks, and when it does not answer.

use crate::checkpoints::checkpoint;
use crate::drive::{device, fake, kept, open, options, row, signals};
use entropix_cuda::{CudaBackend, CudaOptions, copy_bandwidth, devices, probe};
use entropix_emulator::FakeDriver;
use entropix_model::{
    Ask, Backend, Batch, BlockCopy, Candidates, Class, Coin, Draw, Drawn, Error, Filters, Result, Signals,
};
use std::collections::BTreeSet;
use std::process::Command;
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

/// Every entry point of the driver that the fake one has, sorted.
fn exported() -> Vec<String> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(FakeDriver::folder().join("libcuda.so"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("cu")).map(str::to_owned).collect();
    names.sort();
    names
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
    let is_called = |name: &str| calls.iter().any(|(called, _)| called == name);
    // Little memory, so that little is copied.
    let copy = || {
        driver.set("memory", 8 << 20);
        copy_bandwidth(0)
    };
    driver.reset();
    copy().unwrap();
    let copying: Vec<(String, u64)> =
        driver.calls().into_iter().filter(|(name, _)| !is_called(name)).collect();
    let is_seen = |name: &str| is_called(name) || copying.iter().any(|(called, _)| called == name);
    let unseen: Vec<String> = exported().into_iter().filter(|name| !is_seen(name)).collect();
    // What names an error is called only where there is one (below, and cuGetErrorString never); so is what asks the device after a
    // failure of cuBLASLt (fast.rs).
    assert_eq!(unseen, ["cuGetErrorName", "cuGetErrorString", "cuStreamQuery"], "nobody sees these fail");
    for (name, n) in copying {
        for (call, code) in [(1, 1), (n / 2 + 1, 719), (n, 1)] {
            driver.reset();
            driver.fail(&name, call, code);
            assert_eq!(copy().unwrap_err().code, "DeviceError", "{name}, call {call}: {code}");
            assert_eq!(driver.counts().allocations, 0, "{name}, call {call}: {code}");
        }
    }
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
                            ["DeviceError", "HostMemory", "DeviceMemory", "SharedMemory"]
                                .contains(&error.code),
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

fn calls(driver: &FakeDriver, entry: &str) -> u64 {
    driver.calls().into_iter().find(|(name, _)| name == entry).map_or(0, |(_, n)| n)
}

/// Where the device has no memory for one more recorded step, steps are launched one by one: the same bits.
#[test]
fn steps_that_cannot_be_recorded_are_launched() {
    let Some(driver) = fake() else { return };
    let whole = everything(true).unwrap();
    driver.reset();
    everything(true).unwrap();
    let recorded = driver.counts().graph_launches;
    assert!(recorded > 0);
    for name in
        ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"]
    {
        driver.reset();
        driver.fail(name, 1, 2);
        let seen = everything(true).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(seen == whole, "{name}: other bits");
        assert!(driver.counts().graph_launches < recorded, "{name}: it was not told to fail");
    }
    // Within the sequence: what was recorded of it is given back.
    driver.reset();
    let mut backend = open(MODEL, &options());
    for (code, is_told) in [(1, true), (2, false), (1, true)] {
        driver.fail("cuLaunchKernel", 2, code);
        let mut batch = Batch::default();
        batch.push(&[3], 0, &[0], &[kept(0)]);
        assert_eq!(backend.submit(&batch).is_err(), is_told, "{code}");
        assert_eq!(calls(&driver, "cuStreamEndCapture"), calls(&driver, "cuGraphDestroy"), "a graph is left");
        if !is_told {
            break;
        }
    }
}

/// However many shapes there are, so many are recorded at once, and those in use stay.
#[test]
fn recorded_steps_are_bounded() {
    let Some(driver) = fake() else { return };
    let options = CudaOptions { n_blocks: 200, max_rows: 192, max_tokens: 192, max_kept: 192, ..options() };
    let mut backend = open(MODEL, &options);
    // How many there are after a step.
    let step = |backend: &mut CudaBackend, rows: usize, kept: bool, attention: bool| {
        let mut batch = Batch::default();
        let ask = Ask { keep_logits: kept, attention, ..crate::drive::kept(0) };
        (0..rows).for_each(|row| batch.push(&[3], 0, &[row as u32], std::slice::from_ref(&ask)));
        let step = backend.submit(&batch).unwrap();
        signals(backend, step, rows);
        calls(&driver, "cuGraphInstantiateWithFlags") - calls(&driver, "cuGraphExecDestroy")
    };
    let mut most = 0;
    for (kept, attention) in [(true, false), (false, false), (true, true), (false, true)] {
        for rows in [1, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192] {
            most =
                most.max(step(&mut backend, 2, true, false)).max(step(&mut backend, rows, kept, attention));
        }
    }
    let recorded = calls(&driver, "cuGraphInstantiateWithFlags");
    assert!(recorded > 64, "only {recorded} shapes");
    assert_eq!(most, 64);
    step(&mut backend, 2, true, false);
    assert_eq!(calls(&driver, "cuGraphInstantiateWithFlags"), recorded, "what is used stays");
    drop(backend);
    assert_eq!(calls(&driver, "cuGraphExecDestroy"), recorded);
}

/// A device that reads ordinary memory itself, when it gets to it, reads what was there when the copy was asked for.
#[test]
fn sources_of_copies_last_until_they_were_read() {
    let Some(driver) = fake() else { return };
    let whole = everything(true).unwrap();
    driver.set("pageable", 1);
    assert!(everything(true).unwrap() == whole);
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
    for (what, remedy) in [
        (34, "folder of stubs"),
        (35, "update the driver"),
        (36, "update the driver"),
        (802, "nvidia-fabricmanager"),
        (803, "anew"),
        (804, "compat"),
    ] {
        driver.reset();
        driver.fail("cuInit", 1, what);
        let error = probe(0).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Unsupported, "DriverBroken"), "{error}");
        assert!(error.message.contains(remedy) && !error.message.contains("try again"), "{error}");
    }
    // A stand-in answers every call so, the first one too.
    driver.reset();
    driver.fail("cuDriverGetVersion", 1, 34);
    let error = probe(0).unwrap_err();
    assert!(error.code == "DriverBroken" && error.message.contains("folder of stubs"), "{error}");
    // Of what cannot be used it is known what it is.
    for (what, value, code) in [("version", 11080, "DriverTooOld"), ("capability", 75, "DeviceTooOld")] {
        driver.reset();
        driver.set(what, value);
        let found = devices().unwrap().remove(0).unwrap();
        assert_eq!((found.name.as_str(), found.memory), ("Emulated device", 1 << 30));
        assert_eq!(found.check().unwrap_err().code, code);
    }
    driver.reset();
    driver.set("devices", 2);
    driver.fail("cuDeviceGetName", 1, 999);
    let [first, second] = devices().unwrap().try_into().unwrap();
    assert_eq!((first.unwrap_err().code, second.unwrap().ordinal), ("DeviceError", 1), "one hides no other");
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
    assert_eq!((error.class, error.code), (Class::Temp, "DeviceMemory"), "{error}");
    for word in ["weights", "cache", "0.5 MiB free", "MiB are lacking"] {
        assert!(error.message.contains(word), "{word}: {error}");
    }
    assert_eq!(calls(&driver, "cuMemAlloc_v2"), 0);
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
    assert_eq!(calls(&driver, "cuMemAlloc_v2"), before, "everything was claimed once");
    let pinned = calls(&driver, "cuMemHostAlloc");
    // Steps of every kind claim no more than opening did.
    drop(backend);
    driver.reset();
    everything(true).unwrap();
    assert_eq!((calls(&driver, "cuMemAlloc_v2"), calls(&driver, "cuMemHostAlloc")), (before, pinned));
}

/// What names an error may itself fail: then its number is all there is.
#[test]
fn an_error_without_a_name_has_its_number() {
    let Some(driver) = fake() else { return };
    let told = || {
        driver.set("memory", 1 << 19);
        let error = copy_bandwidth(0).unwrap_err();
        assert_eq!(error.code, "DeviceMemory", "{error}");
        error.message
    };
    assert!(told().contains("CUDA_ERROR_OUT_OF_MEMORY (2)"), "{}", told());
    driver.fail("cuGetErrorName", 1, 1);
    assert!(told().contains("an unknown error (2)"));
}

/// The driver hands out memory in pieces larger than what was asked for. With exactly what the plan then takes, and what is to
/// be left, it opens; with a page less nothing is claimed. What others take meanwhile is told as such, and what lacks on the host.
#[test]
fn memory_is_planned_as_the_driver_hands_it_out() {
    let Some(driver) = fake() else { return };
    // Caches of a little more than whole granules waste most of one.
    let options = CudaOptions { n_blocks: 2600, ..options() };
    let open = |memory: u64| {
        driver.reset();
        driver.set("memory", memory);
        CudaBackend::open(&checkpoint(MODEL).unwrap(), &options)
    };
    let least = (1..512u64).find(|granules| open(granules << 21).is_ok()).unwrap() << 21;
    let backend = open(least).unwrap();
    let (counts, left) = (driver.counts(), 128 << 20);
    assert!(counts.taken > counts.claimed + (2 << 20), "{counts:?} is no case");
    assert!(
        (left..left + (2 << 20)).contains(&(least - counts.taken)),
        "{least} bytes of which are taken: {counts:?}"
    );
    drop(backend);
    let error = open(least - 4096).unwrap_err();
    assert_eq!((error.code, calls(&driver, "cuMemAlloc_v2")), ("DeviceMemory", 0), "{error}");
    for call in [1, 9] {
        driver.reset();
        driver.fail("cuMemAlloc_v2", call, 2);
        let error = CudaBackend::open(&checkpoint(MODEL).unwrap(), &options).unwrap_err();
        let ended = if call == 1 { "; 0.0 MiB were claimed when" } else { " MiB were claimed when" };
        assert!(error.code == "DeviceMemory" && error.message.contains(ended), "{error}");
    }
    driver.reset();
    driver.fail("cuMemHostAlloc", 1, 2);
    let error = CudaBackend::open(&checkpoint(MODEL).unwrap(), &options).unwrap_err();
    assert!(error.code == "HostMemory" && error.message.contains("not the device"), "{error}");
}

/// Broken batches are faults of the engine and say so.
#[test]
#[should_panic(expected = "of a vocabulary of")]
fn a_token_outside_the_vocabulary_is_a_fault_of_ours() {
    let _device = device();
    let mut backend = open(MODEL, &options());
    row(&mut backend, &[999_999], 0, 0, &[]);
}
