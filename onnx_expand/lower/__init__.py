"""Lower maps of the algebra to nodes: the forms that can represent a map, and their writers.

A `Template` describes how a node represents its map: op, attributes, layout, names. A result
that fits the template of a node it replaces is written like that node; otherwise a new template
is built for the cheapest `Form`.
"""

from onnx_expand.lower.forms import Form, form_of
from onnx_expand.lower.numbers import check_numbers, constant, least_channel
from onnx_expand.lower.templates import Template, node_like
from onnx_expand.lower.write import Names, Target, lower

__all__ = [
    "Form",
    "Names",
    "Target",
    "Template",
    "check_numbers",
    "constant",
    "form_of",
    "least_channel",
    "lower",
    "node_like",
]
