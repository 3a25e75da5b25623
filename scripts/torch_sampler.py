"""What bench_torch holds our signals and draws against: the sampler of xjdr-alt/entropix (its branch attic, as
crates/engine/presets/attic.toml has it) in PyTorch for a batch whose rows each decide for themselves, and the usual chain of
temperature, top-k and top-p with a pass for the entropy. Nothing of them waits for the host, so both can be recorded."""
import math

import torch
import torch.nn.functional as F

LN_2 = math.log(2)
N_DRAWS = 5  # of which the likeliest is kept
WIDEST = 100  # the largest top-k that the sampler takes
PAUSE = 2564  # " ..." in the vocabulary of Llama 3
TEMPERATURE, TOP_P, TOP_K, MIN_P = 0.666, 0.9, 27, 0.03
CHAIN_TEMPERATURE = 0.8

# regime: (standard deviation of the logits, what tokens at random get on top)
REGIMES = {
    "flat": (0.9, []),
    "typical": (3.0, [6 + 6 * i / 19 for i in range(20)]),
    "peaked": (0.9, [20.0]),
}


def random_logits(regime, rows, vocab, device):
    """(rows, vocab) f32."""
    deviation, peaks = REGIMES[regime]
    logits = torch.randn(rows, vocab, device=device) * deviation
    if peaks:
        at = torch.rand(rows, vocab, device=device).topk(len(peaks), dim=-1).indices
        logits.scatter_add_(1, at, torch.tensor(peaks, device=device).expand(rows, -1).contiguous())
    return logits


def attention_metrics(rows, device):
    """What the sampler is told of attention, taken as known: its entropy (bits), the spread of the heads' entropies, their
    disagreement and the interaction strength, (rows) each."""
    return [torch.full((rows,), value, device=device) for value in (3.0, 0.5, 0.01, 1.0)]


def entropy_and_varentropy(logits):
    """(rows) in bits and bits squared, and the log-probabilities (rows, vocab)."""
    log_probs = F.log_softmax(logits, dim=-1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs).sum(dim=-1) / LN_2
    varentropy = (probs * (log_probs / LN_2 + entropy[:, None]) ** 2).sum(dim=-1)
    return entropy, varentropy, log_probs


def settings(entropy, varentropy, attention):
    """Temperature, top-p, top-k and min-p of each row (rows, 1), and the rows that take the likeliest token, that pause and
    that keep the best of several draws."""
    attn_entropy, spread, disagreement, interaction = attention
    sure = (entropy < 0.1) & (varentropy < 0.1)
    pause = ~sure & (entropy > 5) & (varentropy < 0.1)
    forks = ~sure & ~pause & (entropy < 5) & (varentropy > 5)
    mist = ~sure & ~pause & ~forks & (entropy > 3) & (varentropy > 5)
    adaptive = ~(sure | pause | forks | mist)
    doubt = entropy + varentropy

    def choose(adapted, of_pause, of_forks, of_mist):
        chosen = torch.where(mist, of_mist, torch.where(forks, of_forks, torch.where(pause, of_pause, adapted)))
        return chosen[:, None]

    same = torch.ones_like(entropy)
    temperature = choose(
        TEMPERATURE * (1 + 0.3 * doubt + 0.2 * (attn_entropy + spread) - 0.2 * disagreement),
        (TEMPERATURE * (1.3 + 0.2 * attn_entropy)).clamp(max=1.5),
        (TEMPERATURE * (1.2 + 0.3 * interaction)).clamp(max=1.5),
        (TEMPERATURE * (2.0 + 0.5 * spread)).clamp(min=2.0),
    )
    top_p = choose((TOP_P * (1 + 0.1 * spread)).clamp(0.1, 1.0), TOP_P * same, TOP_P * same, (TOP_P - 0.2 * attn_entropy).clamp(min=0.5))
    top_k = choose(
        (TOP_K * (1 + 0.3 * interaction - 0.2 * disagreement)).round().clamp(1, WIDEST),
        TOP_K * same,
        (TOP_K * (1 + 0.5 * (1 - disagreement))).floor().clamp(min=5),
        TOP_K * same,
    )
    min_p = choose((MIN_P * (1 - 0.5 * doubt)).clamp(0.01, 0.5), MIN_P * same, MIN_P * same, MIN_P * same)
    return (temperature, top_p, top_k, min_p), (sure, pause, adaptive)


def truncate(logits, temperature, top_p, top_k, min_p):
    """The probabilities that may be drawn from, falling, and their tokens, (rows, WIDEST) each. As in the source top-p counts
    the mass of the whole vocabulary; unlike there min-p has an effect and top-p keeps the likeliest."""
    probs = F.softmax(logits / temperature, dim=-1)
    probs = torch.where(probs < min_p * probs.amax(dim=-1, keepdim=True), 0.0, probs)
    top, tokens = probs.topk(min(WIDEST, probs.shape[-1]), dim=-1)
    before = top.cumsum(dim=-1) - top
    is_in = (torch.arange(top.shape[-1], device=top.device) < top_k) & (before <= top_p)
    top = torch.where(is_in, top, 0.0)
    return top / top.sum(dim=-1, keepdim=True), tokens


def toss(probs, tokens):
    """A token a row, (rows, 1)."""
    return tokens.gather(-1, (probs / torch.empty_like(probs).exponential_()).argmax(dim=-1, keepdim=True))


def decide(drawn, scores, groups, likeliest, last):
    """The token of each row, (rows): of its draws (rows, N_DRAWS) the one of the best score where it adapts, else the first."""
    sure, pause, adaptive = groups
    best = drawn.gather(-1, scores.argmax(dim=-1, keepdim=True)).squeeze(-1)
    token = torch.where(adaptive, best, drawn[:, 0])
    token = torch.where(pause & (last != PAUSE), PAUSE, token)
    return torch.where(sure, likeliest, token)


def as_written(logits, attention, last):
    """(tokens, entropy, varentropy) of the rows: every draw truncates and every score normalises for itself."""
    entropy, varentropy, _ = entropy_and_varentropy(logits)
    filters, groups = settings(entropy, varentropy, attention)
    drawn = [toss(*truncate(logits, *filters)) for _ in range(N_DRAWS)]
    scores = [F.log_softmax(logits, dim=-1).gather(-1, token) for token in drawn]
    tokens = decide(torch.cat(drawn, dim=-1), torch.cat(scores, dim=-1), groups, logits.argmax(dim=-1), last)
    return tokens, entropy, varentropy


def shared(logits, attention, last):
    """As as_written, what the draws have in common computed once: the strongest peer that this sampler makes."""
    entropy, varentropy, log_probs = entropy_and_varentropy(logits)
    filters, groups = settings(entropy, varentropy, attention)
    probs, tokens = truncate(logits, *filters)
    drawn = torch.cat([toss(probs, tokens) for _ in range(N_DRAWS)], dim=-1)
    return decide(drawn, log_probs.gather(-1, drawn), groups, tokens[:, 0], last), entropy, varentropy


def sort_chain(logits, attention, last):
    """(tokens, entropy, varentropy) with one temperature, top-k and top-p for all, by a sort of the vocabulary."""
    entropy, varentropy, _ = entropy_and_varentropy(logits)
    probs, tokens = F.softmax(logits / CHAIN_TEMPERATURE, dim=-1).sort(dim=-1, descending=True)
    before = probs.cumsum(dim=-1) - probs
    is_in = (torch.arange(probs.shape[-1], device=probs.device) < TOP_K) & (before <= TOP_P)
    return toss(torch.where(is_in, probs, 0.0), tokens).squeeze(-1), entropy, varentropy


def flashinfer_chain(flashinfer):
    """As sort_chain by the kernels of FlashInfer; and whether it can be recorded: its random numbers come from the host unless
    they are handed in."""
    import inspect

    sampling = flashinfer.sampling
    draw = sampling.top_k_top_p_sampling_from_probs
    fixed = {"seed": 1, "offset": 0} if {"seed", "offset"} <= set(inspect.signature(draw).parameters) else {}

    def run(logits, attention, last):
        entropy, varentropy, _ = entropy_and_varentropy(logits)
        if hasattr(sampling, "softmax"):
            probs = sampling.softmax(logits, temperature=CHAIN_TEMPERATURE)
        else:
            probs = F.softmax(logits / CHAIN_TEMPERATURE, dim=-1)
        return draw(probs, TOP_K, TOP_P, filter_apply_order="joint", **fixed), entropy, varentropy

    return run, bool(fixed)


def fault(run, logits, attention, last, adapts, n_runs=8):
    """What is wrong with a sampler, by float64 on the first, the middle and the last row; None if nothing is. `adapts` says
    whether its filters follow the entropy, else they are those of sort_chain."""
    rows = sorted({0, logits.shape[0] // 2, logits.shape[0] - 1})
    exact = logits[rows].double().cpu()
    log_z = exact.logsumexp(dim=-1)
    probs = (exact - log_z[:, None]).exp()
    mean = (probs * exact).sum(dim=-1)
    true_entropy = (log_z - mean) / LN_2
    # The varentropy is the variance of the logits.
    true_varentropy = (probs * (exact - mean[:, None]) ** 2).sum(dim=-1) / LN_2**2
    known = [metric[rows].double().cpu() for metric in attention]
    (temperature, top_p, top_k, min_p), (sure, pause, _) = settings(true_entropy, true_varentropy, known)
    if not adapts:
        temperature, top_p, top_k, min_p = (torch.full_like(top_p, x) for x in (CHAIN_TEMPERATURE, TOP_P, TOP_K, 0.0))
    tempered = (exact / temperature).softmax(dim=-1)
    for _ in range(n_runs):
        tokens, entropy, varentropy = run(logits, attention, last)
        for i, row in enumerate(rows):
            for name, got, true, slack in (
                ("entropy", entropy, true_entropy, 1e-3),
                ("varentropy", varentropy, true_varentropy, 1e-3 * (1 + true_varentropy[i].item())),
            ):
                # Not the other way round: a NaN is a fault.
                if not abs(got[row].item() - true[i].item()) <= slack:
                    return f"{name} of row {row} is {got[row].item()}, in float64 {true[i].item()}"
            token = int(tokens[row])
            if adapts and pause[i] and int(last[row]) != PAUSE:
                is_allowed = token == PAUSE
            elif adapts and sure[i]:
                is_allowed = token == int(exact[i].argmax())
            else:
                likelier = tempered[i] > tempered[i, token] * (1 + 1e-4)
                is_allowed = (
                    int(likelier.sum()) < top_k[i].item()
                    and tempered[i][likelier].sum().item() <= top_p[i].item() + 1e-4
                    and tempered[i, token].item() >= min_p[i].item() * tempered[i].max().item() * (1 - 1e-4)
                )
            if not is_allowed:
                return f"row {row} draws token {token}, which its filters leave out"
    return None
