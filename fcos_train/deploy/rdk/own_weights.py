"""Gives every convolution of an ONNX graph weights of its own.

The compiler (hb_mapper 1.24.3) folds a multiplication behind a convolution into its weights. A head has one convolution
for all levels and a scale per level: where the levels share the tensors, each of the five foldings changes them for all
levels, and every box is off by the product of the scales.
"""

from __future__ import annotations

import onnx


def give_own_weights(graph: onnx.GraphProto) -> None:
    """Copy the weights and biases that several convolutions share, in place; ``Identity`` of a tensor counts as it.

    Args:
        graph: nodes in the order of execution, constants as initializers.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    results = {output.name for output in graph.output}
    for node in list(graph.node):
        if node.op_type == "Identity" and node.input[0] in tensors and node.output[0] not in results:
            tensors[node.output[0]] = tensors[node.input[0]]
    taken = set()
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        for place in range(1, len(node.input)):
            tensor = tensors.get(node.input[place])
            if tensor is None:
                continue
            if tensor.name in taken:
                copy = graph.initializer.add()
                copy.CopyFrom(tensor)
                copy.name = f"{node.output[0]}.{('weight', 'bias')[place - 1]}"
                tensor = copy
            taken.add(tensor.name)
            node.input[place] = tensor.name
    read = {name for node in graph.node for name in node.input} | results
    for node in [node for node in graph.node if node.op_type == "Identity" and node.output[0] not in read]:
        graph.node.remove(node)
