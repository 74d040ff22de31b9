"""The board's program: NV12, maps found by shape, boxes, printed lines and drawing; runtimes that stand for a board.

``hobot_dnn`` and ``bpu_infer_lib`` exist on boards only. The modules of these names here are fakes: they return maps
that a test made, through the attributes that the vendor's programs use.
"""

import json
import sys
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.data.coco_names import COCO_NAMES
from fcos_train.deploy.rdk.board import command, demo, drawing, names, nv12, placing
from fcos_train.deploy.rdk.board.maps import Head, Map, MapDecoder
from fcos_train.deploy.rdk.options import RdkDemoOptions

SIZE = (256, 384)  # of the input
STRIDES = (8, 16, 32, 64, 128)
PARTS = (("cls", 6), ("box", 4), ("ctr", 1))


def _outputs(channels=6, scales=True, order=("cls", "box", "ctr"), by_level=False):
    """Outputs of a model for :data:`SIZE` in an order of the published models."""
    rng = np.random.default_rng(1)
    found = {}
    for part, count in (("cls", channels), ("box", 4), ("ctr", 1)):
        for level, stride in enumerate(STRIDES):
            shape = (1, SIZE[0] // stride, SIZE[1] // stride, count)
            scale = rng.uniform(1e-4, 1e-3, count).astype(np.float32) if scales else None
            found[part, level] = Map(f"{part}{level}", shape, scale)
    if by_level:
        return [found[part, level] for level in range(5) for part in order]
    return [found[part, level] for part in order for level in range(5)]


def _maps(outputs, seed=0):
    """Maps with some 40 candidates; int32 where the output has scales."""
    rng = np.random.default_rng(seed)
    maps = []
    for output in outputs:
        kind = output.name[:3]
        values = {
            "cls": lambda shape: rng.normal(-4, 1.7, shape),
            "box": lambda shape: np.abs(rng.normal(3, 1, shape)),
            "ctr": lambda shape: rng.normal(0, 1, shape),
        }[kind](output.shape).astype(np.float32)
        maps.append(values if output.scales is None else np.rint(values / output.scales).astype(np.int32))
    return maps


def _plain(outputs, maps, score, iou, unit=True):
    """The published algorithm: dequantise everything, best class, square root, one NMS for all classes (xywh)."""
    parts = {"cls": [], "box": [], "ctr": []}
    for output, values in zip(outputs, maps, strict=True):
        values = values if output.scales is None else values.astype(np.float32) * output.scales
        parts[output.name[:3]].append((int(output.name[3:]), values[0]))
    rows = []
    for (level, cls), (_, box), (_, ctr) in zip(*(sorted(part, key=lambda p: p[0]) for part in parts.values())):
        stride = STRIDES[level]
        best = cls.max(-1)
        scores = np.sqrt(1 / ((1 + np.exp(-best)) * (1 + np.exp(-ctr[..., 0]))))
        for y, x in zip(*np.nonzero(scores >= score)):
            centre, side = (np.array([x, y]) + 0.5) * stride, box[y, x] * (stride if unit else 1)
            corners = np.concatenate((centre - side[:2], centre + side[2:]))
            corners = np.clip(corners, 0, [SIZE[1], SIZE[0]] * 2)
            rows.append((*corners, scores[y, x], int(cls[y, x].argmax())))
    rows = np.array(rows)
    xywh = np.concatenate((rows[:, :2], rows[:, 2:4] - rows[:, :2]), 1)
    kept = np.asarray(cv2.dnn.NMSBoxes(xywh.tolist(), rows[:, 4].tolist(), score, iou)).reshape(-1)
    return rows[kept]


# ---- NV12 ----


def test_nv12_is_luma_and_then_interleaved_chroma():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = (0, 0, 255)  # right half red
    packed = nv12.to_nv12(image)
    assert packed.tolist() == [16, 16, 82, 82, 16, 16, 82, 82, 128, 128, 90, 240]  # BT.601, 16 to 235
    assert nv12.to_yuv444(packed, 2, 4)[1].tolist() == [[16, 128, 128]] * 2 + [[82, 90, 240]] * 2
    assert np.abs(nv12.to_bgr(packed, 2, 4).astype(int) - image).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(3, 4), (4, 3)])
def test_odd_sizes_are_refused(height, width):
    with pytest.raises(nv12.BoardError, match=f"even height and width, not {height} x {width}"):
        nv12.to_nv12(np.zeros((height, width, 3), np.uint8))


def test_another_length_is_refused():
    with pytest.raises(nv12.BoardError, match="has 12 bytes, not 8"):
        nv12.to_bgr(np.zeros(8, np.uint8), 2, 4)


# ---- placing ----


@pytest.mark.parametrize(
    ("how", "place", "scale"),
    [
        (placing.STRETCH, [0, 0, 60, 30], (0.6, 0.6)),
        (placing.LETTERBOX, [0, 15, 60, 45], (0.6, 0.6)),
        (placing.TOP_LEFT, [0, 0, 60, 30], (0.6, 0.6)),
    ],
)
def test_an_image_of_100_by_50_in_an_input_of_60(how, place, scale):
    height = 30 if how == placing.STRETCH else 60
    placed = placing.place(np.full((50, 100, 3), 200, np.uint8), height, 60, how)
    x1, y1, x2, y2 = place
    assert placed.image.shape == (height, 60, 3) and placed.scale == pytest.approx(scale)
    assert (placed.image[y1:y2, x1:x2] == 200).all() and (placed.image == 200).sum() == 3 * 60 * 30
    assert placed.restored(np.array([place], np.float32)).tolist() == [[0, 0, 100, 50]]


# ---- maps ----


@pytest.mark.parametrize("scales", [True, False], ids=["int32", "float"])
@pytest.mark.parametrize("iou", [0.3, 0.6])
@pytest.mark.parametrize("unit", [True, False], ids=["strides", "pixels"])
def test_boxes_equal_the_published_algorithm_with_its_nms_repaired(scales, iou, unit):
    outputs = _outputs(scales=scales)
    maps = _maps(outputs)
    if not unit:
        maps = [m if o.name[:3] != "box" else m * 16 for o, m in zip(outputs, maps)]
    head = Head(6, STRIDES, unit, 0.5, iou)
    found = MapDecoder(head, outputs, *SIZE)(maps)
    expected = _plain(outputs, maps, 0.5, iou, unit)
    assert len(expected) > 10
    np.testing.assert_allclose(found.boxes, expected[:, :4], atol=2e-3)
    np.testing.assert_allclose(found.scores, expected[:, 4], atol=1e-6)
    assert found.labels.tolist() == expected[:, 5].astype(int).tolist()


@pytest.mark.parametrize("channels", [6, 4, 1])
@pytest.mark.parametrize("named", [True, False])
def test_outputs_in_the_order_of_x5_and_x3_and_of_equal_shapes(channels, named):
    x5, x3 = _outputs(channels), _outputs(channels, order=("cls", "ctr", "box"), by_level=True)
    maps = dict(zip((o.name for o in x5), _maps(x5), strict=True))
    expected = _plain(x5, list(maps.values()), 0.5, 0.6)
    head = Head(channels, names=tuple(o.name for o in x5) if named else ())
    for outputs in (x5, x3):
        scales = {o.name: o.scales for o in x5}
        outputs = [Map(o.name, o.shape, scales[o.name]) for o in outputs]
        found = MapDecoder(head, outputs, *SIZE)([maps[o.name] for o in outputs])
        np.testing.assert_allclose(found.boxes, expected[:, :4], atol=2e-3)


def test_outputs_that_match_no_head_are_listed():
    with pytest.raises(
        nv12.BoardError, match=r"shape 1x32x48x80 \(80 classes.*none found; the model has cls0 1x32x48x6"
    ):
        MapDecoder(Head(80), _outputs(), *SIZE)


def test_a_score_at_the_threshold_counts():
    outputs = _outputs(scales=False)
    maps = [np.full(o.shape, -20, np.float32) for o in outputs]
    maps[2][0, 3, 4, 5], maps[12][0, 3, 4, 0] = 0, 0  # sqrt(0.5 * 0.5)
    maps[7][0, 3, 4] = (1, 1, 1, 1)
    found = MapDecoder(Head(6), outputs, *SIZE)(maps)
    assert (found.scores.tolist(), found.labels.tolist()) == ([0.5], [5])
    assert found.boxes.tolist() == [[112, 80, 176, 144]]  # centre (4.5, 3.5) strides of 32, 1 stride to each side


# ---- drawing and names ----


def test_the_label_is_above_the_box_or_below_its_upper_side():
    image = np.zeros((200, 300, 3), np.uint8)
    drawing.draw(image, (50, 100, 150, 180), 21, "cat", 0.851)
    assert image[180, 100].tolist() == list(drawing.PALETTE[1])  # label 21 takes colour 1
    assert image[97, 52].tolist() == list(drawing.PALETTE[1])
    image[:] = 0
    drawing.draw(image, (50, 5, 150, 180), 0, "cat", 0.85)
    assert image[22, 52].tolist() == list(drawing.PALETTE[0])
    assert len(set(drawing.PALETTE)) == 20


def test_names(tmp_path):
    assert names.COCO == COCO_NAMES and len(names.class_names(80, {}, None)) == 80
    assert names.class_names(2, {"classes": ["cell", "platelet"]}, None) == ["cell", "platelet"]
    assert list(names.class_names(2, {}, None)) == ["class 0", "class 1"]
    (tmp_path / "labels.txt").write_text("a\nb\n\n")
    assert names.class_names(2, {}, str(tmp_path / "labels.txt")) == ["a", "b"]
    with pytest.raises(nv12.BoardError, match="has 2 names for 80 classes"):
        names.class_names(80, {}, str(tmp_path / "labels.txt"))


# ---- flags ----


def test_the_flags_of_the_board_are_those_of_the_command():
    board = {action.dest: action.default for action in command._parser()._actions if action.dest != "help"}
    ours = {name: field.default for name, field in RdkDemoOptions.__dataclass_fields__.items()}
    assert board == ours == {name: field.default for name, field in demo.Settings.__dataclass_fields__.items()}
    assert ours["model_path"] == "models/fcos_512x512_nv12.bin" and ours["img_save_path"] == "jupyter_result.jpg"
    assert (ours["iou_thres"], ours["conf_thres"]) == (0.6, 0.5)


@pytest.mark.parametrize(("text", "value"), [("True", True), ("False", False), ("false", False), ("0", False)])
def test_is_stride_false_is_false(text, value):
    assert vars(command._parser().parse_args(["--is-stride", text]))["is_stride"] is value


# ---- whole runs ----


@pytest.fixture()
def hobot_dnn(monkeypatch):
    """A fake ``hobot_dnn.pyeasy_dnn``; the test sets what its models return."""
    easy = ModuleType("hobot_dnn.pyeasy_dnn")
    easy.__spec__ = SimpleNamespace(name="hobot_dnn.pyeasy_dnn")
    package = ModuleType("hobot_dnn")
    package.__path__, package.__spec__ = [], SimpleNamespace(name="hobot_dnn", submodule_search_locations=[])
    monkeypatch.setitem(sys.modules, "hobot_dnn", package)
    monkeypatch.setitem(sys.modules, "hobot_dnn.pyeasy_dnn", easy)
    easy.seen = []

    def load(path):
        def tensor(output, values):
            scales = np.zeros(0, np.float32) if output.scales is None else output.scales
            return SimpleNamespace(
                name=output.name, buffer=values, properties=SimpleNamespace(shape=output.shape, scale_data=scales)
            )

        def forward(packed):
            easy.seen.append(packed)
            return tensors

        tensors = [tensor(*pair) for pair in zip(easy.outputs, easy.maps, strict=True)]
        image = SimpleNamespace(properties=SimpleNamespace(shape=(1, 3, *SIZE), layout="NCHW"))
        return [SimpleNamespace(inputs=[image], outputs=tensors, forward=forward)]

    easy.load = load
    easy.outputs = _outputs()
    easy.maps = _maps(easy.outputs)
    return easy


@pytest.fixture()
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    cv2.imwrite("street.png", image)
    (tmp_path / "m_256x384_nv12.bin").write_bytes(b"compiled")
    return image


ARGUMENTS = ["--model-path", "m_256x384_nv12.bin", "--test-img", "street.png", "--classes-num", "6"]


def test_a_run_on_a_fake_board(hobot_dnn, files, capsys):
    assert main(["rdk-demo", *ARGUMENTS, "--img-save-path", "out.jpg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = _plain(hobot_dnn.outputs, hobot_dnn.maps, 0.5, 0.6)
    objects = [line.partition("[INFO] ")[2].partition(" -> ") for line in lines if " -> " in line]
    assert [text for _, _, text in objects] == [f"class {int(row[5])}: {row[4]:.2f}" for row in expected]
    corners = [[int(word) for word in box.strip("()").split(", ")] for box, _, _ in objects]
    np.testing.assert_allclose(corners, expected[:, :4] / 2 - 0.5, atol=0.51)  # half the sides of the input, cut off
    assert lines[0].startswith("[RDK_YOLO] [") and "] [DEBUG] Load D-Robotics Quantize model time = " in lines[0]
    steps = [line.rpartition("] ")[2].partition(" = ")[0] for line in lines[:5]]
    assert steps[1:] == ["bgr8 to nv12 time", "forward time", "c to numpy time", "Post Process time"]
    assert lines[-1].endswith('[INFO] saved in path: "./out.jpg"') and cv2.imread("out.jpg").shape == (128, 192, 3)
    stretched = cv2.resize(files, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(hobot_dnn.seen[0], nv12.to_nv12(stretched))


def test_the_other_interface_of_the_boards_gives_the_same(hobot_dnn, files, monkeypatch, capsys):
    main(["rdk-demo", *ARGUMENTS])
    first = [line.partition("] [INFO] ")[2] for line in capsys.readouterr().out.splitlines() if " -> " in line]
    outputs, maps = hobot_dnn.outputs, hobot_dnn.maps

    class Infer:  # a fake of bpu_infer_lib.Infer
        def __init__(self, debug):
            assert debug is False

        def load_model(self, path):
            assert path == "m_256x384_nv12.bin"

        def read_input(self, packed, index):
            assert packed.shape == (256 * 384 * 3 // 2,) and index == 0

        def forward(self):
            self.outputs = []

        def get_output(self):
            self.outputs = [SimpleNamespace(data=values) for values in maps]

        def get_output_scale(self, index):
            return SimpleNamespace(scaleData=outputs[index].scales)

    fake = ModuleType("bpu_infer_lib")
    fake.Infer, fake.__spec__ = Infer, SimpleNamespace(name="bpu_infer_lib")
    monkeypatch.delitem(sys.modules, "hobot_dnn.pyeasy_dnn")
    monkeypatch.delitem(sys.modules, "hobot_dnn")
    monkeypatch.setitem(sys.modules, "bpu_infer_lib", fake)
    assert main(["rdk-demo", *ARGUMENTS]) == 0
    second = [line.partition("] [INFO] ")[2] for line in capsys.readouterr().out.splitlines() if " -> " in line]
    assert first and first == second


def _described(path, **changes):
    content = {
        "classes": ["a"] * 6, "input": {"example_shape": SIZE}, "test_cfg": {}, "mean": [0, 0, 0], "std": [1, 1, 1],
        "bgr_to_rgb": True, "resize": {"keep_ratio": True}, "decode": {"strides": list(STRIDES), "stride_units": True},
        "outputs": [], **changes,
    }  # fmt: skip
    path.with_name(f"{path.name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model-path", "none.bin"], "--model-path none.bin: there is no such file"),
        (["--test-img", "none.png"], "--test-img none.png: no such file, or not an image"),
        (["--test-img", "broken.jpg"], "--test-img broken.jpg: no such file, or not an image"),
        (["--img-save-path", "none/out.jpg"], "there is no folder none"),
        (["--img-save-path", "out.txt"], "OpenCV writes no such files"),
        (["--classes-num", "80"], "one output is needed with the shape 1x32x48x80"),
        (["--classes-num", "0"], "--classes-num 0: must be at least 1"),
        (["--strides", "8,16"], "no output"),
        (["--strides", "8,x"], "give numbers with commas"),
        (["--strides", "0,8"], "--strides 0: must be at least 1"),
        (["--is-stride", "maybe"], "--is-stride maybe: write True or False"),
        (["--conf-thres", "1.5"], "--conf-thres 1.5: must be between 0 and 1"),
        (["--resize-type", "2"], "--resize-type 2: must be between 0 and 1"),
        (["--label-file", "none.txt"], "--label-file none.txt: no such file"),
        (["--label-file", "labels.txt"], "has 1 names for 6 classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, message, hobot_dnn, files, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "labels.txt").write_text("only\n")
    if words == ["--strides", "8,16"]:  # fewer levels are there: nothing is wrong
        assert main(["rdk-demo", *ARGUMENTS, *words]) == 0
        return
    assert main(["rdk-demo", *ARGUMENTS, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1 and not (tmp_path / "jupyter_result.jpg").exists()


def test_odd_inputs_are_refused(hobot_dnn, files, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules[__name__], "SIZE", (255, 384))
    assert main(["rdk-demo", *ARGUMENTS]) == 2
    assert "NV12 needs an even height and width, not 255 x 384" in capsys.readouterr().err


def test_a_bin_on_a_pc_names_what_runs_it(files, capsys):
    assert main(["rdk-demo", *ARGUMENTS]) == 2
    assert "a .bin runs on an RDK board, where hobot_dnn or bpu_infer_lib is installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--is-stride", "False"], "--is-stride False: the description of m_256x384_nv12.bin says True"),
        (["--classes-num", "5"], "--classes-num 5: the description of m_256x384_nv12.bin says 6"),
    ],
)
def test_a_flag_that_contradicts_the_description_is_refused(words, message, hobot_dnn, files, tmp_path, capsys):
    _described(tmp_path / "m_256x384_nv12.bin")
    assert main(["rdk-demo", *ARGUMENTS, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_described_model_is_given_images_as_in_training(hobot_dnn, files, tmp_path):
    _described(tmp_path / "m_256x384_nv12.bin", mean=[10, 20, 30], resize={"keep_ratio": True})
    cv2.imwrite("wide.png", files[:64])  # 64 x 192 becomes 128 x 384, the rest is filled with the mean (BGR 30 20 10)
    assert main(["rdk-demo", *ARGUMENTS, "--test-img", "wide.png"]) == 0
    whole = np.empty((*SIZE, 3), np.uint8)
    whole[:] = (30, 20, 10)
    whole[:128] = cv2.resize(files[:64], (384, 128), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(hobot_dnn.seen[-1], nv12.to_nv12(whole))
