"""The checkpoint that is meant when none is named."""

import os

from fcos_train.cli.newest import main, newest_checkpoint


def test_the_newest_of_the_trainings_counts(tmp_path, capsys):
    assert newest_checkpoint(tmp_path) is None and main([str(tmp_path)]) == 1
    for age, name in enumerate(("b", "c", "a")):
        (tmp_path / name).mkdir()
        target = tmp_path / name / "epoch_1.pth"
        target.write_bytes(b"x")
        os.utime(target, (1e9 - age, 1e9 - age))
        (tmp_path / name / "latest.pth").symlink_to("epoch_1.pth")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "latest.pth").symlink_to("removed.pth")
    assert newest_checkpoint(tmp_path) == tmp_path / "b" / "latest.pth"
    assert main([str(tmp_path)]) == 0 and capsys.readouterr().out == f"{tmp_path / 'b' / 'latest.pth'}\n"
