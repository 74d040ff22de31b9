"""The front of the command line: verbs, flags, exit statuses, laziness."""

import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest

from fcos_train import __version__
from fcos_train.cli import main as front
from fcos_train.config.fields import Option, Options
from fcos_train.config.options import CfgOptions
from mmcv_overrides.errors import UserError
from tests.support import commands

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class TryOptions(Options):
    """A few options of each kind."""

    config: Annotated[str | None, Option("a config", positional=True)] = None
    batch_size: Annotated[int | None, Option("images", metavar="N", default="some", least=1)] = None
    loss_scale: Annotated[str | None, Option("scale", metavar="N", default="none")] = None
    work_root: Annotated[str, Option("folder", metavar="DIR", flags=("--work_root", "-w"))] = "."
    check: Annotated[bool, Option("no check")] = True
    resume: Annotated[str | None, Option("go on", metavar="CKPT", default="anew", bare="auto")] = None
    size: Annotated[tuple[int, int] | None, Option("size", metavar="W H", default="none")] = None
    cfg_options: CfgOptions = field(default_factory=dict)
    classes: Annotated[tuple[str, ...], Option("names", metavar="NAME", default="all")] = ()
    local_rank: Annotated[int | None, Option("old", hidden=True)] = None


@pytest.fixture
def verb(monkeypatch):
    """A verb `train` whose run can be set; `seen` is the list of the options that reached it."""
    module = types.ModuleType("fcos_train.cli.try_it")
    module.__spec__ = types.SimpleNamespace()
    module.seen = []
    module.outcome = lambda options: 0

    def run(options: TryOptions) -> int:
        """Try it."""
        module.seen.append(options)
        return module.outcome(options)

    run.__annotations__ = {"options": TryOptions, "return": int}
    module.run = run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(front.VERBS, "train", (module.__name__, "try"))
    return module


def test_runs_the_verb_and_returns_its_status(verb):
    verb.outcome = lambda args: 7
    assert front.main(["train", "c.py", "--batch-size", "4"]) == 7
    assert (verb.seen[0].config, verb.seen[0].batch_size) == ("c.py", 4)


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
@pytest.mark.parametrize("form", ["{} 4", "{}=4"])
def test_both_spellings_of_a_flag(verb, flag, form):
    assert front.main(["train", *form.format(flag).split()]) == 0
    assert verb.seen[0].batch_size == 4


def test_flag_defined_with_underscores(verb):
    assert front.main(["train", "--work-root", "a_b"]) == 0
    assert verb.seen[0].work_root == "a_b"


def test_values_are_not_touched(verb):
    options = ["data.samples_per_gpu=2", "a_b.c_d=--x_y", "k=[1,2]"]
    assert front.main(["train", "my_cfg.py", "--loss-scale", "-1", "--cfg_options", *options]) == 0
    assert verb.seen[0].cfg_options == {"data.samples_per_gpu": 2, "a_b.c_d": "--x_y", "k": [1, 2]}
    assert (verb.seen[0].config, verb.seen[0].loss_scale) == ("my_cfg.py", "-1")


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        ([], "check", True),
        (["--no-check"], "check", False),
        (["--no_check", "--no-check"], "check", False),
        (["--resume"], "resume", "auto"),
        (["--resume", "--no-check"], "resume", "auto"),
        (["--resume", "a.pth"], "resume", "a.pth"),
        (["--resume=a.pth"], "resume", "a.pth"),
        (["-w", "x"], "work_root", "x"),
        (["--batch-size", "2", "--batch_size=3"], "batch_size", 3),
        (["--batch-size=2", "--batch_size", "3"], "batch_size", 3),
        (["--size", "1", "2", "c.py"], "config", "c.py"),
        (["--size", "1", "2", "--size", "3", "4"], "size", (3, 4)),
        (["--classes", "a", "b", "--no-check", "--classes", "c"], "classes", ("a", "b", "c")),
        (
            ["--cfg-options", "a=1", "b.c=x", "--cfg-options", "d=(1,2)"],
            "cfg_options",
            {"a": 1, "b.c": "x", "d": (1, 2)},
        ),
        (["-"], "config", "-"),
        (["--no-check", "--", "-c.py"], "config", "-c.py"),
    ],
)
def test_forms_of_options(verb, arguments, field, value):
    assert front.main(["train", *arguments]) == 0
    assert getattr(verb.seen[0], field) == value


@pytest.mark.parametrize("form", [["--local_rank=1"], ["--local-rank", "1"]])
def test_local_rank_is_accepted(verb, form):
    assert front.main(["train", *form, "c.py"]) == 0
    assert verb.seen[0].config == "c.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--batchsize", "4"], "unknown flag --batchsize; did you mean --batch-size?"),
        (["train", "c.py", "--batch_sise=4"], "unknown flag --batch_sise; did you mean --batch-size?"),
        (["train", "c.py", "--batch"], "unknown flag --batch; did you mean --batch-size?"),  # no abbreviations
        (["train", "c.py", "-q"], "unknown flag -q; "),
        (["train", "c.py", "more"], "unexpected argument 'more'"),
        (["train", "--batch-size", "four"], "--batch-size four: must be a whole number"),
        (["train", "--batch-size"], "--batch-size needs a value (see fcos-train train --help)"),
        (["train", "--size", "1"], "--size needs 2 values (see fcos-train train --help)"),
        (["train", "--classes"], "--classes needs a value"),
        (
            ["train", "--cfg-options", "a", "--batch-size=0"],
            "--cfg-options a: write key=value; --batch-size 0: must be",
        ),
        (
            ["train", "--batch-size=0", "--size", "a", "1"],
            "--batch-size 0: must be at least 1; --size a: must be a whole",
        ),
        (["--batch-size", "train"], "unknown flag --batch-size; flags come after the verb"),
        (["trian", "c.py"], "unknown verb 'trian'; did you mean train?"),
        (["zzz"], "unknown verb 'zzz'; choose from train, eval"),
        (["--verison"], "unknown flag --verison; did you mean --version?"),
        ([], "give a verb: train, "),
    ],
)
def test_wrong_arguments(verb, capsys, arguments, message):
    assert front.main(arguments) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert verb.seen == []


def test_all_unknown_flags_in_one_message(verb, capsys):
    assert front.main(["train", "--batchsize", "4", "--los-scale", "1"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown flag --batchsize; did you mean --batch-size?\n"
        "       unknown flag --los-scale; did you mean --loss-scale?\n"
    )


def _raise(error):
    def outcome(args):
        raise error

    return outcome


def test_user_error(verb, capsys, monkeypatch):
    verb.outcome = _raise(UserError("no such thing"))
    monkeypatch.delenv("RANK", raising=False)
    assert front.main(["train"]) == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    monkeypatch.setenv("RANK", "3")
    assert front.main(["train"]) == 2
    assert capsys.readouterr().err == "error (rank 3): no such thing\n"


def test_the_flag_of_the_setting_that_an_error_names_is_added(verb, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    verb.outcome = _raise(UserError("load its weights with load_from", setting="load_from"))
    assert front.main(["train"]) == 2
    assert capsys.readouterr().err == "error: load its weights with load_from (flag: --load-from)\n"


def test_interrupt(verb):
    verb.outcome = _raise(KeyboardInterrupt())
    assert front.main(["train"]) == 130


def test_output_that_nobody_reads_ends_quietly():
    """As in ``fcos-train demo --help | head -1``; the pipe is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from fcos_train.cli.main import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_other_errors_keep_their_traceback(verb):
    verb.outcome = _raise(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        front.main(["train"])


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--version"], __version__),
        (["--help"], "make-shapes"),
        (["train", "-h"], "--batch-size"),
        (["--help", "train"], "make-shapes"),
        (["ascend", "--help"], "txt-to-json"),
        (["train", "c", "--help"], "--resume [CKPT]"),
    ],
)
def test_information_is_status_0(verb, capsys, arguments, word):
    assert front.main(arguments) == 0
    assert word in capsys.readouterr().out


@pytest.mark.parametrize("name", front.VERBS)
def test_every_verb_keeps_the_convention(name, capsys):
    assert front.main([name, "--help"]) == 0
    assert f"usage: fcos-train {name}" in capsys.readouterr().out


def test_verbs_whose_module_is_absent_are_not_offered(monkeypatch, capsys):
    monkeypatch.setitem(front.VERBS, "later", ("fcos_train.cli.no_such_module", "later"))
    assert front.main(["later"]) == 2
    assert "unknown verb 'later'" in capsys.readouterr().err


def in_process(*arguments: str, code: str = "") -> subprocess.CompletedProcess:
    """`main` in a new interpreter, after `code`; stderr ends with the list of heavy modules then imported."""
    script = (
        f"import sys\n{code}\nfrom fcos_train.cli.main import main\nstatus = main({list(arguments)!r})\n"
        "print([m for m in ('torch', 'cv2', 'mmcv', 'mmengine') if sys.modules.get(m)], file=sys.stderr)\n"
        "sys.exit(status)"
    )
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)


EVERY_VERB = """
import importlib
from fcos_train.cli.ascend import STEPS
from fcos_train.cli.main import VERBS
[importlib.import_module(name) for name, _ in (*VERBS.values(), *STEPS.values())]
"""


def test_help_imports_nothing_heavy():
    result = in_process(*["--help"])
    assert (result.returncode, result.stderr.splitlines()[-1]) == (0, "[]")


def test_options_are_checked_before_anything_heavy_is_imported():
    """For each verb: the module that holds its options and `run` imports nothing that takes long."""
    wrong = ["train", "c.py", "--opt-level", "O3", "--loss-scale", "0", "--seed=-1", "--amp-dtype=f", "--max-iters=0"]
    result = in_process(*wrong, code=EVERY_VERB)
    faults, heavy = result.stderr.splitlines()
    assert (result.returncode, heavy) == (2, "[]")
    for flag in ("--opt-level O3", "--loss-scale 0", "--seed -1", "--amp-dtype f", "--max-iters 0"):
        assert f"{flag}: " in faults


def test_doctor_runs_without_torch_and_opencv():
    blocked = "sys.modules.update(dict.fromkeys(['torch', 'cv2', 'mmengine', 'mmcv', 'mmdet']))"
    result = in_process("doctor", code=blocked)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    torch = next(i for i, line in enumerate(lines) if line.startswith("PROBLEM torch"))
    assert "import fails: " in lines[torch]
    assert "fix: pip install --force-reinstall --no-deps torch==" in lines[torch + 1]


def test_without_the_parser_library():
    """doctor runs all the same, help is shown, and others say what to install."""
    blocked = "sys.modules['cyclopts'] = None"
    assert in_process("doctor", code=blocked).returncode in (0, 1)
    assert "--work-dir DIR" in in_process("train", "--help", code=blocked).stdout
    result = in_process("train", "c.py", code=blocked)
    assert result.returncode == 2 and "fix: pip install cyclopts\n" in result.stderr


def test_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "fcos_train", "tarin"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (2, "error: unknown verb 'tarin'; did you mean train?\n")


def test_a_backend_that_cannot_be_loaded_does_not_stop_other_devices(tmp_path):
    """torch imports what is registered as its backend; an installed torch_npu without CANN would fail every command."""
    (tmp_path / "torch_npu.py").write_text("raise ImportError('libhccl.so: no such file')")
    entry = tmp_path / "torch_npu-1.dist-info" / "entry_points.txt"
    entry.parent.mkdir()
    entry.write_text("[torch.backends]\ntorch_npu = torch_npu:load\n")
    done = commands.run("doctor", PYTHONPATH=os.pathsep.join([str(tmp_path), str(commands.ROOT)]))
    assert (
        "device cpu: chosen by 'auto'" in done.stdout
        and "importing torch_npu failed: ImportError: libhccl.so" in done.stdout
    )
    assert "Failed to load the backend extension" not in done.stdout + done.stderr
