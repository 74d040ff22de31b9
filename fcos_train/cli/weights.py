"""``fcos-train weights``: the weights that a training can start from by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.weights import COCO, Weights, all_weights, fetch, named, present


@dataclass(frozen=True)
class WeightsOptions(Options):
    """Which weights to list, or to download."""

    name: Annotated[
        str | None,
        Option("a name, or a part of names: fcos, r50, faster-rcnn", positional=True, default="all names"),
    ] = None
    config: Annotated[
        str | None,
        Option("show what `--load-from coco` means for this config", metavar="CONFIG", default="no config"),
    ] = None
    download: Annotated[bool, Option("download the weights of this name or config, and print where they are")] = False

    def conflicts(self) -> list[str]:
        """Options that contradict each other."""
        if self.name and self.config and self.name != COCO:
            return ["a name and --config: give one of them"]
        if self.name == COCO and not self.config:
            return [f"{COCO} depends on the config: give --config CONFIG"]
        if self.download and not (self.name or self.config):
            return ["--download: give a name or --config CONFIG"]
        return []


def run(options: WeightsOptions) -> int:
    """List weights by name with their box AP, or download them.

    The names are those of mmdet's model index. `fcos-train train CONFIG --load-from NAME` starts from them, and
    `fcos-train demo NAME` draws with them.
    """
    if options.config is not None:
        chosen, why = _nearest(options.config)
        print(f"{COCO} for {options.config}: {chosen.name} ({why})\n{chosen.url}\n{chosen.licence}")
    elif options.download:
        chosen = named(str(options.name))
    else:
        _print_table(_matching(options.name or ""))
        return 0
    if options.download:
        fetch(chosen, print)
    return 0


def _nearest(name: str) -> tuple[Weights, str]:
    from fcos_train.config.load import load_config
    from fcos_train.config.needs import require_sections
    from fcos_train.config.start_weights import nearest
    from fcos_train.start import start

    start()
    config = load_config(name)
    require_sections(config, name)
    return nearest(config)


def _matching(part: str) -> list[Weights]:
    """The weights with this text in one of their names.

    Raises:
        UserError: there are none.
    """
    wanted = _plain(part)
    found = [one for one in all_weights() if any(wanted in _plain(name) for name in (one.name, *one.aliases, one.file))]
    return found or [named(part)]


def _plain(name: str) -> str:
    """A name without capitals, with dashes alone: mmdet 2.x and 3.x differ in these."""
    return name.lower().replace("_", "-")


def _print_table(rows: Iterable[Weights]) -> None:
    """One line for each: name, box AP, data set, whether the file is on this machine, its config."""
    rows = list(rows)
    width = max(len(one.name) for one in rows)
    print(f"{'name':{width}}  box AP  data  here  config")
    for one in rows:
        ap = "" if one.box_ap is None else f"{one.box_ap:.1f}"
        here = "yes" if present(one) else ""
        print(f"{one.name:{width}}  {ap:>6}  {one.data:4}  {here:4}  {one.config}")
    print(f"{len(rows)} files, licence Apache-2.0. Start from one: fcos-train train CONFIG --load-from NAME")
