"""The test pipeline of a config is found inside wrappers of data sets, and in the order test, validation, variable."""

from mmengine.config import Config

from fcos_train.config.load import test_pipeline as pipeline_of

STEPS, OTHERS = [{"type": "LoadImage"}], [{"type": "Resize"}]


def test_found_inside_wrappers():
    wrapped = {"type": "RepeatDataset", "dataset": {"type": "ConcatDataset", "datasets": [{"pipeline": STEPS}, {}]}}
    assert pipeline_of(Config({"val_dataloader": {"dataset": wrapped}})) == STEPS


def test_the_test_set_comes_first():
    loaders = {"test_dataloader": {"dataset": {"pipeline": STEPS}}, "val_dataloader": {"dataset": {"pipeline": OTHERS}}}
    assert pipeline_of(Config(loaders)) == STEPS
    assert pipeline_of(Config({**loaders, "test_dataloader": None, "test_pipeline": STEPS})) == OTHERS


def test_the_variable_comes_last():
    assert pipeline_of(Config({"test_pipeline": STEPS})) == STEPS
    assert pipeline_of(Config({})) is None
