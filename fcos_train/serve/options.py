"""The options of ``fcos-train serve``; importing them imports no torch."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing
from fcos_train.config.options import Device, OptionalConfig, SafeConfig, TrustCheckpoint

LOCAL = "127.0.0.1"
FIRST_PORT = 7860
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,128}")


def token_fault(value: str) -> str | None:
    """Check of a token: it must fit into an address and into a header as it is."""
    return None if _TOKEN.fullmatch(value) else "give 8 to 128 letters, digits, or characters of . _ ~ -"


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class ServeOptions(Options):
    """Which model to serve, where, to whom, and what it accepts.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[
        str,
        Option(
            "a .pth file, whose config is read from it, or an exported model with its description",
            positional=True,
            check=existing,
        ),
    ]
    config: OptionalConfig = None
    device: Device = "auto"
    host: Annotated[
        str, Option("address to listen on; one that other machines can reach requires a token", metavar="ADDRESS")
    ] = LOCAL
    port: Annotated[
        int | None,
        Option("port to listen on", metavar="N", default=f"{FIRST_PORT}, or the next free one", least=0, most=65535),
    ] = None
    token: Annotated[
        str | None,
        Option(
            "word that the page and the interface require",
            metavar="WORD",
            default=f"none on {LOCAL}, else generated and printed",
            check=token_fault,
        ),
    ] = None
    score_thr: Annotated[float, Option("score threshold at the start", metavar="S", least=0, most=1)] = 0.3
    max_upload: Annotated[int, Option("largest file that is accepted, MB", metavar="MB", least=1, most=4096)] = 32
    max_pixels: Annotated[
        int, Option("largest image that is decoded, million pixels", metavar="MP", least=1, most=1000)
    ] = 50
    max_video: Annotated[int, Option("longest video that is accepted, s", metavar="S", least=1, most=86400)] = 60
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
