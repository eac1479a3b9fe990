"""Makes small models of ONNX's recurrent and fused operators, and what onnxruntime answers.

pip install onnx onnxruntime; python make.py. onnxruntime 1.32.0 made what is committed.
"""
import json
import struct

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(3)


def normal(*shape):
    return (rng.standard_normal(shape) * 0.7).astype(np.float32)


def save(path, tensors):
    head, at, parts = {}, 0, []
    for name, t in tensors.items():
        b = np.ascontiguousarray(t, np.float32).tobytes()
        head[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + len(b)]}
        at += len(b)
        parts.append(b)
    h = json.dumps(head).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(parts))


def write(name, nodes, weights, inputs, version=17):
    """inputs are arrays by name, whose first axis is the batch; the answer is called out."""
    kind = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32, np.dtype(np.int64): TensorProto.INT64}
    g = helper.make_graph(
        nodes, name, [helper.make_tensor_value_info(k, kind[v.dtype], ["N", *v.shape[1:]]) for k, v in inputs.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)], [numpy_helper.from_array(v, k) for k, v in weights.items()])
    m = helper.make_model(g, opset_imports=[helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 1)], ir_version=10)
    out = onnxruntime.InferenceSession(m.SerializeToString()).run(["out"], inputs)[0]
    onnx.save(m, name + ".onnx")
    save(name + ".safetensors", {**{"input.%d" % i: v for i, v in enumerate(inputs.values())}, "output": out, "seed": normal(*out.shape)})


def recurrent(op, name, gates, ways=1, outs=("Y",), states=0, bias=True, **attrs):
    """Rows come first, and the layer wants steps first; states are parts of the rows."""
    steps, features, size = 4, 3, 2
    w = {"W": normal(ways, gates * size, features), "R": normal(ways, gates * size, size)}
    if bias:
        w["B"] = normal(ways, 2 * gates * size)
    ins = ["x", "W", "R", "B" if bias else "", ""]
    node = helper.make_node
    nodes = [node("Transpose", ["rows"], ["x"], perm=[1, 0, 2])]
    for s in range(states):
        w["from%d" % s], w["to%d" % s], w["axes"] = np.array([s, 0]), np.array([s + ways, size]), np.array([1, 2])
        nodes += [node("Slice", ["rows", "from%d" % s, "to%d" % s, "axes"], ["part%d" % s]), node("Transpose", ["part%d" % s], ["state%d" % s], perm=[1, 0, 2])]
        ins.append("state%d" % s)
    nodes.append(node(op, ins, list(outs), hidden_size=size, **attrs))
    parts = [o for o in outs if o]
    for o in parts:
        nodes += [node("Transpose", [o], [o + "_rows"], perm=[2, 0, 1, 3] if o == "Y" else [1, 0, 2]), node("Flatten", [o + "_rows"], [o + "_flat"], axis=1)]
    nodes.append(node("Concat", [o + "_flat" for o in parts], ["out"], axis=1))
    write(name, nodes, w, {"rows": normal(3, steps, features)})


recurrent("LSTM", "lstm", 4, outs=("Y", "Y_h", "Y_c"))
recurrent("LSTM", "lstm_reverse", 4, outs=("", "Y_h"), direction="reverse")
recurrent("LSTM", "lstm_both", 4, 2, ("Y", "Y_h", "Y_c"), states=2, direction="bidirectional")
recurrent("GRU", "gru_early", 3, outs=("Y", "Y_h"), states=1)
recurrent("GRU", "gru_reverse", 3, bias=False, direction="reverse", linear_before_reset=1)
recurrent("GRU", "gru_both", 3, 2, direction="bidirectional", linear_before_reset=1)
recurrent("RNN", "rnn", 1)
recurrent("RNN", "rnn_relu", 1, 2, ("Y", "Y_h"), states=1, direction="bidirectional", activations=["Relu", "Relu"])


def fused(name, op, args, domain="com.microsoft", version=17, outs=("out",), more=(), **attrs):
    """args are (name, array, whether it is an input), in order; None: a missing one."""
    ins = [a[0] if a else "" for a in args]
    write(name, [helper.make_node(op, ins, list(outs), domain=domain, **attrs), *more], {a[0]: a[1] for a in args if a and not a[2]}, {a[0]: a[1] for a in args if a and a[2]}, version)


x, seen = normal(3, 5, 8), np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], np.int32)
fused("bias_gelu", "BiasGelu", [("x", x, True), ("b", normal(8), False)])
fused("fast_gelu", "FastGelu", [("x", x, True), ("b", normal(8), False)])
fused("skip_norm", "SkipLayerNormalization", [("x", x, True), ("s", normal(3, 5, 8), True), ("g", normal(8), False), ("b", normal(8), False), ("bias", normal(8), False)],
      outs=("y", "", "", "sum"), more=[helper.make_node("Mul", ["y", "sum"], ["out"])], epsilon=1e-5)
fused("skip_rms", "SkipSimplifiedLayerNormalization", [("x", x, True), ("s", normal(3, 5, 8), True), ("g", normal(8), False)], epsilon=1e-5)
fused("fused_matmul", "FusedMatMul", [("x", x, True), ("w", normal(4, 8), False)], transB=1, alpha=0.5)
fused("packed_attention", "Attention", [("x", x, True), ("w", normal(8, 24), False), ("b", normal(24), False), ("m", seen, True)], num_heads=2)
fused("packed_causal", "Attention", [("x", x, True), ("w", normal(8, 24), False), ("b", normal(24), False)], num_heads=4, unidirectional=1)
fused("headed_attention", "MultiHeadAttention", [("q", x, True), ("k", normal(3, 5, 8), True), ("v", normal(3, 5, 8), True), ("b", normal(24), False), ("m", seen, True)], num_heads=2, scale=0.3)
fused("attention_flat", "Attention", [("q", x, True), ("k", normal(3, 5, 4), True), ("v", normal(3, 5, 4), True)], "", 23, q_num_heads=4, kv_num_heads=2, is_causal=1)
fused("attention_mask", "Attention", [("q", normal(3, 2, 5, 4), True), ("k", normal(3, 2, 6, 4), True), ("v", normal(3, 2, 6, 4), True), ("m", normal(5, 6), False)], "", 23)
fused("conv3d", "Conv", [("x", normal(3, 2, 4, 5, 6), True), ("w", normal(4, 2, 2, 3, 3), False), ("b", normal(4), False)], "", kernel_shape=[2, 3, 3], pads=[0, 1, 1, 1, 1, 1], strides=[1, 2, 1])


def chain(name, x, nodes, weights=None, version=18):
    write(name, nodes, {k: np.asarray(v) for k, v in (weights or {}).items()}, {"x": x}, version)


node = helper.make_node
chain("functions", normal(3, 2, 4, 4), [
    node("LRN", ["x"], ["a"], size=3, alpha=0.5), node("SpaceToDepth", ["a"], ["b"], blocksize=2), node("Shrink", ["b"], ["c"], bias=0.1, lambd=0.2), node("ThresholdedRelu", ["x"], ["d"], alpha=0.3),
    node("Flatten", ["c"], ["e"]), node("Flatten", ["d"], ["f"]), node("ReduceL1", ["f", "one"], ["g"]), node("ReduceLogSumExp", ["e", "one"], ["h"]), node("Round", ["e"], ["i"]), node("Ceil", ["e"], ["j"]),
    node("Mod", ["e", "part"], ["k"], fmod=1), node("Tan", ["k"], ["l"]), node("Asin", ["k"], ["m"]), node("Concat", ["e", "f", "g", "h", "i", "j", "k", "l", "m"], ["out"], axis=1)],
    {"one": [1], "part": np.float32([0.7])})
chain("positions", normal(3, 8), [
    node("TopK", ["x", "three"], ["a", "at"], axis=1), node("ArgMax", ["x"], ["b"], axis=1, keepdims=1), node("OneHot", ["b", "eight", "two"], ["c"], axis=-1), node("Squeeze", ["c", "one"], ["d"]),
    node("Mul", ["x", "zero"], ["e"]), node("ScatterElements", ["e", "at", "a"], ["f"], axis=1), node("Div", ["at", "two64"], ["g"]), node("Mod", ["at", "three"], ["h"]), node("Cast", ["g"], ["i"], to=TensorProto.FLOAT),
    node("Cast", ["h"], ["j"], to=TensorProto.FLOAT), node("BitwiseAnd", ["at", "five"], ["k"]), node("Cast", ["k"], ["l"], to=TensorProto.FLOAT), node("Concat", ["a", "d", "f", "i", "j", "l"], ["out"], axis=1)],
    {"three": [3], "eight": np.int64(8), "two": np.float32([0.5, 2]), "one": [1], "zero": np.float32(0), "two64": [2], "five": [5]})
cos, sin = np.cos(np.outer(np.arange(7), [1, 0.3])).astype(np.float32), np.sin(np.outer(np.arange(7), [1, 0.3])).astype(np.float32)
fused("rotary_flat", "RotaryEmbedding", [("x", x, True), ("at", np.int64([2]), False), ("c", cos, False), ("s", sin, False)])
fused("rotary_between", "RotaryEmbedding", [("x", normal(3, 2, 5, 4), True), ("at", np.int64([0]), False), ("c", cos, False), ("s", sin, False)], interleaved=1)
fused("rotary_onnx", "RotaryEmbedding", [("x", normal(3, 2, 5, 6), True), ("c", cos, False), ("s", sin, False), ("at", np.int64([[1, 0, 3, 2, 6]] * 3), True)], "", 23, rotary_embedding_dim=4)


# Linear models as scikit-learn's converter writes them.
ml, rows = "ai.onnx.ml", normal(3, 4)
write("ml_regressor", [
    helper.make_node("Scaler", ["x"], ["s"], domain=ml, offset=[0.1, -0.2, 0.3, 0.5], scale=[1.5, 0.5, 2.0, 1.0]),
    helper.make_node("ArrayFeatureExtractor", ["s", "which"], ["t"], domain=ml),
    helper.make_node("LinearRegressor", ["t"], ["y"], domain=ml, coefficients=[0.3, -0.6, 0.9, 1.2, 0.1, -0.4], intercepts=[0.5, -0.25], targets=2),
    helper.make_node("MatMul", ["y", "coefs"], ["m"]), helper.make_node("Add", ["m", "intercept"], ["out"]),
], {"which": np.array([3, 0, 2]), "coefs": normal(2, 1), "intercept": normal(1)}, {"x": rows})
write("ml_classifier", [
    helper.make_node("LinearClassifier", ["x"], ["label", "p"], domain=ml, coefficients=[0.3, -0.6, 0.9, 1.2, 0.1, -0.4, -0.3, 0.6, -0.9, -1.2, 0.7, 0.4], intercepts=[0.5, -0.25, 0.1],
                     classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
    helper.make_node("ArrayFeatureExtractor", ["names", "label"], ["named"], domain=ml), helper.make_node("Cast", ["named"], ["wide"], to=1),
    helper.make_node("Reshape", ["wide", "shape"], ["column"]), helper.make_node("Add", ["p", "column"], ["out"]),
], {"names": np.array([4, 5, 7]), "shape": np.array([-1, 1])}, {"x": rows})

# Attributes that are seldom given, where a default would be another answer.
resize = dict(mode="nearest", coordinate_transformation_mode="half_pixel", axes=[2, 3])
chain("attributes", normal(3, 4, 6, 6), [
    node("AveragePool", ["x"], ["a"], kernel_shape=[2, 3], dilations=[2, 1]), node("Selu", ["x"], ["b"], alpha=1.2, gamma=0.8), node("DepthToSpace", ["x"], ["c"], blocksize=2),
    node("Resize", ["x", "", "", "four"], ["d"], nearest_mode="round_prefer_floor", **resize), node("Resize", ["x", "", "", "four"], ["e"], nearest_mode="round_prefer_ceil", **resize),
    node("CumSum", ["x", "three"], ["f"], reverse=1, exclusive=1), node("Div", ["seven", "two"], ["g0"]), node("Cast", ["g0"], ["g1"], to=TensorProto.FLOAT), node("Mul", ["x", "g1"], ["g"]),
    node("Sqrt", ["x"], ["h0"]), node("IsNaN", ["h0"], ["h1"]), node("Where", ["h1", "zero", "x"], ["h"]), *[node("Flatten", [k], [k + "2"]) for k in "abcdefgh"],
    node("Gemm", ["b2", "w", "one"], ["i2"]), node("Concat", [k + "2" for k in "abcdefghi"], ["out"], axis=1)],
    {"four": [4, 3], "three": np.int64(3), "seven": [-7], "two": [2], "zero": np.float32(0), "w": normal(144, 5), "one": normal(1)}, 19)
