# The exact tiny model with --step-mode graph on a CPU: captures are those of tests/support/tape.py.
_base_ = "exact.py"
custom_imports = dict(imports=["tests.support.exact_losses", "tests.support.tape_for_cuda"])
custom_hooks = [dict(type="PrintExactLosses"), dict(type="EMAHook", momentum=0.1)]
