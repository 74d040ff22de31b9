"""``fcos-train ascend infer``: a model over ``.bin`` files, with the flags of benchmark, ais_infer and ais_bench."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from fcos_train.config.fields import Option
from fcos_train.deploy.ascend.options import FORMATS, InferOptions

TRUTHS = ("true", "false")
_BENCHMARK = "layout benchmark: "


@dataclass(frozen=True)
class InferArguments(InferOptions):
    """The options of a run as the command line gives them, also in the words of benchmark."""

    fmt: Annotated[
        str | None,
        Option("format of the results", metavar="FORMAT", default="BIN", flags=("--outfmt",), choices=FORMATS),
    ] = None  # type: ignore[assignment]
    output_binary: Annotated[
        str | None,
        Option(
            _BENCHMARK + "results as .bin (true) or .txt",
            metavar="BOOL",
            default="true",
            flags=("-output_binary",),
            choices=TRUTHS,
        ),
    ] = None
    model_type: Annotated[
        str | None,
        Option(_BENCHMARK + "kind of the model", metavar="TYPE", flags=("-model_type",), choices=("vision",)),
    ] = "vision"
    use_dvpp: Annotated[
        str | None,
        Option(_BENCHMARK + "false, as images come prepared", metavar="BOOL", flags=("-useDvpp",), choices=TRUTHS),
    ] = "false"

    def conflicts(self) -> list[str]:
        """Also flags of benchmark that contradict others or ask for what is not there."""
        faults = super().conflicts()
        if self.use_dvpp == "true":
            faults.append(
                "-useDvpp=true decodes JPEG files on a card; prepare .bin files with fcos-train ascend preprocess"
            )
        if self.output_binary and self.fmt:
            faults.append("-output_binary and --outfmt say the same thing twice: give one of them")
        return faults

    def settled(self) -> InferOptions:
        """The options of the run."""
        values = {field.name: getattr(self, field.name) for field in fields(InferOptions)}
        values["fmt"] = self.fmt or ("TXT" if self.output_binary == "false" else "BIN")
        return InferOptions(**values)


def run(options: InferArguments) -> int:
    """Run a model over .bin files and leave the files of benchmark or of ais_infer."""
    settled = options.settled()
    from fcos_train.deploy.ascend.runs import infer

    _, lines = infer(settled)
    print("\n".join(lines))
    return 0
