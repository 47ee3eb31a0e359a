"""MetaGPT in closed form on numbers of hand size: writes metagpt.json beside this file. Standard library only.

Ran with Python 3.11; f64 everywhere, sums exact before rounding (math.fsum).
"""

import json
import math
import os


def dot(a, b): return math.fsum(x * y for x, y in zip(a, b))


def norm(a): return math.sqrt(dot(a, a))


def sub(a, b): return [x - y for x, y in zip(a, b)]


def transpose(M): return [list(c) for c in zip(*M)]


def matmul(A, B):
    Bt = transpose(B)
    return [[dot(r, c) for c in Bt] for r in A]


def solve(A, b):
    n = len(b)
    M = [list(map(float, A[i])) + [float(b[i])] for i in range(n)]
    for c in range(n):
        p = max(range(c, n), key=lambda r: abs(M[r][c]))
        M[c], M[p] = M[p], M[c]
        for r in range(n):
            if r != c:
                f = M[r][c] / M[c][c]
                if f:
                    M[r] = [x - f * y for x, y in zip(M[r], M[c])]
    return [M[i][n] / M[i][i] for i in range(n)]


def dump(name, obj):
    p = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    with open(p, "w") as f:
        json.dump(obj, f, indent=1)
        f.write("\n")
    print("wrote", p)


base = {"a": [0.10, -0.20, 0.30, 0.40], "b": [1.0, -1.0]}
models = [
    {"a": [0.40, -0.20, 0.30, 0.40], "b": [1.4, -1.0]},          # tau1 = .3 e0, b .4 e0     |tau|^2 = .25
    {"a": [0.10, 0.40, 0.30, 0.40], "b": [1.0, -0.2]},           # tau2 = .6 e1, b .8 e1     |tau|^2 = 1.00
    {"a": [0.10, -0.20, 0.80, -0.10], "b": [1.0, -1.0]},         # tau3 = .5 e2 -.5 e3       |tau|^2 = .50
]
keys = ["a", "b"]
def tau(m): return {k: sub(m[k], base[k]) for k in keys}
T = [tau(m) for m in models]
def flat(t): return [x for k in keys for x in t[k]]
F = [flat(t) for t in T]
n2 = [dot(f, f) for f in F]
C = math.fsum(n2)
lam = [x / C for x in n2]
def merge(lam_by_key):
    return {k: [base[k][i] + math.fsum(lam_by_key[k][t] * T[t][k][i] for t in range(len(T)))
                for i in range(len(base[k]))] for k in keys}
merged = merge({k: lam for k in keys})

# per-task smoothness
delta = [1.0, 0.5, 2.0]
dn = [d * d * x for d, x in zip(delta, n2)]
lam_delta = [x / math.fsum(dn) for x in dn]

# per-tensor variant (inferred option)
n2k = {k: [dot(t[k], t[k]) for t in T] for k in keys}
lam_layer = {k: [x / math.fsum(n2k[k]) for x in n2k[k]] for k in keys}
merged_layer = merge(lam_layer)

# upper bound objective (Thm 7 without delta): U = 1/2 sum_t |tau_t|^2 [ sum_{k!=t} lk^2 |tau_k|^2 + (1-lt)^2 |tau_t|^2 ]
def U(l):
    s = 0.0
    for t in range(3):
        inner = math.fsum((l[k] ** 2 if k != t else (1 - l[t]) ** 2) * n2[k] for k in range(3))
        s += n2[t] * inner
    return 0.5 * s
bound = {"at_metagpt": U(lam), "at_uniform_third": U([1/3]*3), "at_0.3": U([.3]*3), "at_1": U([1.0]*3)}

# non-orthogonal invariance: minimise sum_t |tau_t|^2 |sum lam_k tau_k - tau_t|^2  (no orthogonality)
F2 = [[1.0, 0.2, 0.0], [0.3, 2.0, 0.1], [0.5, 0.5, 1.5]]
n2b = [dot(f, f) for f in F2]
G = [[dot(a, b) for b in F2] for a in F2]
Cb = math.fsum(n2b)
rhs = [math.fsum(n2b[t] * G[k][t] for t in range(3)) / Cb for k in range(3)]
lam_b = solve(G, rhs)
lam_b_formula = [x / Cb for x in n2b]
cos = [[dot(a, b) / (norm(a) * norm(b)) for b in F2] for a in F2]

B = [[0.5, -0.1], [0.2, 0.3], [-0.4, 0.0]]; A_ = [[1.0, 0.0, 2.0, -1.0], [0.5, 0.5, -0.5, 0.0]]; sc = 2.0
dW = [[sc * x for x in r] for r in matmul(B, A_)]
AAt = matmul(A_, transpose(A_)); BtB = matmul(transpose(B), B)
lora = {"B": B, "A": A_, "scale": sc, "norm2_dense": math.fsum(x * x for r in dW for x in r),
        "norm2_trace": sc * sc * math.fsum(AAt[i][j] * BtB[j][i] for i in range(2) for j in range(2))}
dump("metagpt.json", {"lora_norm": lora,
    "base": base, "models": models, "task_vectors": T, "sq_norms": n2,
    "lambda": lam, "merged": merged,
    "delta_variant": {"delta": delta, "lambda": lam_delta},
    "per_tensor_variant": {"sq_norms": n2k, "lambda": lam_layer, "merged": merged_layer},
    "upper_bound": bound,
    "non_orthogonal": {"task_vectors": F2, "sq_norms": n2b, "cosine": cos,
                       "lambda_least_squares": lam_b, "lambda_formula": lam_b_formula},
    "equal_norms": {"sq_norms": [2.0, 2.0, 2.0, 2.0], "lambda": [0.25] * 4},
    "tie_note": "one zero task vector -> its lambda is 0; all zero -> undefined, fall back to 1/T",
})
