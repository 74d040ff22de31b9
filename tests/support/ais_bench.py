"""A stand-in for CANN's ais_bench: a script that writes down its words and leaves what a test says."""

from pathlib import Path


def stand_in(folder: Path, leave: str) -> tuple[Path, Path]:
    """Write `folder`/bin/ais_bench.

    Args:
        leave: shell commands that write results to ``$out/$name`` (--output, --output_dirname) when --output is given.

    Returns:
        the folder for PATH, and the file with the words of the last call.
    """
    tool, said = folder / "bin" / "ais_bench", folder / "said"
    tool.parent.mkdir()
    tool.write_text(
        f"""#!/bin/sh
echo "$@" > {said}
while [ $# -gt 0 ]; do case $1 in --output) out=$2 ;; --output_dirname) name=$2 ;; esac; shift; done
[ -z "$out" ] || {{ mkdir -p $out/$name; {leave}; }}
"""
    )
    tool.chmod(0o755)
    return tool.parent, said
