"""The part of quickstart.sh that needs the installation: data, training, a picture.

One process does all of it, because to import torch and mmdet takes longer than most of these steps.

    python scripts/quickstart.py SECONDS      (that the installation has taken)
"""

import os
import sys
import time
from pathlib import Path

# One core for the loader's process. Before torch is imported, which reads it.
os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 2) - 1, 1)))

from fcos_train.cli.main import main

CONFIG = "configs/fcos/fcos_r18_fpn_quickstart.py"
DATA, WORK_DIR = Path("data/shapes"), Path("work_dirs/quickstart")
IMAGES = {"--train": 800, "--val": 80}
began = time.monotonic() - float(sys.argv[1])


def stage(text):
    print(f"== [{time.monotonic() - began:4.0f} s] {text}", flush=True)


def run(*words):
    """``fcos-train WORDS``; a failure ends the script."""
    status = main([str(word) for word in words])
    if status:
        sys.exit(status)


def annotations():
    return DATA / "annotations" / "instances_val2017.json"


stage(f"data: generated shapes in COCO layout, {DATA}")
if annotations().is_file():
    print("already there")
else:
    run("make-shapes", DATA, *(word for pair in IMAGES.items() for word in pair))

stage(f"training: {CONFIG}")
iterations = os.environ.get("QUICKSTART_ITERS")
run(
    *("train", CONFIG, "--data-path", DATA, "--work-dir", WORK_DIR, "--overwrite", "--seed", 0),
    *(("--max-iters", iterations) if iterations else ()),
)

stage("picture")
picture = min((DATA / "val2017").iterdir())
run("demo", WORK_DIR / "latest.pth", "--img", picture, "--show-dir", WORK_DIR / "pictures")

stage("done")
report = WORK_DIR / "report" / "index.html"
in_environment = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
print(f"checkpoint   {WORK_DIR}/latest.pth")
print(f"log          {WORK_DIR}/*.log (also .log.json, and tb/ for TensorBoard)")
print(f"picture      {WORK_DIR}/pictures/{picture.stem}_pred.jpg")
if report.is_file():
    print(f"report       {report} (open it in a browser)")
print("Next: your own images, annotated in COCO, VOC or YOLO layout, from weights trained on COCO:")
if not in_environment:
    print("  source .venv/bin/activate")
print("  fcos-train check-data /path/to/your/data")
print("  fcos-train train fcos/fcos_r50_fpn_finetune --data-path /path/to/your/data --load-from coco")
print("  fcos-train demo --img /path/to/image_or_folder        # draws what the newest training detects")
