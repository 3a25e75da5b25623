#!/usr/bin/env python3
"""Computes in float64 what signals, filters and draws must give, into tests/data/samplers.json, and Philox's answers into tests/data/philox.json."""
import in_venv  # noqa: F401
import argparse
import json
from pathlib import Path

import numpy as np

import reference

TOP = Path(__file__).resolve().parent.parent
MARGIN = 1e-5   # a case in which rounding could decide is left out


def philox4x32(counter, key):
    """Philox4x32-10 (Salmon et al. 2011)."""
    c, k, low = [int(x) for x in counter], [int(x) for x in key], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & low, (a >> 32) ^ c[3] ^ k[1], a & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


def coin(number):
    """The number-th coin of this table: 64 bits."""
    out = philox4x32([number, 0, 0, 0], [20251121, 0])
    return out[1] << 32 | out[0]


def unit(bits):
    return (bits >> 11) / (1 << 53)


def make(row):
    """The logits of a row, as float32. A row is a list (null is minus infinity) or a formula."""
    if "logits" in row:
        return np.array([-np.inf if z is None else z for z in row["logits"]], np.float32)
    f = row["formula"]
    i = np.arange(f["n"], dtype=np.uint64)
    u = (i * np.uint64(2654435761) + np.uint64(f.get("seed", 0))) & np.uint64(0xFFFFFFFF)
    z = (u >> np.uint64(8)).astype(np.float32) * np.float32(f["scale"]) + np.float32(f["offset"])
    if "banned_every" in f:
        z[::f["banned_every"]] = -np.inf
    for at, value in f.get("peaks", []):
        z[at] = value
    return z


def rows():
    rng = np.random.default_rng(7)
    few = lambda *logits: [None if z == -np.inf else float(np.float32(z)) for z in logits]
    formula = lambda n, scale=2.0**-20, offset=-8.0, **more: {"n": n, "scale": scale, "offset": offset, **more}
    return {
        "uniform4": {"logits": few(0, 0, 0, 0)},
        "uniform3": {"logits": few(1.5, 1.5, 1.5)},
        "one": {"logits": few(-3.25)},
        "certain": {"logits": few(0, 200, 0, 0)},
        "half_half": {"logits": few(-np.inf, 3, -np.inf, 3)},
        "nine_one": {"logits": few(np.log(0.9), np.log(0.1))},
        "ties": {"logits": few(1, 2, 2, 0, 2, 1, 0.5, 2)},
        "ladder": {"logits": few(*(2.0 - 0.5 * i for i in range(12)))},
        "ladder_reversed": {"logits": few(*(-3.5 + 0.5 * i for i in range(12)))},
        "high": {"logits": few(10000, 10001, 9998.5, 9990, 10002.25)},
        "low": {"logits": few(-10000, -10001, -9998.5, -9990, -10002.25)},
        "far": {"logits": few(0, -79, -81, -100, -1000, 1e-3)},
        "holes": {"logits": few(1, -np.inf, 0.25, -np.inf, -np.inf, 2, -1, -np.inf)},
        "normal64": {"logits": few(*rng.normal(0, 3, 64))},
        "heavy48": {"logits": few(*rng.standard_t(2, 48))},
        "small1000": {"formula": formula(1000, seed=3, scale=2.0**-21, offset=-4.0)},
        "sea_and_peak": {"formula": formula(49152, scale=0.0, offset=0.0, peaks=[[31337, 11.0]])},
        "sea_and_two": {"formula": formula(49152, scale=2.0**-24, offset=-0.5, peaks=[[5, 12.5], [49151, 12.0]])},
        "wide": {"formula": formula(49152, seed=99)},
        "wide_high": {"formula": formula(49152, seed=99, scale=2.0**-18, offset=10000.0)},
        "holes_wide": {"formula": formula(32000, seed=5, banned_every=3)},
        "flat_huge": {"formula": formula(128256, scale=0.0, offset=7.0)},
        "huge": {"formula": formula(151936, seed=1234, peaks=[[100, 9.5], [151935, 9.25], [0, 9.0]])},
    }


def close(a, b):
    """Whether a and b are so near, without being equal, that rounding could swap them."""
    scale = np.maximum(np.abs(a), np.abs(b))
    return (np.abs(a - b) <= MARGIN * np.where(scale > 0, scale, 1)) & (a != b)


class Draw:
    """Filters applied in order; `sure` is false where rounding could decide what is kept."""

    def __init__(self, raw, temperature=1.0, target_entropy=None, top_k=0, top_p=1.0, min_p=0.0, top_n_sigma=None, p_less=False, edits=(), allowed=None):
        self.sure = True
        sigma = raw[np.isfinite(raw)].std()
        z = raw.copy()
        for token, penalty, bias in edits:
            bias = -np.inf if bias is None else bias
            z[token] = (z[token] / penalty if z[token] > 0 else z[token] * penalty) + bias
        if allowed is not None:
            mask = np.full(len(z), -np.inf)
            mask[allowed] = 0
            z = z + mask
        if target_entropy is not None:
            temperature = self.solve(z, target_entropy)
        self.temperature = temperature
        ids = np.flatnonzero(np.isfinite(z))
        ids = ids[np.argsort(-z[ids], kind="stable")]     # largest first, ties to the lower id
        if temperature == 0:
            self.ids, self.p = ids[:1], np.ones(1)
            return
        weigh = lambda kept: reference.softmax(z[kept] / temperature)
        if top_k:
            ids = ids[:top_k]
        if top_p < 1:
            mass = np.cumsum(weigh(ids))
            self.sure &= not close(mass, top_p).any()
            ids = ids[:int(np.searchsorted(mass, top_p)) + 1]
        if min_p > 0:
            p = weigh(ids)
            self.sure &= not close(p, min_p * p[0]).any()
            ids = ids[p >= min_p * p[0]]
        if top_n_sigma is not None:
            floor = z[ids[0]] - top_n_sigma * sigma         # both sides of z/T >= max - n sigma scale with 1/T
            self.sure &= not (np.abs(z[ids] - floor) < MARGIN * max(1, abs(z[ids[0]]))).any()
            ids = ids[z[ids] >= floor]
        if p_less:
            p = weigh(ids)
            bar = (p * p).sum()
            flat = (z[ids] == z[ids[0]]).all()              # equal p are all kept, whatever the rounding
            self.sure &= flat or not close(p, bar).any()
            if not flat:
                ids = ids[p >= bar]
        self.ids = np.sort(ids)
        self.p = weigh(self.ids)

    def solve(self, z, target):
        """The temperature at which the entropy is `target`, by bisection."""
        z = z[np.isfinite(z)]
        low, high = 1e-3, 1e3
        for _ in range(200):
            middle = (low * high) ** 0.5
            below = reference.signals(z / middle)[0]["entropy"] < target
            low, high = (middle, high) if below else (low, middle)
        return middle

    def pick(self, bits):
        """The token this coin draws, by inverse CDF in token-id order; None where rounding could decide."""
        mass = np.cumsum(self.p)
        u = unit(bits)
        if len(self.p) > 1 and np.abs(mass[:-1] - u).min() < MARGIN * 0.1:
            return None
        return int(self.ids[min(np.searchsorted(mass, u, side="right"), len(self.ids) - 1)])


def settings(name, logits):
    """What is tried on each row."""
    yield from ({}, dict(temperature=0.0), dict(temperature=0.5), dict(temperature=1.7))
    yield from (dict(top_k=1), dict(top_k=3), dict(top_k=40, temperature=0.8))
    yield from (dict(top_p=0.5), dict(top_p=0.9), dict(top_p=0.95, temperature=1.5), dict(top_p=1e-9))
    yield from (dict(min_p=0.1), dict(min_p=0.05, temperature=2.0), dict(min_p=1.0))
    yield from (dict(top_n_sigma=1.0), dict(top_n_sigma=0.5, temperature=2.0))
    yield from (dict(p_less=True), dict(p_less=True, temperature=1.5))
    yield dict(temperature=0.9, top_k=50, top_p=0.9, min_p=0.02)
    yield dict(temperature=1.2, top_k=30, top_p=0.98, min_p=0.01, top_n_sigma=2.5, p_less=True)
    order = np.argsort(-logits, kind="stable")
    if len(logits) >= 4 and np.isfinite(logits).sum() >= 4:
        first, second, third = (int(i) for i in order[:3])
        yield dict(edits=[[first, 1.0, None]])
        yield dict(edits=sorted([[first, 1.0, None], [second, 1.0, None]]), temperature=0.0)
        yield dict(edits=sorted([[first, 1.3, 0.0], [second, 1.3, 0.5], [third, 1.0, -0.75]]), top_p=0.9)
        yield dict(allowed=sorted([second, third]), temperature=0.7)
        yield dict(allowed=sorted([first, third]), edits=[[first, 1.0, None]])
    entropy = reference.signals(logits)[0]["entropy"]
    for target in (0.5, 1.0, 2.0):
        if len(logits) > 5 and 0.3 < entropy and abs(target - entropy) < 1.0:
            yield dict(target_entropy=target)


def f32(value):
    """A setting as the f32 that a program would hold."""
    return float(np.float32(value)) if isinstance(value, float) else [[t, f32(p), None if b is None else f32(b)] for t, p, b in value] if isinstance(value, list) and value and isinstance(value[0], list) else value


def number(x):
    return float(f"{x:.12g}") + 0.0   # no minus zero


def table():
    out_rows, draws, next_coin, left_out = [], [], 0, 0
    for name, row in rows().items():
        logits = make(row).astype(np.float64)
        signals, logp = reference.signals(logits)
        best = reference.top(logp, 2)
        out_rows.append({"name": name, **row, "signals": {**{k: number(v) for k, v in signals.items()}, "best": [[int(t), number(logp[t])] for t in best if np.isfinite(logp[t])]}})
        for setting in settings(name, logits):
            setting = {k: f32(v) for k, v in setting.items()}
            draw = Draw(logits, **setting)
            if not draw.sure:
                left_out += 1
                continue
            case = {"row": name, **setting, "n_kept": len(draw.ids)}
            if "target_entropy" in setting:
                case["used_temperature"] = number(draw.temperature)
            if len(draw.ids) <= 16:
                case |= {"kept": draw.ids.tolist(), "p": [number(p) for p in draw.p]}
            tosses = []
            while len(tosses) < 4:
                bits = coin(next_coin)
                next_coin += 1
                token = draw.pick(bits)
                if token is not None:
                    tosses.append([bits, token, number(logp[token])])
            case["tosses"] = tosses
            likeliest = max(range(len(tosses)), key=lambda i: (tosses[i][2], -i))
            case["best_of"] = tosses[likeliest][1]
            draws.append(case)
    return out_rows, draws, left_out


def philox_table():
    known = [([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
             ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
             ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0], [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1])]
    for counter, key, out in known:
        assert philox4x32(counter, key) == out, "our Philox is not the published one"
    rng = np.random.default_rng(3)
    more = []
    for _ in range(13):
        words = [int(w) for w in rng.integers(0, 2**32, 6)]
        more.append((words[:4], words[4:], philox4x32(words[:4], words[4:])))
    return [{"counter": c, "key": k, "out": o} for c, k, o in known + more]


def write(path, head, groups):
    parts = [f'"{key}":{json.dumps(value)}' for key, value in head.items()]
    parts += [f'"{key}":[\n' + ",\n".join(json.dumps(item, separators=(",", ":")) for item in items) + "\n]" for key, items in groups.items()]
    path.write_text("{" + ",\n".join(parts) + "}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=TOP / "tests/data", help="where to (default: tests/data)")
    args = parser.parse_args()
    out_rows, draws, left_out = table()
    write(args.dir / "samplers.json", {"format": "see samplers.md"}, {"rows": out_rows, "draws": draws})
    write(args.dir / "philox.json", {"what": "Philox4x32-10; the first three are Random123's known answers"}, {"cases": philox_table()})
    print(f"{len(out_rows)} rows, {len(draws)} draws; {left_out} left out because rounding could decide them")


if __name__ == "__main__":
    main()
