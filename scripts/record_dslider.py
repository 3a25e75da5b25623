#!/usr/bin/env python3
"""Records what the mended DSlider must choose: tests/data/dslider.json.

Works from presets/dslider.toml's numbers and the definition in its head, and shares nothing with the engine but the
random numbers: digamma and lgamma by long series, their inverses and the temperatures by bisection.
Deterministic; standard library only. Usage: scripts/record_dslider.py [-o FILE]
"""

import argparse
import json
import math
import random
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
P = tomllib.loads((ROOT / "crates/engine/presets/dslider.toml").read_text())["default"]
MASK = (1 << 64) - 1


def digamma(x):
    total = 0.0
    while x < 40:
        total -= 1 / x
        x += 1
    return total + math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)


def inverse_digamma(y):
    low, high = -80.0, 40.0   # of ln x
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if digamma(math.exp(middle)) < y else (low, middle)
    return math.exp((low + high) / 2)


def fit(logs):
    alpha = [1.0] * len(logs)
    for _ in range(32):
        common = digamma(sum(alpha))
        alpha = [min(max(inverse_digamma(common + log), 1e-3), 1e4) for log in logs]
    return alpha


def ln_density(alpha, logs):
    return math.lgamma(sum(alpha)) - sum(map(math.lgamma, alpha)) + sum((a - 1) * log for a, log in zip(alpha, logs))


class Stream:
    """SplitMix64; Box and Muller's cosine; Marsaglia and Tsang's gamma variates."""

    def __init__(self, state):
        self.state = state

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        return ((z >> 11) + 0.5) / (1 << 53)

    def normal(self):
        radius, angle = self.next(), self.next()
        return math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)

    def ln_gamma_variate(self, alpha):
        boost = 0.0
        if alpha < 1:
            boost = math.log(self.next()) / alpha
            alpha += 1
        d = alpha - 1 / 3
        while True:
            x = self.normal()
            v = (1 + x / math.sqrt(9 * d)) ** 3
            if v > 0 and math.log(self.next()) < x * x / 2 + d - d * v + d * math.log(v):
                return math.log(d) + math.log(v) + boost

    def dirichlet(self, alpha):
        logs = [self.ln_gamma_variate(a) for a in alpha]
        top = max(logs)
        weights = [math.exp(log - top) for log in logs]
        return [w / sum(weights) for w in weights]


def softmax(logs, temperature=1.0):
    top = max(logs)
    weights = [math.exp((log - top) / temperature) for log in logs]
    total = sum(weights)
    return [w / total for w in weights]


def entropy(p):
    return -sum(x * math.log(x) for x in p if x > 0)


def temperature_of(logs, target):
    low, high = math.log(1e-4), math.log(1e4)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if entropy(softmax(logs, math.exp(middle))) < target else (low, middle)
    return math.exp((low + high) / 2)


def inverse_cdf(p, coin):
    total = 0.0
    for place, share in enumerate(p):
        total += share
        if coin < total:
            return place
    return p.index(max(p))


def kl(p, logs):
    return max(sum(x * (math.log(x) - log) for x, log in zip(p, logs) if x > 0), 1e-9)


def toward(mean, value, rate):
    return mean + rate * (value - mean)


def step(state, ln_p, h, v, coin):
    """One token: `ln_p` falling, at most `candidates` of them; the state after it, the place, how."""
    def floored(log):
        return min(max(log, P["floor"]), -1e-9)
    rest = max(1 - sum(math.exp(log) for log in ln_p), 0)
    logs = [floored(log) for log in ln_p] + [floored(math.log(rest) if rest > 0 else -math.inf)]
    n_plain = min(P["plain_top"], len(ln_p))
    plain = softmax(logs[:n_plain])
    if state is None:
        alpha = fit(logs)
        state = {"h": [h, h], "v": [v, v], "c": [h, h], "d": [v, v], "t": 1.0, "s": -ln_density(alpha, logs),
                 "k": entropy(plain), "logs": logs[:], "alpha": alpha}
    stream = Stream(coin)
    s = state
    spread = sum(math.sqrt(x) for x in s["d"] + s["v"]) / 4
    above = P["outlier_entropy"] * (h - s["h"][0]) + P["outlier_deviation"] * (math.sqrt(v) - math.sqrt(s["v"][0]))
    changed = [0.0] * len(logs)
    if above <= P["outlier_spread"] * spread + P["outlier_bias"]:
        if entropy(plain) < P["sure"]["weight"] * s["k"] + P["sure"]["bias"]:
            place, how, changed[0] = 0, "argmax", 1.0
        else:
            drawn_from = softmax(logs[:n_plain], temperature_of(logs[:n_plain], s["k"]))
            place, how = inverse_cdf(drawn_from, stream.next()), "draw"
            changed[:n_plain] = drawn_from
    else:
        weights = P["target"]
        means = [s["c"][1], s["c"][0], s["h"][1], s["h"][0]]
        target = sum(w * m for w, m in zip(weights, means)) / sum(weights)
        temperature = temperature_of(logs, target)
        likely = softmax(logs, temperature)
        q = [max(math.log(x) if x > 0 else -math.inf, P["floor"]) for x in likely]
        kappa = P["support_base"] ** (-P["support_factor"] / kl(likely, s["logs"]))
        s["logs"] = [toward(m, x, kappa) for m, x in zip(s["logs"], q)]
        surprise = -ln_density(s["alpha"], q)
        s["alpha"] = fit(s["logs"])
        drawn = stream.dirichlet(s["alpha"])
        is_likely = surprise < P["likely"]["weight"] * s["s"] + P["likely"]["bias"]
        s["s"] = toward(s["s"], surprise, P["rate"])
        s["t"] = toward(s["t"], temperature, P["rate"])
        if is_likely:
            share = 1 - P["mix_base"] ** (-P["mix_factor"] / kl(drawn, q))
            changed = [share * d + (1 - share) * x for d, x in zip(drawn, likely)]
            place, how = changed.index(max(changed[:-1])), "argmax"
        else:
            changed = drawn
            total = sum(drawn[:-1])
            place = inverse_cdf([x / total for x in drawn[:-1]], stream.next()) if total > 0 else 0
            how = "draw"
    hs = entropy(changed)
    vs = sum(x * (math.log(x) + hs) ** 2 for x in changed if x > 0)
    losses = [-logs[place], -max(math.log(changed[place]) if changed[place] > 0 else -math.inf, P["floor"])]
    for i, (x, y) in enumerate([(h, v), (hs, vs)]):
        s["h"][i] = toward(s["h"][i], x, P["rate"])
        s["v"][i] = toward(s["v"][i], y, P["rate"])
        s["d"][i] = toward(s["d"][i], (losses[i] - s["c"][i]) ** 2, P["variance_rate"][["model", "changed"][i]])
        s["c"][i] = toward(s["c"][i], losses[i], P["cross_rate"])
    s["k"] = toward(s["k"], entropy(plain), P["rate"])
    return s, place, how


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, default=ROOT / "tests/data/dslider.json")
    args = parser.parse_args()
    rng = random.Random(20)
    lines = []
    for n in [3, 10, 40, 100]:
        state, steps = None, []
        for _ in range(60):
            scale = rng.choice([0.3, 2.0, 2.0, 12.0])
            logits = [round(rng.gauss(0, 1) * scale, 3) for _ in range(n)]
            p = softmax(logits)
            h = entropy(p)
            v = sum(x * (math.log(x) + h) ** 2 for x in p if x > 0)
            order = sorted(range(n), key=lambda i: (-p[i], i))[: P["candidates"]]
            coin = rng.getrandbits(64)
            ln_p = [max(math.log(p[i]) if p[i] > 0 else -745.0, -745.0) for i in order]
            state, place, how = step(state, ln_p, h, v, coin)
            numbers = state["h"] + state["v"] + state["c"] + state["d"] + [state["t"], state["s"], state["k"]]
            steps.append({"logits": logits, "coin": str(coin), "token": order[place], "decision": how,
                          "state": [float(f"{x:.8g}") for x in numbers]})
        lines.append(steps)
    args.o.write_text(json.dumps({"made_by": "scripts/record_dslider.py", "lines": lines}, separators=(",", ":")) + "\n")
    kinds = [s["decision"] for line in lines for s in line]
    print(f"{len(kinds)} steps, {kinds.count('draw')} draws -> {args.o}")


if __name__ == "__main__":
    main()
