"""Further flags of `ais_infer` and `ais_bench`: parsed, passed on to them, or refused without a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, declared, truth
from mmcv_overrides.errors import UserError

# Flags that need a card, and what to do without one.
CARD_ONLY = {
    "--profiler": "the times of a run without a card are in its summary or perf file",
    "--dump": "a graph's outputs are compared with the checkpoint by fcos-train ascend evaluate",
    "--acl_json_path": "it steers profiling and dumps of a card; leave it out",
    "--dymShape_range": "give one shape at a time with --dymShape",
    "--auto_set_dymshape_mode": "give the shape with --dymShape",
    "--auto_set_dymdims_mode": "give the shape with --dymDims",
}
# Flags that change no result without a card: reported, not refused.
NO_EFFECT = {
    "--outputSize": "onnxruntime allocates the outputs itself",
    "--infer_queue_count": "without a card there is one call at a time",
    "--run_mode": "without a card files are read, run and written one batch after the other",
    "--display_all_summary": "the summary has all its lines anyway",
}
SHAPE = "NAME:N,3,H,W"


def _card_flag(flag: str, metavar: str = "") -> Option:
    """An option that is handed to ais_bench; one without a metavar is a switch."""
    text = "handed to ais_bench; noted or refused where there is no card"
    if metavar:
        return Option(text, metavar=metavar, default="not given", flags=(flag,))
    return Option(text, metavar="BOOL", flags=(flag,), bare="true", parse=truth)


@dataclass(frozen=True)
class AisFlags:
    """The flags as they were given; None, 0 or False is not given."""

    dym_batch: Annotated[
        int,
        Option(
            "batch size, for a model with a dynamic one",
            metavar="N",
            default="not given",
            flags=("--dymBatch",),
            least=0,
        ),
    ] = 0
    dym_hw: Annotated[
        str | None,
        Option("input size, for a model with a dynamic one", metavar="H,W", default="not given", flags=("--dymHW",)),
    ] = None
    dym_dims: Annotated[
        str | None,
        Option("input shape, for a model with a dynamic one", metavar=SHAPE, default="not given", flags=("--dymDims",)),
    ] = None
    dym_shape: Annotated[
        str | None,
        Option(
            "input shape, for a model with a dynamic one", metavar=SHAPE, default="not given", flags=("--dymShape",)
        ),
    ] = None
    profiler: Annotated[bool, _card_flag("--profiler")] = False
    dump: Annotated[bool, _card_flag("--dump")] = False
    acl_json_path: Annotated[str | None, _card_flag("--acl_json_path", "FILE")] = None
    dym_shape_range: Annotated[str | None, _card_flag("--dymShape_range", "NAME:RANGES")] = None
    auto_set_dymshape_mode: Annotated[bool, _card_flag("--auto_set_dymshape_mode")] = False
    auto_set_dymdims_mode: Annotated[bool, _card_flag("--auto_set_dymdims_mode")] = False
    output_size: Annotated[str | None, _card_flag("--outputSize", "BYTES")] = None
    infer_queue_count: Annotated[str | None, _card_flag("--infer_queue_count", "N")] = None
    run_mode: Annotated[str | None, _card_flag("--run_mode", "MODE")] = None
    display_all_summary: Annotated[bool, _card_flag("--display_all_summary")] = False

    @property
    def others(self) -> list[tuple[str, str]]:
        """Those of :data:`CARD_ONLY` and :data:`NO_EFFECT` that are given, with their values; 1 is true."""
        values = [(one.flags[0], getattr(self, one.name)) for one in declared(AisFlags)]
        return [
            (flag, str(int(value) if value is True else value))
            for flag, value in values
            if value and flag in {*CARD_ONLY, *NO_EFFECT}
        ]

    def words(self) -> list[str]:
        """The flags as words of a command line of ais_bench."""
        pairs = [("--dymBatch", self.dym_batch), ("--dymHW", self.dym_hw), ("--dymDims", self.dym_dims)]
        pairs += [("--dymShape", self.dym_shape), *self.others]
        return [word for flag, value in pairs if value for word in (flag, str(value))]

    def without_card(self) -> list[str]:
        """Report the flags that have no effect without a card.

        Returns:
            lines for the terminal.

        Raises:
            UserError: flags that need a card.
        """
        faults = [f"{flag} needs a card; {CARD_ONLY[flag]}" for flag, _ in self.others if flag in CARD_ONLY]
        if faults:
            raise UserError("; ".join(faults))
        return [f"[INFO] {flag} has no effect here: {NO_EFFECT[flag]}" for flag, _ in self.others]


@dataclass(frozen=True)
class Sides:
    """Requested batch, height and width (px) of the input, and its name; None if not given."""

    batch: int | None = None
    height: int | None = None
    width: int | None = None
    name: str | None = None


def sides(flags: AisFlags, batch: int | None = None, height: int | None = None, width: int | None = None) -> Sides:
    """Combine everything that was given about the input's shape.

    Args:
        batch, height, width: given by other flags.

    Raises:
        UserError: a value of a wrong form, or two flags that contradict each other.
    """
    said: list[tuple[str, Sequence[int | None]]] = [
        ("--batch-size, --input-height and --input-width", (batch, height, width))
    ]
    if flags.dym_batch:
        said.append(("--dymBatch", (flags.dym_batch, None, None)))
    if flags.dym_hw:
        said.append(("--dymHW", (None, *_numbers("--dymHW", flags.dym_hw, flags.dym_hw, 2, "H,W, as 800,1216"))))
    name = None
    for flag, text in (("--dymDims", flags.dym_dims), ("--dymShape", flags.dym_shape)):
        if text:
            form = "NAME:N,3,H,W with the one input of the model, as input:1,3,800,1216"
            name, _, numbers = text.strip().rstrip(";").rpartition(":")
            found = _numbers(flag, text, numbers, 4, form)
            if not name or found[1] != 3:
                raise UserError(f"{flag} {text}: expected {form}")
            said.append((flag, (found[0], *found[2:])))
    result: list[int | None] = []
    for side in range(3):
        values = {flag: numbers[side] for flag, numbers in said if numbers[side]}
        if len(set(values.values())) > 1:
            pairs = ", ".join(f"{flag} {value}" for flag, value in values.items())
            raise UserError(
                f"the {('batch', 'height', 'width')[side]} of the input is given twice, and differently: {pairs}"
            )
        result.append(next(iter(values.values()), None))
    return Sides(result[0], result[1], result[2], name)


def _numbers(flag: str, whole: str, text: str, count: int, form: str) -> list[int]:
    """Parse ``count`` positive integers separated by commas; ``whole`` and ``form`` are for the message."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"{flag} {whole}: expected {form}")
    return [int(part) for part in parts]
