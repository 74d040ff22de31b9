"""The numpy decoder compared with mmdet's own heads and with a slow definition in this file."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import FCOSHead, FSAFHead, RetinaHead
from mmengine.config import ConfigDict

import fcos_train.deploy.decoder as package
from fcos_train.deploy.decoder import Decoder, DecoderError, DecodeRule, decode_rule, raw_outputs
from fcos_train.deploy.decoder.arithmetic import greedy

STRIDES = (8, 16, 32, 64, 128)
SIZE = (200, 256)
PLANES = [(-(-SIZE[0] // s), -(-SIZE[1] // s)) for s in STRIDES]


def _maps(seed, classes=5, anchors=1, logit=-4.5, deviation=1.6, box=(0.0, 1.0), with_centerness=True):
    """Class logits, boxes, centerness logits as torch tensors [1, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)

    def normal(channels, mean, sd):
        return [torch.randn(1, channels, h, w, generator=generator) * sd + mean for h, w in PLANES]

    cls = normal(classes * anchors, logit, deviation)
    return cls, normal(4 * anchors, *box), normal(1, 0.0, 1.0) if with_centerness else None


def _numpy(maps, layout="NCHW"):
    axes = (0, 1, 2, 3) if layout == "NCHW" else (0, 2, 3, 1)
    return [m if m is None else [np.ascontiguousarray(x.numpy().transpose(axes)) for x in m] for m in maps]


def _slow(rule, cls, box, centerness, image_size=None):
    """The definition, one candidate at a time; [1, C, H, W] numpy maps, one anchor."""
    one = np.float32(1)
    candidates = []
    for level in range(len(rule.strides)):
        rows = []
        for y, x in np.ndindex(cls[level].shape[2:]):
            for label, z in enumerate(cls[level][0, :, y, x]):
                prob = score = one / (one + np.exp(-z))
                if centerness is not None:
                    factor = one / (one + np.exp(-centerness[level][0, 0, y, x]))
                    score = np.sqrt(prob * factor) if rule.sqrt else prob * factor
                if (prob if rule.threshold_on == "cls" else score) > np.float32(rule.score_thr):
                    rows.append((prob if rule.rank_by == "cls" else score, score, label, y, x, level))
        rows = sorted(rows, key=lambda r: -r[0])[: rule.nms_pre] if rule.nms_pre > 0 else rows
        candidates += sorted(rows, key=lambda r: (r[3], r[4], r[2]))
    candidates = sorted(candidates, key=lambda r: -r[1])
    seen, kept = set(), []
    for _, score, label, y, x, level in candidates:
        if rule.best_class_only and (level, y, x) in seen:
            continue
        seen.add((level, y, x))
        stride = np.float32(rule.strides[level])
        side = box[level][0, :, y, x]
        side = np.exp(side) if rule.exp else side
        side = side * stride if rule.stride_units else side
        centre = (np.array([x, y], np.float32) + np.float32(rule.offset)) * stride
        new = np.concatenate((centre - side[:2], centre + side[2:]))
        if image_size is not None:
            new = new.clip(0, np.array([image_size[1], image_size[0]] * 2, np.float32))
        if rule.min_size >= 0 and min(new[2] - new[0], new[3] - new[1]) <= rule.min_size:
            continue
        others = [b for b, _, other in kept if rule.class_agnostic or other == label]
        if not any(_iou(b, new, rule.iou_extra) > np.float32(rule.iou_thr) for b in others):
            kept.append((new, score, label))
        if len(kept) == rule.max_per_img:
            break
    return kept


def _iou(a, b, extra):
    extra = np.float32(extra)
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + extra
    inter = np.float32(max(sides[0], 0) * max(sides[1], 0))
    area = [(r[2] - r[0] + extra) * (r[3] - r[1] + extra) for r in (a, b)]
    with np.errstate(invalid="ignore"):  # boxes cut to nothing overlap nothing
        return inter / (area[0] + area[1] - inter)


RULES = {
    "mmdet": {},
    "exp": {"exp": True},
    "stride units": {"stride_units": True},
    "adelaidet": {"sqrt": True, "rank_by": "score", "stride_units": True, "iou_thr": 0.6},
    "product first": {"threshold_on": "score", "rank_by": "score"},
    "rdk": {
        "sqrt": True, "threshold_on": "score", "rank_by": "score", "best_class_only": True, "class_agnostic": True,
        "score_thr": 0.3, "iou_thr": 0.6, "stride_units": True,
    },
    "ncnn": {"sqrt": True, "iou_extra": 1, "score_thr": 0.3, "iou_thr": 0.6},
    "few go on": {"nms_pre": 7},
    "all go on": {"nms_pre": -1, "score_thr": 0.02},
    "no threshold": {"score_thr": 0.0, "nms_pre": 300},
    "many kept": {"max_per_img": 1000, "iou_thr": 0.9},
    "one kept": {"max_per_img": 1},
    "smallest size": {"min_size": 30.0},
    "high threshold": {"score_thr": 0.45},
}  # fmt: skip


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("image_size", [None, SIZE])
def test_is_the_slow_definition_bit_for_bit(name, layout, image_size):
    rule = DecodeRule(**RULES[name], layout=layout)
    small = rule.exp or rule.stride_units
    maps = _maps(3, box=(1.0, 0.6) if rule.stride_units else (3.2, 0.5) if small else (25.0, 9.0))
    expected = _slow(rule, *_numpy(maps), image_size)
    got = Decoder(rule)(*_numpy(maps, layout), image_size=image_size)
    assert len(expected) == len(got.boxes) > 0
    assert np.array_equal(got.boxes, np.array([b for b, _, _ in expected], np.float32).reshape(-1, 4))
    assert np.array_equal(got.scores, np.array([s for _, s, _ in expected], np.float32))
    assert got.labels.tolist() == [int(label) for _, _, label in expected]


def _predict(head, maps, cfg):
    meta = [{"img_shape": SIZE, "scale_factor": (1.0, 1.0)}]
    given = [m for m in maps if m is not None]
    return head.predict_by_feat(*given, batch_img_metas=meta, cfg=ConfigDict(cfg), rescale=False)[0]


def _same(got, want):
    assert len(want.bboxes) == len(got.boxes) > 20
    assert np.array_equal(got.labels, want.labels.numpy())
    assert np.abs(got.scores - want.scores.numpy()).max() < 1e-6
    assert np.abs(got.boxes - want.bboxes.numpy()).max() < 1e-3


TEST_CFG = {
    "nms_pre": 1000,
    "min_bbox_size": 0,
    "score_thr": 0.05,
    "nms": {"type": "nms", "iou_threshold": 0.5},
    "max_per_img": 100,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("nms_pre", [40, 1000])
def test_is_mmdets_fcos(seed, nms_pre):
    head = FCOSHead(5, 16, feat_channels=16, stacked_convs=0, strides=STRIDES, norm_cfg=None)
    maps = _maps(seed, box=(25.0, 9.0))
    want = _predict(head, maps, {**TEST_CFG, "nms_pre": nms_pre})
    _same(Decoder(DecodeRule(nms_pre=nms_pre, min_size=0))(*_numpy(maps), image_size=SIZE), want)


@pytest.mark.parametrize("nms_pre", [40, 1000])
def test_is_mmdets_retinanet(nms_pre):
    head = RetinaHead(5, 16, feat_channels=16, stacked_convs=0)
    maps = _maps(0, anchors=9, logit=-5.5, box=(0.0, 0.7), with_centerness=False)
    want = _predict(head, maps, {**TEST_CFG, "nms_pre": nms_pre})
    anchors = tuple(b.numpy() for b in head.prior_generator.base_anchors)
    rule = DecodeRule(kind="delta", anchors=anchors, min_size=0, nms_pre=nms_pre)
    _same(Decoder(rule)(*_numpy(maps), image_size=SIZE), want)
    for_nhwc = DecodeRule(kind="delta", anchors=anchors, min_size=0, nms_pre=nms_pre, layout="NHWC")
    _same(Decoder(for_nhwc)(*_numpy(maps, "NHWC"), image_size=SIZE), want)


@pytest.mark.parametrize("normalizer", [4.0, (4.0, 2.0, 3.0, 5.0)])
def test_is_mmdets_fsaf(normalizer):
    head = FSAFHead(
        5, 16, feat_channels=16, stacked_convs=0, reg_decoded_bbox=True,
        anchor_generator={
            "type": "AnchorGenerator", "octave_base_scale": 1, "scales_per_octave": 1, "ratios": [1.0],
            "strides": list(STRIDES),
        },
        bbox_coder={"type": "TBLRBBoxCoder", "normalizer": normalizer if normalizer == 4.0 else list(normalizer)},
    )  # fmt: skip
    cls, box, _ = _maps(1, box=(0.5, 0.3), with_centerness=False)
    maps = cls, [b.relu() for b in box], None
    want = _predict(head, maps, TEST_CFG)
    anchors = tuple(b.numpy() for b in head.prior_generator.base_anchors)
    rule = DecodeRule(kind="tblr", anchors=anchors, normalizer=normalizer, min_size=0)
    _same(Decoder(rule)(*_numpy(maps), image_size=SIZE), want)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["mmdet", "rdk"])
def test_integer_maps_with_scales_are_their_float_values(name, layout):
    rng = np.random.default_rng(0)
    rule = DecodeRule(**RULES[name], layout=layout)
    floats = _numpy(_maps(5, box=(1.0, 0.6) if rule.stride_units else (25.0, 9.0)), layout)
    axis = 1 if layout == "NCHW" else 3
    whole, scales, values = [], [], []
    for m in floats:
        scale = [rng.uniform(0.003, 0.02, x.shape[axis]).astype(np.float32) for x in m]
        shaped = [s.reshape(-1, 1, 1) if axis == 1 else s for s in scale]
        whole.append([np.round(x / s).astype(np.int32) for x, s in zip(m, shaped)])
        values.append([w * s for w, s in zip(whole[-1], shaped)])
        scales.append(scale)
    want = Decoder(rule)(*[[v.astype(np.float32) for v in m] for m in values])
    got = Decoder(rule)(*whole, scales=list(zip(*scales)))
    assert len(want.boxes) > 20
    assert all(np.array_equal(a, b) for a, b in zip(got, want))


def _integer_maps(case, rng, layout, need=0.2):
    """Random int32 maps [1, ...] of classes, boxes in strides and centerness, and their scales; ``need``: of ties."""
    channels = (5, 4, 1)
    scales = [[rng.uniform(0.004, 0.03, n).astype(np.float32) for n in channels] for _ in PLANES]
    maps = [[], [], []]
    for (height, width), row in zip(PLANES, scales):
        for kind, (n, scale) in enumerate(zip(channels, row)):
            mean, deviation = ((-4.0, 2.5), (2.0, 0.7), (0.5, 1.5))[kind]
            values = np.rint(rng.normal(mean, deviation, (height, width, n)) / scale)
            if case == "saturated" and kind != 1:
                values = rng.choice([-(2**31), -(2**31) + 1, 2**31 - 1], values.shape, p=(0.9, 0.05, 0.05))
            if case == "nothing" and kind == 0:
                values[:] = -(2**31)
            if case == "all" and kind == 0:
                values = np.rint(rng.uniform(3, 9, values.shape) / scale)
            if (
                case == "ties" and kind != 1
            ):  # on both sides of the integers at which the class probability is the needed one
                values = np.rint(_logit(need if kind == 0 else 0.99999) / scale) + rng.integers(-2, 3, values.shape)
                values += 5 * (kind == 2)
            if case == "dead channel" and kind == 0:
                scale[2] = 0
            values = values.astype(np.int32)
            maps[kind].append((values if layout == "NHWC" else values.transpose(2, 0, 1))[None].copy())
    return maps, scales


THR = 0.45
CASES = ("random", "saturated", "nothing", "all", "ties", "dead channel")


def _logit(p):
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["adelaidet", "rdk", "product first"])
def test_integer_maps_are_the_slow_definition(name, case, layout):
    rule = DecodeRule(**{**RULES[name], "stride_units": True, "score_thr": THR, "max_per_img": 60}, layout=layout)
    need = THR**2 if name == "rdk" else THR
    maps, scales = _integer_maps(case, np.random.default_rng(len(case)), layout, need)
    axes = (0, 3, 1, 2) if layout == "NHWC" else (0, 1, 2, 3)
    shaped = [[row[kind].reshape(1, -1, 1, 1) for row in scales] for kind in range(3)]
    floats = [[m.transpose(axes).astype(np.float32) * s for m, s in zip(*kind)] for kind in zip(maps, shaped)]
    with np.errstate(over="ignore"):
        expected = _slow(rule, *floats)
    decoder = Decoder(rule)
    for _ in range(2):  # the second time with the tables and bounds of the first
        got = decoder(*maps, scales=scales)
        assert np.array_equal(got.boxes, np.array([b for b, _, _ in expected], np.float32).reshape(-1, 4))
        assert np.array_equal(got.scores, np.array([s for _, s, _ in expected], np.float32))
        assert got.labels.tolist() == [int(label) for _, _, label in expected]
    assert (len(expected) == 0) == (case == "nothing")


def test_ties_lie_on_both_sides_of_the_threshold():
    """The case of this name is sharp: of its logits about half pass, by the last steps of their integers."""
    maps, scales = _integer_maps("ties", np.random.default_rng(4), "NHWC", THR**2)
    score = np.sqrt(_probability(maps[0][0] * scales[0][0]) * _probability(maps[2][0] * scales[0][2]))
    assert 0.2 < (score > THR).mean() < 0.8 and abs(score - THR).max() < 0.02


def _probability(x):
    return 1 / (1 + np.exp(-x))


def test_other_scales_in_the_next_call_count():
    rule = DecodeRule(**RULES["rdk"], layout="NHWC")
    maps, scales = _integer_maps("random", np.random.default_rng(0), "NHWC")
    decoder = Decoder(rule)
    decoder(*maps, scales=scales)
    for row in scales:
        row[0] *= np.float32(1.25)  # in place
    got, want = (one(*maps, scales=scales) for one in (decoder, Decoder(rule)))
    assert all(np.array_equal(a, b) for a, b in zip(got, want))


def test_one_scale_stands_for_all_channels():
    rule = DecodeRule(**RULES["rdk"], layout="NHWC")
    maps, _ = _integer_maps("random", np.random.default_rng(0), "NHWC")
    one, each = ([[np.full(n, 0.01, np.float32) for n in lengths]] * 5 for lengths in ((1, 1, 1), (5, 4, 1)))
    got, want = (Decoder(rule)(*maps, scales=scales) for scales in (one, each))
    assert len(got.boxes) > 5 and all(np.array_equal(a, b) for a, b in zip(got, want))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_narrow_integers_are_compared_in_their_range(dtype):
    """A bound beyond the range of the type lets all or none pass."""
    maps, scales = _integer_maps("random", np.random.default_rng(2), "NHWC")
    limits = np.iinfo(dtype)
    narrow = [[np.clip(m, limits.min, limits.max) for m in kind] for kind in maps]
    rule = DecodeRule(**RULES["rdk"], layout="NHWC")
    got = Decoder(rule)(*[[m.astype(dtype) for m in kind] for kind in narrow], scales=scales)
    want = Decoder(rule)(*narrow, scales=scales)
    assert len(want.boxes) > 5 and all(np.array_equal(a, b) for a, b in zip(got, want))


def test_half_precision_maps_lose_nothing_at_the_bound():
    bound = np.float16(np.log(0.3 / 0.7))
    logits = np.nextafter(np.full((1, 4, 4), bound), np.float16(9))
    logits[0, ::2] = np.nextafter(np.nextafter(bound, np.float16(-9)), np.float16(-9))
    box = [np.full((4, 4, 4), 3, np.float16)]
    got = Decoder(DecodeRule(strides=(8,), score_thr=0.3))([logits], box)
    assert len(got.boxes) == 8


SCALES = [(np.ones(5), np.ones(4), np.ones(1))] * 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps, scales: (maps, None), "int32 need scales"),
        (lambda maps, scales: (maps, scales[:4]), "scales of lengths"),
        (lambda maps, scales: (maps, [row[:2] for row in scales]), "scales of lengths"),
        (lambda maps, scales: (maps, [(np.ones(6), *row[1:]) for row in scales]), "one scale per channel"),
        (lambda maps, scales: (maps, [(-row[0], *row[1:]) for row in scales]), "negative or not finite"),
        (lambda maps, scales: (maps, [(*row[:2], np.array([np.nan])) for row in scales]), "negative or not finite"),
        (lambda maps, scales: (maps, [(*row[:2], np.array([np.inf])) for row in scales]), "negative or not finite"),
        (lambda maps, scales: ([[m.astype(np.int64) for m in k] for k in maps], scales), "int8, int16 or int32"),
        (lambda maps, scales: ([[m.astype(np.uint8) for m in k] for k in maps], None), "uint8 need scales"),
    ],
)
def test_scales_that_do_not_fit_are_refused(change, message):
    maps, scales = change(_integer_maps("random", np.random.default_rng(0), "NHWC")[0], SCALES)
    with pytest.raises(DecoderError, match=message):
        Decoder(DecodeRule(layout="NHWC"))(*maps, scales=scales)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.5])
def test_suppression_in_one_group_is_that_of_all_pairs(threshold, extra):
    rng = np.random.default_rng(extra)
    for count in (0, 1, 2, 7, 90):
        corner, size = rng.integers(0, 40, (count, 2)), rng.integers(-2, 20, (count, 2))  # some touch, some are empty
        boxes = np.concatenate((corner, corner + size), 1).astype(np.float32)
        kept = []
        for i, box in enumerate(boxes):
            if not any(_iou(boxes[j], box, extra) > np.float32(threshold) for j in kept):
                kept.append(i)
        assert greedy(boxes, None, threshold, extra).tolist() == kept
        assert greedy(boxes, np.zeros(count, np.int64), threshold, extra).tolist() == kept


def test_equal_scores_rank_by_place_in_both_layouts():
    planes = [np.zeros((3, 2, 2), np.float32)]
    rule = {"strides": (8,), "stride_units": True}
    box = [np.full((4, 2, 2), 0.4, np.float32)]
    got = Decoder(DecodeRule(**rule))(planes, box)
    nhwc = Decoder(DecodeRule(**rule, layout="NHWC"))(
        [p.transpose(1, 2, 0) for p in planes], [b.transpose(1, 2, 0) for b in box]
    )
    assert got.labels.tolist() == nhwc.labels.tolist() == [0, 1, 2] * 4
    assert np.allclose(got.boxes[::3, :2], [[0.8, 0.8], [8.8, 0.8], [0.8, 8.8], [8.8, 8.8]])


def test_nothing_found_gives_empty_arrays():
    maps = _numpy(_maps(0, logit=-30.0))
    got = Decoder(DecodeRule())(*maps)
    assert got.boxes.shape == (0, 4)
    assert got.scores.shape == got.labels.shape == (0,)


def test_sizes_may_change_between_calls():
    decoder = Decoder(DecodeRule())
    first = _numpy(_maps(0, box=(25.0, 9.0)))
    before = decoder(*first)
    decoder(*[[x[:, :, : max(1, x.shape[2] // 2)] for x in m] for m in first])
    assert all(np.array_equal(a, b) for a, b in zip(before, decoder(*first)))


def test_what_does_not_fit_is_refused():
    cls, box, ctr = _numpy(_maps(0))
    decoder = Decoder(DecodeRule())
    with pytest.raises(DecoderError, match="5 levels"):
        decoder(cls[:3], box[:3])
    with pytest.raises(DecoderError, match="shapes"):
        decoder(cls, ctr)
    with pytest.raises(DecoderError, match="shapes"):
        decoder(cls, box[::-1])
    with pytest.raises(DecoderError, match="scales"):
        decoder(cls, box, ctr, scales=[(np.ones(5), np.ones(4), np.ones(1))] * 5)
    with pytest.raises(DecoderError, match="kind"):
        DecodeRule(kind="corner")
    with pytest.raises(DecoderError, match="anchors"):
        DecodeRule(kind="delta")


def test_a_description_gives_the_rule_and_the_places_of_the_maps():
    content = {
        "decode": {
            "kind": "tblr", "strides": [8, [16, 16]], "normalizer": [4.0, 2.0, 3.0, 5.0],
            "anchors": [[[0, 0, 8, 8]]] * 2,
        },
        "test_cfg": {
            "score_thr": 0.1, "nms_pre": -1, "iou_threshold": 0.6, "class_agnostic": True, "min_bbox_size": 0,
            "max_per_img": 7,
        },
        "outputs": [
            {"name": name, "part": name[:3], "level": int(name[-1])} for name in ("box_1", "cls_1", "cls_0", "box_0")
        ],
    }  # fmt: skip
    rule = decode_rule(content)
    assert (rule.kind, rule.strides, rule.normalizer) == ("tblr", (8, 16), (4.0, 2.0, 3.0, 5.0))
    assert (rule.score_thr, rule.nms_pre, rule.iou_thr, rule.class_agnostic) == (0.1, -1, 0.6, True)
    assert (rule.min_size, rule.max_per_img, rule.anchors[1].tolist()) == (0, 7, [[0, 0, 8, 8]])
    names = ["cls_0", "cls_1", "box_0", "box_1"]
    assert raw_outputs(content, names) == {"cls": [0, 1], "box": [2, 3]}
    with pytest.raises(DecoderError, match="no output box_1; it has cls_0"):
        raw_outputs(content, names[:3])
    with pytest.raises(DecoderError, match="softmax"):
        decode_rule({**content, "decode": {**content["decode"], "score": "softmax"}})
    with pytest.raises(DecoderError, match="not the description of raw maps: KeyError.'nms_pre'"):
        decode_rule({**content, "test_cfg": {"score_thr": 0.1}})


ON_A_BOARD = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import numpy as np
from postprocessing import Decoder, DecodeRule
maps = np.load(sys.argv[2])
got = Decoder(DecodeRule())(*([maps[f"{part}_{i}"] for i in range(5)] for part in ("cls", "box", "ctr")))
np.savez(sys.argv[3], *got)
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(names - set(sys.stdlib_module_names)))
"""


def test_a_copy_of_the_folder_decodes_without_the_product(tmp_path):
    """In an empty folder, under another name, in an isolated interpreter that finds numpy and nothing else."""
    shutil.copytree(Path(package.__file__).parent, tmp_path / "board" / "postprocessing")
    (tmp_path / "board" / "numpy").symlink_to(Path(np.__file__).parent)
    for folder in Path(np.__file__).parents[1].glob("numpy.libs"):
        (tmp_path / "board" / folder.name).symlink_to(folder)
    maps = _numpy(_maps(3, box=(25.0, 9.0)))
    named = {f"{part}_{i}": x for part, m in zip(("cls", "box", "ctr"), maps) for i, x in enumerate(m)}
    np.savez(tmp_path / "maps.npz", **named)
    words = [sys.executable, "-I", "-S", "-c", ON_A_BOARD]
    files = [tmp_path / "board", tmp_path / "maps.npz", tmp_path / "boxes.npz"]
    done = subprocess.run([*words, *map(str, files)], cwd=tmp_path, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['numpy', 'postprocessing']"
    found = np.load(tmp_path / "boxes.npz")
    assert all(np.array_equal(a, b) for a, b in zip(Decoder(DecodeRule())(*maps), found.values()))


def test_the_package_imports_no_torch():
    code = "import sys, fcos_train.deploy.decoder; sys.exit('torch' in sys.modules or 'mmcv_overrides' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
