"""Padding with a constant of its own for each channel, found at all sizes a tensor may have."""

from onnx_expand.frames.frame import Frame, find_frames

__all__ = ["Frame", "find_frames"]
