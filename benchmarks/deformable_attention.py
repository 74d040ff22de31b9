"""Deformable attention of one encoder layer on one CPU core: time and memory of one form.

python benchmarks/deformable_attention.py portable|mmcv

``portable`` is the operator that replaces mmcv's compiled one, ``mmcv`` the torch form that mmcv has for CPUs. The size
is that of Deformable DETR on an image of 800 x 1072. Peak memory counts from the state with all arguments in memory.
"""

import argparse
import resource
import time

import mmcv_overrides.ops

print(mmcv_overrides.ops.install())

import torch  # noqa: E402
from mmcv.ops import multi_scale_deform_attn as attention  # noqa: E402

LEVELS = ((100, 134), (50, 67), (25, 34), (13, 17))
HEADS, CHANNELS, POINTS = 8, 32, 4


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", choices=("portable", "mmcv"))
    form = parser.parse_args().form
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shapes = torch.tensor(LEVELS)
    sizes = shapes.prod(1)
    start, keys = sizes.cumsum(0) - sizes, int(sizes.sum())
    value = torch.randn(1, keys, HEADS, CHANNELS, requires_grad=True)
    places = torch.rand(1, keys, HEADS, len(LEVELS), POINTS, 2, requires_grad=True)
    weights = torch.rand(1, keys, HEADS, len(LEVELS), POINTS, requires_grad=True)

    def attend() -> torch.Tensor:
        if form == "mmcv":
            return attention.multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
        return attention.MultiScaleDeformableAttnFunction.apply(value, shapes, start, places, weights, 64)

    before, times = peak_mb(), []
    for _ in range(3):
        clock = time.process_time()
        out = attend()
        middle = time.process_time()
        out.sum().backward()
        times.append((middle - clock, time.process_time() - middle))
    forward, backward = map(min, zip(*times, strict=True))
    print(
        f"torch {torch.__version__}, 1 thread, {keys} queries, {form}: forward {forward:.2f} s, "
        f"backward {backward:.2f} s of CPU time (best of 3), peak memory +{peak_mb() - before:.0f} MB"
    )


if __name__ == "__main__":
    main()
