"""The front of the command line: verbs, flags, exit statuses, laziness."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fcos_train import __version__
from fcos_train.cli import main as front
from mmcv_overrides.errors import UserError
from tests.support import commands

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def verb(monkeypatch):
    """A verb `try-it` whose run can be set; returns the list of parsed arguments."""
    module = types.ModuleType("fcos_train.cli.try_it")
    module.__spec__ = types.SimpleNamespace()
    module.seen = []
    module.outcome = lambda args: 0

    def add_parser(subparsers):
        parser = subparsers.add_parser("train", help="try")
        parser.add_argument("config", nargs="?")
        parser.add_argument("--batch-size", type=int)
        parser.add_argument("--loss-scale")
        parser.add_argument("--work_root")
        parser.add_argument("--no-check", action="store_true")
        parser.add_argument("--cfg-options", nargs="+", action="extend")
        return parser

    def run(args):
        module.seen.append(args)
        return module.outcome(args)

    module.add_parser, module.run = add_parser, run
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
    assert verb.seen[0].cfg_options == options
    assert (verb.seen[0].config, verb.seen[0].loss_scale) == ("my_cfg.py", "-1")


@pytest.mark.parametrize("form", [["--local_rank=1"], ["--local-rank", "1"]])
def test_local_rank_is_accepted(verb, form):
    assert front.main(["train", *form, "c.py"]) == 0
    assert verb.seen[0].config == "c.py"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--batchsize", "4"], "unknown flag --batchsize; did you mean --batch-size?"),
        (["train", "c.py", "--batch_sise=4"], "unknown flag --batch_sise; did you mean --batch-size?"),
        (
            ["train", "c.py", "--batch"],
            "unknown flag --batch; did you mean --batch-size?",
        ),  # no abbreviations
        (["train", "c.py", "-q"], "unknown flag -q; "),
        (["train", "c.py", "more"], "unexpected argument 'more'"),
        (["train", "--batch-size", "four"], "invalid int value: 'four'"),
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


def test_other_errors_keep_their_traceback(verb):
    verb.outcome = _raise(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        front.main(["train"])


@pytest.mark.parametrize(
    "arguments, word", [(["--version"], __version__), (["--help"], "VERB"), (["train", "-h"], "--batch-size")]
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


def test_help_imports_nothing_heavy():
    for arguments in (["--help"], ["train", "--help"], ["doctor", "--help"]):
        result = in_process(*arguments)
        assert (result.returncode, result.stderr.splitlines()[-1]) == (0, "[]")


def test_doctor_runs_without_torch_and_opencv():
    blocked = "sys.modules.update(dict.fromkeys(['torch', 'cv2', 'mmengine', 'mmcv', 'mmdet']))"
    result = in_process("doctor", code=blocked)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    torch = next(i for i, line in enumerate(lines) if line.startswith("PROBLEM torch"))
    assert "import fails: " in lines[torch]
    assert "mend it: pip install --force-reinstall --no-deps torch==" in lines[torch + 1]


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
