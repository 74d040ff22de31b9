"""Raw output maps of a dense detector to boxes, with numpy only.

This folder runs on a board without torch: copy it, under any name, and import ``Decoder`` and ``decode_rule``.
"""

from .decoder import Boxes, Decoder, DecoderError, DecodeRule
from .description import decode_rule, raw_outputs

__all__ = ["Boxes", "DecodeRule", "Decoder", "DecoderError", "decode_rule", "raw_outputs"]
