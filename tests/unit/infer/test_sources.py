"""Images, folders and videos as sources; their output files."""

import cv2
import numpy as np
import pytest

from fcos_train.data.images import read_image
from fcos_train.infer.images import write_image
from fcos_train.infer.sources import Frame, Pictures, Video, open_source
from mmcv_overrides.errors import UserError


def make_video(path, frames=3, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 60 * (index + 1), np.uint8))
    writer.release()
    return path


def test_video_round_trip(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"))
    assert isinstance(source, Video) and source.fps == 5.0
    sink = source.sink(tmp_path / "out")
    for frame in source:
        sink.write(frame, 255 - frame.image)
    sink.close()
    assert sink.written == [tmp_path / "out" / "clip_pred.avi"]
    again = list(Video(sink.written[0]))
    assert [f.image.shape for f in again] == [(48, 64, 3)] * 3
    np.testing.assert_allclose([f.image.mean() for f in again], [195, 135, 75], atol=3)
    assert [f.name for f in source] == [f"{tmp_path}/clip.avi frame {i}" for i in (1, 2, 3)]


def test_video_in_mp4(tmp_path):
    source = open_source(make_video(tmp_path / "clip.avi"))
    source.source = tmp_path / "clip.mp4"  # only the name of the output follows from it
    sink = source.sink(tmp_path)
    sink.write(Frame("f", np.zeros((48, 64, 3), np.uint8)), np.zeros((48, 64, 3), np.uint8))
    sink.close()
    assert len(list(Video(sink.written[0]))) == 1 and sink.written[0].stem == "clip_pred"


def test_folder_in_order_without_earlier_results(tmp_path, picture):
    for name in ("b.png", "a.jpg", "a.PNG", "a_pred.jpg", "lonely_pred.jpg"):
        write_image(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    assert isinstance(source, Pictures)
    assert [p.name for p in source.paths] == ["a.PNG", "a.jpg", "b.png", "lonely_pred.jpg"]
    sink = source.sink(tmp_path / "out")
    names = [sink.write(frame, frame.image).name for frame in source]
    assert names == ["a_pred.jpg", "a_jpg_pred.jpg", "b_pred.jpg", "lonely_pred_pred.jpg"]
    assert read_image(tmp_path / "out" / "b_pred.jpg").shape == picture.shape


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.avi").write_bytes(b"nothing")
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    for source, message in (
        (tmp_path / "empty", "holds no image"),
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path / "x.avi", "cannot open the video .*x.avi"),
        ("97", "cannot open camera 97"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(source)
    with pytest.raises(UserError, match="cannot read image .*x.jpg: it cannot be decoded"):
        list(open_source(tmp_path / "x.jpg"))
