"""CoBa goldens: (P) published formulas with DF clipped at 1, (C) the released code's arithmetic."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden"))
from lin import *

K, N, W, TAU = 3, 4, 3, 5.0
L0 = [2.0, 4.0, 1.0]
# validation loss per step (rows = tasks, columns = steps 1..9)
VAL = [
    [1.90, 1.72, 1.60, 1.50, 1.42, 1.36, 1.33, 1.31, 1.30],   # fast, flattening
    [3.96, 3.90, 3.86, 3.80, 3.77, 3.72, 3.68, 3.65, 3.60],   # slow and steady
    [0.90, 0.82, 0.76, 0.72, 0.70, 0.71, 0.74, 0.79, 0.86],   # turns round at step 6
]
R = [[v / L0[i] for v in VAL[i]] for i in range(K)]

def ols_slope(y):
    n = len(y)
    if n < 2: return 0.0
    mx = (n - 1) / 2; my = math.fsum(y) / n
    return math.fsum((i - mx) * (v - my) for i, v in enumerate(y)) / math.fsum((i - mx) ** 2 for i in range(n))

def safe_div(a, s): return a / s if s != 0 else 0.0

# ------------------------------------------------------------------ P: paper
# at step t the history holds steps 1..t ; slopes recorded from t = W on
def paper(R, df_from="max_of_slopes", clip=True):
    rec, tot, out = [[] for _ in range(K)], [], []
    for t in range(1, len(R[0]) + 1):
        if t < W:
            out.append({"t": t, "weights": [1 / K] * K, "warmup": True}); continue
        win = [R[i][max(0, t - N):t] for i in range(K)]
        a = [ols_slope(w) for w in win]
        amax = max(a) if df_from == "max_of_slopes" else ols_slope([max(c) for c in zip(*win)])
        for i in range(K): rec[i].append(a[i])
        tot.append(amax)
        S = math.fsum(abs(x) for x in a)
        rcs_in = [K * safe_div(x, S) for x in a]
        rcs = softmax(rcs_in)
        acs_in = []
        for i in range(K):
            w = rec[i][-N:]
            acs_in.append(-len(w) * safe_div(a[i], math.fsum(abs(x) for x in w)))
        acs = softmax(acs_in)
        n = len(tot); St = math.fsum(abs(x) for x in tot)
        z = [TAU * -n * safe_div(x, St) for x in tot]
        df_raw = n * softmax(z)[-1]
        df = min(df_raw, 1.0) if clip else df_raw
        w = [df * r + (1 - df) * q for r, q in zip(rcs, acs)]
        out.append({"t": t, "slopes": a, "alpha_max": amax, "rcs_logits": rcs_in, "rcs": rcs, "acs_logits": acs_in,
                    "acs": acs, "df_unclipped": df_raw, "df": df, "weights": w})
    return out

# ------------------------------------------------------------------ C: code
# step t computes weights BEFORE sampling, history then holds steps 1..t-1
def fit_code(y):
    y = [v for v in y if v != 0.0]        # zeros (absent task) removed, x compressed to 0..len-1
    return ols_slope(y)
def code(R, W, N, steps):
    rec, tot, out = [[] for _ in range(K)], [], []
    floor = 1 / (10 * K)
    for t in range(1, steps + 1):
        if t < W:
            out.append({"t": t, "weights": [1.0] * K, "warmup": True}); continue
        m = min(t, N)
        hist = [r[:t - 1][-m:] for r in R]
        a = [fit_code(h) for h in hist]
        s = fit_code([max(c) for c in zip(*hist)])
        for i in range(K): rec[i].append(a[i])
        tot.append(s)
        start = max(0, t - N)
        rcs = softmax([K * x / math.fsum(abs(y) for y in a) for x in a])
        acs_in = []
        for i in range(K):
            w = rec[i][start:]
            acs_in.append(-len(w) * w[-1] / math.fsum(abs(x) for x in w))
        acs = softmax(acs_in)
        n = len(tot); St = math.fsum(abs(x) for x in tot)
        df = n * softmax([TAU * -n * x / St for x in tot])[-1]
        logits = [df * r + (1 - df) * q for r, q in zip(rcs, acs)]
        w = softmax([K * x for x in logits])
        floored = any(x < floor for x in w)
        if floored: w = [x * (1 - floor * K) + floor for x in w]
        out.append({"t": t, "history_len": len(hist[0]), "slopes": a, "slope_of_max": s, "acs_window": len(rec[0][start:]),
                    "rcs": rcs, "acs": acs, "df": df, "mix": logits, "floored": floored, "weights": w})
    return out

P = paper(R); Pm = paper(R, "slope_of_max")
C = code(R, W, N, 9)

# absent task: task 1 gives 0 at step 4
Rz = [list(r) for r in R]; Rz[1][3] = 0.0
z = {"row": Rz[1][1:6], "slope_zero_removed_x_compressed": fit_code(Rz[1][1:6])}
keep = [(i, v) for i, v in enumerate(Rz[1][1:6]) if v != 0]
mx = sum(i for i, _ in keep) / len(keep); my = math.fsum(v for _, v in keep) / len(keep)
z["slope_zero_removed_true_x"] = math.fsum((i - mx) * (v - my) for i, v in keep) / math.fsum((i - mx) ** 2 for i, _ in keep)

# floor example
raw = [0.96, 0.03, 0.01]; fl = 1 / 30
flo = [x * (1 - fl * 3) + fl for x in raw]

# aggregated training loss with a task missing from the batch
w = P[8]["weights"]; L = {0: 1.2, 2: 0.8}
tl = math.fsum(w[i] * l for i, l in L.items()) / math.fsum(w[i] for i in L)

# DF alone: constant-descent -> 1 ; slope going to zero / positive -> small
def df_of(s):
    n = len(s); S = math.fsum(abs(x) for x in s)
    return n * softmax([TAU * -n * x / S for x in s])[-1]
dfs = [{"slopes": s, "df_unclipped": df_of(s), "df": min(1.0, df_of(s))} for s in
       ([-0.1], [-0.1] * 5, [-0.1, -0.08, -0.05, -0.02], [-0.1, -0.05, -0.01, 0.01], [-0.02, -0.05, -0.1])]

dump("coba.json", {"K": K, "N": N, "W": W, "tau": TAU, "initial_losses": L0, "val_losses": VAL, "ratios": R,
     "paper_max_of_slopes": P, "paper_slope_of_max": Pm, "code": C, "absent_task": z,
     "floor": {"in": raw, "floor": fl, "out": flo},
     "partial_batch": {"weights": w, "task_losses": {"0": 1.2, "2": 0.8}, "loss": tl}, "divergence_factor": dfs})

# ------------------------------------------------------------------ MFTCoder loss cases
# 4 samples, tasks [0,0,1,2], token losses with mask
tok = [[1.0, 2.0, 3.0, 0.5], [4.0, 1.0, 0.0, 0.0], [0.5, 0.5, 2.0, 0.0], [3.0, 1.0, 1.0, 1.0]]
msk = [[0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]]
tid = [0, 0, 1, 2]; tw = [0.5, 0.3, 0.2]
s = [math.fsum(a * b for a, b in zip(x, m)) for x, m in zip(tok, msk)]
n = [sum(m) for m in msk]
case1 = math.fsum(s) / sum(n)
case2 = math.fsum(a / b for a, b in zip(s, n)) / 4
rows = {t: [i for i in range(4) if tid[i] == t] for t in range(3)}
tok_avg = {t: math.fsum(s[i] for i in r) / sum(n[i] for i in r) for t, r in rows.items()}
smp_avg = {t: math.fsum(s[i] / n[i] for i in r) / len(r) for t, r in rows.items()}
def wavg(d, w): return math.fsum(d[t] * w[t] for t in d) / math.fsum(w[t] for t in d)
eq = [1 / 3] * 3
dump("mft_losses.json", {"token_losses": tok, "mask": msk, "task_ids": tid, "task_weights": tw,
     "case1": case1, "case2": case2,
     "case3_equal": wavg(tok_avg, eq), "case3_weighted": wavg(tok_avg, tw),
     "case4_equal": wavg(smp_avg, eq), "case4_weighted": wavg(smp_avg, tw),
     "per_task_token_mean": tok_avg, "per_task_sample_mean": smp_avg,
     "case3_weighted_task1_absent": wavg({0: tok_avg[0], 2: tok_avg[2]}, tw)})

# ------------------------------------------------------------------ self-paced (v0.3/0.4)
def self_paced(slopes, scale_=50):
    k = len(slopes); S = math.fsum(abs(x) for x in slopes)
    if S == 0: return [1 / k] * k
    nn = [k * x / S for x in slopes]
    score = [a * -b for a, b in zip(softmax(nn), nn)]
    return softmax([scale_ * x for x in score])
cases = [[-0.10, -0.02, -0.05], [-0.10, -0.02, 0.05], [-0.01, -0.012, -0.011]]
dump("self_paced.json", [{"slopes": c, "scale": 50, "weights": self_paced(c), "weights_scale_1": self_paced(c, 1)} for c in cases])
