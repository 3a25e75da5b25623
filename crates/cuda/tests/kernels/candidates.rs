//! The k best tokens against the reference, ties included.

use crate::device::{Device, Outcome, at, at_length, bytes_of, everywhere, near};
use crate::signals::{hard_rows, score, torture_rows};
use entropix_cuda::ops;
use entropix_model::sampling::{DrawScratch, candidates, signals_of};
use entropix_model::{Candidate, Candidates};

/// (slot, k) of every row and some k, against the reference's lists.
pub(crate) fn check(device: &Device<'_>, rows: &[Vec<f32>]) -> Outcome {
    let scored = score(device, rows, &vec![None; rows.len()])?;
    let wanted: Vec<[u32; 2]> = (0..rows.len() as u32)
        .rev()
        .flat_map(|slot| [1, 2, 27, 256].map(|k| [slot, k]))
        .chain([[0, 0]])
        .collect();
    let (list, counts) = (device.empty::<Candidate>(wanted.len() * 256), device.empty::<u32>(wanted.len()));
    let (asked, n_asked) = (device.upload(wanted.as_flattened()), device.count(wanted.len()));
    device.run(&ops::candidates(
        scored.buffers,
        at(&asked),
        at(&list),
        at(&counts),
        at(&n_asked),
        wanted.len() as u32 + 1,
    ))?;
    let counts: Vec<u32> = device.read(&counts, 0, wanted.len())?;
    let mut all = bytes_of(&counts);
    let (mut scratch, mut want) = (DrawScratch::default(), Candidates::default());
    for (i, [slot, k]) in wanted.iter().enumerate() {
        let row = &rows[*slot as usize];
        want.clear();
        candidates(row, &signals_of(row, None), *k as usize, &mut scratch, &mut want);
        let want = want.list(0);
        if counts[i] as usize != want.len() {
            return Err(format!("row {slot}, k {k}: {} candidates, not {}", counts[i], want.len()));
        }
        let got: Vec<Candidate> = device.read(&list, i * 256, want.len())?;
        for (rank, (got, want)) in got.iter().zip(want).enumerate() {
            if got.token != want.token {
                return Err(format!("row {slot}, k {k}, rank {rank}: {}, not {}", got.token, want.token));
            }
            let tolerance = f64::from(want.logprob.abs()) * 2e-6 + 2e-5;
            near(
                format_args!("row {slot}, k {k}, rank {rank}"),
                got.logprob,
                want.logprob.into(),
                tolerance,
            )?;
        }
        all.extend(bytes_of(&got));
    }
    Ok(all)
}

#[test]
fn candidates_of_hard_rows_are_the_reference_s() {
    for vocab in [1, 130, 4097, 9000] {
        let rows = hard_rows(vocab);
        everywhere(&format!("vocabulary of {vocab}"), |device| check(device, &rows));
    }
}

#[test]
fn candidates_of_torture_rows_are_the_reference_s() {
    for (name, row) in torture_rows() {
        let rows = [row];
        if rows[0].len() > 1000 {
            at_length(&name, |device| check(device, &rows));
        } else {
            everywhere(&name, |device| check(device, &rows));
        }
    }
}
