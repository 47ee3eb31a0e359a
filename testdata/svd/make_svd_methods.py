"""Golden values for TSV-M, Iso-C and Iso-CTS (numpy, f64), straight from the formulas of the papers."""
import json
import numpy as np

def procrustes(a):
    p, _, q = np.linalg.svd(a, full_matrices=False)
    return p @ q

def tsv_m(taus, pad=False):
    k, p = len(taus), min(taus[0].shape)
    r = p // k
    parts = [np.linalg.svd(t, full_matrices=False) for t in taus]
    u = np.hstack([x[0][:, :r] for x in parts]); s = np.concatenate([x[1][:r] for x in parts]); v = np.vstack([x[2][:r] for x in parts])
    if pad:
        n = p - k * r
        u = np.hstack([u, np.zeros((u.shape[0], n))]); s = np.concatenate([s, np.zeros(n)]); v = np.vstack([v, np.zeros((n, v.shape[1]))])
    return procrustes(u) @ np.diag(s) @ procrustes(v)

def iso_c(taus):
    u, s, v = np.linalg.svd(sum(taus), full_matrices=False)
    return s.mean() * u @ v

def iso_cts(taus, f):
    k, p = len(taus), min(taus[0].shape)
    c = p - round((p - int(p * f)) / k) * k
    n = (p - c) // k
    u, s, v = np.linalg.svd(sum(taus), full_matrices=False)
    us, ss, vs = [], [], []
    for t in taus:
        a, b, d = np.linalg.svd(t - u[:, :c] @ u[:, :c].T @ t, full_matrices=False)
        us.append(a[:, :n]); ss.append(b[:n]); vs.append(d[:n])
    us.append(u[:, :c]); ss.append(s[:c]); vs.append(v[:c])
    return np.concatenate(ss).mean() * procrustes(np.hstack(us)) @ procrustes(np.vstack(vs))

rng = np.random.default_rng(7)
out = []
for shape, k in (((4, 6), 2), ((7, 5), 2), ((8, 8), 3)):
    taus = [np.round(rng.normal(size=shape), 3) for _ in range(k)]
    d = tsv_m(taus)
    out.append({"taus": [t.tolist() for t in taus], "tsv_m": d.tolist(), "tsv_m_padding_changes_nothing": float(abs(d - tsv_m(taus, True)).max()),
                "iso_c": iso_c(taus).tolist(), "iso_cts_0.5": iso_cts(taus, .5).tolist(), "iso_cts_0.8": iso_cts(taus, .8).tolist()})
json.dump(out, open("svd_methods.json", "w"), indent=1)
print([c["tsv_m_padding_changes_nothing"] for c in out])
