"""A checkpoint that is named to resume from is looked at before the data are read."""

from pathlib import Path

import pytest
import torch

from fcos_train.engine.run import _resume_from
from mmcv_overrides.errors import UserError

FILES = {
    "no training state": {"layer.weight": torch.ones(2)},
    "is of mmdet 2.28.0": {"meta": {"epoch": 1, "iter": 6, "mmdet_version": "2.28.0"}, "state_dict": {}},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("says", FILES)
def test_weights_alone_are_refused(says, zipped, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(FILES[says], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"a.pth.*{says}.*Load only its weights") as caught:
        _resume_from(str(path), tmp_path)
    assert caught.value.setting == "load_from"


def test_a_whole_checkpoint_is_taken(tmp_path):
    hub = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}
    path = tmp_path / "a.pth"
    torch.save(
        {
            "meta": {"epoch": 1, "iter": 6},
            "message_hub": hub,
            "optimizer": {"state": {}, "param_groups": [{"params": []}]},
        },
        path,
    )
    assert _resume_from(str(path), Path("none")) == str(path) and _resume_from(None, Path("none")) is None
