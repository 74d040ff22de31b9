"""Converts images to headerless `.bin` files: float32 planes, or pixels for an `.om` with AIPP."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fcos_train.data.images import UnreadableImage, try_read_image
from fcos_train.deploy.parts.files import listed, undecodable, unique_stems
from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.progress import track
from mmcv_overrides.device import cores
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole

SUFFIXES = {
    "cascade": (".jpg", ".jpeg", ".JPEG"),
    "other": (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".bmp"),
}


def preprocess(
    images: str | Path | Sequence[Path],
    bins: str | Path,
    rule: InputRule,
    workers: int | None = None,
    pixels: bool = False,
) -> int:
    """Write `<bins>/<text before the first dot>.bin` for every image: float32 little-endian, [3, H, W].

    Args:
        images: a folder, or the image files.
        bins: output folder; files of other images are kept.
        workers: number of threads; default one per processor.
        pixels: u8 [H, W, 3] instead, not normalised, for an `.om` with an AIPP file.

    Returns:
        the number of files written.

    Raises:
        UserError: no images, two with the same stem, or images that cannot be decoded; the others are written then.
    """
    if isinstance(images, (str, Path)):
        images = listed(images, SUFFIXES.get(rule.name, SUFFIXES["other"]), "images")
    names = unique_stems(images)
    bins = Path(bins)
    prepare = rule.prepare_pixels if pixels else rule.prepare

    def convert(item: tuple[str, Path]) -> tuple[Path, UnreadableImage] | None:
        name, path = item
        image = try_read_image(path)
        if isinstance(image, UnreadableImage):
            return path, image
        write_whole(bins / f"{name}.bin", prepare(image).tobytes())
        return None

    with ThreadPoolExecutor(workers or cores()) as pool:
        results = track(pool.map(convert, names.items()), "preparing images", len(names))
        bad = [fault for fault in results if fault is not None]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(names)} {undecodable(bad)}. Replace or remove them; "
            f"the other {len(names) - len(bad)} are in {bins}"
        )
    return len(names)
