"""Loss / gradient balancing baselines on one shared example."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden"))
from lin import *

K = 3
L = [0.9, 2.4, 0.3]; L0 = [1.5, 2.5, 0.4]
Lm1 = [1.0, 2.45, 0.32]; Lm2 = [1.2, 2.5, 0.30]                 # epoch averages e-1, e-2
G = [[1.0, 0.5, -0.2, 0.1], [-0.6, 2.0, 0.4, 0.0], [0.1, -0.3, 0.2, 0.5]]
GG = [[dot(a, b) for b in G] for a in G]
out = {"losses": L, "initial_losses": L0, "loss_e_minus_1": Lm1, "loss_e_minus_2": Lm2, "grads": G, "gram": GG}
def comb(a): return [math.fsum(a[k] * G[k][j] for k in range(K)) for j in range(4)]

# --- loss-only
out["lbtw"] = {a: {"raw": [(x / y) ** a for x, y in zip(L, L0)],
                   "sum_K": [K * (x / y) ** a / math.fsum((p / q) ** a for p, q in zip(L, L0)) for x, y in zip(L, L0)]}
               for a in (0.5, 1.0)}
r = [a / b for a, b in zip(Lm1, Lm2)]
out["dwa_T2"] = {"ratio": r, "w": [K * x for x in softmax([v / 2 for v in r])]}
s = [-0.5, 0.2, 1.0]
out["uncertainty"] = {"s": s, "loss": math.fsum(l / (2 * math.exp(x)) + x / 2 for l, x in zip(L, s)),
                      "grad_s": [-l / (2 * math.exp(x)) + 0.5 for l, x in zip(L, s)],
                      "weights": [1 / (2 * math.exp(x)) for x in s]}
out["gls"] = {"loss": math.prod(L) ** (1 / K), "dloss_dL": [math.prod(L) ** (1 / K) / (K * l) for l in L]}
out["scale_invariant"] = {"loss": math.fsum(math.log(l) for l in L), "dloss_dL": [1 / l for l in L]}
out["rlw_given_normals"] = {"z": [0.1, -1.2, 0.7], "w_softmax": softmax([0.1, -1.2, 0.7])}
nad = [1.0, 2.0, 0.5]; mu = 1.0
lg = [math.log(a / b + 1e-20) for a, b in zip(L, nad)]
st = softmax([x / mu for x in lg])
out["stch"] = {"nadir": nad, "mu": mu, "loss_with_max_removed": mu * math.log(math.fsum(math.exp((x - max(lg)) / mu) for x in lg)) * K,
               "dloss_dL": [K * p / l for p, l in zip(st, L)]}

# --- GradNorm
al = 1.5
gn = [norm(g) for g in G]
w = [1.0, 1.0, 1.0]
Gi = [a * b for a, b in zip(w, gn)]; Gb = math.fsum(Gi) / K
lt = [a / b for a, b in zip(L, L0)]; rr = [x / (math.fsum(lt) / K) for x in lt]
tgt = [Gb * x ** al for x in rr]
sg = [1 if a > b else -1 if a < b else 0 for a, b in zip(Gi, tgt)]
gw = [a * b for a, b in zip(sg, gn)]
w1 = [a - 0.025 * b for a, b in zip(w, gw)]; w1n = [K * x / math.fsum(w1) for x in w1]
# LibMTL parametrisation, s = [1,1,1]
ws = [K * x for x in softmax([1.0] * 3)]
gs = [math.fsum(sg[i] * gn[i] * ws[i] * ((i == j) - ws[j] / K) for i in range(K)) for j in range(K)]
out["gradnorm"] = {"alpha": al, "grad_norms": gn, "G_mean": Gb, "loss_ratio": lt, "r": rr, "target": tgt,
                   "objective": math.fsum(abs(a - b) for a, b in zip(Gi, tgt)), "grad_w": gw,
                   "w_after_sgd_.025_renormalised": w1n, "grad_softmax_param": gs}

# --- FAMO, two updates
xi = [0.0] * 3; m = [0.0] * 3; v = [0.0] * 3; lr, gamma = 0.025, 0.01
pairs = [([0.9, 2.4, 0.3], [0.85, 2.39, 0.25]), ([0.85, 2.39, 0.25], [0.80, 2.40, 0.24])]
steps = []
for t, (a, b) in enumerate(pairs, 1):
    z = softmax(xi); D = [x + 1e-8 for x in a]
    c = math.fsum(p / d for p, d in zip(z, D))
    loss = math.fsum(math.log(d) * p for p, d in zip(z, D)) / c
    coef = [p / d / c for p, d in zip(z, D)]                      # d loss / d L_i  (sums to 1)
    dl = [math.log(x + 1e-8) - math.log(y + 1e-8) for x, y in zip(a, b)]
    mean = dot(z, dl); g = [p * (x - mean) for p, x in zip(z, dl)]
    g = [x + gamma * q for x, q in zip(g, xi)]
    m = [.9 * p + .1 * x for p, x in zip(m, g)]; v = [.999 * p + .001 * x * x for p, x in zip(v, g)]
    xi = [q - lr * (p / (1 - .9 ** t)) / (math.sqrt(u / (1 - .999 ** t)) + 1e-8) for q, p, u in zip(xi, m, v)]
    steps.append({"before": a, "after": b, "z": z, "c": c, "loss": loss, "dloss_dL": coef, "delta": dl, "grad_xi": g, "xi": xi})
out["famo"] = steps

# --- PCGrad, order j ascending (inject order; published code shuffles)
pc = []
for i in range(K):
    g = list(G[i])
    for j in range(K):
        if j != i:
            d = dot(g, G[j])
            if d < 0: g = sub(g, scale(G[j], d / dot(G[j], G[j])))
    pc.append(g)
out["pcgrad_ascending"] = {"projected": pc, "sum": [math.fsum(c) for c in zip(*pc)]}

# --- simplex minimiser (projected gradient, used for MGDA and CAGrad)
def proj(y):
    u = sorted(y, reverse=True); cs = 0.0; th = 0.0
    for i, x in enumerate(u):
        cs += x
        if x - (cs - 1) / (i + 1) > 0: th = (cs - 1) / (i + 1)
    return [max(x - th, 0.0) for x in y]
def simplex_min(f, gf, n, iters=200000, lr=0.02):
    x = [1 / n] * n
    for _ in range(iters):
        y = proj([a - lr * b for a, b in zip(x, gf(x))])
        if max(abs(a - b) for a, b in zip(x, y)) < 1e-15: break
        x = y
    return x
x = simplex_min(None, lambda x: scale(matvec(GG, x), 2), K)
out["mgda"] = {"w": x, "norm2": dot(x, matvec(GG, x)), "direction": comb(x)}
c_ = 0.5; g0n = math.sqrt(math.fsum(math.fsum(r) for r in GG) / K ** 2 + 1e-8); c = c_ * g0n + 1e-8
b = [1 / K] * K
def cag(x):
    q = math.sqrt(dot(x, matvec(GG, x)) + 1e-8)
    return [p + c * r / q for p, r in zip(matvec(GG, b), matvec(GG, x))]
x = simplex_min(None, cag, K)
gwv = comb(x); gv = add(comb(b), scale(gwv, c / (norm(gwv) + 1e-8)))
obj = dot(matvec(GG, b), x) + c * math.sqrt(dot(x, matvec(GG, x)) + 1e-8)
out["cagrad_c.5"] = {"w": x, "objective": obj, "g0_norm": g0n, "direction_rescale0": gv, "direction_rescale1": scale(gv, 1 / 1.25)}

c = 0.1 * g0n + 1e-8
x2 = simplex_min(None, cag, K); gw2 = comb(x2)
out["cagrad_c.1"] = {"w": x2, "direction_rescale0": add(comb(b), scale(gw2, c / (norm(gw2) + 1e-8)))}

# --- Nash-MTL: G a = 1/a, strictly convex  1/2 a'Ga - sum log a, damped Newton
def nash(M, power=1.0):
    """solve M x = x^(-1/power)"""
    a = [1.0] * len(M)
    p = 1.0 / power
    for _ in range(500):
        Ma = matvec(M, a); g = [u - q ** -p for u, q in zip(Ma, a)]
        H = [[M[i][j] + (p * a[i] ** (-p - 1) if i == j else 0.0) for j in range(len(M))] for i in range(len(M))]
        d = solve(H, g); t = 1.0
        while any(q - t * e <= 0 for q, e in zip(a, d)): t *= 0.5
        r0 = norm(g)
        while t > 1e-12:
            n_ = [q - t * e for q, e in zip(a, d)]
            if norm([u - q ** -p for u, q in zip(matvec(M, n_), n_)]) < r0 or r0 < 1e-14: break
            t *= 0.5
        a = [q - t * e for q, e in zip(a, d)]
        if r0 < 1e-15: break
    return a
a = nash(GG); fro = math.sqrt(math.fsum(x * x for r in GG for x in r))
an = nash([[x / fro for x in r] for r in GG])
out["nash"] = {"alpha_raw_gram": a, "residual": norm([u - 1 / q for u, q in zip(matvec(GG, a), a)]), "frobenius": fro,
               "alpha_normalised_gram": an, "alpha_ratio_check_sqrt_fro": [p / q for p, q in zip(an, a)], "sqrt_fro": math.sqrt(fro),
               "direction_normalised": comb(an), "norm2_equals_K": dot(a, matvec(GG, a))}
out["fairgrad"] = {"alpha_1": nash(GG, 1.0), "alpha_2": nash(GG, 2.0), "alpha_0.5": nash(GG, 0.5)}

# --- IMTL-G
U = [scale(g, 1 / norm(g)) for g in G]
D = [sub(G[0], G[i]) for i in range(1, K)]; Ud = [sub(U[0], U[i]) for i in range(1, K)]
row = [dot(G[0], u) for u in Ud]
DU = [[dot(d, u) for u in Ud] for d in D]
tail = solve(transpose(DU), row)
al_ = [1 - math.fsum(tail)] + tail
d_ = comb(al_)
out["imtl_g"] = {"alpha": al_, "equal_projections": [dot(d_, u) for u in U]}

# --- Aligned-MTL
vals, vec = sym_eig(GG)
sm = math.sqrt(vals[0])
B = [[math.fsum(vec[i][k] * vec[j][k] * sm / math.sqrt(vals[k]) for k in range(K)) for j in range(K)] for i in range(K)]
ala = [math.fsum(B[i][j] for i in range(K)) for j in range(K)]
out["aligned_mtl"] = {"eigenvalues": vals, "B": B, "alpha": ala}

# --- DB-MTL, one step from zero buffer and one more, beta .9 sigma .5 (log-loss gradients)
buf = [[0.0] * 4 for _ in range(K)]; db = []
for step in (1, 2):
    lgv = [scale(g, 1 / (l + 1e-8)) for g, l in zip(G, L)]
    be = 0.9 / step ** 0.5
    buf = [add(g, scale(sub(o, g), be)) for g, o in zip(lgv, buf)]
    n_ = [norm(x) for x in buf]; aa = [max(n_) / (x + 1e-8) for x in n_]
    db.append({"step": step, "beta_eff": be, "alpha": aa, "update": [math.fsum(aa[k] * buf[k][j] for k in range(K)) for j in range(4)]})
out["db_mtl"] = db

# --- GradVac first step (rho_T = 0, whole model, order ascending) ; beta .5
beta = 0.5; rho = [[0.0] * K for _ in range(K)]; gv_ = []
for i in range(K):
    g = list(G[i])
    for j in range(K):
        if j == i: continue
        q = dot(g, G[j]) / (norm(g) * norm(G[j]) + 1e-8)
        if q < rho[i][j]:
            R_ = rho[i][j]
            w_ = norm(g) * (R_ * math.sqrt(1 - q * q) - q * math.sqrt(1 - R_ * R_)) / (norm(G[j]) * math.sqrt(1 - R_ * R_) + 1e-8)
            g = add(g, scale(G[j], w_))
        rho[i][j] = (1 - beta) * rho[i][j] + beta * q
    gv_.append(g)
out["gradvac_first_step"] = {"grads": gv_, "sum": [math.fsum(c) for c in zip(*gv_)], "rho": rho}

# --- MetaWeighting: quadratic tasks, support and query minima differ, theta in R^4
sup = [[1.0, 0.0, 0.3, 0.0], [0.0, 1.5, 0.0, -0.2], [0.4, 0.5, 1.0, 0.6]]
qry = [[1.2, 0.1, 0.2, 0.1], [0.3, 1.0, 0.1, -0.4], [0.6, 0.4, 1.3, 0.8]]
th = [0.0, 0.0, 0.0, 0.0]; wv = [1 / 3] * 3; eta = 0.3
gsup = [sub(th, s_) for s_ in sup]                                # L = 1/2|th - c|^2
th2 = sub(th, scale([math.fsum(wv[k] * gsup[k][j] for k in range(K)) for j in range(4)], eta))
gq = [sub(th2, q_) for q_ in qry]
J = [[-eta * dot(gq[t], gsup[i]) for i in range(K)] for t in range(K)]   # dLq_t / dw_i
JJ = [[dot(a_, b_) for b_ in J] for a_ in J]
lamb = simplex_min(None, lambda x: scale(matvec(JJ, x), 2), K, lr=1.0)
dirw = [math.fsum(lamb[t] * J[t][i] for t in range(K)) for i in range(K)]
wn = [a_ - 1.0 * d for a_, d in zip(wv, dirw)]
out["meta_weighting"] = {"theta": th, "eta": eta, "support_minima": sup, "query_minima": qry, "theta_virtual": th2, "jacobian": J,
                         "frank_wolfe_lambda": lamb, "direction": dirw, "w_after_lr1_projected": proj(wn)}
# finite difference check of J
fd = [[0.0] * K for _ in range(K)]
for i in range(K):
    for sg_ in (1, -1):
        w_ = list(wv); w_[i] += sg_ * 1e-6
        t2 = sub(th, scale([math.fsum(w_[k] * gsup[k][j] for k in range(K)) for j in range(4)], eta))
        for t in range(K):
            dd = sub(t2, qry[t]); fd[t][i] += sg_ * 0.5 * dot(dd, dd) / 2e-6
out["meta_weighting"]["jacobian_fd"] = fd
# --- ExcessMTL: two steps with same gradient then scaled
gsum = [[x * x for x in g] for g in G]
w0 = [math.fsum(x * x / math.sqrt(q + 1e-7) for x, q in zip(g, h)) for g, h in zip(G, gsum)]
g2 = [scale(g, f) for g, f in zip(G, (0.5, 1.0, 1.5))]
gsum = [[q + x * x for q, x in zip(h, g)] for h, g in zip(gsum, g2)]
w1_ = [math.fsum(x * x / math.sqrt(q + 1e-7) for x, q in zip(g, h)) for g, h in zip(g2, gsum)]
rel = [a_ / b_ for a_, b_ in zip(w1_, w0)]
e = [math.exp(0.01 * x) for x in rel]
out["excess_mtl"] = {"w_first": w0, "w_second_rel": rel, "loss_weight": [K * x / math.fsum(e) for x in e]}
# --- GradDrop on a flat "representation gradient", leak 0, u injected
rep = [1.0, -2.0, 0.5, 3.0]; u = [0.5, 0.9, 0.2, 0.1]
sg2 = [[x * ((r > 0) - (r < 0)) for x, r in zip(g, rep)] for g in G]
P = [0.5 * (1 + math.fsum(c) / (math.fsum(abs(x) for x in c) + 1e-7)) for c in zip(*sg2)]
M = [[1.0 if (p > q and x > 0) or (p < q and x < 0) else 0.0 for x, p, q in zip(g, P, u)] for g in sg2]
tg = [[x * m for x, m in zip(g, mm)] for g, mm in zip(G, M)]
out["graddrop"] = {"rep": rep, "u": u, "P": P, "mask": M, "sum": [math.fsum(c) for c in zip(*tg)]}
# --- UPGrad: project each gradient on the dual cone {d : <d, g_j> >= 0 for all j}, average
def upgrad():
    res = []
    for i in range(K):
        # minimise v'Av/2 over v >= e_i   (projection of g_i ; d = sum v_j g_j), coordinate descent
        v = [1.0 if j == i else 0.0 for j in range(K)]
        for _ in range(10000):
            for j in range(K):
                r = math.fsum(GG[j][k] * v[k] for k in range(K) if k != j)
                v[j] = max(1.0 if j == i else 0.0, -r / GG[j][j])
        res.append(v)
    w = [math.fsum(c) / K for c in zip(*res)]
    return res, w
pv, uw = upgrad()
out["upgrad"] = {"per_task_coefficients": pv, "w": uw, "direction": comb(uw), "min_projection": [[dot(comb(v), g) for g in G] for v in pv]}
dump("balancers.json", out)
