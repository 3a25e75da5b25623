#!/usr/bin/env python3
"""Record what the entropix presets must decide: tests/data/policies.json.

Works from the formulas as they were published, in bits, and shares nothing with the policy files or the engine:
  attic        xjdr-alt/entropix, branch attic, entropix/sampler.py (JAX): SamplerConfig and sample()
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


def smollm_135m(ent, vent, a_ent, a_vent, agree, inter, asked):
    calm = a_ent < 7.84 and a_vent < 5.112
    if ent < 0.5 and vent < 3.18 and calm:
        return "lelv", {"decision": "argmax"}
    if ent > 2.07 and vent < 3.18 and calm:
        return ("helv", hot_helv(a_ent)) if asked else ("helv-ask", {"decision": "inject"})
    if ent < 2.07 and vent > 6.08 and a_ent < 7.84 and a_vent > 6.82:
        return "lehv", hot_lehv(agree, inter)
    if ent > 1.484 and vent > 6.08 and a_ent > 7.41 and a_vent > 6.82:
        return "hehv", hot_hehv(a_ent, a_vent)
    return "adaptive", adaptive(ent, a_ent, vent, a_vent, agree, inter)


# Where each policy's regions lie, so that every one of them is met often: (low, high) of each signal in bits.
CORNERS = {
    "attic": {"entropy": [(0, 0.2), (2.5, 5.5), (4.5, 9), (0, 9)], "varentropy": [(0, 0.2), (4, 7), (0, 12)]},
    "smollm-135m": {"entropy": [(0, 0.8), (1.2, 2.5), (0, 6)], "varentropy": [(0, 3.5), (5.5, 9), (0, 12)]},
}
ATTENTION = {
    "attn_entropy": [(0, 4), (7.2, 8.2), (0, 12)],
    "head_spread": [(0, 2), (4.5, 8), (0, 12)],
    "head_disagreement": [(0, 1e-5), (0, 0.02), (0, 1)],
    "interaction": [(0, 0.4), (0, 8)],
}
RULES = {"attic": attic, "smollm-135m": smollm_135m}
THRESHOLDS = [0.1, 5.0, 3.0, 0.5, 3.18, 2.07, 6.08, 1.484, 7.84, 5.112, 7.41, 6.82]


def near_a_rounding(value):
    """Whether top_k before rounding is so near a step that 32-bit signals could fall on its other side."""
    return min(abs(value % 1), abs(value % 1 - 0.5), abs(value % 1 - 1)) < 1e-3


def cases(policy, n, rng):
    signals = {**CORNERS[policy], **ATTENTION}
    while n > 0:
        case = {name: rng.uniform(*rng.choice(spans)) for name, spans in signals.items()}
        k, agree, inter = BASE["top_k"], case["head_disagreement"], case["interaction"]
        if near_a_rounding(k * (1 + 0.3 * inter - 0.2 * agree)) or near_a_rounding(k * (1.5 - 0.5 * agree)):
            continue
        if any(math.isclose(x, t, rel_tol=1e-4) for x in case.values() for t in THRESHOLDS):
            continue
        asked = rng.random() < 0.4
        names = ("entropy", "varentropy", "attn_entropy", "head_spread", "head_disagreement", "interaction")
        region, decision = RULES[policy](*(case[name] for name in names), asked)
        yield {"policy": policy, **case, "last_is_ellipsis": asked, "region": region, **decision}
        n -= 1


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=root / "tests/data/policies.json")
    parser.add_argument("-n", type=int, default=600, help="cases a policy")
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
