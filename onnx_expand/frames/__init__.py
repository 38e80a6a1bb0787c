"""Recognize subgraphs that pad with one constant per channel, for all extents of a tensor."""

from onnx_expand.frames.frame import Frame, find_frames

__all__ = ["Frame", "find_frames"]
