"""The log lines that users' scripts parse, and the same records as JSON."""

import json
import re
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub

from mmcv_overrides import json_log, text_log


def runner(tmp_path, hub, iters=14, length=7, interval=50) -> SimpleNamespace:
    loader = type("Loader", (), {"__len__": lambda _: length, "dataset": range(length)})()
    return SimpleNamespace(
        message_hub=hub,
        train_dataloader=loader,
        val_dataloader=loader,
        epoch=1,
        iter=iters - 1,
        max_iters=70,
        _train_loop=object(),
        work_dir=str(tmp_path),
        timestamp="20260101_000000",
        hooks=[json_log.ContractLoggerHook(interval=interval)],
        optim_wrapper=SimpleNamespace(last_grad_norm=torch.tensor(3.1)),
        visualizer=SimpleNamespace(add_scalars=lambda *a, **k: None),
        logger=SimpleNamespace(info=lambda text, extra=None: None),
    )


def filled_hub(name) -> MessageHub:
    hub = MessageHub.get_instance(name)
    for key, value in {"lr": 1.25e-3, "base_lr": 1.25e-3, "time": 0.31, "data_time": 0.01}.items():
        hub.update_scalar(f"train/{key}", value)
    hub.update_info("eta", 3723.0)
    hub.update_info("fps", 3.224)
    hub.update_info("fps_window", 3.3)
    return hub


def test_train_line_is_the_contracts_line(tmp_path) -> None:
    hub = filled_hub("train-line")
    for key, value in {
        "loss": 1.8,
        "loss_cls": 0.5123,
        "loss_bbox": 0.7,
        "loss_centerness": 0.5877,
        "grad_norm": 3.1,
    }.items():
        hub.update_scalar(f"train/{key}", value)
    tag, text = text_log.ContractLogProcessor(window_size=10).get_log_after_iter(runner(tmp_path, hub), 6, "train")
    assert text == (
        "Epoch [2][7/7]\tlr: 1.250e-03, eta: 1:02:03, time: 0.310, data_time: 0.010, FPS: 3.22, "
        "loss_cls: 0.5123, loss_bbox: 0.7000, loss_centerness: 0.5877, loss: 1.8000, grad_norm: 3.1000"
    )
    assert {key: tag[key] for key in ("mode", "epoch", "iter", "step", "fps")} == {
        "mode": "train",
        "epoch": 2,
        "iter": 7,
        "step": 14,
        "fps": 3.224,
    }


def test_val_line_is_the_contracts_line(tmp_path) -> None:
    hub = MessageHub.get_instance("val-line")
    hub.update_scalar("val/bbox_mAP", 0.126)
    hub.update_scalar("val/bbox_mAP_50", 0.25)
    _, text = text_log.ContractLogProcessor().get_log_after_epoch(runner(tmp_path, hub), 72, "val")
    assert text == "Epoch(val) [1][72]\tbbox_mAP: 0.1260, bbox_mAP_50: 0.2500"
    assert max(float(x) for x in re.findall(r"bbox_mAP: ([^,]*),", text)) == 0.126


def test_text_and_json_agree_in_the_last_digit(tmp_path) -> None:
    """0.123449996 is 0.1234 at once, and 0.1235 (0.12345 in binary) by way of the five digits of the JSON record."""
    hub = filled_hub("digits")
    hub.update_scalar("train/loss", 0.123449996)
    hub.update_scalar("val/bbox_mAP", 0.123449996)
    run, processor = runner(tmp_path, hub), text_log.ContractLogProcessor(window_size=10)
    for tag, text in (
        processor.get_log_after_iter(run, 6, "train"),
        processor.get_log_after_epoch(run, 72, "val"),
    ):
        name = "loss" if tag["mode"] == "train" else "bbox_mAP"
        assert text.endswith(f"{name}: {text_log.json_value(tag[name]):.4f}")


def test_json_log_has_one_object_per_line_with_five_digits(tmp_path) -> None:
    hub = filled_hub("json")
    hub.update_scalar("train/loss", 1.23456789)
    run = runner(tmp_path, hub)
    run.log_processor = text_log.ContractLogProcessor()
    hook = run.hooks[0]
    hook.json_path = tmp_path / "log.json"
    hook.after_train_iter(run, 6)
    hook.after_train_iter(run, 6)
    objects = [json.loads(line) for line in hook.json_path.read_text().splitlines()]
    assert len(objects) == 2 and objects[0]["loss"] == 1.23457 and objects[0]["mode"] == "train"


def test_not_a_number_stays_valid_json() -> None:
    assert text_log.json_value(float("nan")) == "nan" and text_log.json_value(float("inf")) == "inf"


def test_losses_wait_on_the_device_until_a_line_is_due(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_log, "current", lambda: SimpleNamespace(module=object()))
    hub = MessageHub.get_instance("deferred")
    run = runner(tmp_path, hub, iters=1, length=100, interval=3)
    hook = text_log.DeferredRuntimeInfoHook()
    for i in range(3):
        assert "train/loss" not in hub.log_scalars
        hook.after_train_iter(run, i, None, {"loss": torch.tensor(float(i)), "loss_cls": torch.tensor(0.5)})
        run.iter += 1
    values, counts = hub.get_scalar("train/loss").data
    assert values.tolist() == [0.0, 1.0, 2.0]
    assert hub.get_scalar("train/grad_norm").current() == torch.tensor(3.1).item()
