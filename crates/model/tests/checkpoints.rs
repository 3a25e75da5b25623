//! Good models open with the numbers they were made with (`scripts/make_tiny_models.py`), and a folder and a
//! GGUF file of one model agree.
#![forbid(unsafe_code)]

use entropix_model::{Architecture, Checkpoint, DType, RopeLayout, Tensor, Vocabulary};
use std::path::{Path, PathBuf};

fn tiny(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny");
    let checkpoint = Checkpoint::open(&folder.join(name)).unwrap();
    assert_eq!(checkpoint.warnings, [""; 0], "{name}");
    checkpoint
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs())
}

#[test]
fn every_format_of_a_model_says_the_same() {
    for (folder, file) in [
        ("llama-tied", "llama-tied.F32.gguf"),
        ("llama3", "llama3.F16.gguf"),
        ("mistral", "mistral.Q8_0.gguf"),
        ("qwen2", "qwen2.F16.gguf"),
        ("qwen3", "qwen3.BF16.gguf"),
    ] {
        let (a, b) = (tiny(folder), tiny(file));
        let (mut mine, mut other) = (a.config.clone(), b.config.clone());
        // GGUF stores q and k of the llama family turned, its factors are f32, and its end tokens are those
        // llama.cpp knows by their text as well.
        let layout = match mine.architecture {
            Architecture::Llama => RopeLayout::Adjacent,
            Architecture::Qwen2 | Architecture::Qwen3 => RopeLayout::Halves,
        };
        assert_eq!((mine.rope.layout, other.rope.layout), (RopeLayout::Halves, layout), "{file}");
        assert!(close(&mine.rope.inv_freq, &other.rope.inv_freq), "{file}: {:?} {:?}", mine.rope, other.rope);
        assert!(mine.eos_tokens.iter().all(|eos| other.eos_tokens.contains(eos)), "{file}");
        for config in [&mut mine, &mut other] {
            config.rope.inv_freq.clear();
            config.rope.layout = RopeLayout::Halves;
            config.eos_tokens.clear();
        }
        assert_eq!(mine, other, "{file}");
        assert!(matches!(a.vocabulary, Vocabulary::Folder(_)));
        let Vocabulary::Gguf(vocabulary) = b.vocabulary else { panic!("{file} has its own vocabulary") };
        assert_eq!(vocabulary.tokens.len(), b.config.vocab_size);
    }
}

#[test]
fn a_folder_and_a_file_hold_the_same_numbers() {
    for (folder, file) in
        [("llama-tied", "llama-tied.F32.gguf"), ("qwen2", "qwen2.F16.gguf"), ("qwen3", "qwen3.BF16.gguf")]
    {
        let (a, b) = (tiny(folder).weights, tiny(file).weights);
        let same = |a: &Tensor, b: &Tensor| {
            assert_eq!((a.n_rows, a.n_cols), (b.n_rows, b.n_cols), "{} {}", a.name, b.name);
            assert_eq!(a.read_f32().unwrap(), b.read_f32().unwrap(), "{} {}", a.name, b.name);
        };
        same(&a.embedding, &b.embedding);
        same(&a.final_norm, &b.final_norm);
        assert!(a.head.is_none() && b.head.is_none());
        for (a, b) in a.layers.iter().zip(&b.layers) {
            for (a, b) in [
                (&a.attn_norm, &b.attn_norm),
                (&a.v, &b.v),
                (&a.o, &b.o),
                (&a.ffn_norm, &b.ffn_norm),
                (&a.gate, &b.gate),
                (&a.up, &b.up),
                (&a.down, &b.down),
            ] {
                same(a, b);
            }
            for (a, b) in [
                (&a.q_bias, &b.q_bias),
                (&a.k_bias, &b.k_bias),
                (&a.v_bias, &b.v_bias),
                (&a.q_norm, &b.q_norm),
                (&a.k_norm, &b.k_norm),
            ] {
                assert_eq!(a.is_some(), b.is_some());
                if let (Some(a), Some(b)) = (a, b) {
                    same(a, b);
                }
            }
        }
    }
}

/// q and k of the llama family are stored in adjacent-pair order in GGUF: row 2i of a head is row i of the
/// Hugging Face order, row 2i + 1 is row i + head_dim / 2. Reading one for the other would be silent nonsense.
#[test]
fn q_and_k_rows_are_paired_as_the_layout_says() {
    let (a, b) = (tiny("llama-tied"), tiny("llama-tied.F32.gguf"));
    let half = a.config.head_dim / 2;
    for (a, b) in a.weights.layers.iter().zip(&b.weights.layers) {
        for (a, b) in [(&a.q, &b.q), (&a.k, &b.k)] {
            for row in 0..b.n_rows {
                let (head, within) = (row / (2 * half), row % (2 * half));
                let twin = head * 2 * half + within / 2 + within % 2 * half;
                assert_eq!(
                    b.read_rows(row..row + 1).unwrap(),
                    a.read_rows(twin..twin + 1).unwrap(),
                    "{}",
                    b.name
                );
            }
        }
    }
}

#[test]
fn quantised_files_keep_their_types() {
    for (name, dtype) in [
        ("Q4_0", DType::Q4_0),
        ("Q4_1", DType::Q4_1),
        ("Q5_0", DType::Q5_0),
        ("Q5_1", DType::Q5_1),
        ("Q8_0", DType::Q8_0),
        ("F16", DType::F16),
    ] {
        let weights = tiny(&format!("llama-tied.{name}.gguf")).weights;
        assert_eq!(weights.layers[0].gate.dtype, dtype);
        // The same weights at a coarser grain: close to the F32 file, and not equal to it.
        let want = tiny("llama-tied.F32.gguf").weights.layers[0].gate.read_f32().unwrap();
        let have = weights.layers[0].gate.read_f32().unwrap();
        let square = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x as f64 * x as f64).sum::<f64>();
        let error =
            square(&mut have.iter().zip(&want).map(|(a, b)| a - b)) / square(&mut want.iter().copied());
        assert!(error > 0.0 && error < 0.02, "{name}: {error}");
    }
    for (name, dtype) in [("Q4_K", DType::Q4_K), ("Q5_K", DType::Q5_K), ("Q6_K", DType::Q6_K)] {
        assert_eq!(tiny(&format!("llama-wide.{name}.gguf")).weights.layers[0].gate.dtype, dtype);
    }
}

#[test]
fn linear_scaling_divides_every_frequency() {
    let linear = tiny("llama-linear.Q8_0.gguf").config.rope.inv_freq;
    let base = 1.0 / 4.0;
    let head_dim = 2.0 * linear.len() as f64;
    let want: Vec<f64> =
        (0..linear.len()).map(|i| base * 10_000f64.powf(-2.0 * i as f64 / head_dim)).collect();
    assert!(close(&linear, &want), "{linear:?} wants {want:?}");
}

#[test]
fn fingerprints_follow_the_bytes() {
    let mut steps = 0;
    let one = tiny("llama3").fingerprint(&mut |done, all| {
        assert!(done <= all);
        steps += 1;
    });
    assert_eq!(one, tiny("llama3").fingerprint(&mut |_, _| ()));
    assert!(steps >= 4, "config, generation config and two shards");
    assert_ne!(one, tiny("qwen3").fingerprint(&mut |_, _| ()));
}

/// The models people use, where a cache has them.
#[test]
fn cached_models_open() {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    for (name, architecture, eos) in [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", Architecture::Llama, &[0, 2]),
        ("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf", Architecture::Qwen2, &[151643, 151645]),
    ] {
        let path = cache.clone().unwrap_or_default().join("entropix").join(name);
        if !path.exists() {
            println!("{name}: skipped, it is not in the cache; scripts/get_model fetches it");
            continue;
        }
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.config.architecture, architecture);
        assert_eq!(checkpoint.config.eos_tokens, eos);
        assert_eq!(checkpoint.warnings, [""; 0]);
    }
}
