"""From a checkpoint file to boxes in pixels of the image."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from fcos_train.data.images import read_image
from fcos_train.infer.detector import Detections, Detector
from fcos_train.infer.images import as_bgr, write_image
from mmcv_overrides.errors import UserError

CLASSES = ("circle", "square", "triangle")


def test_end_to_end(config, make_checkpoint, picture):
    detector = Detector.from_checkpoint(make_checkpoint(config), device="cpu")
    assert detector.classes == CLASSES and detector.name(1) == "square" and detector.name(9) == "class 9"
    assert detector.device == torch.device("cpu") and "asked for" in detector.device_reason
    assert not detector.model.training
    found = detector(picture)
    assert found.boxes.dtype == np.float32 and found.boxes.shape == (len(found), 4) and 0 < len(found) <= 7
    assert found.scores.dtype == np.float32 and (np.diff(found.scores) <= 0).all()
    assert found.labels.dtype == np.int64 and set(found.labels) <= {0, 1, 2}
    # Boxes are clipped to the image in its own pixels, although the network saw it enlarged to 160 x 128.
    assert (found.boxes >= 0).all() and found.boxes[:, 2].max() <= 120 and found.boxes[:, 3].max() <= 96
    again = detector(picture)
    assert np.array_equal(found.boxes, again.boxes) and np.array_equal(found.scores, again.scores)


def test_equals_mmdets_own_inference(config, make_checkpoint, picture):
    from mmdet.apis import inference_detector
    from mmengine.registry import DefaultScope

    path = make_checkpoint(config)
    detector = Detector.from_checkpoint(path)
    model = detector.model
    model.cfg = config
    DefaultScope.get_instance("as-mmdet", scope_name="mmdet")
    theirs = inference_detector(model, picture).pred_instances
    ours = detector(picture)
    np.testing.assert_allclose(ours.boxes, theirs.bboxes.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours.scores, theirs.scores.numpy(), atol=1e-6)
    assert (ours.labels == theirs.labels.numpy()).all()


def test_grey_and_alpha_see_the_same_picture(config, make_checkpoint, picture):
    detector = Detector.from_checkpoint(make_checkpoint(config))
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    as_three = detector(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    for same in (grey, grey[:, :, None], grey.astype(np.uint16) << 8):
        assert np.array_equal(detector(same).boxes, as_three.boxes)
    alpha = np.dstack([picture, np.zeros_like(grey)])
    assert np.array_equal(detector(alpha).boxes, detector(picture).boxes)
    for bad in (np.zeros((4, 4, 5), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UserError, match="not an image"):
            detector(bad)


def test_given_config_wins_and_old_meta_is_read(config, make_checkpoint, picture, tmp_path):
    path = make_checkpoint(config, text="model = dict(type='Nonsense')", dataset_meta=None, CLASSES=("a", "b", "c"))
    detector = Detector.from_checkpoint(path, config=config)
    assert detector.classes == ("a", "b", "c") and len(detector(picture)) > 0
    config.dump(tmp_path / "mine.py")
    by_file = Detector.from_checkpoint(path, config=str(tmp_path / "mine.py"))
    assert np.array_equal(by_file(picture).boxes, detector(picture).boxes)


def test_classes_from_the_configuration(config, make_checkpoint):
    config.test_dataloader.dataset.metainfo = {"classes": ("x", "y", "z")}
    assert Detector.from_checkpoint(make_checkpoint(config, dataset_meta=None)).classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no configuration"),
        ("a = 1", "has no `model`"),
        ("model = dict(type='NoSuchDetector')", "asks for model.type='NoSuchDetector'"),
        ("model = dict(type='FCOS')", "cannot build the model"),
        ("model = dict(type='FCOS')\ndefault_scope = 'evil'", "asks for parts of 'evil'"),
        ("custom_imports = dict(imports=['evil'])\nmodel = dict(type='FCOS')", "imports 'evil'"),
        ("model = __import__('os').system('echo')", "more than a value"),
    ],
)
def test_unusable_configurations(config, make_checkpoint, text, message):
    with pytest.raises(UserError, match=message):
        Detector.from_checkpoint(make_checkpoint(config, text=text))


def test_configuration_without_data(config, make_checkpoint):
    config.pop("test_dataloader"), config.pop("val_dataloader")
    with pytest.raises(UserError, match="has no `test_dataloader`"):
        Detector.from_checkpoint(make_checkpoint(config))


@pytest.mark.parametrize("meta", [{}, {"dataset_meta": None}])
def test_the_number_of_classes_is_that_of_the_weights(config, make_checkpoint, picture, meta):
    """A config file has the number of its own data set: 80 in those of FCOS; a training takes it from its data."""
    path = make_checkpoint(config, **meta)
    other = Config(config.to_dict())
    other.model.bbox_head.num_classes = 80
    other.test_dataloader.dataset.metainfo = {"classes": tuple(f"class of COCO {n}" for n in range(80))}
    detector = Detector.from_checkpoint(path, config=other)
    assert detector.notices == ["num_classes 80 -> 3: the classes of the checkpoint"]
    assert detector.classes == (() if meta else CLASSES) and other.model.bbox_head.num_classes == 80
    assert np.array_equal(detector(picture).boxes, Detector.from_checkpoint(path)(picture).boxes)


def test_a_model_whose_train_returns_nothing(config, monkeypatch):
    """LD and LAD override ``train`` for their teacher, without the ``return self`` of torch."""
    model = torch.nn.Linear(1, 1)
    monkeypatch.setattr(model, "train", lambda mode=True: None)
    assert Detector(model, lambda data: data, config, ("a",), torch.device("cpu")).model is model


def test_a_model_that_needs_proposals_is_not_given_an_image_alone(config, make_checkpoint):
    path = make_checkpoint(config)
    config.test_dataloader.dataset.pipeline.insert(1, {"type": "LoadProposals", "num_max_proposals": 10})
    with pytest.raises(UserError, match="needs proposals of another model for every image"):
        Detector.from_checkpoint(path, config=config, device="cpu")


def test_a_model_that_needs_a_package_names_it(config, make_checkpoint, monkeypatch):
    from fcos_train.config import packages

    path = make_checkpoint(config)
    monkeypatch.setattr(packages, "is_installed", lambda module: False)
    config.model.bbox_head.type = "PAAHead"
    with pytest.raises(UserError, match="PAAHead needs sklearn, which is not installed: pip install scikit-learn"):
        Detector.from_checkpoint(path, config=config, device="cpu")


def test_weights_of_another_model(config, make_checkpoint):
    path = make_checkpoint(config)
    other = Config(config.to_dict())
    other.model.bbox_head.update(num_classes=5, feat_channels=32)
    with pytest.raises(UserError, match="does not fit the configuration.*--config FILE"):
        Detector.from_checkpoint(path, config=other)


def test_malicious_pickle_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"meta": {"cfg": "a = 1", "x": Evil()}, "state_dict": {}}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="trust_checkpoints"):
        Detector.from_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_malicious_nms_type_runs_nothing(config, make_checkpoint, tmp_path):
    mark = tmp_path / "executed"
    path = make_checkpoint(config)
    config.model.test_cfg.nms.type = f"__import__('os').system('touch {mark}') or nms"
    evil = make_checkpoint(config, name="evil.pth")
    with pytest.raises(UserError, match="model.test_cfg.nms.type"):
        Detector.from_checkpoint(evil)
    assert not mark.exists() and path.exists()


def test_devices(config, make_checkpoint):
    path = make_checkpoint(config)
    with pytest.raises(UserError, match="unknown device"):
        Detector.from_checkpoint(path, device="tpu")
    with pytest.raises(UserError, match="there is no cpu number 3"):
        Detector.from_checkpoint(path, device="cpu:3")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="device 'cuda:0'"):
            Detector.from_checkpoint(path, device="cuda:0")


def test_detections_above():
    found = Detections(np.eye(4, dtype=np.float32)[:3], np.array([0.9, 0.5, 0.1], np.float32), np.array([2, 0, 1]))
    assert found.above(0.5).labels.tolist() == [2, 0] and len(found) == 3


def test_image_files(tmp_path, picture):
    path = write_image(tmp_path / "new" / "bild-ä.png", picture)
    assert np.array_equal(read_image(path), picture)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, message in (("broken.jpg", "8 bytes"), ("empty.jpg", "0 bytes"), ("none.jpg", "the file is absent")):
        with pytest.raises(UserError, match=f"(?s){name}.*|{message}") as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value) and message in str(caught.value)
    with pytest.raises(UserError, match="cannot write"):
        write_image(tmp_path / "broken.jpg" / "x.jpg", picture)
    assert as_bgr(np.ones((2, 2), bool)).tolist() == np.full((2, 2, 3), 255).tolist()


def test_class_names_reach_models_that_read_text(config, make_checkpoint, picture, monkeypatch):
    """As from mmdet's data sets: GLIP detects the classes that `text` names, if the pipeline packs it."""
    pack = config.test_dataloader.dataset.pipeline[-1]
    pack["meta_keys"] = ("img_id", "ori_shape", "img_shape", "scale_factor", "text", "custom_entities")
    detector = Detector.from_checkpoint(make_checkpoint(config))
    seen = []
    predict = detector.model.predict
    monkeypatch.setattr(
        detector.model, "predict", lambda inputs, samples, **rest: (seen.extend(samples), predict(inputs, samples))[1]
    )
    detector(picture)
    assert [(tuple(sample.text), sample.custom_entities) for sample in seen] == [(CLASSES, True)]
