"""Packs float32 rows as GGUF k-quants. Plain nearest rounding: valid blocks, not the best ones."""
import numpy as np

SUPER = 256


def _six_bit_scales(scale, low):
    """8 scales and 8 minima of 6 bits a superblock, in the 12 bytes of Q4_K and Q5_K."""
    out = np.zeros((scale.shape[0], 12), np.uint8)
    out[:, 0:4] = scale[:, :4] | (scale[:, 4:] >> 4 << 6)
    out[:, 4:8] = low[:, :4] | (low[:, 4:] >> 4 << 6)
    out[:, 8:12] = (scale[:, 4:] & 15) | (low[:, 4:] & 15) << 4
    return out


def _scale_and_min(rows, levels):
    """(d, dmin, packed scales, integers 0..levels) of 8 sub-blocks of 32, value = d scale q - dmin min."""
    blocks = rows.reshape(-1, 8, 32).astype(np.float32)
    low = np.maximum(0, -blocks.min(axis=2))
    scale = (blocks.max(axis=2).clip(min=0) + low) / levels
    d = (scale.max(axis=1) / 63).astype(np.float16)
    dmin = (low.max(axis=1) / 63).astype(np.float16)
    divide = lambda a, b: np.divide(a, b, out=np.zeros_like(a), where=b > 0)
    scale_q = np.rint(divide(scale, np.broadcast_to(d[:, None].astype(np.float32), scale.shape))).clip(0, 63).astype(np.uint8)
    low_q = np.rint(divide(low, np.broadcast_to(dmin[:, None].astype(np.float32), low.shape))).clip(0, 63).astype(np.uint8)
    step = (d[:, None].astype(np.float32) * scale_q)[:, :, None]
    offset = (dmin[:, None].astype(np.float32) * low_q)[:, :, None]
    q = np.rint(divide(blocks + offset, np.broadcast_to(step, blocks.shape))).clip(0, levels).astype(np.uint8)
    return d, dmin, _six_bit_scales(scale_q, low_q), q


def _bytes(*parts):
    return np.concatenate([np.ascontiguousarray(p).reshape(p.shape[0], -1).view(np.uint8) for p in parts], axis=1)


def _nibbles(q):
    """Pairs of sub-blocks: the even one low, the odd one high."""
    pairs = q.reshape(-1, 4, 2, 32)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)


def q4_k(rows):
    d, dmin, scales, q = _scale_and_min(rows, 15)
    return _bytes(d[:, None], dmin[:, None], scales, _nibbles(q)).reshape(rows.shape[0], -1)


def q5_k(rows):
    d, dmin, scales, q = _scale_and_min(rows, 31)
    high = np.bitwise_or.reduce((q >> 4) << np.arange(8, dtype=np.uint8)[None, :, None], axis=1)
    return _bytes(d[:, None], dmin[:, None], scales, high, _nibbles(q & 15)).reshape(rows.shape[0], -1)


def q6_k(rows):
    blocks = rows.reshape(-1, 16, 16).astype(np.float32)
    at = np.abs(blocks).argmax(axis=2)[:, :, None]
    scale = np.take_along_axis(blocks, at, 2)[:, :, 0] / -32
    largest = np.abs(scale).max(axis=1)
    d = (largest / 127).astype(np.float16)
    safe = np.where(d > 0, d.astype(np.float32), 1)
    scale_q = np.rint(scale / safe[:, None]).clip(-127, 127).astype(np.int8)
    step = (d[:, None].astype(np.float32) * scale_q)[:, :, None]
    q = (np.rint(np.divide(blocks, step, out=np.zeros_like(blocks), where=step != 0)).clip(-32, 31) + 32).astype(np.uint8)
    halves = q.reshape(-1, 2, 4, 32)
    low = np.stack([(halves[:, :, 0] & 15) | (halves[:, :, 2] & 15) << 4, (halves[:, :, 1] & 15) | (halves[:, :, 3] & 15) << 4], axis=2)
    high = np.bitwise_or.reduce((halves >> 4) << np.array([0, 2, 4, 6], np.uint8)[None, None, :, None], axis=2)
    return _bytes(low, high, scale_q, d[:, None]).reshape(rows.shape[0], -1)


QUANTIZE = {"Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k}
