"""Every field of every option dataclass against the command line that is generated from it."""

import importlib
from typing import get_type_hints

import pytest

from fcos_train.cli import ascend, rdk
from fcos_train.cli.generate import Command, command
from fcos_train.cli.help_text import described
from fcos_train.cli.main import VERBS
from fcos_train.config.fields import declared
from fcos_train.deploy.ascend.options import MODELS
from mmcv_overrides.errors import UserError

GROUPS = {"ascend": ascend.STEPS, "rdk": rdk.STEPS}
TABLES = [VERBS, *GROUPS.values()]
MODULES = {verb: name for table in TABLES for verb, (name, _) in table.items() if verb not in GROUPS}
FIELDS = [
    pytest.param(verb, one, id=f"{verb}-{one.name}")
    for verb, name in MODULES.items()
    for one in declared(get_type_hints(importlib.import_module(name).run)["options"])
]


def generated(verb: str) -> Command:
    """The command line of a verb or step."""
    return command(importlib.import_module(MODULES[verb]).run, f"fcos-train {verb}")


@pytest.fixture(scope="module")
def arguments():
    """cyclopts's own view of each verb: field name -> its argument."""
    return {
        verb: {argument.field_info.name: argument for argument in generated(verb).app().assemble_argument_collection()}
        for verb in MODULES
    }


@pytest.mark.parametrize(("verb", "one"), FIELDS)
def test_each_field_has_a_flag_and_a_help(arguments, verb, one):
    argument = arguments[verb][one.name]
    if one.option.positional:
        assert argument.field_info.is_positional_only
    else:
        assert argument.names == one.flags and all(flag.startswith("-") for flag in one.flags)
        assert argument.field_info.is_keyword_only
    shown = " ".join(generated(verb).help().split())
    name = ", ".join(one.flags) or one.label
    assert (f"{name} " in shown) is not one.option.hidden
    assert (described(one) in shown) is not one.option.hidden and len(one.option.help) > 5
    for choice in one.option.choices:
        assert choice in described(one)


@pytest.mark.parametrize(("verb", "one"), FIELDS)
def test_the_help_tells_the_effective_default(verb, one):
    """Switches are off, what is required says so, and a default of None is put into words."""
    if not (one.kind is bool or one.option.positional or one.option.hidden):
        assert "(default: " in described(one) or described(one).endswith("(required)")
        assert "(default: None)" not in described(one)


@pytest.mark.parametrize(("verb", "one"), [case for case in FIELDS if case.values[1].option.choices])
def test_each_choice_is_checked(verb, one):
    def faults(value):
        return list(one.faults(value if one.length is None else (value,) * (one.length or 1)))

    assert not any(faults(choice) for choice in one.option.choices)
    assert faults("neither") == [f"{one.shown} neither: choose from {', '.join(one.option.choices)}"]


@pytest.mark.parametrize(("verb", "one"), [case for case in FIELDS if case.values[1].kind in (int, float)])
def test_each_number_is_checked(verb, one):
    """A word that is no number reaches the checks, and sizes and counts have a bound."""
    many = one.length is not None
    count = one.length or 1
    assert all(fault.startswith(f"{one.shown} four: ") for fault in one.faults(("four",) * count if many else "four"))
    assert len(list(one.faults(("four",) * count if many else "four"))) == count
    if one.option.least is not None:
        too_small = type(one.option.least)(one.option.least - 1)
        assert list(one.faults((too_small,) * count if many else too_small))


@pytest.mark.parametrize("verb", MODULES)
def test_no_spelling_means_two_things(verb):
    flags = [flag.replace("_", "-") for one in generated(verb).options for flag in one.flags]
    assert len(flags) == len(set(flags))
    names = [one.name for one in generated(verb).options]
    assert len(names) == len(set(names)), "a nested dataclass repeats a name"


def test_lists_that_are_also_keys():
    """Choices whose meaning is in a table elsewhere, in a module that imports more."""
    from fcos_train.config import prepare
    from fcos_train.config.options import HALF_TYPES, OPT_LEVELS, TrainOptions
    from fcos_train.deploy.ascend.rules import RULES
    from mmcv_overrides import precision

    assert tuple(RULES) == MODELS
    defaults = {one.name: one.option.default for one in declared(TrainOptions)}
    assert defaults["opt_level"].startswith(f"{prepare.OPT_LEVEL};")
    assert defaults["loss_scale"] == str(prepare.LOSS_SCALE)
    assert OPT_LEVELS == precision.LEVELS and set(HALF_TYPES) <= set(precision.HALF_TYPES)


def test_values_from_python_are_checked_too():
    from fcos_train.config.options import TrainOptions

    with pytest.raises(UserError) as refused:
        TrainOptions("c.py", opt_level="O3", loss_scale=float("nan"), seed=-1, step_mode="fast", allow_outside=("/no",))
    for flag in ("--opt-level O3", "--loss-scale nan", "--seed -1", "--step-mode fast", "--allow-outside /no"):
        assert f"{flag}: " in str(refused.value)
    for scale in (32, 32.0, "32", "dynamic", -1, "-1", None, {"init_scale": 2.0}):
        assert TrainOptions("c.py", loss_scale=scale).loss_scale == scale
    with pytest.raises(UserError, match="--opt-level bf16 contradicts --amp-dtype fp16"):
        TrainOptions("c.py", opt_level="bf16", amp_dtype="fp16")


def test_resume_of_a_checkpoint_that_is_not_there(tmp_path):
    from fcos_train.config.options import TrainOptions

    with pytest.raises(UserError, match="--resume .*none.pth: no such file"):
        TrainOptions("c.py", resume=str(tmp_path / "none.pth"))
    assert TrainOptions("c.py", resume=str(tmp_path)).resume == str(tmp_path)
