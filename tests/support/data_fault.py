# The exact config, with a hook that spoils images of the data set after it has been checked.
_base_ = "./exact.py"
custom_imports = dict(imports=["tests.support.exact_losses", "tests.support.data_fault_hooks"])
custom_hooks = [dict(type="PrintExactLosses"), dict(type="SpoilData", images=[], how="nothing")]
train_cfg = dict(max_epochs=1)
