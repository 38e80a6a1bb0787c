"""What the package declares that it needs is what `make lowest` installs."""

from __future__ import annotations

from packaging.requirements import Requirement

from tests.support.lowest import lowest


def test_every_dependency_has_a_lowest_version() -> None:
    """Each as pip writes a pin, once, and none below what the code needs."""
    pins = {pin.name: pin for pin in map(Requirement, lowest())}
    assert len(pins) == len(list(lowest()))
    assert {"numpy", "onnx", "onnx-ir", "click", "rich", "onnxruntime", "torch"} <= pins.keys()
    # 8.1 has no NoArgsIsHelpError: wrong usage ended in a traceback.
    assert not pins["click"].specifier.contains("8.1.8")
    # Below 1.30 valid models of half precision end the process while they are optimized.
    assert not pins["onnxruntime"].specifier.contains("1.29.0")
    # Below 1.22 a broken model ends shape inference, and the process, by a signal; below 1.23
    # ONNX's own implementation pads Conv with auto_pad wrongly.
    assert not pins["onnx"].specifier.contains("1.22.0")
