"""How worker processes start, on systems that this machine is not, and how ranks that cannot meet say so."""

from types import SimpleNamespace

import pytest
from torch.distributed import HashStore

from mmcv_overrides import parallel
from mmcv_overrides.errors import UserError


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


@pytest.mark.parametrize("cause", ["Gloo connectFullMesh failed with Connection refused, remote=[127.0.0.1]", "other"])
def test_ranks_that_cannot_reach_each_other(monkeypatch, cause):
    """One message with the interface and the cure; any other error of the process group passes."""

    def refuse(backend, **_):
        raise RuntimeError(cause)

    for name, value in {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "23333")
    monkeypatch.setattr(parallel, "choose_interface", lambda backend: f"{backend}-eth0")
    monkeypatch.setattr(parallel.dist, "init_process_group", refuse)
    monkeypatch.setattr(parallel, "meet", lambda timeout: (HashStore(), 2, 4))
    device = SimpleNamespace(module=None, set_device=lambda index: None, backend="gloo")
    monkeypatch.setattr(parallel, "current", lambda: device)
    expected = "rank 2 cannot reach the other ranks .*gloo uses the interface gloo-eth0; give the address"
    kind, text = (UserError, expected) if "Gloo" in cause else (RuntimeError, "^other$")
    with pytest.raises(kind, match=text):
        parallel.init_dist_pytorch("nccl")


RANK_1 = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "23333"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"FCOS_DIST_TIMEOUT": "ten"}, "FCOS_DIST_TIMEOUT='ten': must be seconds, above 0 and at most"),
        ({"FCOS_DIST_TIMEOUT": "0"}, "FCOS_DIST_TIMEOUT='0': must be seconds"),
        ({"FCOS_DIST_TIMEOUT": "-5"}, "FCOS_DIST_TIMEOUT='-5': must be seconds"),
        ({"FCOS_DIST_TIMEOUT": "nan"}, "FCOS_DIST_TIMEOUT='nan': must be seconds"),
        ({"FCOS_DIST_TIMEOUT": "1e300"}, "FCOS_DIST_TIMEOUT='1e300': must be seconds"),
        ({"FCOS_RENDEZVOUS_TIMEOUT": "soon"}, "FCOS_RENDEZVOUS_TIMEOUT='soon': must be seconds"),
        ({"FCOS_DIST_BACKEND": "glu"}, "FCOS_DIST_BACKEND='glu': torch knows gloo, "),
        ({"FCOS_DIST_BACKEND": "cpu:gloo,cpu:glu"}, "FCOS_DIST_BACKEND='cpu:glu': torch knows gloo, "),
        ({"RANK": "one", "WORLD_SIZE": "0"}, "RANK='one': .* of at least 0; WORLD_SIZE='0': .* of at least 1"),
        ({"RANK": "2"}, "RANK=2: must be below WORLD_SIZE, 2"),
        ({"LOCAL_WORLD_SIZE": "-1"}, "LOCAL_WORLD_SIZE='-1': must be a whole number of at least 1"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT='70000': must be a whole number from 1 to 65535"),
    ],
)
def test_impossible_values_of_the_environment(monkeypatch, values, message):
    monkeypatch.setattr(parallel.dist, "init_process_group", lambda **_: pytest.fail("the group was started"))
    for name, value in (RANK_1 | values).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        parallel.init_dist_pytorch("nccl")
