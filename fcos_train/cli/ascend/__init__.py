"""``fcos-train ascend STEP``: the steps of offline inference, each with the flags that its users know."""

DESCRIPTION = "Offline inference on Ascend, step by step; every step reads and writes the files of the vendor's tools."
# step -> (module, one line of help)
STEPS = {
    "preprocess": ("fcos_train.cli.ascend.preprocess", "images to .bin files"),
    "info": ("fcos_train.cli.ascend.info", "list .bin files or images with their sizes (get_info.py)"),
    "om": ("fcos_train.cli.ascend.om", "print the atc or aoe command, and run it where CANN is installed"),
    "infer": ("fcos_train.cli.ascend.infer", "run a model over .bin files (benchmark, ais_infer, ais_bench)"),
    "benchmark": ("fcos_train.cli.ascend.benchmark", "speed over several batch sizes, as a table"),
    "postprocess": ("fcos_train.cli.ascend.postprocess", "results of the runner to one text file per image"),
    "txt-to-json": ("fcos_train.cli.ascend.txt_to_json", "text files to a COCO result file"),
    "coco-eval": ("fcos_train.cli.ascend.coco_eval", "the twelve COCO numbers of a result file"),
    "evaluate": ("fcos_train.cli.ascend.evaluate", "all steps in one: mAP of a checkpoint and of its export"),
}
