"""The message when memory runs out: what it recognises, the sizes it names, the changes it proposes."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.engine import memory
from fcos_train.engine.run import evaluate, train
from fcos_train.geometry.padded import PaddedObjects
from mmcv_overrides.errors import UserError

CPU = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes. Error code 12"
CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.6 GiB"
NPU = "NPU out of memory. Tried to allocate 20.00 MiB (NPU 0; 60.97 GiB total capacity)"


@pytest.mark.parametrize(
    ("error", "found", "accelerated", "said"),
    [
        (RuntimeError(CPU), True, False, "4294967296 bytes more were asked for"),
        (torch.OutOfMemoryError(CUDA), True, True, "2.50 GiB more were asked for"),
        (RuntimeError(NPU), True, True, "20.00 MiB more were asked for"),
        (MemoryError("Unable to allocate 5.96 GiB for an array"), True, False, "5.96 GiB more were asked for"),
        (MemoryError(), True, False, "a process was refused memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), True, False, "DataLoader worker"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False, None),
        (OSError("No such file"), False, False, None),
    ],
)
def test_what_is_recognised(error, found, accelerated, said) -> None:
    assert memory.is_out_of_memory(error) == found
    assert memory.is_accelerators(error) == accelerated
    assert said is None or memory._said(error).startswith(said)


def test_sizes_of_both_kinds_of_batches() -> None:
    boxes = [torch.rand(count, 4) for count in (3, 8)]
    samples = [DetDataSample(gt_instances=InstanceData(bboxes=one)) for one in boxes]
    ragged = {"inputs": [torch.zeros(3, 40, 60), torch.zeros(3, 80, 50)], "data_samples": samples}
    assert memory.sizes(ragged) == "2 images of up to 50 x 80 px (width x height), 11 objects in all and 8 in one image"
    padded = PaddedObjects.gather(boxes, [torch.zeros(3).long(), torch.zeros(8).long()], [], [(80, 96)] * 2, 8, [])
    fixed = {"inputs": torch.zeros(2, 3, 80, 96), "data_samples": padded}
    assert memory.sizes(fixed) == "2 images of 96 x 80 px (width x height), 11 objects in all and 8 in one image"
    assert memory.sizes({"inputs": torch.zeros(1, 3, 80, 96)}) == "1 image of 96 x 80 px (width x height)"
    assert memory.sizes(None) == "no batch was complete yet"


def runner(level: str = "O1", batch: int = 8, workers: int = 2, **backbone) -> SimpleNamespace:
    pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(1000, 600), keep_ratio=True)]
    loader = dict(batch_size=batch, num_workers=workers, dataset=dict(pipeline=pipeline))
    model = dict(backbone=dict(type="ResNet", **backbone))
    cfg = dict(model=model, train_dataloader=loader, test_dataloader=loader, optim_wrapper=dict(opt_level=level))
    return SimpleNamespace(cfg=Config(cfg))


@pytest.mark.parametrize(
    ("settings", "training", "accelerated", "starts"),
    [
        ({}, True, False, ["--batch-size 4 (the learning", "--workers 0", "--cfg-options model.backbone.with_cp=True"]),
        ({"level": "O0"}, True, True, ["--batch-size 4", "--opt-level O1", "--cfg-options model.backbone.with_cp"]),
        ({"batch": 1}, True, True, ["--cfg-options model.backbone.with_cp", "images of half the area", "a smaller"]),
        ({"with_cp": True}, True, True, ["--batch-size 4", "images of half the area (scale=(700, 420)", "a smaller"]),
        ({}, False, False, ["--batch-size 4", "--workers 0", "images of half the area"]),
    ],
)
def test_the_cheapest_changes_that_apply(settings, training, accelerated, starts) -> None:
    found = memory.cheapest(runner(**settings), training, accelerated)
    assert [text[: len(start)] for text, start in zip(found, starts, strict=True)] == starts
    assert ("learning rate" in found[0]) == (training and settings.get("batch") != 1)


def test_training_and_evaluation_say_what_to_do(shapes, tmp_path, monkeypatch) -> None:
    """The allocator itself refuses: more bytes than any machine has."""
    common = dict(data_path=str(shapes), device="cpu", workers=0)
    options = TrainOptions(
        "fcos/fcos_tiny_shapes", work_dir=str(tmp_path / "run"), seed=0, max_iters=1, pretrained="none", **common
    )
    train(options)
    from mmdet.models import FCOS

    def greedy(*args, **kwargs):
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(FCOS, "extract_feat", greedy)
    sizes = r"4 images of [89]. x [89]. px \(width x height\), \d+ objects in all and \d+ in one image"
    with pytest.raises(
        UserError, match=rf"in step 1 of the training: {sizes}.*\nThe cheapest changes: --batch-size 2 \("
    ):
        train(TrainOptions(**{**vars(options), "work_dir": str(tmp_path / "other")}))
    with pytest.raises(UserError, match=r"in batch 1 of the evaluation: 4 images .*\nThe cheapest .*--batch-size 2;"):
        evaluate(EvalOptions(None, str(tmp_path / "run" / "latest.pth"), **common))
