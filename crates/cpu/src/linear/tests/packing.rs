use super::*;

#[test]
fn rows_come_back_bit_for_bit() {
    for dtype in DType::ALL {
        let block = dtype.block().0;
        for (n_rows, n_cols) in [(1, block * 3), (17, block), (50, 256), (33, 768)] {
            let tensor = tensor(dtype, n_rows, n_cols, 20);
            let expected = weights(&tensor);
            let matrix = pack(&tensor, Precision::Int8, KernelPath::Portable);
            let mut row = vec![f32::NAN; n_cols];
            for i in 0..matrix.n_rows() {
                matrix.dequantise_row(i, &mut row);
                for (col, got) in row.iter().enumerate() {
                    let expected = if i < n_rows { expected[i * n_cols + col] } else { 0.0 };
                    assert!(
                        got.to_bits() == expected.to_bits() || *got == 0.0 && expected == 0.0,
                        "{dtype} ({n_rows}, {n_cols}) row {i} column {col}: {got} instead of {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn stacked_tensors_of_any_types_keep_their_rows_and_products() {
    let n_cols = 256;
    let tensors = [(DType::Q4_K, 24), (DType::Q6_K, 16), (DType::BF16, 7), (DType::Q8_0, 33)]
        .map(|(dtype, n_rows)| tensor(dtype, n_rows, n_cols, 21));
    let inputs = inputs(6, n_cols, 22);
    for path in KernelPath::available() {
        let parts: Vec<Part<'_>> = tensors.iter().map(Part::new).collect();
        let stacked = Matrix::pack(&parts, Precision::Int8, path).unwrap();
        assert_eq!(stacked.n_rows(), 32 + 16 + 16 + 48);
        let all = activations(&stacked, &inputs, path);
        let product = multiply(&stacked, &all, 6);
        let mut start = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            let rows = stacked.rows_of(i);
            assert_eq!(rows, start..start + tensor.n_rows);
            start = rows.end.next_multiple_of(16);
            let alone = pack(tensor, Precision::Int8, path);
            let expected = multiply(&alone, &activations(&alone, &inputs, path), 6);
            for token in 0..6 {
                let got = &product[token * stacked.n_rows()..][rows.clone()];
                assert_eq!(got, &expected[token * alone.n_rows()..][..tensor.n_rows], "{}", tensor.dtype);
            }
            let mut row = vec![0.0; n_cols];
            stacked.dequantise_row(rows.end - 1, &mut row);
            assert_eq!(row, weights(tensor)[(tensor.n_rows - 1) * n_cols..]);
        }
    }
}

#[test]
fn reordered_rows_are_the_stored_ones() {
    // Enough rows for several chunks; one order stays near, the other jumps over the whole tensor.
    let (n_rows, n_cols) = (2000, 512);
    for dtype in [DType::Q8_0, DType::F32] {
        let tensor = tensor(dtype, n_rows, n_cols, 23);
        let expected = weights(&tensor);
        let near = |row: usize| row / 8 * 8 + 7 - row % 8;
        let far = |row: usize| row * 7 % n_rows;
        let orders: [&(dyn Fn(usize) -> usize + Sync); 2] = [&near, &far];
        for order in orders {
            let part = Part::reordered(&tensor, order);
            let matrix = Matrix::pack(&[part], Precision::Exact, KernelPath::Portable).unwrap();
            let mut row = vec![0.0; n_cols];
            for i in (0..n_rows).step_by(13).chain([n_rows - 1]) {
                matrix.dequantise_row(i, &mut row);
                assert_eq!(row, expected[order(i) * n_cols..][..n_cols], "{dtype} row {i}");
            }
        }
    }
}

// Weights are kept once and at their stored width; the K types keep their 6-bit scales in bytes.
#[test]
fn packed_weights_are_no_larger_than_stored_ones() {
    for dtype in DType::ALL {
        let tensor = tensor(dtype, 64, 1536, 24);
        let (packed, stored) =
            (pack(&tensor, Precision::Int8, KernelPath::Portable).n_bytes(), tensor.n_bytes());
        let most = match dtype {
            DType::Q4_K | DType::Q5_K => stored + stored / 34,
            _ => stored,
        };
        assert!(packed <= most, "{dtype}: {packed} bytes for {stored}");
    }
}

#[test]
#[should_panic(expected = "rows 0..8 of 16, in groups of 16")]
fn torn_groups_are_refused() {
    let matrix = pack(&tensor(DType::Q8_0, 16, 32, 25), Precision::Int8, KernelPath::Portable);
    let inputs = activations(&matrix, &[0.0; 32], KernelPath::Portable);
    matrix.multiply(&inputs, 0..1, 0..8, &mut [0.0; 8], 8, Upcoming::NOTHING);
}

#[test]
#[should_panic(expected = "need activations of form Int8")]
fn a_missing_form_is_refused() {
    let matrix = pack(&tensor(DType::Q8_0, 16, 32, 25), Precision::Int8, KernelPath::Portable);
    let inputs = Activations::new(1, 32, Forms::default(), KernelPath::Portable);
    matrix.multiply(&inputs, 0..1, 0..16, &mut [0.0; 16], 16, Upcoming::NOTHING);
}
