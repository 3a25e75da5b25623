//! Planted faults: each changes one line of a kernel, and must be caught, as said, by the checks that the kernel passes.
//! A fault whose line is no longer there fails too, so the table cannot go stale. The file is as long as that one table.

use crate::device::{Device, Outcome};
use crate::matmul::Case;
use crate::small::RopeCase;
use crate::{attend, candidates, draw, fast, head, matmul, signals, small, wrappers};
use entropix_cuda::ops::{Heads, KvType};
use entropix_cuda::pack::Format;
use entropix_emulator::{Emulator, Order};
use entropix_model::RopeLayout;
use std::path::Path;

struct Fault {
    what: &'static str,
    /// The file that is changed, and the one that is compiled.
    files: (&'static str, &'static str),
    find: &'static str,
    replace: &'static str,
    check: fn(&Device<'_>) -> Outcome,
    /// Some part of what must be said.
    says: &'static str,
}

const fn fault(
    what: &'static str,
    files: (&'static str, &'static str),
    (find, replace): (&'static str, &'static str),
    check: fn(&Device<'_>) -> Outcome,
    says: &'static str,
) -> Fault {
    Fault { what, files, find, replace, check, says }
}

fn norm(device: &Device<'_>) -> Outcome {
    small::check_norm(device, 1028, true)
}

fn embed(device: &Device<'_>) -> Outcome {
    small::check_embed(device, Format::Q5_0, 96)
}

fn unpack_bf16(device: &Device<'_>) -> Outcome {
    fast::check_unpack(device, Format::BF16, 37, 712)
}

fn unpack_f16(device: &Device<'_>) -> Outcome {
    fast::check_unpack(device, Format::F16, 20, 72)
}

fn unpack_q4_1(device: &Device<'_>) -> Outcome {
    fast::check_unpack(device, Format::Q4_1, 20, 96)
}

fn swiglu(device: &Device<'_>) -> Outcome {
    fast::check_swiglu(device, 1032)
}

fn product(device: &Device<'_>, format: Format) -> Outcome {
    matmul::check(
        device,
        &Case::new(format, 20, if format == Format::Q4_K || format == Format::Q6_K { 768 } else { 736 }, 10),
    )
}

fn bf16(device: &Device<'_>) -> Outcome {
    product(device, Format::BF16)
}

fn f16(device: &Device<'_>) -> Outcome {
    product(device, Format::F16)
}

fn q4_0(device: &Device<'_>) -> Outcome {
    product(device, Format::Q4_0)
}

fn q4_1(device: &Device<'_>) -> Outcome {
    product(device, Format::Q4_1)
}

fn q5_0(device: &Device<'_>) -> Outcome {
    product(device, Format::Q5_0)
}

fn q8_0(device: &Device<'_>) -> Outcome {
    product(device, Format::Q8_0)
}

fn q4_k(device: &Device<'_>) -> Outcome {
    product(device, Format::Q4_K)
}

fn q6_k(device: &Device<'_>) -> Outcome {
    product(device, Format::Q6_K)
}

fn residual(device: &Device<'_>) -> Outcome {
    matmul::check_add(device, &Case::new(Format::Q4_1, 20, 96, 3))
}

fn gated(device: &Device<'_>) -> Outcome {
    matmul::check_gated(device, Format::BF16, 20, 72, 3)
}

fn rope_into(device: &Device<'_>, kv: KvType) -> Outcome {
    let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 80, block_size: 16, kv };
    small::check_rope(device, RopeCase { heads, layout: RopeLayout::Adjacent, bias: true, norms: true })
}

fn rope(device: &Device<'_>) -> Outcome {
    rope_into(device, KvType::Bf16)
}

fn rope_f16(device: &Device<'_>) -> Outcome {
    rope_into(device, KvType::F16)
}

fn rope_int8(device: &Device<'_>) -> Outcome {
    rope_into(device, KvType::Int8)
}

fn copy(device: &Device<'_>) -> Outcome {
    small::check_copy(device, KvType::Bf16)
}

fn copy_int8(device: &Device<'_>) -> Outcome {
    small::check_copy(device, KvType::Int8)
}

fn attention_over(device: &Device<'_>, kv: KvType, head_dim: u32, sequences: &[(usize, usize)]) -> Outcome {
    let heads = Heads { n_heads: 6, n_kv_heads: 2, head_dim, block_size: 16, kv };
    let sequences: Vec<_> =
        sequences.iter().map(|&(start, n_tokens)| attend::Sequence { start, n_tokens }).collect();
    attend::check(device, &attend::Case::new(heads, &sequences, attend::LARGE))
}

fn attention(device: &Device<'_>) -> Outcome {
    attention_over(device, KvType::Bf16, 32, &[(472, 40), (0, 2)])
}

fn attention_f16(device: &Device<'_>) -> Outcome {
    attention_over(device, KvType::F16, 32, &[(300, 3), (0, 2)])
}

fn attention_int8(device: &Device<'_>) -> Outcome {
    attention_over(device, KvType::Int8, 32, &[(300, 3), (0, 2)])
}

/// A single split, which both paths get from the faulty file alone.
fn one_split(device: &Device<'_>) -> Outcome {
    attention_over(device, KvType::Bf16, 32, &[(200, 20)])
}

fn unasked(device: &Device<'_>) -> Outcome {
    let heads = Heads { n_heads: 6, n_kv_heads: 2, head_dim: 32, block_size: 16, kv: KvType::Bf16 };
    let sequences = [(300, 3), (0, 2)].map(|(start, n_tokens)| attend::Sequence { start, n_tokens });
    attend::check_unasked(device, &attend::Case::new(heads, &sequences, attend::LARGE))
}

fn rows(device: &Device<'_>) -> Outcome {
    signals::check(device, &signals::hard_rows(4200))
}

fn greedy(device: &Device<'_>) -> Outcome {
    signals::check_greedy(device, &signals::hard_rows(4200))
}

/// More slices than units of some, no whole chunk of rows, two blocks of asks.
fn vocabulary(device: &Device<'_>) -> Outcome {
    head::check(device, &head::case(Format::BF16, 301, 712, 37))
}

fn best(device: &Device<'_>) -> Outcome {
    candidates::check(device, &signals::hard_rows(4200))
}

const RMS: (&str, &str) = ("rms_norm.cu", "rms_norm.cu");
const EMBED: (&str, &str) = ("embed.cu", "embed.cu");
const UNPACK: (&str, &str) = ("unpack.cu", "unpack.cu");
const WRAPPERS: (&str, &str) = ("dev.cuh", "wrappers.cu");
const SWIGLU: (&str, &str) = ("swiglu.cu", "swiglu.cu");
const MATMUL: (&str, &str) = ("matmul.cuh", "matmul_bf16.cu");
const MATMUL_Q4_1: (&str, &str) = ("matmul.cuh", "matmul_q4_1.cu");
const ROPE: (&str, &str) = ("rope_store.cu", "rope_store.cu");
const COPY: (&str, &str) = ("copy_blocks.cu", "copy_blocks.cu");
const ATTEND: (&str, &str) = ("attend.cuh", "attend_bf16_32.cu");
const ATTEND_INT8: (&str, &str) = ("attend.cuh", "attend_int8_32.cu");
const KV_F16: (&str, &str) = ("kv.cuh", "attend_f16_32.cu");
const KV_INT8: (&str, &str) = ("kv.cuh", "attend_int8_32.cu");
const HEAD: (&str, &str) = ("head.cuh", "head_bf16.cu");
const SIGNALS: (&str, &str) = ("signals.cu", "signals.cu");
const CANDIDATES: (&str, &str) = ("candidates.cu", "candidates.cu");
const DRAW: (&str, &str) = ("draw.cu", "draw.cu");

const FAULTS: &[Fault] = &[
    // unpack, swiglu
    fault(
        "rows beyond the matrix are written",
        UNPACK,
        ("row < n_rows && ", ""),
        unpack_bf16,
        "out of bounds",
    ),
    fault("columns beyond the matrix are written", UNPACK, (" && col < n_cols", ""), unpack_bf16, "race"),
    fault(
        "rows g and g + 8 change places",
        UNPACK,
        ("TILE_ROWS + half * 8", "TILE_ROWS + (1 - half) * 8"),
        unpack_q4_1,
        "row 0 column 0",
    ),
    fault(
        "only the first units",
        UNPACK,
        ("unit = blockIdx.x * (UNPACK_THREADS / WARP) + ", "unit = "),
        unpack_bf16,
        "race",
    ),
    fault(
        "the units of the last block go on past the row",
        UNPACK,
        ("if (unit >= matrix.n_units) return;", ""),
        unpack_bf16,
        "out of bounds",
    ),
    fault(
        "the second part of a half takes the place of the first",
        UNPACK,
        ("v[0] += low_bf16", "v[0] = low_bf16"),
        unpack_f16,
        "row 0 column 0",
    ),
    fault(
        "every row has the scale of row g",
        UNPACK,
        ("scale_of<F>(u, group, half)", "scale_of<F>(u, group, 0)"),
        unpack_q4_1,
        "row 8 column 0",
    ),
    fault("the minimum is lost", UNPACK, ("fmaf(v[c], d, m)", "mul(v[c], d)"), unpack_q4_1, "row 0 column 0"),
    fault(
        "tokens beyond the count go on",
        SWIGLU,
        ("if (blockIdx.x >= *n_tokens) return;", ""),
        swiglu,
        "out of bounds",
    ),
    fault("ups are gates", SWIGLU, ("(at + 8)", "(at + 4)"), swiglu, "gate 0 token 0"),
    fault(
        "a tile has four gates, not eight",
        SWIGLU,
        ("i / 2 * TILE_ROWS", "i * TILE_ROWS / 4"),
        swiglu,
        "gate 4 token 0",
    ),
    fault("a row is written past its end", SWIGLU, ("i < n / 4;", "i <= n / 4;"), swiglu, "race"),
    // rms_norm
    fault(
        "sums are read before all warps wrote theirs",
        RMS,
        ("partial[threadIdx.x / WARP] = sum;\n    __syncthreads();", "partial[threadIdx.x / WARP] = sum;"),
        norm,
        "uninitialised",
    ),
    fault(
        "a barrier that only half of the block reaches",
        RMS,
        (
            "    __syncthreads();\n    sum = partial[0];",
            "    if (threadIdx.x < 128) __syncthreads();\n    __syncthreads();\n    sum = partial[0];",
        ),
        norm,
        "divergent __syncthreads",
    ),
    fault(
        "a row is read past its end",
        RMS,
        (
            "sum = 0;\n    for (u32 i = threadIdx.x; i < hidden / 4;",
            "sum = 0;\n    for (u32 i = threadIdx.x; i <= hidden / 4;",
        ),
        norm,
        "out of bounds",
    ),
    fault(
        "blocks beyond the count go on",
        RMS,
        ("if (blockIdx.x >= *n_rows) return;", ""),
        norm,
        "out of bounds",
    ),
    fault(
        "the list of rows is not looked at",
        RMS,
        ("rows ? rows[blockIdx.x] : blockIdx.x", "blockIdx.x"),
        norm,
        "not",
    ),
    // embed
    fault(
        "rows 8 to 15 of a tile get the others' numbers",
        EMBED,
        ("half ? a[1] : a[0]", "half ? a[0] : a[0]"),
        embed,
        "not",
    ),
    fault(
        "two tokens write one row",
        EMBED,
        ("float* out = x + u64(blockIdx.x) * hidden", "float* out = x + u64(blockIdx.x / 2) * hidden"),
        embed,
        "race between blocks",
    ),
    // weights
    fault(
        "Q4_0 without its offset",
        ("weights.cuh", "matmul_q4_0.cu"),
        ("0xc308c308u", "0xc300c300u"),
        q4_0,
        "not",
    ),
    fault(
        "Q5_0 takes the fifth bit of the next step",
        ("weights.cuh", "matmul_q5_0.cu"),
        ("(step * 4 + i) & 0x00010001u", "((step * 4 + i + 4) % 16) & 0x00010001u"),
        q5_0,
        "not",
    ),
    fault(
        "Q6_K takes the upper bits of another step",
        ("weights.cuh", "matmul_q6_k.cu"),
        ("(2 * (step % 2 * 4 + i))", "(2 * (i))"),
        q6_k,
        "not",
    ),
    fault(
        "Q8_0 as if unsigned",
        ("weights.cuh", "matmul_q8_0.cu"),
        ("8388736.0f", "8388608.0f"),
        q8_0,
        "not",
    ),
    fault(
        "Q4_K adds its minimum",
        ("weights.cuh", "matmul_q4_k.cu"),
        ("return -mul(half_to_float", "return mul(half_to_float"),
        q4_k,
        "not",
    ),
    fault(
        "Q4_1 takes the scale of the wrong row",
        ("weights.cuh", "matmul_q4_1.cu"),
        (
            "u.scales[(half * 2 + group) % (L::SCALE_BYTES / 4 + 1)] & 0xffffu",
            "u.scales[group % (L::SCALE_BYTES / 4 + 1)] & 0xffffu",
        ),
        q4_1,
        "not",
    ),
    fault(
        "f16 loses its low bits",
        ("weights.cuh", "matmul_f16.cu"),
        ("STEPS_PER_SCALE = 0, HAS_MIN = 0, PARTS = 2", "STEPS_PER_SCALE = 0, HAS_MIN = 0, PARTS = 1"),
        f16,
        "not",
    ),
    fault(
        "weights are read between their places",
        ("weights.cuh", "matmul_bf16.cu"),
        ("stream16(q + (i * WARP + lane) * 16)", "stream16(q + 8 + (i * WARP + lane) * 16)"),
        bf16,
        "misaligned",
    ),
    // matmul
    fault(
        "activations of tokens that are not there",
        MATMUL,
        ("n_cols, lane, token < n_tokens);", "n_cols, lane, true);"),
        bf16,
        "out of bounds",
    ),
    fault(
        "activations past the last column",
        MATMUL,
        ("live && col < n_cols ?", "live ?"),
        bf16,
        "out of bounds",
    ),
    fault(
        "slices are added before all are written",
        MATMUL,
        (
            "    __syncthreads();\n\n    auto total = [&](u32 row, u32 token) {",
            "    auto total = [&](u32 row, u32 token) {",
        ),
        bf16,
        "uninitialised",
    ),
    fault(
        "rows past the last are written",
        MATMUL,
        ("            if (r >= n_rows) continue;\n            float* to", "            float* to"),
        bf16,
        "race between blocks",
    ),
    fault(
        "waits for too few copies",
        MATMUL,
        ("cp_async_wait<1>();", "cp_async_wait<2>();"),
        bf16,
        "uninitialised",
    ),
    fault(
        "no barrier around the stages",
        MATMUL,
        ("            __syncthreads();\n            stage(at + i + 2);", "            stage(at + i + 2);"),
        bf16,
        "",
    ),
    fault(
        "leaves while copies are in flight",
        MATMUL,
        (
            "cp_async_wait<1>();",
            "if (at + i + 1 < matrix.n_units) cp_async_wait<1>(); else cp_async_wait<0>();\n            cp_async16(smem, x, 16);",
        ),
        bf16,
        "",
    ),
    fault(
        "slices are not kept apart when prefilling",
        MATMUL,
        ("        while (at == slice_end) finish_slice();\n", ""),
        bf16,
        "other bits",
    ),
    fault(
        "another order of slices when decoding",
        MATMUL,
        (
            "for (u32 s = 1; s < SLICES; s++) sum = add(sum, parts[s][row][token]);",
            "for (u32 s = SLICES - 1; s > 0; s--) sum = add(sum, parts[s][row][token]);",
        ),
        bf16,
        "other bits",
    ),
    fault(
        "gate and up change places",
        MATMUL,
        (
            "swiglu(total(gate_row, i / rows), total(gate_row + 8, i / rows))",
            "swiglu(total(gate_row + 8, i / rows), total(gate_row, i / rows))",
        ),
        gated,
        "not",
    ),
    fault(
        "the residual is overwritten",
        MATMUL_Q4_1,
        ("*to = mode == MODE_ADD ? add(*to, sum) : sum;", "*to = sum;"),
        residual,
        "not",
    ),
    // rope_store
    fault(
        "pairs as halves in the adjacent layout",
        ROPE,
        ("const bool next_to = adjacent != 0;", "const bool next_to = false;"),
        rope,
        "not",
    ),
    fault(
        "angles in f32",
        ROPE,
        ("double turn = position * half_turns[i];", "double turn = float(position) * float(half_turns[i]);"),
        rope,
        "not",
    ),
    fault("values are normed like keys", ROPE, ("is_v ? nullptr : k_norm", "k_norm"), rope, "not"),
    fault(
        "the offset within a block is lost",
        ROPE,
        ("slot / block_size, slot % block_size,", "slot / block_size, 0,"),
        rope,
        "",
    ),
    fault(
        "queries are bf16 beside a cache in f16",
        ROPE,
        ("store_halves<Kv>(q +", "store_halves<KvBf16>(q +"),
        rope_f16,
        "not",
    ),
    fault(
        "8 bits are cut off",
        ROPE,
        ("rintf(x / scale)", "truncf(x / scale)"),
        small::check_rounding,
        "not",
    ),
    fault(
        "8 bits run over",
        ROPE,
        ("fminf(fmaxf(rintf(x / scale), -127.0f), 127.0f)", "rintf(x / scale)"),
        small::check_rounding,
        "not",
    ),
    fault(
        "a NaN is lost among numbers",
        ROPE,
        (
            "max(__float_as_uint(a[k]) & 0x7fffffffu, __float_as_uint(b[k]) & 0x7fffffffu)",
            "__float_as_uint(fmaxf(fabsf(a[k]), fabsf(b[k])))",
        ),
        small::check_rounding,
        "not",
    ),
    fault(
        "an infinity is the scale of numbers",
        ROPE,
        ("is_finite(size) ? size / 127.0f : not_a_number()", "size / 127.0f"),
        small::check_rounding,
        "not",
    ),
    fault(
        "the largest of half a head",
        ROPE,
        ("u32 lanes = WARP / 2; lanes;", "u32 lanes = WARP / 4; lanes;"),
        rope_int8,
        "not",
    ),
    fault(
        "all positions of a block share a scale",
        ("kv.cuh", "rope_store.cu"),
        ("+ block_size * bytes) + offset;", "+ block_size * bytes);"),
        rope_int8,
        "",
    ),
    // copy_blocks
    fault(
        "a whole block is copied",
        COPY,
        ("copy.tokens * vector_bytes / 16", "block_size * vector_bytes / 16"),
        copy,
        "not",
    ),
    fault(
        "all layers from the first",
        COPY,
        ("from = cache + ((layer * n_blocks", "from = cache + ((0 * n_blocks"),
        copy,
        "not",
    ),
    fault(
        "a view that is not aligned",
        COPY,
        ("+ copy.from) * planes + plane) * piece;", "+ copy.from) * planes + plane) * piece + 2;"),
        copy,
        "misaligned",
    ),
    fault(
        "scales are not copied",
        COPY,
        ("i < copy.tokens * scale_bytes / 4", "i < 0 * scale_bytes / 4"),
        copy_int8,
        "not",
    ),
    fault(
        "the scales of a whole block are copied",
        COPY,
        ("i < copy.tokens * scale_bytes / 4", "i < block_size * scale_bytes / 4"),
        copy_int8,
        "not",
    ),
    // attend, moments
    fault(
        "a query sees the next position",
        ATTEND,
        ("lane % 4 * 2 + i < row_keys[h]", "lane % 4 * 2 + i <= row_keys[h]"),
        attention,
        "",
    ),
    fault("values past the context are read", ATTEND, ("if (key < n_keys) from =", "from ="), attention, ""),
    fault(
        "blocks as if they lay side by side",
        ATTEND,
        (
            "const u64 block = table[position / shape.block_size];",
            "const u64 block = position / shape.block_size;",
        ),
        attention,
        "not",
    ),
    fault(
        "chunks are merged before all are written",
        ATTEND,
        ("    __syncthreads();\n\n    float* part", "    float* part"),
        attention,
        "race",
    ),
    fault(
        "prefilling rounds otherwise",
        ("attend.cuh", "attend_bf16_64.cu"),
        (
            "sums[t][i] = add(mul(sums[t][i], old_scale[i / 2]), mul(c[i], new_scale[i / 2]));",
            "sums[t][i] = fmaf(sums[t][i], old_scale[i / 2], mul(c[i], new_scale[i / 2]));",
        ),
        |d| attend::check_bits(d, KvType::Bf16),
        "differ in bits",
    ),
    fault(
        "heads share the first one's keys",
        ("kv.cuh", "attend_bf16_32.cu"),
        ("(block * n_kv_heads + kv_head) * 2", "(block * n_kv_heads) * 2"),
        attention,
        "not",
    ),
    fault(
        "means do not change frames",
        ("moments.cuh", "attend_bf16_32.cu"),
        ("mean_a = add(a.mean, shift_a)", "mean_a = a.mean"),
        one_split,
        "entropy",
    ),
    fault(
        "weights are taken of moments alone",
        ATTEND,
        (
            "spread ? exponentials<true>(s, h, most, sums) : exponentials<false>(s, h, most, sums);",
            "if (spread) exponentials<true>(s, h, most, sums);",
        ),
        unasked,
        "nobody",
    ),
    fault(
        "a part without moments loses its maximum",
        ("moments.cuh", "attend_bf16_32.cu"),
        ("m.max = max, m.sum = s0;\n", "m.max = 0, m.sum = s0;\n"),
        unasked,
        "nobody",
    ),
    fault(
        "statistics are written where nobody asked",
        ("attend.cuh", "attend_merge.cu"),
        ("if (spread && lane == 0) finish_stats(", "if (lane == 0) finish_stats("),
        unasked,
        "",
    ),
    // the types of the cache
    fault(
        "halves are multiplied as bf16",
        KV_F16,
        ("mma_f16(d, a, b0, b1)", "mma_bf16(d, a, b0, b1)"),
        attention_f16,
        "not",
    ),
    fault(
        "weights of keys are bf16 beside values in f16",
        KV_F16,
        ("return pack_f16(low, high);", "return pack_bf16(low, high);"),
        attention_f16,
        "not",
    ),
    fault(
        "8 bits lose their sign",
        KV_INT8,
        ("(bytes & 0x00800080u) | 0xc300c300u", "0xc300c300u"),
        attention_int8,
        "not",
    ),
    fault(
        "the two steps of a load change places",
        KV_INT8,
        ("words[s] = w.x, words[s + 1] = w.y;", "words[s] = w.y, words[s + 1] = w.x;"),
        attention_int8,
        "not",
    ),
    fault(
        "a single step is loaded from another",
        ("kv.cuh", "attend_int8_80.cu"),
        ("component<HD>(LAST, quarter)", "component<HD>(LAST - 1, quarter)"),
        |d| attention_over(d, KvType::Int8, 80, &[(70, 1)]),
        "not",
    ),
    fault(
        "a key has the scale of its neighbour",
        ATTEND_INT8,
        (
            "(lane % 4 * 2 + i) * 4);\n        d[i] = mul(d[i], f),",
            "(lane % 4 * 2) * 4);\n        d[i] = mul(d[i], f),",
        ),
        attention_int8,
        "not",
    ),
    fault(
        "values without their scales",
        ATTEND_INT8,
        ("scale_weights(s[n], value_scales[n], lane);", ";"),
        attention_int8,
        "not",
    ),
    fault(
        "scales of values that a row does not see reach it",
        ("attend.cuh", "attend_int8_64.cu"),
        (
            "d[i] = d[i] == 0.0f ? 0.0f : mul(d[i], f), d[2 + i] = d[2 + i] == 0.0f ? 0.0f : mul(d[2 + i], f);",
            "d[i] = mul(d[i], f), d[2 + i] = mul(d[2 + i], f);",
        ),
        attend::check_later_value,
        "a later value",
    ),
    fault(
        "values have the scales of their keys",
        ATTEND_INT8,
        ("*place.value_scale(", "*place.scale("),
        attention_int8,
        "not",
    ),
    fault(
        "scores that are no number are passed over",
        ("attend.cuh", "attend_f16_32.cu"),
        ("is_finite(abs_sum) ? add(", "true ? add("),
        attend::check_infinite_key,
        "bad key",
    ),
    fault(
        "scales past the context are read",
        ATTEND_INT8,
        ("if (key < n_keys) {\n            const Place", "{\n            const Place"),
        attention_int8,
        "",
    ),
    // head
    fault(
        "activations of asks that are not there",
        HEAD,
        ("live = ask < n_asks && col < n_cols;", "live = col < n_cols;"),
        vocabulary,
        "out of bounds",
    ),
    fault(
        "activations past the last column of the head",
        HEAD,
        ("live = ask < n_asks && col < n_cols;", "live = ask < n_asks;"),
        vocabulary,
        "",
    ),
    fault(
        "the head waits for too few copies",
        HEAD,
        ("cp_async_wait<1>();", "cp_async_wait<2>();"),
        vocabulary,
        "uninitialised",
    ),
    fault(
        "no barrier around the stages of the head",
        HEAD,
        (
            "                __syncthreads();\n                stage((at + i)",
            "                stage((at + i)",
        ),
        vocabulary,
        "",
    ),
    fault(
        "the slices of the head are one",
        HEAD,
        ("            while (at + i == slice_end) finish_slice();\n", ""),
        vocabulary,
        "other bits",
    ),
    fault(
        "the slices of the head begin elsewhere",
        HEAD,
        ("slice_begin(slice + 1, matrix.n_units)", "slice_begin(slice + 1, matrix.n_units + 1)"),
        vocabulary,
        "other bits",
    ),
    fault(
        "the first slice of the head is lost",
        HEAD,
        (
            "to = slice == 0 ? sums[m][n][i] : add(to, sums[m][n][i]);",
            "to = slice == 0 ? 0.0f : slice == 1 ? sums[m][n][i] : add(to, sums[m][n][i]);",
        ),
        vocabulary,
        "other bits",
    ),
    fault(
        "threads share the place of finished slices",
        HEAD,
        ("return aside[slot * MATMUL_THREADS];", "return aside[slot];"),
        vocabulary,
        "race",
    ),
    fault(
        "sums take the room of stages that are still read",
        HEAD,
        (
            "        __syncthreads();\n        if (warp / (SLICES / MT) == half) {",
            "        if (warp / (SLICES / MT) == half) {",
        ),
        vocabulary,
        "race",
    ),
    fault(
        "sums are read before all warps wrote theirs",
        HEAD,
        ("        __syncthreads();\n        // A warp has four tokens", "        // A warp has four tokens"),
        vocabulary,
        "",
    ),
    fault(
        "both chunks of a block are the first",
        HEAD,
        ("const u32 chunk = blockIdx.y * MT + half;", "const u32 chunk = blockIdx.y * MT;"),
        vocabulary,
        "uninitialised",
    ),
    fault(
        "a chunk's part lies where another's is",
        HEAD,
        ("place = u64(ask) * n_chunks + chunk;", "place = u64(ask) * n_chunks + chunk / 2;"),
        vocabulary,
        "race between blocks",
    ),
    fault(
        "a chunk that is not there has a part",
        HEAD,
        ("        if (chunk >= n_chunks) break;\n", ""),
        vocabulary,
        "",
    ),
    fault(
        "rows past the last count",
        HEAD,
        ("if (row + i >= vocab) z[k][i] = neg_inf();", "if (row + i >= vocab) z[k][i] += 0.0f;"),
        vocabulary,
        "not",
    ),
    fault(
        "rows past the last are stored",
        HEAD,
        ("if (row + 4 <= vocab) {", "if (row < vocab) {"),
        vocabulary,
        "beside",
    ),
    fault(
        "asks past the last are stored",
        HEAD,
        ("const bool live = ask < n_asks;", "const bool live = true;"),
        vocabulary,
        "out of bounds",
    ),
    fault(
        "the second half of 64 asks is forgotten",
        HEAD,
        ("first += MATMUL_THREADS / TOKEN_LANES)", "first += 2 * MATMUL_THREADS / TOKEN_LANES)"),
        vocabulary,
        "uninitialised",
    ),
    fault(
        "every lane has a maximum of its own",
        HEAD,
        ("return token_max(most);", "return most;"),
        vocabulary,
        "",
    ),
    fault(
        "a token's sums are those of its lanes' neighbours too",
        HEAD,
        (
            "for (u32 lanes = TOKEN_LANES / 2; lanes; lanes >>= 1) x = add(",
            "for (u32 lanes = TOKEN_LANES; lanes; lanes >>= 1) x = add(",
        ),
        vocabulary,
        "not",
    ),
    fault("a NaN is nothing", HEAD, ("x == neg_inf() ? 0u : 1u << 16;", "0u;"), rows, "status"),
    fault(
        "counts of two tokens are one",
        HEAD,
        (
            "for (u32 lanes = TOKEN_LANES / 2; lanes; lanes >>= 1) count +=",
            "for (u32 lanes = TOKEN_LANES; lanes; lanes >>= 1) count +=",
        ),
        head::check_poison,
        "beside",
    ),
    fault(
        "weights are read twice",
        HEAD,
        (
            "        for (u32 m = 0; m < MT; m++) to[m] = matrix.load(",
            "        for (u32 m = 0; m < MT; m++) to[m] = matrix.load(min(first_tile + m, last_tile), unit, lane), to[m] = matrix.load(",
        ),
        head::check_traffic,
        "Traffic",
    ),
    fault(
        "logits are stored twice",
        HEAD,
        (
            "if (live) *reinterpret_cast<float4*>(to) = v;",
            "if (live) *reinterpret_cast<float4*>(to) = v, *reinterpret_cast<volatile float*>(to) = v.x;",
        ),
        head::check_traffic,
        "Traffic",
    ),
    fault(
        "collision sums e",
        HEAD,
        ("squares = fmaf(e, e, squares);", "squares = add(squares, e);"),
        rows,
        "collision",
    ),
    fault(
        "deviations from the maximum",
        HEAD,
        ("add(add(z[k][i], -most), -mean_d)", "add(z[k][i], -most)"),
        rows,
        "logit_std",
    ),
    fault(
        "maxima are left out with the measures",
        HEAD,
        (
            "            if (live && own == 2) maxima[place] = most;\n            if (!parts) continue;\n",
            "            if (!parts) continue;\n            if (live && own == 2) maxima[place] = most;\n",
        ),
        greedy,
        "uninitialised",
    ),
    fault(
        "measures are written where nobody wants them",
        HEAD,
        ("            if (!parts) continue;\n", ""),
        greedy,
        "",
    ),
    // signals
    fault(
        "the greedy token is the chunk's",
        SIGNALS,
        ("token_of(of_chunk[0].first);", "token_of(best.first);"),
        greedy,
        "without measures",
    ),
    fault(
        "infinity is a greedy token",
        SIGNALS,
        ("out.status = !is_finite(most), ", ""),
        greedy,
        "without measures",
    ),
    fault(
        "sums of warps are read before all are written",
        SIGNALS,
        (
            "room[threadIdx.x / WARP][i] = v[i];\n    }\n    __syncthreads();",
            "room[threadIdx.x / WARP][i] = v[i];\n    }",
        ),
        rows,
        "",
    ),
    fault("a NaN passes", SIGNALS, ("if (v[4] > 0 || v[3] == 0)", "if (v[3] == 0)"), rows, "status"),
    fault(
        "the part of another chunk",
        SIGNALS,
        (
            "weigh(part_of + c, max_of[c], most);\n            v[0]",
            "weigh(part_of + c / 2, max_of[c], most);\n            v[0]",
        ),
        rows,
        "",
    ),
    fault(
        "the maximum of another chunk",
        SIGNALS,
        (
            "weigh(part_of + c, max_of[c], most);\n            const float apart",
            "weigh(part_of + c, max_of[c / 2], most);\n            const float apart",
        ),
        rows,
        "",
    ),
    fault(
        "parts weigh as if all had one maximum",
        SIGNALS,
        ("w.scale = exp_fast(bounded);", "w.scale = 1.0f;"),
        rows,
        "entropy",
    ),
    fault(
        "means of parts keep their frames",
        SIGNALS,
        ("w.mean = add(w.part.mean, bounded);", "w.mean = w.part.mean;"),
        rows,
        "entropy",
    ),
    fault(
        "V without what the means are apart",
        SIGNALS,
        ("fmaf(apart, apart, w.part.var)", "w.part.var"),
        rows,
        "varentropy",
    ),
    fault(
        "chunks past the first 256 are forgotten",
        SIGNALS,
        (
            "c += SIGNAL_THREADS) {\n            const Weighed w = weigh(part_of + c, max_of[c], most);\n            v[0]",
            "c += n_chunks) {\n            const Weighed w = weigh(part_of + c, max_of[c], most);\n            v[0]",
        ),
        |d| signals::check(d, &signals::hard_rows(33_000)[..1]),
        "entropy",
    ),
    fault(
        "ties go to the higher id",
        ("logits.cuh", "signals.cu"),
        ("<< 32 | u32(~token); }", "<< 32 | token; }\nDEV u32 unused(u32 token) { return ~token; }"),
        rows,
        "",
    ),
    fault(
        "the second best is looked for in one chunk",
        SIGNALS,
        ("take(two, of_chunk[1].first), take(two, of_chunk[1].second);", ""),
        rows,
        "best",
    ),
    fault(
        "logits past the vocabulary are read",
        ("logits.cuh", "signals.cu"),
        ("first + LOGITS_A_LANE <= vocab", "first < vocab"),
        |d| signals::check(d, &signals::hard_rows(4201)),
        "",
    ),
    // candidates
    fault(
        "a bin is taken too early",
        ("logits.cuh", "candidates.cu"),
        ("while (sum + bins[bin] < need)", "while (sum + bins[bin] <= need)"),
        best,
        "",
    ),
    fault(
        "bins are read while others count",
        ("logits.cuh", "candidates.cu"),
        (
            "        __syncthreads();\n        if (threadIdx.x < WARP) find_bin",
            "        if (threadIdx.x < WARP) find_bin",
        ),
        best,
        "race",
    ),
    fault(
        "too few chunks are opened",
        CANDIDATES,
        ("select_rank<u32>(k, bins, found, [&]", "select_rank<u32>((k + 1) / 2, bins, found, [&]"),
        best,
        "not",
    ),
    // draw
    fault(
        "the mask is not looked at",
        DRAW,
        ("if (!(allowed >> i & 1)) z[i] = neg_inf();", ""),
        draw::check_mixed,
        "not",
    ),
    fault(
        "edits are not looked at",
        DRAW,
        ("if (touched >> i & 1) z[i] = edit(z[i], first + i);", ""),
        draw::check_mixed,
        "not",
    ),
    fault(
        "the bitmap is marked before it is clear",
        DRAW,
        ("bitmap[i] = 0;\n        __syncthreads();", "bitmap[i] = 0;"),
        draw::check_mixed,
        "",
    ),
    fault(
        "the worst of several tosses is kept",
        DRAW,
        ("token == NO_TOKEN || z > best", "token == NO_TOKEN || z < best"),
        draw::check_mixed,
        "not",
    ),
    fault(
        "top-p keeps one token too few",
        DRAW,
        ("row.least = select_rank<u64>(need, s.bins", "row.least = 1 + select_rank<u64>(need, s.bins"),
        draw::check_mixed,
        "",
    ),
    // attention_signals
    fault(
        "heads are compared without the scales of keys",
        ("attention_signals.cu", "attention_signals.cu"),
        ("dot *= *place.scale(block_size, head_dim);", ";"),
        attention_int8,
        "attention signal 4",
    ),
    fault(
        "layers are not summed",
        ("attention_signals.cu", "attention_signals.cu"),
        ("if (layer > 0) rest += relative[blockIdx.x];", ""),
        with_attention,
        "attention signal 1",
    ),
    // dev.cuh by itself
    fault(
        "a matrix of shared memory comes as it lies",
        WRAPPERS,
        ("emulator::combine_ldmatrix_transposed", "emulator::combine_ldmatrix"),
        wrappers::check,
        "ldmatrix_x4_transposed",
    ),
    fault(
        "halves are multiplied as bf16",
        WRAPPERS,
        ("emulator::combine_mma_f16", "emulator::combine_mma_bf16"),
        wrappers::check,
        "mma_f16",
    ),
];

/// The attention kernels of the whole image, their signals from the faulty one.
fn with_attention(device: &Device<'_>) -> Outcome {
    attend::check_signals_alone(device)
}

/// The kernels' folder with one line changed.
fn plant(fault: &Fault, folder: &Path) {
    for entry in std::fs::read_dir(Emulator::kernel_sources()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(mut text) = std::fs::read_to_string(&path) else { continue };
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == fault.files.0 {
            assert_eq!(
                text.matches(fault.find).count(),
                1,
                "{}: its place in {name} is not there once",
                fault.what
            );
            text = text.replace(fault.find, fault.replace);
        }
        std::fs::write(folder.join(name), text).unwrap();
    }
}

/// How a fault shows in some order of threads, or that it does not.
fn symptom(fault: &Fault) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    plant(fault, folder.path());
    // What the check runs besides the faulty file.
    let with: &[&str] = match fault.files.1 {
        "attention_signals.cu" => &["attend_int8_32", "attend_merge"],
        "attend_merge.cu" => &["attend_bf16_32", "attention_signals"],
        file if file.starts_with("attend_") => &["attend_merge", "attention_signals"],
        "head_bf16.cu" => &["matmul_bf16", "signals"],
        "signals.cu" => &["head_bf16"],
        "candidates.cu" | "draw.cu" => &["head_bf16", "signals"],
        _ => &[],
    };
    let image = Emulator::compile(&folder.path().join(fault.files.1), with, folder.path())?;
    for order in Order::ALL {
        if let Err(symptom) = (fault.check)(&Device::Emulated(&image, order)) {
            return Ok(format!("{order:?}: {symptom}"));
        }
    }
    Err("passes".into())
}

/// With $ENTROPIX_FAULT set, only the faults whose description holds it.
#[test]
fn every_planted_fault_is_caught() {
    let wanted = std::env::var("ENTROPIX_FAULT").unwrap_or_default();
    let is_wanted = |fault: &&Fault| fault.what.contains(&wanted) || fault.files.1.contains(&wanted);
    let faults: Vec<&Fault> = FAULTS.iter().filter(is_wanted).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let missed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let result = symptom(fault);
                    let line = format!("{} ({}): {result:?}", fault.what, fault.files.1);
                    println!("{line}");
                    if !result.is_ok_and(|symptom| symptom.contains(fault.says)) {
                        missed.lock().unwrap().push(line);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(
        missed.is_empty(),
        "{} of {} faults were not caught as they must be:\n{}",
        missed.len(),
        faults.len(),
        missed.join("\n")
    );
}
