"""Golden values of methods that measure the models on inputs, straight from their formulas; standard library only.

Fisher information of a softmax regression and Fisher-weighted averages (Matena & Raffel, arXiv 2111.09832), Fisher mask
nodes, RegMean (Jin et al., arXiv 2212.09849), Representation Surgery (Yang et al., arXiv 2402.02705).

Run with any Python 3 (written with 3.11) in this directory; writes statistics.json.
"""
import json
import math


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / math.fsum(e) for v in e]


def fisher():
    weights, inputs, labels = [[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2]], [[1.0, 2.0], [-0.5, 0.7], [0.3, -1.1]], [0, 2, 1]
    rows, cols = range(3), range(2)

    def gradient(x, y):
        """Of ln p(y|x)."""
        p = softmax([dot(row, x) for row in weights])
        return [[((r == y) - p[r]) * x[c] for c in cols] for r in rows]

    exact = [[0.0] * 2 for _ in rows]
    empirical = [[0.0] * 2 for _ in rows]
    root = [[0.0] * 2 for _ in rows]
    for x, label in zip(inputs, labels):
        p = softmax([dot(row, x) for row in weights])
        for y in rows:
            g = gradient(x, y)
            for r in rows:
                for c in cols:
                    exact[r][c] += p[y] * g[r][c] ** 2 / 3
                    # The factor sqrt(p) is a constant of the sum.
                    root[r][c] += math.sqrt(p[y]) * g[r][c]
                    empirical[r][c] += (y == label) * g[r][c] ** 2 / 3
    theta, f, eps = [[1.0, 2.0, -1.0], [3.0, 0.0, 1.0]], [[0.5, 0.0, 2.0], [1.5, 0.0, 0.5]], 1e-6
    norms = [1 / math.sqrt(math.fsum((v + eps) ** 2 for v in row)) for row in f]
    coef = [n / math.fsum(norms) for n in norms]

    def merge(lam):
        out = []
        for i in range(3):
            w = [lam[m] * (f[m][i] + eps) for m in range(2)]
            out.append(dot(w, [t[i] for t in theta]) / math.fsum(w))
        return out

    return {"W": weights, "X": inputs, "diag_fisher_exact": exact,
            "diag_fisher_batch_summed": [[v * v / 3 for v in row] for row in root],
            "diag_fisher_empirical_labels_0_2_1": empirical, "theta": theta, "F": f,
            "merge_equal_eps1e-6": merge([0.5, 0.5]), "norm_coef": coef, "merge_norm_coef_eps1e-6": merge(coef)}


def fisher_nodes():
    heads, weights = [[0.4, 0.1], [0.2, 0.6]], [[[1.0, 2.0], [3.0, 4.0]], [[2.0, 0.0], [1.0, -2.0]]]

    def merge(factor):
        """factor(model, row)"""
        return [[dot([factor(m, r) for m in range(2)], [weights[m][r][c] for m in range(2)])
                 / math.fsum(factor(m, r) for m in range(2)) for c in range(2)] for r in range(2)]

    means = [math.fsum(h) / 2 for h in heads]
    return {"head_fisher": heads, "W": weights, "merged_query_rows_per_head": merge(lambda m, r: heads[m][r]),
            "layer_mean": means, "merged_value_or_output_layer_mean": merge(lambda m, r: means[m])}


def regmean():
    grams = [[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]]
    maps = [[[1.0, 0.0], [0.5, 1.0]], [[0.0, 1.0], [1.0, -0.5]]]

    def merge(ratio):
        shrunk = [[[v if i == j else ratio * v for j, v in enumerate(row)] for i, row in enumerate(g)] for g in grams]
        s = [[math.fsum(g[i][j] for g in shrunk) for j in range(2)] for i in range(2)]
        det = s[0][0] * s[1][1] - s[0][1] * s[1][0]
        inverse = [[s[1][1] / det, -s[0][1] / det], [-s[1][0] / det, s[0][0] / det]]
        right = [[math.fsum(dot(g[i], w[o]) for g, w in zip(shrunk, maps)) for o in range(2)] for i in range(2)]
        return [[dot(inverse[i], [right[0][o], right[1][o]]) for i in range(2)] for o in range(2)]

    return {"G": grams, "W_out_in": maps, "merged_ratio_1.0": merge(1.0), "merged_ratio_0.9": merge(0.9),
            "merged_ratio_0": merge(0.0)}


def surgery():
    features, expert = [[0.5, -1.0, 0.2], [1.0, 0.3, -0.4]], [[0.7, -0.8, 0.1], [0.9, 0.4, -0.1]]
    down, up = [[0.4, -0.3, 0.2], [0.1, 0.5, -0.6]], [[0.2, 0.1], [-0.3, 0.4], [0.0, 0.5]]

    def l1(rows):
        return math.fsum(abs(a - b) for x, y in zip(rows, expert) for a, b in zip(x, y)) / 6

    corrected = []
    for z in features:
        hidden = [max(0.0, dot(row, z)) for row in down]
        corrected.append([v - dot(row, hidden) for v, row in zip(z, up)])
    return {"Z": features, "Z_expert": expert, "W_down": down, "W_up": up, "z_corrected": corrected,
            "l1_mean": l1(corrected), "l1_mean_before": l1(features)}


if __name__ == "__main__":
    values = {"fisher": fisher(), "fisher_nodes": fisher_nodes(), "regmean": regmean(), "surgery": surgery()}
    with open("statistics.json", "w", encoding="utf-8") as file:
        json.dump(values, file, indent=1)
        file.write("\n")
