"""Precision, recall and F1 over the confidence, and the confusion matrix, from matched detections.

faster-coco-eval's ``Curves`` give the *interpolated* precision of the AP at 101 recall points. Its maximum over all
higher recalls is more than the precision at a threshold, so that F1 would be too high and its best threshold wrong.
Here both are counted. ``PreviewResults.compute_confusion_matrix`` counts crowd regions as missed objects and has no row
for the background; its matching is used, its counting is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcos_train.report.evaluation import Evaluation, Matches, match

GRID = np.linspace(0, 1, 1001)  # confidence thresholds at which classes are averaged


@dataclass(frozen=True)
class ClassCurve:
    """One class; P thresholds, in descending order: every score that a detection of the class has.

    Attributes:
        boxes: number of ground truth boxes.
        threshold, precision, recall, f1: [P], counting the detections with at least this score.
    """

    name: str
    boxes: int
    threshold: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    @property
    def best(self) -> int | None:
        """Index of the largest F1, of equal ones that with the highest threshold; None if nothing was found."""
        return int(self.f1.argmax()) if self.f1.size and self.f1.max() > 0 else None

    def f1_on_grid(self) -> np.ndarray:
        """F1 at the thresholds :data:`GRID`; 0 where no detection is left."""
        above = np.searchsorted(-self.threshold, -GRID, side="right")  # thresholds that are at least the grid's
        return np.concatenate(([0.0], self.f1))[above]


@dataclass(frozen=True)
class Accuracy:
    """What is right and wrong at an IoU of 0.5.

    Attributes:
        curves: one per class.
        threshold: confidence with the largest mean F1 over the classes that have boxes.
        mean_f1: that F1.
        matrix: [K + 1, K + 1] counts at ``threshold``: rows are the truth, columns the prediction, the last of each is
            the background: last column missed, last row invented objects.
        matches: by class, of all detections.
    """

    curves: tuple[ClassCurve, ...]
    threshold: float
    mean_f1: float
    matrix: np.ndarray
    matches: Matches


def measure(evaluation: Evaluation) -> Accuracy:
    """Curves and confusion matrix of an evaluation."""
    matches = match(evaluation, by_class=True)
    curves = tuple(_curve(evaluation, matches, label) for label in range(len(evaluation.classes)))
    with_boxes = [curve.f1_on_grid() for curve in curves if curve.boxes]
    mean = np.mean(with_boxes, axis=0) if with_boxes else np.zeros(len(GRID))
    best = int(np.flatnonzero(mean == mean.max())[-1]) if mean.max() > 0 else 0
    threshold = float(GRID[best])
    return Accuracy(curves, threshold, float(mean[best]), confusion(evaluation, threshold), matches)


def _curve(evaluation: Evaluation, matches: Matches, label: int) -> ClassCurve:
    boxes = int(((evaluation.truth_label == label) & ~evaluation.crowd).sum())
    own = np.flatnonzero((evaluation.found_label == label) & matches.counted)
    own = own[np.argsort(-evaluation.score[own], kind="stable")]
    scores = evaluation.score[own]
    # A threshold takes all detections of one score, so the last of each counts.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(own) else np.zeros(0, int)
    right = np.cumsum(matches.of_found[own] >= 0)[last]
    precision = right / (last + 1)
    recall = right / boxes if boxes else np.zeros(len(last))
    total = last + 1 + boxes
    return ClassCurve(evaluation.classes[label], boxes, scores[last], precision, recall, 2 * right / total)


def confusion(evaluation: Evaluation, threshold: float) -> np.ndarray:
    """The matrix of :class:`Accuracy` for a threshold."""
    classes = len(evaluation.classes)
    matches = match(evaluation, by_class=False, least_score=threshold)
    matrix = np.zeros((classes + 1, classes + 1), int)
    truth = np.flatnonzero(~evaluation.crowd)
    partner = matches.of_truth[truth]
    predicted = np.full(len(truth), classes)
    predicted[partner >= 0] = evaluation.found_label[partner[partner >= 0]]
    for row, column in zip(evaluation.truth_label[truth], predicted, strict=True):
        matrix[row, column] += 1
    invented = evaluation.found_label[matches.counted & (matches.of_found < 0)]
    matrix[classes, :classes] = np.bincount(invented, minlength=classes)
    return matrix


def confusions(matrix: np.ndarray, classes: tuple[str, ...], limit: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent confusions of two classes: (truth, prediction, count), most frequent first."""
    pairs = matrix[:-1, :-1].copy()
    np.fill_diagonal(pairs, 0)
    order = np.argsort(-pairs, axis=None, kind="stable")[:limit]
    places = [np.unravel_index(i, pairs.shape) for i in order]
    return [(classes[row], classes[column], int(pairs[row, column])) for row, column in places if pairs[row, column]]


def worst_images(evaluation: Evaluation, accuracy: Accuracy, limit: int = 16) -> list[tuple[int, int, int]]:
    """The images with the most missed and invented objects at the threshold: (index, missed, invented), worst first.

    Of equal numbers that with the larger sum of the scores of its invented objects comes first.
    """
    above = evaluation.score >= accuracy.threshold
    found = accuracy.matches.of_truth
    missed = (~evaluation.crowd) & ~((found >= 0) & above[found] if len(above) else np.zeros(len(found), bool))
    invented = above & accuracy.matches.counted & (accuracy.matches.of_found < 0)
    count = len(evaluation.images)
    misses = np.bincount(evaluation.truth_image[missed], minlength=count)
    extra = np.bincount(evaluation.found_image[invented], minlength=count)
    weight = np.bincount(evaluation.found_image[invented], evaluation.score[invented], minlength=count)
    order = np.lexsort((np.arange(count), -weight, -(misses + extra)))[:limit]
    return [(int(i), int(misses[i]), int(extra[i])) for i in order if misses[i] + extra[i]]
