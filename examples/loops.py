"""Training without `onnx_expand.train.train`: `to_torch` gives an ordinary module for any loop.

Run as `python -m examples.loops plain|accelerate|lightning|transformers`. Each trains SmallNet,
expanded, on handwritten digits for a few epochs, folds it, and prints the accuracy of the result.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import onnx_expand
from models import smallnet
from onnx_expand.experiment import Dataset, evaluate, load_data
from onnx_expand.train import to_torch, write_back

__all__ = ["LOOPS", "accelerate", "lightning", "plain", "transformers"]

Trainer = Callable[[torch.nn.Module, Any, int], None]


def plain(module: torch.nn.Module, batches: Any, epochs: int) -> None:
    """A loop by hand."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    module.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(module(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    module.eval()


def accelerate(module: torch.nn.Module, batches: Any, epochs: int) -> None:
    """Hugging Face Accelerate: devices, mixed precision and processes are its business."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    wrapped, optimizer, batches = accelerator.prepare(module, optimizer, batches)
    wrapped.train()
    for _ in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(wrapped(images), labels))
            optimizer.step()
    accelerator.unwrap_model(wrapped).cpu().eval()


def lightning(module: torch.nn.Module, batches: Any, epochs: int) -> None:
    """PyTorch Lightning: the module is one attribute of a LightningModule."""
    import lightning as lit

    class Classifier(lit.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            images, labels = batch
            return F.cross_entropy(self.module(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)

    trainer = lit.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    # Lightning keeps the mode that a module has, and `to_torch` gives evaluation mode.
    module.train()
    trainer.fit(Classifier(), batches)
    module.cpu().eval()


def transformers(module: torch.nn.Module, batches: Any, epochs: int) -> None:
    """The Trainer of Hugging Face: a module that returns its loss, and rows made into batches."""
    import transformers as hf

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            scores = self.module(images)
            return {"loss": F.cross_entropy(scores, labels), "logits": scores}

    def collate(rows: Any) -> dict[str, torch.Tensor]:
        images, labels = zip(*rows, strict=True)
        return {"images": torch.stack(images), "labels": torch.stack(labels)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = hf.TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=64,
            learning_rate=3e-3, save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(), remove_unused_columns=False,
        )  # fmt: skip
        hf.Trainer(
            model=Classifier(),
            args=arguments,
            train_dataset=batches.dataset,
            data_collator=collate,
        ).train()
    module.cpu().eval()


LOOPS: Mapping[str, Trainer] = {
    "plain": plain,
    "accelerate": accelerate,
    "lightning": lightning,
    "transformers": transformers,
}


def run(name: str, epochs: int = 3) -> tuple[onnx.ModelProto, Dataset]:
    """Expand, train by one of the loops, and fold."""
    compact = smallnet.build(kernel=7, stages=3, classes=10)
    expanded = onnx_expand.expand(compact, strategy="ck+fc", rate=2)
    data = load_data("digits", channels=3, size=(32, 32))
    train, labels = (torch.from_numpy(array) for array in (data.x_train, data.y_train))
    torch.manual_seed(0)
    batches = DataLoader(TensorDataset(train, labels), batch_size=64, shuffle=True)
    module = to_torch(expanded)
    LOOPS[name](module, batches, epochs)
    trained: onnx.ModelProto = write_back(module, expanded)
    folded: onnx.ModelProto = onnx_expand.fold(trained, verify=True)
    return folded, data


if __name__ == "__main__":
    model, digits = run(sys.argv[1] if len(sys.argv) > 1 else "plain")
    print(f"{evaluate(to_torch(model), digits):.2%} of the test digits, by the folded model")
