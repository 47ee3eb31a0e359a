"""Goldens for onefold-engine's losses, activations, pooling and patches, from PyTorch's autograd in f64.

Run: python make_losses.py    (writes losses.json beside itself; made with torch 2.15)
Inputs are stored rounded to f32; values and gradients are of those numbers.
"""
import json
import pathlib
import torch
import torch.nn.functional as F

torch.manual_seed(7)
D = torch.float64
ROUND = 8


def leaf(*shape, scale=1.0):
    x = (torch.randn(*shape, dtype=D) * scale).mul(1e4).round().div(1e4).to(torch.float32).to(D)
    return x.requires_grad_()


def flat(t):
    return [float(f"{v:.{ROUND}g}") for v in t.detach().reshape(-1).tolist()]


out = {"torch": torch.__version__, "activations": {}, "head": [], "small": []}

x, c = leaf(24, scale=2.5), leaf(24).detach()
ACTS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda t: F.gelu(t, approximate="tanh"),
    "quick_gelu": lambda t: t * torch.sigmoid(1.702 * t),
    "relu": F.relu,
    "tanh": torch.tanh,
}
out["x"], out["cotangent"] = flat(x), flat(c)
for name, f in ACTS.items():
    y = f(x)
    (g,) = torch.autograd.grad((y * c).sum(), x)
    out["activations"][name] = {"y": flat(y), "dx": flat(g)}

rows, vocabulary, width = 5, 13, 6
targets = [3, -100, 0, 12, 7]
weights = torch.tensor([0.5, 1.0, 0.25, 0.125, 2.0], dtype=D)
hidden, weight, bias = leaf(rows, width), leaf(vocabulary, width), leaf(vocabulary)
out["head_inputs"] = {
    "rows": rows, "vocabulary": vocabulary, "width": width, "targets": targets,
    "weights": flat(weights), "hidden": flat(hidden), "weight": flat(weight), "bias": flat(bias),
}
keep = torch.tensor([t >= 0 for t in targets])
for scale, cap, smoothing, entropy in [(1.0, None, 0.0, 0), (0.5, 2.0, 0.0, 0), (1.0, None, 0.1, 0), (1.0, 3.0, 0.0, 1)]:
    z = scale * hidden @ weight.T + bias
    if cap is not None:
        z = cap * torch.tanh(z / cap)
    if entropy:
        loss = torch.distributions.Categorical(logits=z).entropy() * keep
    else:
        loss = F.cross_entropy(z, torch.tensor(targets), reduction="none", label_smoothing=smoothing, ignore_index=-100)
    grads = torch.autograd.grad((loss * weights).sum(), [hidden, weight, bias])
    out["head"].append({
        "scale": scale, "cap": cap, "smoothing": smoothing, "entropy": bool(entropy), "losses": flat(loss),
        "hidden": flat(grads[0]), "weight": flat(grads[1]), "bias": flat(grads[2]),
    })

z, other = leaf(4, 7, scale=2.0), leaf(4, 7, scale=2.0).detach()
wanted = torch.rand(4, 7, dtype=D).mul(1e4).round().div(1e4).to(torch.float32).to(D)
T = 2.5
out["small_inputs"] = {"classes": 7, "z": flat(z), "other": flat(other), "wanted": flat(wanted), "temperature": T}
losses = {
    "binary": F.binary_cross_entropy_with_logits(z, wanted, reduction="none").mean(1),
    "squared_error": F.mse_loss(z, wanted, reduction="none").mean(1),
    "distillation": T * T * F.kl_div(F.log_softmax(z / T, 1), F.log_softmax(other / T, 1), reduction="none", log_target=True).sum(1),
}
for name, loss in losses.items():
    (g,) = torch.autograd.grad(loss.sum(), z)
    out["small"].append({"name": name, "losses": flat(loss), "dz": flat(g)})

v, cv = leaf(3, 5), leaf(3, 5).detach()
y = F.normalize(v, dim=1)
(g,) = torch.autograd.grad((y * cv).sum(), v)
out["normalise"] = {"width": 5, "x": flat(v), "cotangent": flat(cv), "y": flat(y), "dx": flat(g)}

image, kernel, cw = leaf(2, 2, 5, 6), leaf(3, 2, 2, 2), leaf(2, 3, 2, 3).detach()
y = F.conv2d(image, kernel, stride=2)
gi, gk = torch.autograd.grad((y * cw).sum(), [image, kernel])
tokens = lambda t: flat(t.flatten(2).transpose(1, 2))
out["patches"] = {
    "images": 2, "channels": 2, "height": 5, "width": 6, "kernel": 2, "outputs": 3, "pixels": flat(image),
    "weight": flat(kernel), "cotangent": tokens(cw), "y": tokens(y), "dpixels": flat(gi), "dweight": flat(gk),
}

path = pathlib.Path(__file__).with_name("losses.json")
path.write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")
