"""The training loop and its parts: steps, losses, teachers, averages, checkpoints."""
