"""Importing this lets ``--step-mode graph`` run on a CPU, with tapes in place of CUDA graphs."""

from fcos_train.engine import graphed

from .tape import TapedGraphs

graphed.CudaGraphs = TapedGraphs
graphed.check = lambda *args: None
