"""AdaMerging on a two-layer linear net with two tasks (frozen heads). Entropy, gradients, Adam, clamp."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "golden"))
from lin import *  # noqa: E402, F403

A0 = [[0.6, -0.2, 0.1], [0.0, 0.5, -0.3], [0.2, 0.1, 0.7]]
B0 = [[0.9, 0.1, 0.0], [-0.2, 0.8, 0.3], [0.1, -0.4, 0.5]]
tA = [[[0.3, 0.0, -0.1], [0.2, 0.4, 0.0], [0.0, -0.2, 0.1]], [[-0.2, 0.3, 0.0], [0.1, -0.1, 0.5], [0.4, 0.0, -0.3]]]
tB = [[[0.1, -0.3, 0.2], [0.0, 0.5, 0.0], [-0.1, 0.2, 0.3]], [[0.0, 0.2, 0.4], [0.3, -0.2, 0.1], [0.2, 0.0, -0.1]]]
HEAD = [[[2.0, -1.0, 0.5], [-1.5, 1.0, 0.0]],                                   # task 0: 2 classes
        [[1.0, 0.0, -2.0], [0.0, 1.5, 1.0], [-1.0, -1.0, 1.0]]]                 # task 1: 3 classes
X = [[[1.0, 0.5, -0.5], [0.2, -1.0, 0.8]], [[-0.7, 0.3, 1.2], [0.9, 0.9, -0.1]]]

def comb(M0, taus, lam):
    return [[M0[i][j] + math.fsum(l * t[i][j] for l, t in zip(lam, taus)) for j in range(3)] for i in range(3)]
def entropy(p, eps=0.0): return -math.fsum(q * math.log(q + eps) for q in p)
def clampv(v): return [min(1.0, max(0.0, x)) for x in v]

def run(lamA, lamB, eps=0.0):
    A, B = comb(A0, tA, lamA), comb(B0, tB, lamB)
    tot, per = 0.0, []
    gA = [[0.0] * 3 for _ in range(3)]; gB = [[0.0] * 3 for _ in range(3)]
    detail = []
    for k in range(2):
        Hs = []
        for x in X[k]:
            h = matvec(A, x); z = matvec(B, h); lo = matvec(HEAD[k], z); p = softmax(lo)
            H = entropy(p, eps); Hs.append(H)
            detail.append({"task": k, "logits": lo, "p": p, "entropy": H})
            H0 = entropy(p)
            d = [-q * (math.log(q) + H0) / len(X[k]) for q in p]             # dH/dlogits, batch mean
            dz = matvec(transpose(HEAD[k]), d)
            for i in range(3):
                for j in range(3): gB[i][j] += dz[i] * h[j]
            dh = matvec(transpose(B), dz)
            for i in range(3):
                for j in range(3): gA[i][j] += dh[i] * x[j]
        per.append(math.fsum(Hs) / len(Hs)); tot += per[-1]
    ip = lambda G, t: math.fsum(G[i][j] * t[i][j] for i in range(3) for j in range(3))
    return tot, per, [ip(gA, t) for t in tA], [ip(gB, t) for t in tB], detail

l0A, l0B = [0.3, 0.3], [0.3, 0.3]
tot, per, ga, gb, det = run(l0A, l0B)
# finite-difference check
fd = []
for L, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
    e = 1e-6; P = [[0.3, 0.3], [0.3, 0.3]]; M = [[0.3, 0.3], [0.3, 0.3]]; P[L][i] += e; M[L][i] -= e
    fd.append((run(*P)[0] - run(*M)[0]) / (2 * e))

def adam(lam, grads_fn, lr, steps, clamp):
    m = [0.0] * len(lam); v = [0.0] * len(lam); hist = []
    for s in range(1, steps + 1):
        eff = clampv(lam) if clamp else lam
        loss, g = grads_fn(eff)
        if clamp: g = [gi if 0.0 <= l <= 1.0 else 0.0 for gi, l in zip(g, lam)]
        m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
        v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
        mh = [a / (1 - 0.9 ** s) for a in m]; vh = [a / (1 - 0.999 ** s) for a in v]
        lam = [l - lr * a / (math.sqrt(b) + 1e-8) for l, a, b in zip(lam, mh, vh)]
        hist.append({"step": s, "loss_before": loss, "grad": g, "lambda_after": list(lam)})
    return hist
lw = adam([0.3] * 4, lambda l: (lambda r: (r[0], r[2] + r[3]))(run(l[:2], l[2:])), 1e-3, 5, True)
lw_big = adam([0.3] * 4, lambda l: (lambda r: (r[0], r[2] + r[3]))(run(l[:2], l[2:])), 0.2, 8, True)
tw = adam([0.3] * 2, lambda l: (lambda r: (r[0], [r[2][0] + r[3][0], r[2][1] + r[3][1]]))(run(l, l)), 1e-3, 5, True)
eps_tot = run(l0A, l0B, 1e-8)
# logit-averaging pitfall
lo0 = [d["logits"] for d in det if d["task"] == 1]
mean_lo = [math.fsum(c) / len(lo0) for c in zip(*lo0)]
pit = {"mean_of_entropies": per[1], "entropy_of_softmax_mean_logits": entropy(softmax(mean_lo))}
# softmax-normalised coefficients (fusion_bench option): raw .3,.3 -> 1/2 each ; raw .1,.7
norm_opt = {"raw": [0.1, 0.7, 0.3], "softmax": softmax([0.1, 0.7, 0.3])}
dump("golden.json", {
    "A0": A0, "B0": B0, "tau_A": tA, "tau_B": tB, "heads": HEAD, "x": X, "lambda0": 0.3,
    "forward": det, "entropy_per_task": per, "entropy_total": tot, "entropy_total_eps1e-8": eps_tot[0],
    "grad_layerwise": {"A": ga, "B": gb}, "grad_finite_difference": fd,
    "grad_taskwise": [ga[0] + gb[0], ga[1] + gb[1]],
    "adam_layerwise_lr1e-3": lw, "adam_layerwise_lr0.2_clamped": lw_big, "adam_taskwise_lr1e-3": tw,
    "logit_mean_pitfall": pit, "softmax_option": norm_opt,
    "entropy_simple": [{"logits": [0, 0, 0], "H": entropy(softmax([0, 0, 0]))}, {"logits": [2, 0, -1], "H": entropy(softmax([2, 0, -1]))},
                       {"logits": [10, 0, 0], "H": entropy(softmax([10, 0, 0]))}]})
