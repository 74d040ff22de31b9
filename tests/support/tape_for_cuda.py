"""Importing this lets ``--step-mode graph`` run on a CPU, with tapes in place of CUDA graphs."""

from fcos_train.config import step_mode
from fcos_train.engine import graphed

from .tape import TapedGraphs

graphed.CudaGraphs = TapedGraphs
step_mode.check_graph = lambda *args: None
