"""What the machines of a training compare: flags and config as text that is the same in every process."""

from functools import partial

from mmengine.config import Config

from fcos_train.config.agreement import CONFIG, DATA, FLAGS, config_facts, digest, disagreements, flags_of
from fcos_train.config.options import TrainOptions


def test_flags_are_those_that_were_given_without_places(tmp_path) -> None:
    file = tmp_path / "epoch_3.pth"
    file.touch()
    options = TrainOptions(
        "c.py", data_path=str(tmp_path), work_dir="w", device="cpu", workers=3, batch_size=4, validate=False,
        load_from=str(file), classes=("a", "b"), cfg_options={"a.b": 1},
    )  # fmt: skip
    flags = flags_of(options)
    given = {flag: value for flag, value in flags.items() if flags_of(TrainOptions("d.py"))[flag] != value}
    expected = {"--batch-size": "4", "--no-validate": "given", "--load-from": "epoch_3.pth", "--classes": "('a', 'b')"}
    assert given == expected
    places = ("--data-path", "--work-dir", "--device", "--workers", "--cfg-options", "--launcher", "--npu-ids")
    assert not set(flags) & set(places)


def test_a_config_is_flat_text_without_places_and_addresses() -> None:
    cfg = Config(
        dict(
            model=dict(
                type="FCOS", strides=[8, 16], act=partial(max, 0), head=dict(), pipeline=[dict(scale=(4, 3)), [1]]
            ),
            data=dict(data_root="/a", ann_file="b", data_prefix=dict(img="c"), type=TrainOptions),
        )
    )
    facts = config_facts(cfg)
    assert facts == {
        "model.type": "FCOS", "model.strides": "[8, 16]", "model.act": facts["model.act"], "model.head": "{}",
        "model.pipeline.0.scale": "(4, 3)", "model.pipeline.1": "[1]",
        "data.type": "fcos_train.config.options.TrainOptions",
    }  # fmt: skip
    assert " at 0x" not in facts["model.act"]


def test_each_flag_has_a_line_and_a_long_section_one() -> None:
    first = {FLAGS: {"--seed": "0", "--lr": "1", "--new": "1"}, CONFIG: {f"k{n}": "0" for n in range(5)}}
    other = {FLAGS: {"--seed": "1", "--lr": "2"}, CONFIG: {f"k{n}": "9" * 80 for n in range(5)}, DATA: {"x": "\x1b[1m"}}
    assert digest(first) == digest(dict(reversed(first.items()))) != digest(other)
    nines = f"{'9' * 60} [80 characters]"
    assert disagreements(first, other, "node 1", "node 0") == [
        "node 1: --seed is 1, on node 0 it is 0: start all of them with the same flags",
        "node 1: --lr is 2, on node 0 it is 1: start all of them with the same flags",
        f"node 1: the config differs: k0 is {nines}, on node 0 it is 0; k1 is {nines}, on node 0 it is 0; k2 is "
        f"{nines}, on node 0 it is 0; and 2 more: give all of them the same config and --cfg-options",
        "node 1: the data set differs: x is \\x1b[1m, on node 0 it is absent: copy the data set of node 0, or give the "
        "right --data_path",
    ]
    assert disagreements(first, first, "node 1", "node 0") == []
