"""Convert between ONNX protos and graphsurgeon graphs.

graphsurgeon cannot represent all of ONNX. metadata_props of nodes, in which expansions are
recorded, are kept in a Python attribute of its objects between two calls. A warning names
everything else that the returned graph lacks.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import onnx

from onnx_expand.errors import ModelError, UnsupportedError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["export_graph", "import_graph"]

_PROPS = "metadata_props"


def export_graph(graph: gs.Graph) -> onnx.ModelProto:
    """Convert a graph to a proto, with the metadata that `import_graph` attached to it.

    Raises:
        ModelError: graphsurgeon cannot write the graph.
    """
    import onnx_graphsurgeon as gs  # imported here because it is slow and rarely needed

    try:
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except Exception as error:  # a malformed graph may raise any exception
        message = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{graph.name}: graphsurgeon cannot write it: {message}") from error
    by_output = {node.output[0]: node for node in proto.graph.node if node.output}
    # graphsurgeon reports a missing attribute as a missing layer, so read `vars` instead.
    onnx.helper.set_model_props(proto, vars(graph).get(_PROPS, {}))
    for node in graph.nodes:
        target = by_output.get(node.outputs[0].name) if node.outputs else None
        if target is not None and _PROPS in vars(node):
            onnx.helper.set_metadata_props(target, vars(node)[_PROPS])
    return proto


def import_graph(proto: onnx.ModelProto) -> gs.Graph:
    """Convert a proto to a graph, and warn of content that graphsurgeon omits.

    Raises:
        UnsupportedError: graphsurgeon cannot import it.
    """
    import onnx_graphsurgeon as gs

    lost = _left_out(proto)
    if lost:
        warnings.warn(
            f"graphsurgeon has no place for {', '.join(lost)} of '{proto.graph.name}'; "
            "give the model as a path or as onnx.ModelProto to keep that",
            stacklevel=2,
        )
    try:
        graph = gs.import_onnx(proto)
    except Exception as error:  # its importer raises many exception types for unknown content
        message = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(
            f"{proto.graph.name}: graphsurgeon cannot hold the result: {message}"
        ) from error
    by_output = {node.output[0]: node for node in proto.graph.node if node.output}
    setattr(graph, _PROPS, {entry.key: entry.value for entry in proto.metadata_props})
    for node in graph.nodes:
        origin = by_output.get(node.outputs[0].name) if node.outputs else None
        if origin is not None and origin.metadata_props:
            setattr(node, _PROPS, {entry.key: entry.value for entry in origin.metadata_props})
    return graph


def _left_out(proto: onnx.ModelProto) -> list[str]:
    """List the content of a proto that graphsurgeon cannot represent."""
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    values = [*graph.input, *graph.output, *graph.value_info]
    present = {
        "the model's version": bool(proto.model_version),
        "doc strings": bool(proto.doc_string or graph.doc_string)
        or any(node.doc_string for node in graph.node)
        or any(value.doc_string for value in values)
        or any(tensor.doc_string for tensor in graph.initializer),
        "metadata of the graph": bool(graph.metadata_props),
        "metadata of values": any(holder.metadata_props for holder in values),
        "metadata of weights": any(tensor.metadata_props for tensor in graph.initializer),
        "overloads of functions": any(node.overload for node in graph.node)
        or any(function.overload for function in proto.functions),
        "training_info": bool(proto.training_info),
        "sparse initializers": bool(graph.sparse_initializer),
        "quantization annotations": bool(graph.quantization_annotation),
        "inputs with default values": any(info.name in weights for info in graph.input),
        "device configurations": bool(proto.configuration)
        if "configuration" in proto.DESCRIPTOR.fields_by_name
        else False,
    }
    return [name for name, is_there in present.items() if is_there]
