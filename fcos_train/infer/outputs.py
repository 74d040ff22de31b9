"""What ``fcos-train predict`` writes: one class per kind of file, each file whole or not at all.

The label formats (YOLO, VOC) have no place for scores; JSON and CSV have them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fcos_train.infer.detections import Detections, category_ids
from fcos_train.infer.draw import draw, zoom_for
from fcos_train.infer.images import write_image
from fcos_train.infer.sinks import Names, PictureSink, VideoSink
from fcos_train.infer.sources import Frame, Pictures, Video
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import unguessable, write_json, write_whole
from mmcv_overrides.printable import printable

Name = Callable[[int], str]


def files(count: int) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} file{'' if count == 1 else 's'}"


class Output:
    """Base of the kinds of output.

    Args:
        folder: that all outputs go to. classes: names by label. name: the name of any label.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], name: Name) -> None:
        self.folder, self.classes, self.name = folder, classes, name
        self.count = 0

    def begin(self, source: Pictures | Video, names: Names) -> None:
        """A source begins; ``names`` are the stems of all files."""

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Write, or keep for later, the detections in one image; ``stem`` is that of its files."""
        raise NotImplementedError

    def end(self) -> None:
        """The source has ended."""

    def finish(self) -> str:
        """Write what is left; returns what was written."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Remove what is not finished."""

    def names_up_to(self, found: Detections) -> list[str]:
        """Names of all classes, also of labels that the model does not name."""
        highest = int(found.labels.max(initial=-1))
        return [self.name(label) for label in range(max(len(self.classes), highest + 1))]


class CocoOutput(Output):
    """``predictions.json``: images, categories, and annotations in the form of COCO, with scores."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._names: list[str] = list(self.classes)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._files: set[str] = set()

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Keep one image, by the name of its file, or by its path where that name is taken."""
        file_name = frame.file_name if frame.file_name not in self._files else frame.name
        self._files.add(file_name)
        height, width = frame.image.shape[:2]
        image = {"id": len(self._images) + 1, "file_name": file_name, "width": width, "height": height}
        if "://" in frame.name and frame.file_name in frame.name:
            image["coco_url"] = frame.name
        self._images.append(image)
        self._names = max(self._names, self.names_up_to(found), key=len)
        for entry in found.to_coco(image["id"]):
            area = entry["bbox"][2] * entry["bbox"][3]
            self._annotations.append({"id": len(self._annotations) + 1, **entry, "area": area, "iscrowd": 0})

    def finish(self) -> str:
        """Write the file."""
        ids = category_ids(self.classes) or tuple(range(1, len(self._names) + 1))
        ids += tuple(range(len(ids) + 1, len(self._names) + 1))
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": number, "name": name} for number, name in zip(ids, self._names, strict=True)],
        }
        path = write_json(self.folder / "predictions.json", content)
        return f"{path.name} ({len(self._images)} images, {len(self._annotations)} objects)"


class CsvOutput(Output):
    """``predictions.csv``: one row per object, by supervision's CSVSink."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        import supervision as sv

        self.path = self.folder / "predictions.csv"
        self._scratch = unguessable(self.path, ".tmp")
        self._sink = sv.CSVSink(str(self._scratch))
        self._sink.open()

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Append the rows of one image."""
        self._sink.append(found.to_supervision(), {"image": frame.name})
        self.count += len(found)

    def finish(self) -> str:
        """Give the file its name."""
        self._sink.close()
        os.replace(self._scratch, self.path)
        return f"{self.path.name} ({self.count} rows)"

    def abandon(self) -> None:
        """Remove the file, which has no name yet."""
        self._sink.close()
        self._scratch.unlink(missing_ok=True)


class YoloOutput(Output):
    """``labels/<stem>.txt``: ``class cx cy w h`` of each object, relative to the image; names in ``data.yaml``."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._names: list[str] = list(self.classes)

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Write the labels of one image; an empty file says that it has no object."""
        from supervision.dataset.formats.yolo import detections_to_yolo_annotations

        lines = detections_to_yolo_annotations(inside(frame, found).to_supervision(), frame.image.shape[:2])
        write_whole(self.folder / "labels" / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
        self._names = max(self._names, self.names_up_to(found), key=len)
        self.count += 1

    def finish(self) -> str:
        """Write the names of the classes."""
        text = yaml.safe_dump({"nc": len(self._names), "names": self._names}, allow_unicode=True, sort_keys=False)
        write_whole(self.folder / "data.yaml", text)
        return f"labels{os.sep} ({files(self.count)}; names in data.yaml)"


class VocOutput(Output):
    """``voc/<stem>.xml``: one file per image in the form of Pascal VOC."""

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Write the objects of one image."""
        from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc

        names, shape = self.names_up_to(found), frame.image.shape
        text = detections_to_pascal_voc(
            inside(frame, found).to_supervision(), names, frame.file_name, (shape[0], shape[1], shape[2])
        )
        write_whole(self.folder / "voc" / f"{stem}.xml", text)
        self.count += 1

    def finish(self) -> str:
        """All files are written."""
        return f"voc{os.sep} ({files(self.count)})"


class CropsOutput(Output):
    """``crops/<class>/<stem>_<number>.jpg``: every object cut out of its image."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._folders: dict[int, str] = {}
        self._taken, self._too_small = Names(), 0

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Write the objects of one image."""
        import supervision as sv

        for number, (box, label) in enumerate(zip(found.boxes, found.labels.tolist(), strict=True), start=1):
            cut = sv.crop_image(frame.image, box)
            if 0 in cut.shape:
                self._too_small += 1
                continue
            write_image(self.folder / "crops" / self._of(label) / f"{stem}_{number}.jpg", cut)
            self.count += 1

    def _of(self, label: int) -> str:
        """The folder of a class; its name comes from a checkpoint, so only safe characters stay."""
        if label not in self._folders:
            safe = re.sub(r"[^\w -]+", "_", self.name(label)).strip() or f"class {label}"
            self._folders[label] = self._taken.take(safe)
        return self._folders[label]

    def finish(self) -> str:
        """All files are written."""
        small = f"; {self._too_small} boxes without a whole pixel have none" if self._too_small else ""
        return f"crops{os.sep} ({files(self.count)}{small})"


class PicturesOutput(Output):
    """``<stem>_pred.jpg`` per image, ``<stem>_pred.mp4`` or ``.avi`` per video: the objects drawn."""

    _sink: PictureSink | VideoSink | None = None

    def begin(self, source: Pictures | Video, names: Names) -> None:
        """A picture file, or the video of this source."""
        self._sink = source.sink(self.folder, names)

    def add(self, frame: Frame, stem: str, found: Detections) -> None:
        """Draw one image."""
        assert self._sink is not None
        self._sink.write(frame, draw(frame.image, found, self.classes, 0.0, zoom_for(frame.image)), stem)

    def end(self) -> None:
        """Finish the video."""
        if self._sink is not None:
            self._sink.close()
            self.count += len(self._sink.written)
            self._sink = None

    def finish(self) -> str:
        """All files are written."""
        return f"*_pred.* ({files(self.count)})"

    def abandon(self) -> None:
        """Remove a video that is not finished."""
        if self._sink is not None:
            self._sink.abandon()


KINDS: dict[str, type[Output]] = {
    "json": CocoOutput,
    "csv": CsvOutput,
    "yolo": YoloOutput,
    "voc": VocOutput,
    "crops": CropsOutput,
    "pictures": PicturesOutput,
}


def inside(frame: Frame, found: Detections) -> Detections:
    """The detections with boxes clipped to the image, as labels have them."""
    import supervision as sv

    height, width = frame.image.shape[:2]
    boxes = sv.clip_boxes(found.boxes, (width, height)).astype(np.float32)
    return Detections(boxes, found.scores, found.labels, found.classes)


class Outputs:
    """All kinds of output of a run, as a context: finished at its end and when the user interrupts it.

    Args:
        kinds: of :data:`KINDS`. folder: to write to. classes, name: of the detector. say: prints what was written.
    """

    def __init__(
        self, kinds: tuple[str, ...], folder: Path, classes: tuple[str, ...], name: Name, say: Callable[[str], None]
    ) -> None:
        self.folder, self._say = folder, say
        self._all = [KINDS[kind](folder, classes, name) for kind in dict.fromkeys(kinds)]
        self._names = Names()

    def __enter__(self) -> Outputs:
        """Nothing to prepare."""
        return self

    def begin(self, source: Pictures | Video) -> None:
        """A source begins."""
        for one in self._all:
            one.begin(source, self._names)

    def add(self, frame: Frame, found: Detections) -> str | None:
        """Write what was found in an image; returns a line if its files have another name."""
        stem = self._names.take(frame.file_name)
        for one in self._all:
            one.add(frame, stem, found)
        return None if stem == Path(frame.file_name).stem else f"{frame.name}: its files are named {stem}"

    def end(self) -> None:
        """The source has ended."""
        for one in self._all:
            one.end()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Finish all, or after an error remove what is not finished.

        Raises:
            UserError: a file cannot be written.
        """
        if isinstance(error, Exception):
            for one in self._all:
                one.abandon()
            if isinstance(error, OSError):
                raise self._fault(error) from error
            return
        try:
            self.end()
            for one in self._all:
                self._say(printable(str(self.folder / one.finish())))
        except OSError as fault:
            raise self._fault(fault) from fault

    def _fault(self, error: OSError) -> UserError:
        return UserError(f"cannot write to {self.folder}: {error.strerror or error}")
