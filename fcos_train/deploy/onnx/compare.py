"""Decides whether the outputs of a file equal those of PyTorch, and by how much they differ.

Values (maps, decoded boxes and scores) must be within rtol 1e-3 and atol 1e-5 of PyTorch's. If one is not, both are
compared with PyTorch in float64, and the largest error of the file may be at most twice that of PyTorch's own float32:
the difference then is float32 rounding, which no setting of either runtime avoids.

A detection that only one side has is accepted if rounding decides about it: it is at a threshold or tie, or PyTorch
itself gives the result of the file when computed in float64 or on images changed by a millionth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_train.deploy.onnx.spec import Output, Selection

RTOL, ATOL = 1e-3, 1e-5
ROUNDING = 2.0  # times PyTorch's own largest error
BOX_PX, SCORE = 0.5, 1e-3  # tolerance of detections
REPEATS = 3
TIES = 0.05  # accepted share of detections at a tie or a threshold; two are always accepted

# Number of a repetition -> PyTorch's (dets, labels).
Again = Callable[[int], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """Difference of one output, over all images.

    Attributes:
        name: of the output.
        largest: largest absolute difference of the compared values (for detections, of matched pairs).
        fault: what is out of tolerance, or None.
        count: number of values, or of matched detections.
        note: further information for the user.
        apart: number of detections that one side lacks; unexplained: of these, no tie or threshold explains.
    """

    name: str
    largest: float
    fault: str | None
    count: int
    note: str = ""
    apart: int = 0
    unexplained: int = 0


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
        half: detections were suppressed in half precision, so near-ties may resolve differently.
        again: PyTorch's outputs once more, called only if something is out of tolerance: 0 in float64, 1 to
            ``REPEATS`` with the images changed by a millionth.
    """
    found = []
    for index, (output, mine, other) in enumerate(zip(outputs, ours, theirs, strict=True)):
        if mine.shape != other.shape:
            found.append(Difference(output.name, float("inf"), f"shape {mine.shape} instead of {other.shape}", 0))
        elif output.kind == "dets":
            labels = ours[index + 1], theirs[index + 1]
            place = slice(index, index + 2)
            found += _detections(outputs[place], mine, other, *labels, rules, half, _part(again, place))
        elif output.kind != "labels":
            found.append(_values(output, mine, other, rules, _part(again, index)))
    return found


def _part(again: Callable[[int], Sequence[np.ndarray]], place: int | slice) -> Callable[[int], Any]:
    """``again`` of only some outputs."""
    return lambda number: again(number)[place]


def _values(
    output: Output, mine: np.ndarray, other: np.ndarray, rules: Selection, again: Callable[[int], np.ndarray]
) -> Difference:
    """Compare maps, boxes or scores elementwise."""
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
        ideal = again(0)
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
    """Mask of the scores that are 0 on one side only because rounding decides at the threshold; empty if too many."""
    flips = ((mine == 0) != (other == 0)) & (np.maximum(mine, other) <= rules.score_thr * (1 + RTOL) + ATOL)
    return flips if flips.sum() <= max(2, 1e-4 * mine.size) else np.zeros_like(flips)


def _detections(
    outputs: Sequence[Output],
    dets: np.ndarray,
    other_dets: np.ndarray,
    labels: np.ndarray,
    other_labels: np.ndarray,
    rules: Selection,
    half: bool,
    again: Again,
) -> list[Difference]:
    """Match detections (dets [B, T, 5], labels [B, T]) of both sides, and explain those without a counterpart."""
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
        fault = (
            f"{len(lost)} detections without a counterpart within {box_limit} px and {SCORE:g}: {'; '.join(lost[:3])}"
        )
    elif explained > max(2 if pairs else 0, TIES * (pairs + explained)):
        fault = f"{explained} of {pairs + explained} detections differ by ties, which is too many"
    found = Difference(outputs[0].name, box, fault, pairs, note, explained + len(lost), len(lost))
    return [found, Difference(outputs[1].name, 0.0, None, pairs)]


def limit_of_boxes(dets: np.ndarray, half: bool) -> float:
    """Accepted difference of boxes, in px: above 1024 px, one step of a half-precision number is 1 px."""
    return BOX_PX if not half or np.abs(dets).max(initial=0) <= 1024 else 1.0


def agreement(
    dets: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray, half: bool
) -> np.ndarray:
    """Count the detections that two results share, that the first has, and that the second has: [3] integers.

    Args:
        dets, other: [B, T, 5]. labels, other_labels: [B, T].
        half: suppressed in half precision.
    """
    limit, found = limit_of_boxes(other, half), np.zeros(3, int)
    for image in range(len(dets)):
        mine, theirs = _rows(dets[image], labels[image]), _rows(other[image], other_labels[image])
        found += len(_match(mine, theirs, limit)[0]), len(mine), len(theirs)
    return found


def overlapping(dets: np.ndarray, labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray) -> np.ndarray:
    """:func:`agreement` where scores and boxes differ by more than rounding: same class and an IoU of at least 0.5."""
    found = np.zeros(3, int)
    for image in range(len(dets)):
        mine, theirs = _rows(dets[image], labels[image]), _rows(other[image], other_labels[image])
        free = np.ones(len(theirs), bool)
        for row in mine:
            overlap = np.where(free & (theirs[:, 5] == row[5]), _iou(row[:4], theirs[:, :4]), 0.0)
            if overlap.max(initial=0.0) >= 0.5:
                free[int(overlap.argmax())] = False
        found += int((~free).sum()), len(mine), len(theirs)
    return found


def _rows(dets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[K, 6] box, score, label of the rows of one image that are in use."""
    used = dets[:, 4] > 0
    return np.concatenate((dets[used].astype(np.float64), labels[used, None].astype(np.float64)), 1)


def _match(mine: np.ndarray, other: np.ndarray, box_limit: float) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pair rows [K, 6] of the same class within the limits, highest score first, each row at most once.

    Returns:
        the pairs, and the unpaired rows of either side.
    """
    free = np.ones(len(other), bool)
    pairs: list[tuple[int, int]] = []
    left: list[int] = []
    for i, row in enumerate(mine):
        apart = np.abs(other[:, :4] - row[:4]).max(1, initial=0.0)
        fits = free & (other[:, 5] == row[5]) & (apart <= box_limit) & (np.abs(other[:, 4] - row[4]) <= SCORE)
        if fits.any():
            j = int(np.flatnonzero(fits)[np.argmin(apart[fits])])
            free[j] = False
            pairs.append((i, j))
        else:
            left.append(i)
    return pairs, left, np.flatnonzero(free).tolist()


def _rounding_decides(row: np.ndarray, image: int, present: bool, again: Again, box_limit: float) -> bool:
    """Whether PyTorch, run again, has (``present``) or lacks this row as the file does."""
    for number in range(REPEATS + 1):
        dets, labels = again(number)
        partners = _match(row[None], _rows(dets[image], labels[image]), box_limit)[0]
        if bool(partners) is present:
            return True
    return False


def _near_tie(row: np.ndarray, others: np.ndarray, rules: Selection, half: bool, full: bool) -> bool:
    """Whether a rounding error decides if this row is present.

    That is so at the threshold, at the end of a full list, and if a box of the other side overlaps it by just the
    limit, or has the same score and overlaps more.
    """
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
    """IoU [K] of a box [4] with boxes [K, 4]."""
    inside = np.clip(np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None).prod(1)
    whole = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - inside
    return inside / np.maximum(whole, 1e-9)
