"""The ONNX graph of a BERT encoder, from a Hugging Face directory: ids in, embeddings out.

The nodes are those that an exporter writes (opset 17, GELU by Erf, LayerNormalization), because
every engine's own fusions look for them. There is no mask: no sentence is padded.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file


class Graph:
    """Nodes and weights in the making; every method returns the name of its result."""

    def __init__(self):
        self.nodes, self.weights, self.count = [], [], 0

    def constant(self, value, dtype=np.float32):
        self.count += 1
        name = f"constant_{self.count}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        name = f"{kind}_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name


def bert(model_dir: Path) -> onnx.ModelProto:
    """i64 `input_ids` [batch, tokens] → f32 `embedding` [batch, hidden], L2 norm 1."""
    config = json.loads((model_dir / "config.json").read_text())
    if config["hidden_act"] != "gelu":
        raise SystemExit("error: only BERT with GELU is compared; choose such a model")
    tensors = load_file(model_dir / "model.safetensors")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    epsilon = config["layer_norm_eps"]
    g = Graph()

    def norm(x, prefix):
        gamma = g.constant(tensors[f"{prefix}.weight"])
        beta = g.constant(tensors[f"{prefix}.bias"])
        return g.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=epsilon)

    def linear(x, prefix):
        product = g.op("MatMul", x, g.constant(tensors[f"{prefix}.weight"].T))
        return g.op("Add", g.constant(tensors[f"{prefix}.bias"]), product)

    def split_heads(x, permutation):
        shape = g.constant([0, 0, heads, hidden // heads], np.int64)
        return g.op("Transpose", g.op("Reshape", x, shape), perm=permutation)

    words = g.op("Gather", g.constant(tensors["embeddings.word_embeddings.weight"]), "input_ids")
    # Token type 0 is the same for every token: it is added to the positions here.
    positions = g.constant(
        tensors["embeddings.position_embeddings.weight"]
        + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    zero, one = g.constant([0], np.int64), g.constant([1], np.int64)
    tokens = g.op("Slice", g.op("Shape", "input_ids"), one, g.constant([2], np.int64), zero)
    x = g.op("Add", words, g.op("Slice", positions, zero, tokens, zero))
    x = norm(x, "embeddings.LayerNorm")

    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        attention = f"{prefix}.attention"
        query = split_heads(linear(x, f"{attention}.self.query"), [0, 2, 1, 3])
        keys = split_heads(linear(x, f"{attention}.self.key"), [0, 2, 3, 1])
        values = split_heads(linear(x, f"{attention}.self.value"), [0, 2, 1, 3])
        root = g.constant(np.sqrt(hidden / heads))
        scores = g.op("Div", g.op("MatMul", query, keys), root)
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), values)
        mixed = g.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = g.op("Reshape", mixed, g.constant([0, 0, hidden], np.int64))
        out = linear(mixed, f"{attention}.output.dense")
        x = norm(g.op("Add", out, x), f"{attention}.output.LayerNorm")

        up = linear(x, f"{prefix}.intermediate.dense")
        erf = g.op("Erf", g.op("Div", up, g.constant(np.sqrt(2))))
        gelu = g.op("Mul", up, g.op("Add", erf, g.constant(1)))
        gelu = g.op("Mul", gelu, g.constant(0.5))
        down = linear(gelu, f"{prefix}.output.dense")
        x = norm(g.op("Add", down, x), f"{prefix}.output.LayerNorm")

    mean = g.op("ReduceMean", x, axes=[1], keepdims=0)
    length = g.op("ReduceL2", mean, axes=[-1], keepdims=1)
    g.nodes.append(helper.make_node("Div", [mean, length], ["embedding"], "embedding"))

    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", hidden])
    graph = helper.make_graph(g.nodes, "bert", [ids], [out], g.weights)
    # The IR version of opset 17: the Rust engines read it too.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)
