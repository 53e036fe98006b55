"""Views a second of the batched pipeline, and its ratio to one image at a time with Pillow.

    python benchmarks/views.py [--size 32] [--batch 512] [--threads 2]

The reference does what the usual data loader does with Pillow, operation by operation and with the same
settings, in one process; the batched pipeline runs on the CPU. Both are warmed up; medians of repeats.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from monosem.data.views import ViewSettings, two_views

REPEATS = 15


def median_seconds(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue).astype(int) + round(turns * 255)) % 256
    channels = (Image.fromarray(shifted.astype(np.uint8)), saturation, value)
    return Image.merge("HSV", channels).convert("RGB")


def crop(image: Image.Image, settings: ViewSettings) -> Image.Image:
    width, height = image.size
    low, high = settings.crop_ratio
    for _ in range(10):
        area = width * height * random.uniform(*settings.crop_scale)
        ratio = math.exp(random.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return image.resize(image.size, Image.Resampling.BILINEAR, (left, top, left + w, top + h))
    return image


def pillow_view(image: Image.Image, settings: ViewSettings) -> np.ndarray:
    view = crop(image, settings)
    if random.random() < settings.flip:
        view = ImageOps.mirror(view)
    if random.random() < settings.jitter:
        enhance = {
            ImageEnhance.Brightness: settings.brightness,
            ImageEnhance.Contrast: settings.contrast,
            ImageEnhance.Color: settings.saturation,
        }
        for operation in random.sample([*enhance, None], 4):
            if operation is None:
                view = shift_hue(view, random.uniform(-settings.hue, settings.hue))
            else:
                strength = enhance[operation]
                view = operation(view).enhance(random.uniform(max(0.0, 1 - strength), 1 + strength))
    if random.random() < settings.grayscale:
        view = view.convert("L").convert("RGB")
    if random.random() < settings.blur:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(*settings.blur_sigma)))
    return np.asarray(view, dtype=np.float32).transpose(2, 0, 1) / 255.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random.seed(0)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    pillow_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    settings = ViewSettings()

    batched = 2 * arguments.batch / median_seconds(lambda: two_views(images, settings, generator))
    reference = arguments.batch / median_seconds(
        lambda: np.stack([pillow_view(image, settings) for image in pillow_images])
    )
    print(f"views of {arguments.size} x {arguments.size} colour images, batch {arguments.batch}")
    print(f"batched, {arguments.threads} threads: {batched:10,.0f} views/s")
    print(f"Pillow, one at a time: {reference:10,.0f} views/s")
    print(f"ratio: {batched / reference:.1f}")


if __name__ == "__main__":
    main()
