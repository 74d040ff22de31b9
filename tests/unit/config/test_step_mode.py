"""The fixed-shape step is put into a config, and taken out of it again."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from fcos_train.config import step_mode
from fcos_train.config.load import load_config
from fcos_train.config.options import TrainOptions
from fcos_train.engine import fixed_step
from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from tests.support.steps import batch, sgd, small_model
from tests.support.tape import TapedGraphs

TINY = "fcos/fcos_tiny_shapes"


def prepared(mode="auto", name=TINY, level="O1", kind="cpu", pipeline=None, **head):
    cfg = load_config(name)
    cfg.model.bbox_head.update(head)
    if pipeline:
        cfg.train_dataloader.dataset.pipeline.insert(-1, pipeline)
    cfg.optim_wrapper["opt_level"] = level  # as set_precision has left it
    options = TrainOptions(config=name, step_mode=mode)
    accelerator = device.Accelerator(kind, "gloo", torch.bfloat16, "")
    return cfg, step_mode.set_step(cfg, options, accelerator)


def hooks(cfg):
    return [h.type for h in cfg.custom_hooks]


def test_default_is_the_fixed_shape_head_and_the_log_says_so():
    cfg, (line, *_) = prepared()
    assert cfg.model.bbox_head.type == "StaticFCOSHead" and "FixedStepHook" in hooks(cfg)
    assert line.startswith("fixed-shape step: FCOS head, mode eager")


def test_fsaf_is_covered():
    cfg, (line, *_) = prepared(name="mmdet::fsaf/fsaf_r50_fpn_1x_coco")
    assert cfg.model.bbox_head.type == "StaticFSAFHead" and "FSAF head" in line


def test_mmdet_mode_brings_the_stock_parts_back():
    cfg, _ = prepared()
    accelerator = device.Accelerator("cpu", "gloo", torch.bfloat16, "")
    lines = step_mode.set_step(cfg, TrainOptions(config=TINY, step_mode="mmdet"), accelerator)
    assert cfg.model.bbox_head.type == "FCOSHead" and "FixedStepHook" not in hooks(cfg)
    assert lines == ["step mode mmdet: asked for"]


@pytest.mark.parametrize(("mode", "kind"), [("auto", "StaticFCOSHead"), ("mmdet", "LevelFCOSHead")])
def test_batch_norm_is_per_level_in_every_mode(mode, kind):
    """And a config that one mode wrote is taken by the other."""
    name = "fcos/fcos_r18_fpn_shapes_bn-head"
    cfg, lines = prepared(mode, name)
    assert cfg.model.bbox_head.type == kind
    assert any("FCOSHead with BatchNorm: LevelFCOSHead" in line for line in lines) is (mode == "mmdet")
    accelerator, other = device.Accelerator("cpu", "gloo", torch.bfloat16, ""), {"auto": "mmdet", "mmdet": "auto"}[mode]
    step_mode.set_step(cfg, TrainOptions(config=name, step_mode=other), accelerator)
    assert cfg.model.bbox_head.type == {"mmdet": "LevelFCOSHead", "auto": "StaticFCOSHead"}[other]


def test_batch_norm_of_a_head_without_a_fixed_shape_form():
    cfg, lines = prepared(name="mmdet::retinanet/retinanet_r50_fpn_1x_coco", norm_cfg=dict(type="SyncBN"))
    assert cfg.model.bbox_head.type == "LevelRetinaHead" and "RetinaHead with BatchNorm" in lines[-1]


def test_twice_is_once():
    cfg, first = prepared()
    before = copy.deepcopy(cfg.to_dict())
    accelerator = device.Accelerator("cpu", "gloo", torch.bfloat16, "")
    assert step_mode.set_step(cfg, TrainOptions(config=TINY), accelerator) == first
    assert cfg.to_dict() == before


def test_what_is_not_covered_says_why():
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True, class_weight=[1.0])
    cfg, (line, *_) = prepared(loss_centerness=loss)
    assert cfg.model.bbox_head.type == "FCOSHead" and "loss_centerness" in line
    with pytest.raises(UserError, match="loss_centerness.*--step-mode mmdet"):
        prepared("eager", loss_centerness=loss)
    _, (line, *_) = prepared(name="mmdet::retinanet/retinanet_r50_fpn_1x_coco")
    assert line == "step mode mmdet: RetinaHead has no fixed-shape form"


def test_compile_is_put_into_the_hook_and_the_log():
    cfg, (line, _) = prepared("compile")
    assert [h.mode for h in cfg.custom_hooks if h.type == "FixedStepHook"] == ["compile"]
    assert line.startswith("fixed-shape step: FCOS head, mode compile") and "can take minutes" in line


def test_compile_wants_a_model_and_batches_of_fixed_shape():
    with pytest.raises(
        UserError, match="--step-mode compile: RetinaHead has no fixed-shape form; use --step-mode mmdet"
    ):
        prepared("compile", name="mmdet::retinanet/retinanet_r50_fpn_1x_coco")
    with pytest.raises(
        UserError, match="--step-mode compile needs batches of a few fixed shapes, but: .*no fixed size.*shapes="
    ):
        prepared("compile", pipeline=dict(type="RandomCrop", crop_size=(64, 64)))


def test_graph_is_for_a_gpu_and_one_process():
    with pytest.raises(UserError, match="--step-mode graph: a CUDA graph needs --device cuda, this is cpu"):
        prepared("graph")
    cfg, (line, _) = prepared("graph", kind="cuda")
    assert [h.mode for h in cfg.custom_hooks if h.type == "FixedStepHook"] == ["graph"]
    assert line.startswith("fixed-shape step: FCOS head, mode graph; the first 3 steps of every shape run uncaptured")


def test_a_model_made_ready_takes_its_steps(monkeypatch):
    def losses(mode: str, steps: int) -> list[float]:
        model = small_model("fcos-gn")
        wrapper = sgd(model)
        fixed_step.make_ready(model, wrapper, print, mode=mode)
        return [model.train_step(batch(0), wrapper)["loss"].item() for _ in range(steps)]

    eager = losses("eager", 7)
    assert eager[-1] < eager[1]  # one batch, seven updates
    monkeypatch.setattr(fixed_step.graphed, "CudaGraphs", TapedGraphs)
    captured = fixed_step.graphed.WARM_UP + 2
    assert losses("graph", captured)[-1] == pytest.approx(eager[captured - 1], rel=1e-5)  # the fifth update of both


@pytest.mark.parametrize(("kind", "level", "dense"), [("cpu", "O1", True), ("npu", "O1", False), ("cuda", "O1", False)])
def test_channels_last_only_where_it_pays(kind, level, dense):
    cfg, _ = prepared(level=level, kind=kind)
    assert [h.channels_last for h in cfg.custom_hooks if h.type == "FixedStepHook"] == [dense]


@pytest.mark.parametrize(
    ("level", "fault", "dense"), [("O1", None, True), ("O0", None, False), ("O1", "no Triton", False)]
)
def test_channels_last_with_group_norm_on_a_gpu_takes_triton(monkeypatch, level, fault, dense):
    monkeypatch.setattr(step_mode, "triton_fault", lambda: fault)
    cfg, _ = prepared(level=level, kind="cuda")
    assert [h.channels_last for h in cfg.custom_hooks if h.type == "FixedStepHook"] == [dense]


def test_weights_and_momentum_share_one_order():
    from mmcv_overrides.optimizer import StepOptimWrapper

    cfg, _ = prepared()
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    weights = [p for p in model.parameters() if p.dim() == 4]
    wrapper = StepOptimWrapper(torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True))
    for weight in weights:
        wrapper.optimizer.state[weight]["momentum_buffer"].normal_()
    kept = [wrapper.optimizer.state[weight]["momentum_buffer"].clone() for weight in weights]
    fixed_step.lay_out(model, wrapper)
    for weight, before in zip(weights, kept, strict=True):
        momentum = wrapper.optimizer.state[weight]["momentum_buffer"]
        assert momentum.stride() == weight.stride() and torch.equal(momentum, before)
        assert weight.is_contiguous(memory_format=torch.channels_last)
