"""Draws docs/spectra.svg: what an effective rank says of rows in two dimensions.

Run: python benchmarks/spectra_picture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

matplotlib.use("svg")

import matplotlib.pyplot as plt

from sigma_monitor import spectral_summary

__all__ = ["PICTURE", "caption", "draw", "rows"]

PICTURE = Path(__file__).parents[1] / "docs" / "spectra.svg"
ROWS = 150
BLUE = "#1d4e7a"


def rows() -> dict[str, Tensor]:
    """(150, 2) rows of each panel, by its title."""
    spread = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0))
    turn = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
    return {
        "spread": spread,
        "narrow: spread is lost": spread * torch.tensor([1.0, 0.06]) @ turn,
        "shifted: all point one way": 0.3 * spread + torch.tensor([2.4, 1.8]),
    }


def caption(embeddings: Tensor) -> str:
    """Effective rank by both conventions."""
    centred, uncentred = (
        spectral_summary(embeddings, center=center).effective_rank.value for center in (True, False)
    )
    return f"centred {centred:.2f}, uncentred {uncentred:.2f}"


def draw(path: Path) -> None:
    """Write the picture."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": "spectra", "font.size": 9}
    with plt.rc_context(settings):
        figure, panels = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
        for panel, (title, embeddings) in zip(panels, rows().items(), strict=True):
            panel.axhline(0, color="0.8", linewidth=0.8)
            panel.axvline(0, color="0.8", linewidth=0.8)
            panel.scatter(*embeddings.T.numpy(), s=6, color=BLUE, alpha=0.6, linewidths=0)
            panel.set(title=title, xlabel=caption(embeddings), xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
            panel.set(xticks=[], yticks=[], aspect="equal")
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(PICTURE)
