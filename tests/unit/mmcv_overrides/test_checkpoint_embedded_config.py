"""Configuration text inside a checkpoint: values are read, programs are refused and never run."""

import math

import pytest
from mmengine.config import Config

from mmcv_overrides.checkpoint.embedded_config import from_checkpoint, parse
from mmcv_overrides.errors import UserError


def test_reads_what_mmengine_writes():
    values = {
        "model": {
            "type": "FCOS",
            "sizes": [(1, 2), [3], ()],
            "alpha": 1e-5,
            "flag": None,
            "deep": {"a b": -1, "c": "x"},
        },
        "custom_keys": {".bias": {"lr_mult": 2.0}, 3: True},
        "classes": ("one",),
        "regress_ranges": [[-1, 64], [512, math.inf]],
        "note": 'it\'s "quoted"\nand two lines',
        "empty": {},
    }
    config = Config(values)
    assert parse(config.pretty_text, "x.pth").to_dict() == config.to_dict()


def test_reads_names_bound_earlier():
    config = parse("'''doc'''\na = b = [1, 2]\nc = dict(x=a, y=dict({'k': b}))\nd = set((1, 2))", "x")
    assert config.c.to_dict() == {"x": [1, 2], "y": {"k": [1, 2]}} and config.d == {1, 2} and config.b == [1, 2]
    config.c.x.append(3)
    assert config.a == [1, 2]


ATTACKS = [
    "a = __import__('os').system('touch {mark}')",
    "a = open('{mark}', 'w')",
    "import os\na = 1",
    "from os import system as dict\na = dict('touch {mark}')",
    "a = ().__class__.__bases__[0].__subclasses__()",
    "a = [open('{mark}', 'w') for i in (1,)]",
    'a = dict(x=exec(\'open("{mark}", "w")\'))',
    "a = f\"{{open('{mark}', 'w')}}\"",
    "open('{mark}', 'w')",
    "def f(): open('{mark}', 'w')\na = f()",
    "class A: x = open('{mark}', 'w')",
    "a = (lambda: open('{mark}', 'w'))()",
    "@eval\ndef f(): pass",
    "if open('{mark}', 'w'): a = 1",
    "a = 1 if open('{mark}', 'w') else 2",
    "a: open('{mark}', 'w') = 1",
    "(a := open('{mark}', 'w'))",
    "a, b = 1, 2",
    "a = {{}}\na['x'] = 1",
    "__builtins__ = {{}}",
    "dict = 1\na = dict(x=1)",
    "a = unknown",
    "a = dict(**{{'x': 1}})",
    "a = {{**dict(x=1)}}",
    "a = [*(1, 2)]",
    "a = 'x' * 10 ** 9",
    "a = {{[1]: 2}}",
    "a = dict([1])",
    "a = list('text')",
    "a = -'x'",
    "a = ",
    "filename = 'x'",
    "a = " + "[" * 5000 + "]" * 5000,
    "a = 1\x00",
]


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_anything_but_values_is_refused(attack, tmp_path):
    mark = tmp_path / "executed"
    text = attack.format(mark=mark) if "{" in attack else attack
    with pytest.raises(UserError, match=r"evil\.pth: .*config file yourself"):
        parse(text, "evil.pth")
    assert not mark.exists()


def test_names_that_unfold_without_end_are_refused():
    lines = ["a0 = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{i} = [{', '.join([f'a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(UserError, match="expands to over"):
        parse("\n".join(lines), "bomb.pth")
    with pytest.raises(UserError, match="characters"):
        parse("#" * 5_000_000, "long.pth")


def test_refusal_names_the_line_and_the_code():
    with pytest.raises(UserError, match=r"line 2 of the configuration in it is more than a value: `open\('x'\)`"):
        parse("a = 1\nb = open('x')", "c.pth")


def test_where_it_is_found_in_a_checkpoint():
    assert from_checkpoint({"meta": {"cfg": "a = 1"}}, "x").a == 1
    assert from_checkpoint({"meta": {"config": "a = 2"}}, "x").a == 2  # mmdet 2.x
    assert from_checkpoint({"meta": {}}, "x") is None
    assert from_checkpoint({}, "x") is None
    assert from_checkpoint({"meta": {"cfg": "a = 1 + 1"}}, "x", trust=True).a == 2
    with pytest.raises(UserError):
        from_checkpoint({"meta": {"cfg": "a = 1 + 1"}}, "x")
