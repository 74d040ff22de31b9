#!/usr/bin/env python3
"""Text files of detections to a COCO result file.

The same as ``fcos-train ascend txt-to-json``; all flags: --help.
"""

from _step import run

if __name__ == "__main__":
    run("txt-to-json")
