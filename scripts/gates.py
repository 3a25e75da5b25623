#!/usr/bin/env python3
"""Which gates of speed are met: of what `entropix bench kernels -o json` and scripts/bench_torch wrote. What is not there is said
to be not measured, and why; a gate is met only if all of it was measured. Needs no PyTorch."""
import argparse
import json
import os

# Signals and draws cost at most this share of a plain greedy step, and so do attention signals.
MOST_SHARE = 0.02
SHARE_ROWS = (1, 8, 32, 64, 128, 256)
SHAPE, CONTEXT = "llama-3.2-1b", 512
# The sampler of the family takes at least so many times what our signals and draws take, the usual chain so many times.
LEAST_TIMES, LEAST_CHAIN_TIMES = 10, 2
SAMPLER_ROWS = 256
# Our head with its signals takes at most so many times what the bare product takes.
MOST_HEAD = 1.03
HEAD_ROWS = (1, 8, 32, 64, 128)
HEAD_SHAPES = ("smollm2-135m", "llama-3.2-1b", "llama-3.1-8b")

# Bits that do not depend on the batch cost something where products are limited by arithmetic: of what a library's would reach
# with 128 rows and more, and with prompts, so much is wanted.
SAME_BITS = 0.8
# (model, rows, context), or (model, "prompt", tokens): microseconds that its bytes and operations take on an H200 by themselves
# (4.3 TB/s, 790 TFLOP/s), the share of our time that this should be, and how many times our time PyTorch should take for the same
# step with entropy and varentropy, recorded in a CUDA graph (none for what bench_torch does not measure).
CELLS = {
    ("llama-3.2-1b", 1, 512): (579, 0.85, 1.25),
    ("llama-3.2-1b", 8, 512): (606, 0.82, 1.3),
    ("llama-3.2-1b", 32, 512): (700, 0.80, 1.35),
    ("llama-3.2-1b", 64, 512): (824, 0.78, 1.4),
    ("llama-3.2-1b", 256, 512): (1800, 0.75 * SAME_BITS, 1.3 * SAME_BITS),
    ("llama-3.2-1b", 256, 2048): (4796, 0.83 * SAME_BITS, None),
    ("llama-3.1-8b", 1, 512): (3506, 0.93, 1.05),
    ("llama-3.1-8b", 64, 512): (4489, 0.84, 1.1),
    ("llama-3.1-8b", 256, 512): (8859, 0.78 * SAME_BITS, 1.1 * SAME_BITS),
    ("smollm2-135m", 1, 512): (65, 0.35, 2.5),
    ("smollm2-135m", 256, 512): (789, 0.65 * SAME_BITS, 3 * SAME_BITS),
    ("llama-3.2-1b:Q4_0", 1, 512): (183, 0.65, None),
    ("llama-3.1-8b:Q4_0", 1, 512): (977, 0.80, None),
    ("llama-3.2-1b", "prompt", 2048): (5400, 0.70 * SAME_BITS, None),
    ("llama-3.1-8b", "prompt", 2048): (37600, 0.78 * SAME_BITS, None),
}


def steps_of(files):
    """{(model, rows, context): step} of what `entropix bench kernels -o json` wrote, the later file's; a prompt's is
    (model, "prompt", tokens)."""
    found = {}
    for file in files:
        with open(file) as text:
            for step in json.load(text):
                what = (step["rows"], step["context"]) if step["tokens"] == 1 else ("prompt", step["tokens"])
                found[step["model"].removeprefix("random:"), *what] = step
    return found


def of_rows(model, rows):
    return f"{model}, {rows} row{'s' if rows > 1 else ''}"


def ablation(step, name, regime=None, of="us"):
    """Microseconds of an ablation of a step ({"name", "regime", "us": [median, least, most], "extra_us"}), None where it has no
    such. Whole steps: "greedy" (no signals but the likeliest token), "signals" (entropy and varentropy too), "attention"
    (attention signals too); their "extra_us" is what they take beyond the one before, in pairs. Of a regime, by itself: "draw"."""
    for entry in (step or {}).get("ablations") or []:
        if entry["name"] == name and entry.get("regime") == regime:
            return (entry.get(of) or [None])[0]
    return None


def gate(name, what, bar, found, missing, most=None, least=None):
    """A row of the table. `found`: (of what, number); `missing`: what would have to be measured besides."""
    bad = [(of, x) for of, x in found if not (x <= most if least is None else x >= least)]
    worst = max(found, key=lambda of_x: of_x[1] if least is None else -of_x[1], default=None)
    if bad:
        verdict = "not met"
    elif missing:
        verdict = f"not measured: {missing[0]}" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
    else:
        verdict = "met"
    return {"gate": name, "what": what, "bar": bar, "worst": worst, "verdict": verdict, "found": found, "missing": missing}


def share_gate(name, what, steps, costs):
    """What `costs(step)` (microseconds, or words that say what is missing) takes of a plain greedy step."""
    found, missing = [], []
    for rows in SHARE_ROWS:
        step = steps.get((SHAPE, rows, CONTEXT))
        of = of_rows(SHAPE, rows)
        greedy = ablation(step, "greedy")
        if step is None:
            missing.append(f"no decode step of {of} at {CONTEXT} positions")
        elif greedy is None:
            missing.append(f"no plain greedy step of {of}")
        else:
            for label, cost in costs(step):
                if isinstance(cost, str):
                    missing.append(f"{cost} of {of}")
                else:
                    found.append((f"{of}{label}", cost / greedy))
    return gate(name, what, f"<= {MOST_SHARE:.0%} of a step", found, missing, most=MOST_SHARE)


def sampler_costs(step):
    """(regime, microseconds of signals and draws) of a step, or words that say what is missing."""
    signals = ablation(step, "signals", of="extra_us")
    for regime in ("flat", "typical", "peaked"):
        draw = ablation(step, "draw", regime)
        if signals is None:
            yield f", {regime}", "no step with and without signals"
        elif draw is None:
            yield f", {regime}", f"no draw ({regime})"
        else:
            yield f", {regime}", signals + draw


def attention_costs(step):
    """Microseconds of attention signals."""
    attention = ablation(step, "attention", of="extra_us")
    yield "", "no step with attention signals" if attention is None else attention


def sampler_gate(name, what, steps, samplers, peers, times):
    """How many times our signals and draws the fastest of some peers takes."""
    found, missing = [], []
    step = steps.get((SHAPE, SAMPLER_ROWS, CONTEXT))
    for label, ours in sampler_costs(step) if step else ():
        regime = label.removeprefix(", ")
        here = [s for s in samplers if s["regime"] == regime and s["shape"] == SHAPE and s["rows"] == SAMPLER_ROWS and s["peer"] in peers]
        known = [s for s in here if s["us"]]
        if isinstance(ours, str):
            missing.append(f"{ours} of {of_rows(SHAPE, SAMPLER_ROWS)}")
        elif not known:
            why = here[0]["why"] if here else "no results of bench_torch"
            missing.append(f"{' or '.join(peers)}, {regime}: {why}")
        else:
            peer = min(known, key=lambda s: s["us"][0])
            found.append((f"{regime}, {peer['peer']} {peer['how']}", peer["us"][0] / ours if ours > 0 else float("inf")))
    if step is None:
        missing.append(f"no decode step of {of_rows(SHAPE, SAMPLER_ROWS)} at {CONTEXT} positions")
    return gate(name, what, f">= {times} times", found, missing, least=times)


def head_gate(steps, heads):
    """How many times what the bare product takes our head takes, whatever the positions of its step."""
    found, missing = [], []
    bare = {(head["shape"], head["rows"]): head["us"][0] for head in heads}
    ours = {}
    for (model, rows, _), step in steps.items():
        if rows == "prompt":
            continue
        for kernel in step["kernels"]:
            if kernel["kernel"].startswith("head_"):
                ours.setdefault((model, rows), kernel["us"][0])
    for key in ((shape, rows) for shape in HEAD_SHAPES for rows in HEAD_ROWS):
        of = of_rows(*key)
        if key not in ours:
            missing.append(f"no decode step of {of}")
        elif key not in bare:
            missing.append(f"no bare product of bench_torch for {of}")
        else:
            found.append((of, ours[key] / bare[key]))
    return gate("E5", "LM head with signals, times the bare product", f"<= {MOST_HEAD}", found, missing, most=MOST_HEAD)


def judge(steps, measured):
    """The gates and the cells, of our steps and what bench_torch measured."""
    measured = measured or {}
    samplers = measured.get("samplers", [])
    family = ("as_written", "shared")
    gates = [
        share_gate("E1", "entropy, varentropy and the draw, of a plain greedy step", steps, sampler_costs),
        share_gate("E2", "attention signals, of a plain greedy step", steps, attention_costs),
        sampler_gate("E4", "the family's sampler in PyTorch, times signals and draw", steps, samplers, family, LEAST_TIMES),
        sampler_gate("E4", "FlashInfer's chain, times signals and draw", steps, samplers, ("flashinfer_chain",), LEAST_CHAIN_TIMES),
        head_gate(steps, measured.get("heads", [])),
    ]
    peers = {(peer["shape"], peer["rows"], peer["context"]): peer["signals_us"][0] for peer in measured.get("results", [])}
    cells = []
    for key, (floor, share, times) in CELLS.items():
        model, rows, context = key
        step = steps.get(key)
        us = step and step["us"][0]
        cells.append({
            "model": model, "rows": rows, "context": context, "us": us, "floor_us": floor, "wanted_share": share,
            "torch_us": peers.get(key), "wanted_times": times,
        })
    return {"gates": gates, "cells": cells}


def verdict(found, wanted):
    """Of a cell: what is not there is neither."""
    return "not measured" if found is None else "met" if found >= wanted else "not met"


def markdown(table):
    """Lines."""
    lines = ["| gate | what | worst measured | of | bar | |", "|---|---|---:|---|---:|---|"]
    for g in table["gates"]:
        of, worst = g["worst"] or ("-", None)
        shown = "-" if worst is None else f"{worst:.2%}" if "step" in g["bar"] else f"{worst:.3f}"
        lines.append(f"| {g['gate']} | {g['what']} | {shown} | {of} | {g['bar']} | {g['verdict']} |")
    lines += [
        "",
        "| model | rows | positions | floor, us | us | % of floor | wanted | | PyTorch, times | wanted | |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    for c in table["cells"]:
        us, share = c["us"], c["us"] and c["floor_us"] / c["us"]
        times = us and c["torch_us"] and c["torch_us"] / us
        wanted = c["wanted_times"]
        row = [c["model"], c["rows"], c["context"], c["floor_us"], f"{us:.1f}" if us else "-"]
        row += [f"{share:.1%}" if us else "-", f"{c['wanted_share']:.0%}", verdict(share, c["wanted_share"])]
        row += [f"{times:.2f}" if times else "-", f"{wanted:.2f}" if wanted else "-", verdict(times, wanted) if wanted else ""]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return lines


def write(table, folder):
    """gates.json and gates.md in a folder."""
    with open(os.path.join(folder, "gates.json"), "w") as file:
        json.dump(table, file, indent=1)
    with open(os.path.join(folder, "gates.md"), "w") as file:
        file.write("\n".join(markdown(table)) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", action="append", default=[], help="JSON of bench kernels; more than once")
    parser.add_argument("--torch", help="JSON of bench_torch; without it, or if it is not there, its gates are not measured")
    parser.add_argument("-o", "--out", default=".", help="folder of gates.json and gates.md [%(default)s]")
    args = parser.parse_args()
    measured = None
    if args.torch and os.path.exists(args.torch):
        with open(args.torch) as text:
            measured = json.load(text)
    table = judge(steps_of(args.ours), measured)
    write(table, args.out)
    print("\n".join(markdown(table)))


if __name__ == "__main__":
    main()
