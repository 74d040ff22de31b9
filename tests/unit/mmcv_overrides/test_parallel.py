"""How worker processes start, on systems that this machine is not."""

import pytest

from mmcv_overrides import parallel


@pytest.mark.parametrize(
    ("system", "methods", "asked", "used"),
    [
        ("linux", ["fork", "spawn"], "fork", "fork"),
        ("darwin", ["spawn", "fork"], "fork", "spawn"),
        ("win32", ["spawn"], "fork", "spawn"),
        ("darwin", ["spawn", "fork"], "forkserver", "forkserver"),
    ],
)
def test_workers_are_forked_only_where_that_is_safe(monkeypatch, capsys, system, methods, asked, used):
    seen = []
    monkeypatch.setattr(parallel.sys, "platform", system)
    monkeypatch.setattr(parallel.multiprocessing, "get_all_start_methods", lambda: methods)
    monkeypatch.setattr(parallel, "_upstream_multi_processing", lambda *args: seen.append(args))
    parallel.set_multi_processing(asked, opencv_num_threads=2, distributed=True)
    assert seen == [(used, 2, True)]
    assert ("mp_start_method fork -> spawn" in capsys.readouterr().out) == (asked != used)
