//! The emulator names what is wrong with kernels made to be wrong, and nothing else.
#![forbid(unsafe_code)]

use entropix_emulator::{Emulator, Order, Shape};
use std::path::Path;

fn image() -> Emulator {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/broken.cu");
    for header in std::fs::read_dir(Emulator::kernel_sources()).unwrap() {
        let path = header.unwrap().path();
        if path.extension().is_some_and(|e| e == "cuh") {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    let copy = folder.path().join("broken.cu");
    std::fs::copy(source, &copy).unwrap();
    Emulator::compile(&copy, &[], folder.path()).unwrap()
}

const WARP: Shape = Shape { grid: [1, 1, 1], block: 32, shared: 0 };

#[test]
fn every_kind_of_fault_is_named() {
    let image = image();
    let out = image.allocate(512);
    out.write(0, &[0; 512]);
    let address = out.address().to_le_bytes();
    let run = |kernel: &str, shape: Shape| {
        Order::ALL.map(|order| image.launch(kernel, shape, &[&address], order).err().map(|f| f.0))
    };
    for (kernel, grid, says) in [
        ("missing_syncwarp", 1, "race"),
        ("same_value_race", 1, "race"),
        ("blocks_share_a_word", 2, "race between blocks"),
        ("divergent_shuffle", 1, "divergent warp operation"),
        ("deadlock", 1, "deadlock"),
        ("copies_in_flight", 1, "in flight"),
        ("reads_before_the_wait", 1, "uninitialised"),
        ("unwritten_in_a_template", 1, "uninitialised"),
        ("atomics_and_plain", 1, "race"),
    ] {
        for fault in run(kernel, Shape { grid: [grid, 1, 1], ..WARP }) {
            let text = fault.unwrap_or_else(|| panic!("{kernel} passes"));
            // A read of what a later thread writes is seen as unwritten memory, if it comes first.
            assert!(
                text.contains(says) || says == "race" && text.contains("uninitialised"),
                "{kernel}: {text}"
            );
        }
    }
    assert_eq!(run("with_syncwarp", WARP), [None, None, None]);
}

#[test]
fn an_index_past_shared_memory_is_named() {
    let image = image();
    let out = image.allocate(128);
    let address = out.address().to_le_bytes();
    let run = |n: u32| image.launch("past_static_shared", WARP, &[&address, &n.to_le_bytes()], Order::Rising);
    assert!(run(1).unwrap_err().0.contains("out of bounds"));
    assert!(run(0).is_ok());
}

#[test]
fn what_a_driver_refuses_is_refused() {
    let image = image();
    let out = image.allocate(128);
    let address = out.address().to_le_bytes();
    let run = |kernel: &str, shape: Shape, n: usize| {
        image.launch(kernel, shape, &vec![&address[..]; n], Order::Rising).unwrap_err().0
    };
    assert!(run("nobody", WARP, 1).contains("no such kernel"));
    assert!(run("with_syncwarp", WARP, 2).contains("1 arguments, not 2"));
    assert!(run("with_syncwarp", Shape { block: 1025, ..WARP }, 1).contains("1025"));
    assert!(run("with_syncwarp", Shape { grid: [1, 65536, 1], ..WARP }, 1).contains("65535"));
    assert!(run("with_syncwarp", Shape { shared: 232_449, ..WARP }, 1).contains("232448"));
}

/// The fragment layouts of ldmatrix and mma, against a product by hand: numbers small enough to be exact.
#[test]
fn a_product_of_fragments_is_a_product_of_matrices() {
    let image = image();
    let value = |i: usize| ((i * 37 % 19) as f32 - 9.0) / 4.0;
    let bits = |n: usize, skew: usize| -> Vec<u8> {
        (0..n).flat_map(|i| ((value(i + skew).to_bits() >> 16) as u16).to_le_bytes()).collect()
    };
    let (a, b, d) = (image.allocate(512), image.allocate(256), image.allocate(512));
    a.write(0, &bits(256, 0));
    b.write(0, &bits(128, 5));
    let arguments = [a.address().to_le_bytes(), b.address().to_le_bytes(), d.address().to_le_bytes()];
    image.launch("small_product", WARP, &arguments.each_ref().map(|x| &x[..]), Order::Random(9)).unwrap();
    let mut out = [0u8; 512];
    assert_eq!(d.read(0, &mut out), 0, "all of D is written");
    for (i, bytes) in out.as_chunks::<4>().0.iter().enumerate() {
        let (row, col) = (i / 8, i % 8);
        let want: f32 = (0..16).map(|k| value(row * 16 + k) * value(k * 8 + col + 5)).sum();
        assert_eq!(f32::from_le_bytes(*bytes), want, "row {row} column {col}");
    }
}
