"""Small ONNX graphs, written as text, run, and looked into."""

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from st_plugins_export.sessions import EXACT_SUMS


def parse(body, *, inputs="float[N, 4] x", outputs="float[N, K] y", opset=17, **weights):
    """The graph of some operators in ONNX's own notation; weights become float32 initializers."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{{body}}}')
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    return model


def run(model, **inputs):
    """The first output, of a graph that onnx accepts; int8 sums are exact on every processor."""
    onnx.checker.check_model(model, full_check=not has_foreign_operators(model))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_SUMS)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def has_foreign_operators(model):
    """Whether onnx cannot infer the shapes."""
    return any(opset.domain for opset in model.opset_import)


def kinds(graph):
    """Its operators, in order."""
    return [node.op_type for node in graph.node]
