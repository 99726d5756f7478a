"""Parses the configuration of a Triton model with Triton's own schema."""

import json
import sys
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig


def shape(tensors):
    return [[tensor.name, DataType.Name(tensor.data_type), list(tensor.dims)] for tensor in tensors]


config = text_format.Parse(Path(sys.argv[1]).read_text(), ModelConfig())
steps = [[step.model_name, dict(step.input_map), dict(step.output_map)] for step in config.ensemble_scheduling.step]
read = {
    "name": config.name,
    "backend": config.backend or config.platform,
    "max_batch_size": config.max_batch_size,
    "input": shape(config.input),
    "output": shape(config.output),
    "preferred_batch_size": list(config.dynamic_batching.preferred_batch_size),
    "steps": steps,
}
print(json.dumps(read))
