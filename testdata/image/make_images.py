"""Small images, and what the image processors of transformers (Pillow backend) make of them.

Made with transformers 5.23.0, Pillow 13.0.0. Run in this directory:

    CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 python make_images.py

`*.png`, `*.jpg`: the images. `resize.json`: grey levels after `Image.resize` by each filter. `pixels.json`: processor
configurations, and `pixel_values` per image.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

HERE = Path(__file__).parent
FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}


def picture(width, height, channels, seed):
    """Waves and noise: smooth parts and hard edges."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 90 * np.sin(x / (3 + c) + c) * np.cos(y / (4 - c)) for c in range(channels)]
    values = np.stack(planes, -1) + noise.normal(0, 12, (height, width, channels))
    values[height // 3:height // 2, width // 4:width // 2] = 255
    return np.clip(values, 0, 255).astype(np.uint8)


def images():
    Image.fromarray(picture(23, 17, 3, 1)).save(HERE / "rgb.png")
    Image.fromarray(picture(9, 31, 1, 2)[..., 0]).save(HERE / "grey.png")
    Image.fromarray(picture(20, 20, 4, 3), "RGBA").save(HERE / "alpha.png")
    Image.fromarray(picture(16, 12, 3, 4)).quantize(16).save(HERE / "palette.png")
    Image.fromarray(picture(33, 26, 3, 5)).save(HERE / "photo.jpg", quality=90, subsampling=0)


def short(values):
    return [float(str(np.float32(v))) for v in np.asarray(values).flatten()]


PROCESSORS = {
    "vit": ViTImageProcessorPil(size={"height": 12, "width": 14}),
    "vit_bicubic": ViTImageProcessorPil(size={"height": 24, "width": 10}, resample=3,
                                        image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}),
    "clip_wide_crop": CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size={"height": 12, "width": 15}),
}


def main():
    images()
    grey = Image.open(HERE / "grey.png")
    sizes = [(5, 7), (20, 40), (9, 4), (1, 1)]
    write = lambda name, value: (HERE / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")
    write("resize.json", [dict(filter=name, width=w, height=h, levels=list(grey.resize((w, h), code).tobytes()))
                          for code, name in FILTERS.items() for w, h in sizes])
    files = ["rgb.png", "grey.png", "alpha.png", "palette.png", "photo.jpg"]
    made = {}
    for name, processor in PROCESSORS.items():
        config = json.loads(processor.to_json_string())
        pixels = {}
        for file in files if name in ("vit", "clip") else files[:2]:
            image = Image.open(HERE / file).convert("RGB")
            values = processor(image, return_tensors="np")["pixel_values"][0]
            pixels[file] = dict(shape=list(values.shape), values=short(values))
        made[name] = dict(config=config, pixels=pixels)
    write("pixels.json", made)


main()
