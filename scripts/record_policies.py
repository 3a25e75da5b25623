#!/usr/bin/env python3
"""Record what the entropix presets must decide: tests/data/policies.json.

Works from the formulas as they were published, in bits, and shares nothing with the policy files or the engine:
  attic        xjdr-alt/entropix, branch attic, entropix/sampler.py (JAX): SamplerConfig and sample()
  frog         the same repository, branches frog and 70B
  server       the same repository, branch evals and commit 9d41be6
  local-1b     SinatrasC/entropix-local, branch main: frog with other thresholds
  mlx          samefarrar/entropix_mlx, branch main: the rules of attic
  smollm-*     SinatrasC/entropix-smollm: frog with other thresholds; of these
  smollm-135m  SinatrasC/entropix-smollm, smollm_entropix_torch.ipynb, constants of the 135M model, agreement and
               interaction conditions off
Deterministic; standard library only. Usage: scripts/record_policies.py [-o FILE]
"""

import argparse
import json
import math
import random
from pathlib import Path

BASE = {"temp": 0.666, "top_p": 0.90, "top_k": 27, "min_p": 0.03}


def draw(temperature, top_p=BASE["top_p"], top_k=BASE["top_k"], min_p=BASE["min_p"], n=1):
    kind = "draw" if n == 1 else "best_of"
    return {"decision": kind, "n": n, "temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}


def hot_helv(a_ent):
    return draw(min(1.5, BASE["temp"] * (1.3 + 0.2 * a_ent)))


def hot_lehv(agree, inter):
    top_k = max(5, int(BASE["top_k"] * (1 + 0.5 * (1 - agree))))
    return draw(min(1.5, BASE["temp"] * (1.2 + 0.3 * inter)), top_k=top_k)


def hot_hehv(a_ent, a_vent):
    top_p = max(0.5, BASE["top_p"] - 0.2 * a_ent)
    return draw(max(2.0, BASE["temp"] * (2.0 + 0.5 * a_vent)), top_p=top_p)


def clip(x, low, high):
    return max(low, min(high, x))


def adaptive(logit_doubt, attn_doubt, min_p_doubt, a_vent, agree, inter):
    return draw(
        BASE["temp"] * (1 + 0.3 * logit_doubt + 0.2 * attn_doubt - 0.2 * agree),
        top_p=clip(BASE["top_p"] * (1 + 0.1 * a_vent), 0.1, 1.0),
        top_k=int(clip(round(BASE["top_k"] * (1 + 0.3 * inter - 0.2 * agree)), 1, 100)),
        min_p=clip(BASE["min_p"] * (1 - 0.5 * min_p_doubt), 0.01, 0.5),
        n=5,
    )


def attic(ent, vent, a_ent, a_vent, agree, inter, asked):
    if ent < 0.1 and vent < 0.1:
        return "lelv", {"decision": "argmax"}
    if ent > 5.0 and vent < 0.1:
        return ("helv", hot_helv(a_ent)) if asked else ("helv-ask", {"decision": "inject"})
    if ent < 5.0 and vent > 5.0:
        return "lehv", hot_lehv(agree, inter)
    if ent > 3.0 and vent > 5.0:
        return "hehv", hot_hehv(a_ent, a_vent)
    return "adaptive", adaptive(ent + vent, a_ent + a_vent, ent + vent, a_vent, agree, inter)


def frog_like(h, v, a_h, a_v, agr=None, inter=None):
    """The rules of frog; each argument is (low, medium, high) thresholds, or None where a condition is off."""

    def rule(ent, vent, a_ent, a_vent, agree, strength, asked):
        calm = a_ent < a_h[0] and a_vent < a_v[0]
        calm = calm and (agr is None or agree < agr[0]) and (inter is None or strength < inter[0])
        if ent < h[0] and vent < v[0] and calm:
            return "lelv", {"decision": "argmax"}
        if ent > h[2] and vent < v[0] and calm:
            return ("helv", hot_helv(a_ent)) if asked else ("helv-ask", {"decision": "inject"})
        forked = (agr is None or agree < agr[0]) and (inter is None or strength > inter[0])
        if ent < h[2] and vent > v[2] and a_ent < a_h[0] and a_vent > a_v[2] and forked:
            return "lehv", hot_lehv(agree, strength)
        lost = (agr is None or agree > agr[2]) and (inter is None or strength > inter[2])
        if ent > h[1] and vent > v[2] and a_ent > a_h[2] and a_vent > a_v[2] and lost:
            return "hehv", hot_hehv(a_ent, a_vent)
        return "adaptive", adaptive(ent, a_ent, vent, a_vent, agree, strength)

    return rule


def server(ent, vent, a_ent, a_vent, agree, inter, asked):
    temp, top_p, top_k, min_p = 0.8, 0.9, 40, 0.05
    plain = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    if ent < 0.8 and vent < 0.4 and a_ent < 1.0 and a_vent < 0.3:
        return "lelv", {"decision": "argmax"}
    if ent > 2.5 and vent < 0.4 and a_ent < 1.0 and a_vent < 0.3:
        return "helv", {"decision": "inject"}
    if ent < 2.5 and vent > 1.2 and a_ent < 1.0 and a_vent > 0.8:
        return "lehv", draw(temp, **plain)
    if ent > 1.7 and vent > 1.2 and a_ent > 2.0 and a_vent > 0.8:
        hot = {**plain, "top_p": max(0.5, top_p - 0.3 * a_ent)}
        return "hehv", draw(min(2.0, temp * (0.3 + 0.25 * a_vent)), **hot)
    nats = ent * math.log(2)
    heat = clip(temp * math.sqrt((1.2 * nats + 2.0) / nats), 0.1, 2.0)
    return "adaptive", draw(heat, n=5, **{**plain, "min_p": clip(min_p * (1 - 0.2 * vent), 0.01, 0.5)})


# Where each policy's regions lie, so that every one of them is met often: (low, high) of each signal in bits.
FROG_CORNERS = {"entropy": [(0, 0.012), (0.3, 2.6), (0, 6)], "varentropy": [(0, 0.06), (5, 7), (0, 12)]}
SMOLLM_CORNERS = {"entropy": [(0, 0.8), (1.2, 2.5), (0, 6)], "varentropy": [(0, 3.5), (5.5, 9), (0, 12)]}
ATTIC_CORNERS = {"entropy": [(0, 0.2), (2.5, 5.5), (4.5, 9), (0, 9)], "varentropy": [(0, 0.2), (4, 7), (0, 12)]}
CORNERS = {
    "attic": ATTIC_CORNERS,
    "smollm-135m": SMOLLM_CORNERS,
    "frog": FROG_CORNERS,
    "local-1b": FROG_CORNERS,
    "smollm-360m": SMOLLM_CORNERS,
    "smollm-1.7b": SMOLLM_CORNERS,
    "mlx": ATTIC_CORNERS,
    "server": {"entropy": [(0, 1), (1.5, 3.5), (0, 6)], "varentropy": [(0, 0.5), (1, 3), (0, 12)]},
}
ATTENTION = {
    "attn_entropy": [(0, 4), (7.2, 8.2), (0, 12)],
    "head_spread": [(0, 2), (4.5, 8), (0, 12)],
    "head_disagreement": [(0, 1e-5), (0, 0.02), (0, 1)],
    "interaction": [(0, 0.4), (0, 8)],
}
FROG_ATTENTION = {
    "attn_entropy": [(8, 11.9), (11.9, 12.5)],
    "head_spread": [(0, 0.0012), (0.005, 0.02)],
    "head_disagreement": [(0, 2.2e-6), (4e-6, 8e-6), (0, 0.02)],
    "interaction": [(0, 0.21), (0.2, 0.4)],
}
ATTENTIONS = {
    "frog": FROG_ATTENTION,
    "local-1b": FROG_ATTENTION,
    "smollm-360m": {**ATTENTION, "attn_entropy": [(4, 5.8), (6, 8)], "head_spread": [(5, 7.2), (8, 9)]},
    "smollm-1.7b": {**ATTENTION, "attn_entropy": [(6, 8.2), (8.3, 9)], "head_spread": [(8, 10), (10, 12)]},
    "server": {**ATTENTION, "attn_entropy": [(0, 1.1), (1.9, 6)], "head_spread": [(0, 0.35), (0.7, 8)]},
}
H, V = (0.01, 0.7, 2.1), (0.05, 2.0, 5.8)
A_H, A_V = (11.915, 11.921, 11.926), (0.001, 0.0045, 0.009)
SMOLLM_H = (0.5, 1.484, 2.07)
RULES = {
    "attic": attic,
    # The thresholds of attention entropy are inverted in the source.
    "smollm-135m": frog_like(SMOLLM_H, (3.18, 3.75, 6.08), (7.84, 7.656, 7.41), (5.112, 5.8125, 6.82)),
    "frog": frog_like(H, V, A_H, A_V, (2e-6, 4e-6, 5e-6), (0.2, 0.247, 0.264)),
    "local-1b": frog_like(H, V, A_H, A_V, (1.8e-6, 3.8e-6, 4.8e-6), (0.18, 0.227, 0.244)),
    "smollm-360m": frog_like(SMOLLM_H, (1.28, 3.75, 6.08), (5.875, 6.125, 6.415), (7.125, 7.6, 8.25)),
    "smollm-1.7b": frog_like(SMOLLM_H, (1.28, 3.75, 6.08), (8.075, 8.3125, 8.475), (9.875, 10.125, 10.275)),
    "mlx": attic,
    "server": server,
}
THRESHOLDS = [0.1, 5.0, 3.0, 0.5, 3.18, 2.07, 6.08, 1.484, 7.84, 5.112, 7.41, 6.82, 0.01, 0.7, 2.1, 0.05, 5.8, 11.915]
THRESHOLDS += [11.926, 0.001, 0.009, 2e-6, 5e-6, 0.2, 0.264, 1.8e-6, 4.8e-6, 0.18, 0.244, 1.28, 5.875, 6.415, 7.125]
THRESHOLDS += [8.25, 8.075, 8.475, 9.875, 10.275, 0.8, 0.4, 1.0, 0.3, 2.5, 1.2, 1.7, 2.0]


def near_a_step(value, step=0.0):
    """Whether a number is so near step, 1 + step, ... that 32-bit signals could fall on its other side."""
    return abs((value - step + 0.5) % 1 - 0.5) < 1e-3


def regions(policy):
    return ["lelv", "helv", "lehv", "hehv", "adaptive"] + ([] if policy == "server" else ["helv-ask"])


def cases(policy, n, rng):
    """n cases of each region, from all over the region."""
    signals = {**CORNERS[policy], **ATTENTIONS.get(policy, ATTENTION)}
    missing = {region: n for region in regions(policy)}
    while any(missing.values()):
        case = {name: rng.uniform(*rng.choice(spans)) for name, spans in signals.items()}
        k, agree, inter = BASE["top_k"], case["head_disagreement"], case["interaction"]
        asked = rng.random() < 0.4
        names = ("entropy", "varentropy", "attn_entropy", "head_spread", "head_disagreement", "interaction")
        region, decision = RULES[policy](*(case[name] for name in names), asked)
        if missing[region] == 0:
            continue
        # One top_k is rounded to the nearest, the other one down.
        if near_a_step(k * (1 + 0.3 * inter - 0.2 * agree), 0.5) or near_a_step(k * (1.5 - 0.5 * agree)):
            continue
        if any(math.isclose(x, t, rel_tol=1e-4) for x in case.values() for t in THRESHOLDS):
            continue
        missing[region] -= 1
        yield {"policy": policy, **case, "last_is_ellipsis": asked, "region": region, **decision}


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=root / "tests/data/policies.json")
    parser.add_argument("-n", type=int, default=25, help="cases a region")
    options = parser.parse_args()
    rng = random.Random(20241010)
    record = [case for policy in RULES for case in cases(policy, options.n, rng)]
    for case in record:
        case.update({key: float(f"{value:.7g}") for key, value in case.items() if isinstance(value, float)})
    lines = ",\n".join(json.dumps(case) for case in record)
    options.output.write_text('{"unit": "bit", "made_by": "scripts/record_policies.py", "cases": [\n' + lines + "\n]}\n")
    print(f"{options.output}: {len(record)} cases")


if __name__ == "__main__":
    main()
