//! The table of kernels against what the kernels are.

use entropix_cuda::abi::{Kind, kernels};
use entropix_emulator::Emulator;

/// Catches a parameter added, dropped or changed in size on one side only, and a kernel nobody listed.
#[test]
fn the_table_lists_every_kernel_with_its_parameters() {
    let mut want: Vec<(String, Vec<u32>)> = kernels()
        .into_iter()
        .map(|k| (k.name, k.parameters.iter().map(|p| if *p == Kind::Pointer { 8 } else { 4 }).collect()))
        .collect();
    want.sort();
    let found = Emulator::checked().kernels();
    if let Some((found, want)) = found.iter().zip(&want).find(|(found, want)| found != want) {
        panic!("the kernels have {found:?} where the table has {want:?}");
    }
    assert_eq!(found.len(), want.len(), "kernels and rows of the table");
}
