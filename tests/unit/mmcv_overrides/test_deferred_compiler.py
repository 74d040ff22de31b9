"""Training without torch's compiler: it stays unloaded, the numbers are the same, and compilation works afterwards."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
STEPS = """
import sys
import torch
if {active}:
    import mmcv_overrides
    mmcv_overrides.activate()

def trained(make, model):
    torch.manual_seed(0)
    model = model()
    optimizer = make(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        assert torch.is_grad_enabled()
    optimizer.load_state_dict(optimizer.state_dict())
    return [value.hex() for value in next(model.parameters()).flatten().tolist()]

for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    print(*trained(make, lambda: torch.nn.Linear(3, 2)))
print("loaded" if "torch._dynamo" in sys.modules else "not loaded")
compiled = torch.compile(lambda x: x * 2 + 1, backend="eager")
print(compiled(torch.tensor(3.0)).item())
for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
    print(*trained(make, lambda: torch.compile(torch.nn.Linear(3, 2), backend="eager")))
step = torch.compile(trained, backend="eager")
print(*step(torch.optim.SGD, lambda: torch.nn.Linear(3, 2)))
"""


def lines(active: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(active=active)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_optimizers_step_without_the_compiler_and_give_the_same_bits():
    with_it, without = lines(False), lines(True)
    assert (with_it[3], without[3]) == ("loaded", "not loaded")
    assert with_it[:3] + with_it[4:] == without[:3] + without[4:]
    assert without[4] == "7.0"
    assert without[5:8] == without[:3]  # with compiled models, the compiler loaded: the same steps
