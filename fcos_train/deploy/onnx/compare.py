"""Whether two answers of one network are the same, and by how much they differ.

Values (maps, decoded boxes and scores) must lie within rtol 1e-3 and atol 1e-5 of PyTorch's. Where one does not, both
answers are measured against PyTorch in float64, and the largest error of the file may be at most twice that of PyTorch's
own float32: what differs then is the rounding of float32, which no setting of either runtime takes away.

A detection that one answer lacks is forgiven where rounding decides: it lies on a threshold or tie, or PyTorch itself
answers as the file does when computed in float64 or on images changed by a millionth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fcos_train.deploy.onnx.spec import Output, Selection

RTOL, ATOL = 1e-3, 1e-5
ROUNDING = 2.0  # times PyTorch's own largest error
BOX_PX, SCORE = 0.5, 1e-3  # of detections
REPEATS = 3
TIES = 0.05  # share of the detections that may hang on a tie or a threshold (but two always may)


@dataclass(frozen=True)
class Difference:
    """Of one output, over all images.

    Attributes:
        name: of the output.
        largest: absolute, over everything that was compared (over matched pairs for detections).
        fault: what is out of tolerance, or None.
        count: values, or matched detections.
        note: what else is worth knowing.
    """

    name: str
    largest: float
    fault: str | None
    count: int
    note: str = ""


def compare(
    outputs: Sequence[Output],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    rules: Selection,
    half: bool,
    again: Callable[[int], Sequence[np.ndarray]],
) -> list[Difference]:
    """Compare the outputs of one run.

    Args:
        ours: of the ONNX file. theirs: of PyTorch.
        half: detections were suppressed in half precision, so the nearest ties may fall otherwise.
        again: PyTorch's answer once more, asked for only where something is out of tolerance: 0 in float64, 1 to
            ``REPEATS`` with the images changed by a millionth.
    """
    found = []
    for index, (output, mine, other) in enumerate(zip(outputs, ours, theirs, strict=True)):
        if mine.shape != other.shape:
            found.append(Difference(output.name, float("inf"), f"shape {mine.shape} instead of {other.shape}", 0))
        elif output.kind == "dets":
            labels = ours[index + 1], theirs[index + 1]
            place = slice(index, index + 2)
            found += _detections(
                outputs[place], mine, other, *labels, rules, half, lambda k, place=place: again(k)[place]
            )
        elif output.kind != "labels":
            found.append(_values(output, mine, other, rules, lambda index=index: again(0)[index]))
    return found


def _values(
    output: Output, mine: np.ndarray, other: np.ndarray, rules: Selection, exact: Callable[[], np.ndarray]
) -> Difference:
    notes = []
    if output.kind == "scores":
        flips = _on_threshold(mine, other, rules)
        mine = np.where(flips, other, mine)
        notes += [f"{int(flips.sum())} on the threshold"] if flips.any() else []
    with np.errstate(invalid="ignore"):
        apart = np.abs(np.where(mine == other, 0, mine - other))
    largest = float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf")
    bad = int((~np.isclose(mine, other, rtol=RTOL, atol=ATOL)).sum())
    fault = None
    if bad:
        ideal = exact()
        if output.kind == "scores":
            ideal = np.where(_on_threshold(ideal, other, rules), other, ideal)
        own, torchs = (float(np.abs(values - ideal).max()) for values in (mine, other))
        said = f"{bad} of {mine.size} values beyond rtol {RTOL:g} and atol {ATOL:g}"
        away = f"{own:.1e} from float64, PyTorch itself {torchs:.1e}"
        if own <= ROUNDING * torchs:  # not so for NaN
            notes.append(f"{said} by rounding: {away}")
        else:
            fault = f"{said}; {away}"
    return Difference(output.name, largest, fault, mine.size, ", ".join(notes))


def _on_threshold(mine: np.ndarray, other: np.ndarray, rules: Selection) -> np.ndarray:
    """Scores that are 0 in one answer alone, where rounding decides whether the class score passes. Too many: none."""
    flips = ((mine == 0) != (other == 0)) & (np.maximum(mine, other) <= rules.score_thr * (1 + RTOL) + ATOL)
    return flips if flips.sum() <= max(2, 1e-4 * mine.size) else np.zeros_like(flips)


def _detections(outputs, dets, other_dets, labels, other_labels, rules: Selection, half, again) -> list[Difference]:
    box, score, pairs, explained, lost = 0.0, 0.0, 0, 0, []
    box_limit = limit_of_boxes(other_dets, half)
    for image in range(len(dets)):
        mine, other = _rows(dets[image], labels[image]), _rows(other_dets[image], other_labels[image])
        matched, mine_left, other_left = _match(mine, other, box_limit)
        pairs += len(matched)
        for i, j in matched:
            box = max(box, float(np.abs(mine[i, :4] - other[j, :4]).max()))
            score = max(score, float(abs(mine[i, 4] - other[j, 4])))
        for rows, left, counterpart in ((mine, mine_left, other), (other, other_left, mine)):
            for row in left:
                near = _near_tie(rows[row], counterpart, rules, half, full=len(counterpart) >= dets.shape[1])
                if near or _rounding_decides(rows[row], image, rows is mine, again, box_limit):
                    explained += 1
                else:
                    lost.append(f"image {image} class {int(rows[row, 5])} score {rows[row, 4]:.4f}")
    note = f"{pairs} detections matched, scores within {score:.1e}"
    note += f", {explained} on a tie or threshold" if explained else ""
    fault = None
    if lost:
        fault = f"{len(lost)} detections without a partner within {box_limit} px and {SCORE:g}: {'; '.join(lost[:3])}"
    elif explained > max(2 if pairs else 0, TIES * (pairs + explained)):
        fault = f"{explained} of {pairs + explained} detections differ by ties; too many to call it the same"
    return [Difference(outputs[0].name, box, fault, pairs, note), Difference(outputs[1].name, 0.0, None, pairs)]


def limit_of_boxes(dets: np.ndarray, half: bool) -> float:
    """How far boxes may be apart, in px: one step of a half-precision number above 1024 px is 1 px."""
    return BOX_PX if not half or np.abs(dets).max(initial=0) <= 1024 else 1.0


def agreement(
    dets: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, half: bool
) -> np.ndarray:
    """How many detections two answers share, and how many each has: [3] integers.

    Args:
        dets, other: [B, T, 5]; labels, other_labels: [B, T].
    """
    limit, found = limit_of_boxes(other, half), np.zeros(3, int)
    for image in range(len(dets)):
        mine, theirs = _rows(dets[image], labels[image]), _rows(other[image], other_labels[image])
        found += len(_match(mine, theirs, limit)[0]), len(mine), len(theirs)
    return found


def _rows(dets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[K, 6] box, score, label of the rows in use."""
    used = dets[:, 4] > 0
    return np.concatenate((dets[used].astype(np.float64), labels[used, None].astype(np.float64)), 1)


def _match(mine: np.ndarray, other: np.ndarray, box_limit: float):
    """Pairs of the same class within the limits, best score first, each row once; and the rows left over."""
    free = np.ones(len(other), bool)
    pairs, left = [], []
    for i, row in enumerate(mine):
        apart = np.abs(other[:, :4] - row[:4]).max(1, initial=0.0)
        fits = free & (other[:, 5] == row[5]) & (apart <= box_limit) & (np.abs(other[:, 4] - row[4]) <= SCORE)
        if fits.any():
            j = int(np.flatnonzero(fits)[np.argmin(apart[fits])])
            free[j] = False
            pairs.append((i, j))
        else:
            left.append(i)
    return pairs, left, list(np.flatnonzero(free))


def _rounding_decides(row: np.ndarray, image: int, present: bool, again, box_limit: float) -> bool:
    """PyTorch, asked again, has (``present``) or lacks this row as the file does."""
    for number in range(REPEATS + 1):
        dets, labels = again(number)
        partners = _match(row[None], _rows(dets[image], labels[image]), box_limit)[0]
        if bool(partners) is present:
            return True
    return False


def _near_tie(row: np.ndarray, others: np.ndarray, rules: Selection, half: bool, full: bool) -> bool:
    """A rounding error decides whether this row is there: at the threshold, at the end of a full list, or because a
    box of the other answer overlaps it by just the limit, or is as good and overlaps more."""
    slack = 0.02 if half else 1e-3
    if abs(row[4] - rules.score_thr) <= SCORE and rules.score_thr > 0:
        return True
    if full and row[4] <= others[:, 4].min(initial=np.inf) + SCORE:
        return True
    rivals = others if rules.class_agnostic else others[others[:, 5] == row[5]]
    overlap = _iou(row[:4], rivals[:, :4])
    on_limit = np.abs(overlap - rules.iou_threshold) <= slack
    swapped = (overlap > rules.iou_threshold) & (np.abs(rivals[:, 4] - row[4]) <= SCORE)
    return bool((on_limit | swapped).any())


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    inside = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    whole = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inside
    return inside / np.maximum(whole, 1e-9)
