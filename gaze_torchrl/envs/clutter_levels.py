"""Levels of the clutter environment: how many objects, of which looks, and what moves."""

from dataclasses import dataclass

__all__ = ["LEVELS", "ClutterLevel"]


@dataclass(frozen=True)
class ClutterLevel:
    """Difficulty and looks of one level; lengths are in world units (the image is 2 wide).

    Distractors are ordered, and drawn, disks first, then squares, then rings.

    Args:
        distractors: number of distractors K, at least 0.
        rings: how many of them are confusable: hollow, with the target's red and outer radius.
        squares: how many of the others are squares instead of disks.
        moving: whether the distractors move.
        target_speed: displacement of the target per step, in [0, 1].
        grid: cells per side of the background noise before it is upsampled, at least 1.
        brightness: lowest and highest background value, within [0, 1].

    Raises:
        ValueError: if a value is out of its range.

    >>> LEVELS["shift"].disks
    6
    """

    distractors: int
    rings: int = 0
    squares: int = 0
    moving: bool = True
    target_speed: float = 0.0
    grid: int = 4
    brightness: tuple[float, float] = (0.15, 0.55)

    def __post_init__(self) -> None:
        if min(self.rings, self.squares, self.disks) < 0:
            raise ValueError(
                "env.level: rings and squares must be at least 0 and together at most distractors, got "
                f"distractors={self.distractors}, rings={self.rings}, squares={self.squares}"
            )
        if not 0 <= self.target_speed <= 1:
            raise ValueError(f"env.level: target_speed must be in [0, 1], got {self.target_speed}")
        if self.grid < 1:
            raise ValueError(f"env.level: grid must be at least 1, got {self.grid}")
        low, high = self.brightness
        if not 0 <= low <= high <= 1:
            raise ValueError(f"env.level: brightness must be 0 <= low <= high <= 1, got {self.brightness}")

    @property
    def disks(self) -> int:
        """Number of plain disks, what is left of the distractors."""
        return self.distractors - self.squares - self.rings


LEVELS: dict[str, ClutterLevel] = {
    "easy": ClutterLevel(distractors=4, moving=False),
    "medium": ClutterLevel(distractors=10),
    "hard": ClutterLevel(distractors=16, rings=4, target_speed=0.02),
    # Held out: medium's dynamics with looks never seen. For evaluation only, never trained on.
    "shift": ClutterLevel(distractors=14, rings=2, squares=6, grid=12, brightness=(0.0, 0.8)),
}
"""The levels by name; frozen, so that numbers of different versions can be compared."""
