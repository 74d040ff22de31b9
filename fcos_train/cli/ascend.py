"""``fcos-train ascend STEP``: the steps of offline inference, each with the flags its users know."""

from __future__ import annotations

import argparse
from pathlib import Path

from fcos_train.cli.values import ALLOW_OUTSIDE
from mmcv_overrides.errors import UserError

MODELS = ("fsaf", "fcos", "cascade")
STEPS = {
    "preprocess": "images to .bin files",
    "info": "list .bin files or images with their sizes (get_info.py)",
    "om": "print the atc or aoe command, and run it where CANN is installed",
    "infer": "run a model over .bin files (benchmark, ais_infer, ais_bench)",
    "postprocess": "results of the runner to one text file per image",
    "txt-to-json": "text files to a COCO result file",
    "coco-eval": "the twelve COCO numbers of a result file",
    "evaluate": "all of it: mAP of a checkpoint and of its export",
}


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("ascend", help="offline inference on Ascend, step by step")
    steps = parser.add_subparsers(dest="step", metavar="STEP", title="steps", required=True)
    nested = []
    for name, text in STEPS.items():
        step = steps.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        adder, run_step = _PARTS[name]
        adder(step.add_argument)
        step.set_defaults(run_step=run_step)
        nested.append(step)
    # The flags of the steps are written after the verb too, so they must be known when they are normalised.
    own = parser.flags
    parser.flags = lambda: own().union(*(step.flags() for step in nested))
    return parser


def run(args: argparse.Namespace) -> int:
    return args.run_step(args)


def _preprocess_flags(add) -> None:
    add("--model", choices=MODELS, default="fsaf", help="whose rules: fsaf, fcos or cascade (default fsaf)")
    add(
        "--image-src-path",
        "--image-folder-path",
        metavar="DIR",
        help="the images (default ./coco2017/, cascade ./coco2014/)",
    )
    add("--bin-file-path", "--bin-folder-path", metavar="DIR", help="where the .bin files go (default <images>_bin/)")
    add("--model-input-height", type=int, metavar="H", help="input height (default 800; cascade 1216)")
    add("--model-input-width", type=int, metavar="W", help="input width (default: fsaf 1216, fcos 1333, cascade 1216)")
    add("--sidecar", metavar="JSON", help="take size and normalisation from the JSON beside an exported model")
    add(
        "--aipp",
        action="store_true",
        help="write pixels (uint8 H x W x 3), for a model whose .om normalises itself (om --aipp)",
    )
    add("--pad-size", type=int, help=argparse.SUPPRESS)  # accepted for old scripts; never had an effect
    add("--workers", type=int, metavar="N", help="threads (default one per processor)")


def _preprocess(args) -> int:
    from fcos_train.deploy.ascend.preprocess import preprocess
    from fcos_train.deploy.ascend.rules import RULES

    if args.sidecar:
        from fcos_train.deploy.parts.description import read_rule

        rule = read_rule(args.sidecar)
    else:
        rule = RULES[args.model]
    rule = rule.at(args.model_input_height, args.model_input_width)
    images = args.image_src_path or ("./coco2014/" if args.model == "cascade" else "./coco2017/")
    bins = args.bin_file_path or f"{images.rstrip('/')}_bin/"
    count = preprocess(images, bins, rule, args.workers, args.aipp)
    form = f"{rule.height} x {rule.width} x 3 uint8" if args.aipp else f"3 x {rule.height} x {rule.width} float32"
    print(f"{count} files of {rule.bin_bytes(args.aipp)} bytes ({form}) in {bins}")
    return 0


def _info_flags(add) -> None:
    add("place", nargs="*", metavar="bin DIR OUT W H | jpg DIR OUT", help="as get_info.py takes them")
    add("--file-type", choices=("bin", "jpg"))
    add("--file-path", metavar="DIR", help="the folder")
    add("--info-name", metavar="OUT", help="the info file to write")
    add("--width", type=int, metavar="W", help="input width, for bin")
    add("--height", type=int, metavar="H", help="input height, for bin")


def _info(args) -> int:
    from fcos_train.deploy.ascend.info import bin_info, image_info

    kind, folder, out, *size = _info_places(args)
    count = image_info(folder, out) if kind == "jpg" else bin_info(folder, out, *size)
    print(f"{count} rows in {out}")
    return 0


def _info_places(args) -> list:
    given = [args.file_type, args.file_path, args.info_name, args.width, args.height]
    given = [value for value in given if value is not None]
    values = given or [*args.place]
    needed = {"bin": 5, "jpg": 3}.get(values[0] if values else "")
    if needed != len(values) or (given and args.place):
        raise UserError("write: info bin DIR OUT WIDTH HEIGHT, or: info jpg DIR OUT")
    try:
        return [*values[:3], *map(int, values[3:])]
    except ValueError:
        raise UserError(f"width and height must be whole numbers, not {values[3]} and {values[4]}") from None


def _om_flags(add) -> None:
    add("--model", required=True, metavar="ONNX", help="the exported model")
    add("--output", metavar="OM", help="the .om to write (default beside the model)")
    add(
        "--soc-version",
        default="Ascend310",
        metavar="SOC",
        help="the chip, e.g. Ascend310, Ascend310P3 (default Ascend310)",
    )
    add("--batch-size", type=int, metavar="N")
    add("--input-height", type=int, metavar="H")
    add("--input-width", type=int, metavar="W")
    add("--out-nodes", metavar="A;B", help="outputs (default: the model's, in its order)")
    add("--aipp", nargs="?", const="", metavar="FILE", help="normalise inside the .om; without FILE one is written")
    add("--rule", choices=MODELS, help="whose normalisation the written AIPP file has (default: the model's JSON)")
    add("--aoe", action="store_true", help="tune with aoe")
    add("--dry-run", action="store_true", help="write the command only")
    add("--extra", nargs="+", default=[], metavar="WORD", help="further words, each as --extra=--WORD=VALUE")


def _om(args) -> int:
    import shlex

    from fcos_train.deploy.ascend.om import OmOptions, convert
    from fcos_train.deploy.ascend.rules import RULES

    rule = RULES[args.rule] if args.rule else None
    if args.aipp == "" and rule is None:
        from fcos_train.deploy.parts.description import beside, read_rule

        rule = read_rule(beside(args.model))
    output = Path(args.output) if args.output else None
    options = OmOptions(
        Path(args.model), output, args.soc_version, args.batch_size, args.input_height, args.input_width,
        args.out_nodes, args.aipp, args.aoe, tuple(args.extra),
    )  # fmt: skip
    words, script, ran = convert(options, rule, args.dry_run)
    print(shlex.join(words))
    if ran:
        print(f"{options.target}.om is written")
    elif args.dry_run:
        print(f"the command is in {script}")
    else:
        print(f"{words[0]} is not on PATH (it comes with CANN), so nothing was converted; the command is in {script}")
    return 0


def _infer_flags(add) -> None:
    add("--model", "-om_path", required=True, metavar="FILE", help="an .onnx, or an .om where ais_bench is installed")
    add("--input", "-input_text_path", metavar="WHAT", help="info file, folder of .bin files, or files with commas")
    add("--output", default="result", metavar="DIR", help="where the results go (default ./result)")
    add("--layout", choices=("benchmark", "ais"), default="benchmark", help="whose files to write (default benchmark)")
    add("--output-dirname", metavar="NAME", help="ais: the folder's name instead of the time")
    add("--outfmt", choices=("BIN", "TXT", "NPY"), help="ais: format of the results (default BIN)")
    add("--device", "--device-id", "-device_id", type=_card, default=0, metavar="ID")
    add(
        "--batch-size",
        "--batchsize",
        "-batch_size",
        type=int,
        metavar="N",
        help="images per call (default the model's, or 1)",
    )
    add("--input-width", "-input_width", type=int, metavar="W")
    add("--input-height", "-input_height", type=int, metavar="H")
    add("--round", "-round", type=int, default=0, metavar="N", help="benchmark: pure inference, N calls, no files")
    add(
        "--loop",
        type=int,
        default=1,
        metavar="N",
        help="calls for each batch; without --input: pure inference (layout ais)",
    )
    add("--warmup-count", type=int, default=1, metavar="N", help="calls before that do not count (default 1)")
    add(
        "--pure-data-type",
        choices=("zero", "random"),
        default="zero",
        help="made-up inputs of pure inference (default zero)",
    )
    add(
        "--output-batchsize-axis",
        type=int,
        default=0,
        metavar="AXIS",
        help="side of the outputs that counts the images",
    )
    add("--aipp-config", metavar="FILE", help="the inputs are pixels; normalise as this AIPP file says (.onnx only)")
    add("-output_binary", choices=("true", "false"), help="benchmark: .bin (true) or .txt results")
    add("-model_type", choices=("vision",), help="benchmark: vision is the only one")
    add("-useDvpp", choices=("true", "false"), help="benchmark: false, as images come prepared")
    add("--debug", **_SWITCH, help="print the model's input and outputs")
    add("--dymBatch", type=int, default=0, metavar="N", help="batch, for a model that takes any")
    add("--dymHW", metavar="H,W", help="size, for a model that takes any")
    for flag in ("--dymDims", "--dymShape"):
        add(flag, metavar="NAME:N,3,H,W", help="batch and size, for a model that takes any")
    for flag, value in _CARD_FLAGS.items():
        add(flag, **value, help="handed to ais_bench; said or refused where there is no card")


def _card(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"give one card, as 0, not '{text}'; run the parts of the images one after the other"
        )
    return int(text)


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"write true or false, not '{text}'")
    return _TRUTHS[text.lower()]


_TRUTHS = {
    **dict.fromkeys(("true", "1", "yes", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "f"), False),
}
_SWITCH = {"nargs": "?", "const": True, "default": False, "type": _truth, "metavar": "BOOL"}
_CARD_FLAGS = {
    "--profiler": _SWITCH,
    "--dump": _SWITCH,
    "--acl-json-path": {"metavar": "FILE"},
    "--dymShape-range": {"metavar": "NAME:RANGES"},
    "--auto-set-dymshape-mode": _SWITCH,
    "--auto-set-dymdims-mode": _SWITCH,
    "--outputSize": {"metavar": "BYTES"},
    "--infer-queue-count": {"metavar": "N"},
    "--run-mode": {"metavar": "MODE"},
    "--display-all-summary": _SWITCH,
}


def _infer(args) -> int:
    from fcos_train.deploy.ascend.ais_flags import AisFlags
    from fcos_train.deploy.ascend.infer import Calls
    from fcos_train.deploy.ascend.runs import InferOptions, infer

    if args.useDvpp == "true":
        raise UserError(
            "-useDvpp=true decodes JPEG files on a card; prepare .bin files with fcos-train ascend preprocess"
        )
    if args.output_binary and args.outfmt:
        raise UserError("-output_binary and --outfmt say the same thing twice: give one of them")
    fmt = args.outfmt or ("TXT" if args.output_binary == "false" else "BIN")
    given = [(flag, getattr(args, flag[2:].replace("-", "_"))) for flag in _CARD_FLAGS]
    # As ais_bench spells them, with 1 for true.
    others = tuple((f"--{flag[2:].replace('-', '_')}", str(int(v) if v is True else v)) for flag, v in given if v)
    options = InferOptions(
        model=args.model,
        inputs=args.input,
        output=args.output,
        layout=args.layout,
        device=args.device,
        batch=args.batch_size,
        width=args.input_width,
        height=args.input_height,
        fmt=fmt,
        dirname=args.output_dirname,
        rounds=args.round,
        calls=Calls(args.loop, args.warmup_count, args.pure_data_type, args.output_batchsize_axis),
        ais=AisFlags(args.dymBatch, args.dymHW, args.dymDims, args.dymShape, others),
        aipp=args.aipp_config,
        debug=args.debug,
    )
    _, lines = infer(options)
    print("\n".join(lines))
    return 0


def _postprocess_flags(add) -> None:
    add("--model", choices=MODELS, default="fsaf", help="whose rules: fsaf, fcos or cascade (default fsaf)")
    add(
        "--test-annotation",
        metavar="INFO",
        help="info file of the images (default ./origin_pictures.info, cascade ./coco2017_jpg.info)",
    )
    add("--bin-data-path", default="./result/dumpOutput_device0/", metavar="DIR", help="results of the runner")
    add("--det-results-path", default="./detection-results/", metavar="DIR", help="where the text files go")
    add("--net-out-num", type=int, help=argparse.SUPPRESS)  # accepted for old scripts; found by itself
    add("--net-input-width", type=int, metavar="W", help="as in preprocess")
    add("--net-input-height", type=int, metavar="H")
    add("--sidecar", metavar="JSON", help="take size and resize rule from the JSON beside an exported model")
    add(
        "--prob-thres",
        type=float,
        metavar="S",
        help="smallest score written (default: cascade 0.05, others all above 0)",
    )
    add("--suffix-base", choices=("auto", "0", "1"), default="auto", help="number of the first output (default auto)")
    add("--ifShowDetObj", action="store_true", help="also draw the boxes on the images")
    add("--annotations-path", metavar="PATH", help="COCO annotations (or their folder): print the twelve numbers too")
    add("--classes", nargs="+", metavar="NAME", help="names by label (default: the sidecar's, else the 80 of COCO)")


def _postprocess(args) -> int:
    from dataclasses import replace

    from fcos_train.deploy.ascend.postprocess import postprocess
    from fcos_train.deploy.ascend.rules import RULES
    from fcos_train.deploy.ascend.txt_to_json import collect
    from fcos_train.deploy.parts.classes import COCO_NAMES, find_annotations, read_truth
    from fcos_train.deploy.parts.coco_numbers import evaluate

    rule, classes = RULES[args.model], COCO_NAMES
    if args.sidecar:
        from fcos_train.deploy.parts.description import read_classes, read_rule

        rule, classes = read_rule(args.sidecar), read_classes(args.sidecar)
    rule = rule.at(args.net_input_height, args.net_input_width)
    if args.prob_thres is not None:
        rule = replace(rule, prob_thres=args.prob_thres)
    truth = read_truth(find_annotations(args.annotations_path)) if args.annotations_path else None
    info = args.test_annotation or ("./coco2017_jpg.info" if args.model == "cascade" else "./origin_pictures.info")
    base = None if args.suffix_base == "auto" else int(args.suffix_base)
    count = postprocess(
        args.bin_data_path, info, args.det_results_path, rule, args.classes or classes, base, args.ifShowDetObj
    )
    print(f"{count} objects in {args.det_results_path}")
    if truth:
        numbers = evaluate(truth.path, collect(args.det_results_path, truth, 0.0), args.det_results_path)
        print("\n".join(numbers.lines()))
        print(numbers.summary())
    return 0


def _json_flags(add) -> None:
    add("--npu-txt-path", default="detection-results", metavar="DIR", help="the text files")
    add(
        "--json-output-file",
        default="coco_detection_result",
        metavar="NAME",
        help="the file to write; .json is appended",
    )
    add("--ground-truth", metavar="JSON", help="annotations that give the ids (default: the ids of COCO)")


def _json(args) -> int:
    from fcos_train.deploy.ascend.txt_to_json import txt_to_json
    from fcos_train.deploy.parts.classes import coco_truth, read_truth

    truth = read_truth(args.ground_truth) if args.ground_truth else coco_truth()
    path, count = txt_to_json(args.npu_txt_path, args.json_output_file, truth)
    print(f"{count} results in {path}")
    return 0


def _coco_flags(add) -> None:
    add("--ground-truth", default="instances_val2017.json", metavar="JSON", help="the annotations")
    add("--detection-result", default="coco_detection_result.json", metavar="JSON", help="the COCO result file")
    add("--output", default="./coco_detection_result.txt", metavar="FILE", help="the dictionary as key: value lines")


def _coco(args) -> int:
    from fcos_train.deploy.parts.coco_numbers import coco_eval

    numbers = coco_eval(args.ground_truth, args.detection_result, args.output)
    print("\n".join(numbers.lines()))
    print(numbers.summary())
    return 0


def _evaluate_flags(add) -> None:
    add("--checkpoint", required=True, metavar="PTH", help="the trained weights")
    add("--data-path", required=True, metavar="DIR", help="data set in COCO or VOC layout; its validation images count")
    add("--allow-outside", action="append", default=[], metavar="DIR", help=ALLOW_OUTSIDE)
    add(
        "--model",
        metavar="FILE",
        help="the exported .onnx, or an .om where ais_bench is (default: export the checkpoint)",
    )
    add("--config", metavar="FILE", help="configuration, when the checkpoint has none")
    add("--end", choices=("raw", "decoded", "nms", "ascend"), default="nms", help="what to export (default nms)")
    add("--shape", nargs="+", type=int, metavar=("H", "W"), help="size to export for (default: of the test pipeline)")
    add("--sidecar", metavar="JSON", help="the exporter's description, when not beside the model")
    add(
        "--work-dir",
        default="work_dirs/ascend",
        metavar="DIR",
        help="where every file stays (default work_dirs/ascend)",
    )
    add("--device", default="auto", help="where the checkpoint runs: auto, cpu, cuda or npu")
    add("--device-id", type=int, default=0, metavar="ID", help="card of an .om")
    add(
        "--limit",
        type=int,
        metavar="N",
        help="only the first N images (graphs of --end ascend are slow without a card)",
    )
    add("--tolerance", type=float, metavar="T", help="largest difference in mAP (default 0.001; ascend and .om 0.003)")
    add("--trust-checkpoint", action="store_true", help="allow a checkpoint that executes code when read")
    add("--safe-config", action="store_true", help="read the config as data: refuse a program and unregistered parts")


def _evaluate(args) -> int:
    from fcos_train.deploy.ascend.evaluate import EvaluateOptions, evaluate

    if args.shape is not None and len(args.shape) > 2:
        raise UserError("--shape: give height and width, or one number for a square")
    options = EvaluateOptions(
        checkpoint=args.checkpoint,
        data_path=args.data_path,
        model=args.model,
        config=args.config,
        work_dir=args.work_dir,
        end=args.end,
        shape=None if args.shape is None else (args.shape[0], args.shape[-1]),
        description=args.sidecar,
        device=args.device,
        device_id=args.device_id,
        limit=args.limit,
        tolerance=args.tolerance,
        trust_checkpoint=args.trust_checkpoint,
        safe_config=args.safe_config,
        allow_outside=tuple(args.allow_outside),
    )
    found = evaluate(options)
    print("\n".join(found.lines()))
    return 0 if found.agrees else 1


_PARTS = {
    "preprocess": (_preprocess_flags, _preprocess),
    "info": (_info_flags, _info),
    "om": (_om_flags, _om),
    "infer": (_infer_flags, _infer),
    "postprocess": (_postprocess_flags, _postprocess),
    "txt-to-json": (_json_flags, _json),
    "coco-eval": (_coco_flags, _coco),
    "evaluate": (_evaluate_flags, _evaluate),
}
