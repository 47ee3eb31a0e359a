"""Makes the PyTorch checkpoints that the tests of onefold-checkpoint's reader open, and expected.json beside them.

    python make_pytorch.py

Ran with Python 3.11.7, torch 2.15.0, numpy 2.4.6. Deterministic: values are counted, not drawn.
Expected per file: a list of tensors with name, dtype (safetensors name), shape and the bytes of the dense tensor
in hexadecimal, row-major; or the beginning of the error message for files that must be refused.
"""

import collections
import io
import json
import pathlib
import warnings
import zipfile

import numpy
import torch

HERE = pathlib.Path(__file__).parent
warnings.filterwarnings("ignore")
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.bool: "BOOL", torch.complex64: "C64",
}


def count(*shape, dtype=torch.float32):
    n = 1
    for dim in shape:
        n *= dim
    return (torch.arange(n, dtype=torch.float32) - 2.5).reshape(shape).to(dtype)


def all_dtypes():
    result = {}
    for dtype, name in NAMES.items():
        if dtype == torch.bool:
            result[name] = torch.tensor([True, False, True])
        elif dtype == torch.complex64:
            result[name] = torch.complex(count(3), count(3) + 7)
        elif name in ("U16", "U32", "U64"):
            result[name] = torch.tensor([0, 7, 60000], dtype=dtype)
        elif name == "F8_E8M0":
            result[name] = torch.tensor([1, 120, 200], dtype=torch.uint8).view(dtype)
        else:
            result[name] = (count(2, 3) * 10).to(dtype) if name not in ("U8",) else torch.tensor([0, 9, 255], dtype=dtype)
    return result


def views():
    whole = count(6, 4)
    tied = count(2, 3)
    return collections.OrderedDict(
        [
            ("whole", whole),
            ("transposed", whole.t()),
            ("permuted", count(2, 3, 4).permute(2, 0, 1)),
            ("narrow", whole.narrow(0, 2, 3)),
            ("column", whole[:, 1]),
            ("steps", whole[1::2, ::3]),
            ("tied.a", tied),
            ("tied.b", tied),
            ("expanded", count(3, 1).expand(3, 4)),
            ("empty", torch.zeros(0, 5)),
            ("empty.corner", count(3, 4)[3:, 4:]),
            ("scalar", torch.tensor(4.25, dtype=torch.float64)),
            ("bf16.narrow", count(9, dtype=torch.bfloat16)[3:7]),
        ]
    )


def module():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 3))
    model[2].weight = model[0].weight  # tied
    return model


def parameters():
    with_state = torch.nn.Parameter(count(2, 2))
    with_state._is_hf_initialized = True
    tensor_state = count(3)
    tensor_state.note = "kept by _rebuild_from_type_v2"
    return {
        "parameter": torch.nn.Parameter(count(3, 2)),
        "frozen": torch.nn.Parameter(count(2), requires_grad=False),
        "with_state": with_state,
        "tensor_state": tensor_state,
        "buffer": torch.nn.Buffer(count(4)),
    }


def lightning():
    return {
        "epoch": 3, "global_step": 2**40, "huge": 2**200, "lr": 1e-4, "done": False, "nothing": None,
        "pytorch-lightning_version": "2.4", "shape": torch.Size([1, 2]), "device": torch.device("cpu"),
        "dtype": torch.float16, "seen": {1, 2}, "blob": b"\x00\xff", "score": numpy.float64(0.5),
        "optimizer_states": [{"state": {0: {"exp_avg": count(2)}}, "param_groups": [{"params": [0], "betas": (0.9, 0.95)}]}],
        "state_dict": module().state_dict(),
    }


def save(obj, name, **options):
    # The name inside the zip is that of the buffer ("archive"); files get theirs from the path.
    torch.save(obj, HERE / name, **options)


def expect(tensors):
    out = []
    for name, tensor in tensors.items():
        dense = tensor.detach().contiguous().clone()
        raw = bytes(dense.untyped_storage()) if dense.numel() else b""
        out.append({"name": name, "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "hex": raw.hex()})
    return out


def main():
    good, bad = {}, {}

    def keep(name, obj, tensors=None, **options):
        save(obj, name, **options)
        good[name] = {"tensors": expect(obj if tensors is None else tensors)}

    keep("dtypes.bin", all_dtypes())
    keep("views.bin", views())
    keep("module.bin", module().state_dict())
    keep("parameters.pt", parameters())
    keep("lightning.ckpt", lightning(), module().state_dict())
    keep("wrapped-model.pt", {"model": dict(module().state_dict()), "step": 7}, module().state_dict())
    for protocol in (3, 4, 5):
        state = collections.OrderedDict(views())
        keep(f"protocol-{protocol}.bin", state, pickle_protocol=protocol)
    rows = count(120, 2)
    many = {f"layers.{i}.weight": rows[i] for i in range(120)}  # memo indices above 255
    keep("many.bin", many)
    buffer = io.BytesIO()
    torch.save({"w": count(2, 2)}, buffer)
    (HERE / "buffer.bin").write_bytes(buffer.getvalue())
    good["buffer.bin"] = {"tensors": expect({"w": count(2, 2)})}

    def refuse(name, obj, message, **options):
        save(obj, name, **options)
        bad[name] = message

    refuse("legacy.bin", {"w": count(2)}, "a pickle of the format before PyTorch 1.6", _use_new_zipfile_serialization=False)
    refuse("whole-module.pt", module(), "refused: `torch.nn.modules.container.Sequential`")
    refuse("sparse.bin", {"w": count(2, 2).to_sparse()}, "refused: a sparse tensor")
    quantised = torch.quantize_per_tensor(count(4), 0.5, 0, torch.qint8)
    refuse("quantised.bin", {"w": quantised}, "refused: a quantised tensor")
    refuse("negated.bin", {"w": torch._neg_view(count(2))}, "tensor `w`: it is a conjugated or negated view")
    refuse("meta.bin", {"w": torch.zeros(2, device="meta")}, "refused: a meta tensor")
    refuse("complex128.bin", {"w": torch.zeros(2, dtype=torch.complex128)}, "element type `ComplexDoubleStorage`")
    refuse("float8-fnuz.bin", {"w": count(2).to(torch.float8_e4m3fnuz)}, "element type `float8_e4m3fnuz`")
    refuse("tensor.pt", count(2), "the file holds a tensor, not a mapping")
    refuse("nested.bin", {"w": count(1), "inner": {"v": count(1)}}, "`inner` holds a mapping, not a tensor")
    refuse("number.bin", {"w": count(1), "step": 3}, "`step` holds a int, not a tensor")
    refuse("ambiguous.bin", {"model": {"w": count(1)}, "module": {"w": count(1)}}, "`model` and `module` both hold tensors")
    refuse("empty.bin", {}, "the checkpoint holds no tensor")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    (HERE / "torchscript.pt").write_bytes(buffer.getvalue())
    bad["torchscript.pt"] = "a TorchScript program"
    with zipfile.ZipFile(HERE / "compressed.bin", "w", zipfile.ZIP_DEFLATED) as out:
        with zipfile.ZipFile(HERE / "buffer.bin") as source:
            for entry in source.namelist():
                out.writestr(entry, source.read(entry))
    bad["compressed.bin"] = "entry `archive/"

    text = json.dumps({"good": good, "bad": bad}, indent=1)
    (HERE / "expected.json").write_text(text + "\n")


main()
