#!/usr/bin/env python3
"""Build the node's embedding model out of published weights, without torch.

    minilm_to_onnx.py WEIGHTS_DIR OUT_DIR

Reads a BERT encoder (all-MiniLM-L6-v2: config.json, model.safetensors), writes the same network
as an ONNX graph, shrinks its weights to int8 and puts the tokenizer files beside it. The graph's
inputs are input_ids, attention_mask and token_type_ids (int64, [batch, sequence]); its output is
last_hidden_state (float32, [batch, sequence, hidden]): pooling is the caller's job.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

TOKENIZER_FILES = ("tokenizer.json", "config.json", "special_tokens_map.json", "tokenizer_config.json")
OPSET = 17  # the first with LayerNormalization
MASKED = np.float32(-10_000.0)  # added to the attention score of padding


class Graph:
    """Collects nodes and weights; every method returns the name of the value it made."""

    def __init__(self):
        self.nodes = []
        self.weights = []

    def constant(self, array, dtype=np.float32):
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=dtype), name))
        return name

    def add(self, operator, *inputs, **attributes):
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def ints(self, *values):
        return self.constant(values, np.int64)


class Bert:
    """The encoder of Devlin et al. 2018, with the tensor names that its checkpoints use."""

    def __init__(self, config, tensors):
        self.graph = Graph()
        self.tensors = tensors
        self.heads = config["num_attention_heads"]
        self.hidden = config["hidden_size"]
        self.layers = config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]

    def linear(self, value, name):
        graph = self.graph
        weight = graph.constant(self.tensors[f"{name}.weight"].T)
        return graph.add("Add", graph.add("MatMul", value, weight), graph.constant(self.tensors[f"{name}.bias"]))

    def norm(self, value, name):
        scale = self.graph.constant(self.tensors[f"{name}.weight"])
        bias = self.graph.constant(self.tensors[f"{name}.bias"])
        return self.graph.add("LayerNormalization", value, scale, bias, axis=-1, epsilon=self.epsilon)

    def embeddings(self):
        graph, prefix = self.graph, "embeddings"
        words = graph.add("Gather", graph.constant(self.tensors[f"{prefix}.word_embeddings.weight"]), "input_ids")
        types = graph.add(
            "Gather", graph.constant(self.tensors[f"{prefix}.token_type_embeddings.weight"]), "token_type_ids"
        )
        length = graph.add("Gather", graph.add("Shape", "input_ids"), graph.ints(1))
        positions = graph.add(
            "Slice",
            graph.constant(self.tensors[f"{prefix}.position_embeddings.weight"]),
            graph.ints(0),
            length,
            graph.ints(0),
        )
        total = graph.add("Add", graph.add("Add", words, types), graph.add("Unsqueeze", positions, graph.ints(0)))
        return self.norm(total, f"{prefix}.LayerNorm")

    def padding_bias(self):
        graph = self.graph
        mask = graph.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        bias = graph.add("Mul", graph.add("Sub", graph.constant(np.float32(1)), mask), graph.constant(MASKED))
        return graph.add("Unsqueeze", bias, graph.ints(1, 2))  # to [batch, 1, 1, sequence]

    def attention(self, value, bias, prefix):
        graph, depth = self.graph, self.hidden // self.heads
        split = graph.ints(0, 0, self.heads, depth)

        def head(name, order):
            projected = self.linear(value, f"{prefix}.self.{name}")
            return graph.add("Transpose", graph.add("Reshape", projected, split), perm=order)

        query, key = head("query", [0, 2, 1, 3]), head("key", [0, 2, 3, 1])
        scores = graph.add("Mul", graph.add("MatMul", query, key), graph.constant(np.float32(depth**-0.5)))
        weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", weights, head("value", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return self.linear(graph.add("Reshape", mixed, graph.ints(0, 0, self.hidden)), f"{prefix}.output.dense")

    def gelu(self, value):
        graph = self.graph
        erf = graph.add("Erf", graph.add("Div", value, graph.constant(np.float32(np.sqrt(2.0)))))
        return graph.add(
            "Mul",
            graph.add("Mul", value, graph.constant(np.float32(0.5))),
            graph.add("Add", erf, graph.constant(np.float32(1))),
        )

    def layer(self, value, bias, index):
        graph, prefix = self.graph, f"encoder.layer.{index}"
        attended = self.attention(value, bias, f"{prefix}.attention")
        value = self.norm(graph.add("Add", attended, value), f"{prefix}.attention.output.LayerNorm")
        widened = self.gelu(self.linear(value, f"{prefix}.intermediate.dense"))
        narrowed = self.linear(widened, f"{prefix}.output.dense")
        return self.norm(graph.add("Add", narrowed, value), f"{prefix}.output.LayerNorm")

    def model(self):
        value, bias = self.embeddings(), self.padding_bias()
        for index in range(self.layers):
            value = self.layer(value, bias, index)
        self.graph.nodes.append(helper.make_node("Identity", [value], ["last_hidden_state"]))
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ]
        shape = ["batch", "sequence", self.hidden]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.graph.nodes, "bert", inputs, [output], self.graph.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    model = Bert(config, load_file(source / "model.safetensors")).model()
    with tempfile.TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.onnx"
        onnx.save(model, full)
        quantize_dynamic(full, target / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, target / name)


if __name__ == "__main__":
    main()
