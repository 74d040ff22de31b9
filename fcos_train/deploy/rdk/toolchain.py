"""The vendor's compiler: where it is installed, and how its programs are run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.rdk.mapper_log import plain_lines
from mmcv_overrides.errors import UserError

VARIABLE = "FCOS_RDK_TOOLCHAIN"
SETUP = "bash scripts/setup_rdk_toolchain.sh"


def default_folder() -> Path:
    """Where the set-up script installs the compiler."""
    return Path.home() / ".cache" / "fcos-train" / "rdk"


@dataclass(frozen=True)
class Toolchain:
    """An installed compiler.

    Attributes:
        folder: of its Python environment.
    """

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def environment(self) -> dict[str, str]:
        """Of its processes: its programs call each other by name, and its packages must not meet ours."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return {**kept, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"}

    def has(self, program: str) -> bool:
        """Whether one of the vendor's programs is there."""
        return (self.folder / "bin" / program).is_file()

    def run(self, words: Sequence[str], folder: Path, say: Callable[[str], None]) -> list[str]:
        """Run a program in a folder, in which the vendor's log files are left.

        Args:
            say: prints the command.

        Returns:
            the lines of its output, without colours and progress bars.

        Raises:
            UserError: it failed; with the errors that it printed.
        """
        say(f"running {' '.join(words)}")
        program = str(self.folder / "bin" / words[0])
        try:
            done = subprocess.run(
                [program, *words[1:]],
                cwd=folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise UserError(f"{program} cannot be run: {error.strerror}; install it again with {SETUP}") from error
        lines = plain_lines(done.stdout.decode(errors="replace"))
        if done.returncode:
            raise UserError(f"{words[0]} {words[1]} failed with status {done.returncode}: {_errors(lines)}")
        return lines


def find_toolchain() -> Toolchain | None:
    """The installed compiler: in the folder of ``FCOS_RDK_TOOLCHAIN``, else in the usual one; None: there is none.

    Raises:
        UserError: the variable names a folder without it.
    """
    given = os.environ.get(VARIABLE)
    found = Toolchain(Path(given) if given else default_folder())
    if found.has("hb_mapper") and found.has("python"):
        return found
    if given:
        raise UserError(f"{VARIABLE}={given}: hb_mapper is not installed there; run {SETUP} {given}")
    return None


def require_toolchain(why: str) -> Toolchain:
    """The installed compiler.

    Args:
        why: what needs it, for the message.

    Raises:
        UserError: there is none.
    """
    found = find_toolchain()
    if found is None:
        raise UserError(f"{why} needs the compiler of the boards: {SETUP} (or set {VARIABLE} to where it is installed)")
    return found


def _errors(lines: Sequence[str]) -> str:
    """The errors among the lines, else the last ones."""
    wrong = [line for line in lines if " ERROR " in line or "Error" in line or " CRITICAL " in line]
    return "; ".join(line.strip()[:300] for line in (wrong or list(lines))[-3:]) or "it printed nothing"
