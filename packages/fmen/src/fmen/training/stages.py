"""The stages of a run: each is a recipe of its own, for its part of the run's steps.

A stage starts with the weights and the moving average that the stage before it ends with, and with a new optimizer:
moments of another loss's gradients would distort its first steps. Its warm-up and its schedule count its own steps.
Samples are numbered through all stages.
"""

from __future__ import annotations

from dataclasses import dataclass

from fmen.training.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """One stage of a run. A run without stages is one stage.

    Attributes:
        recipe: The recipe with the stage's keys; its ``steps`` are the stage's.
        start: Steps of the stages before.
        number: 1 for the first stage.
        count: Number of stages of the run.
    """

    recipe: Recipe
    start: int = 0
    number: int = 1
    count: int = 1

    @property
    def stop(self) -> int:
        """Steps of this stage and those before."""
        return self.start + self.recipe.steps

    @property
    def pixels(self) -> int:
        """LR pixels of a step, to which its time is about proportional."""
        return self.recipe.batch * self.recipe.patch**2

    def begins_at(self, step: int) -> bool:
        """Return whether this stage follows another one and starts after ``step`` steps of the run."""
        return self.number > 1 and step == self.start


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages of a run in order."""
    stages: list[Stage] = []
    recipes = recipe.stage_recipes()
    for number, part in enumerate(recipes, 1):
        stages.append(Stage(part, stages[-1].stop if stages else 0, number, len(recipes)))
    return stages


def stage_before(stages: list[Stage], step: int) -> Stage:
    """Return the stage of the last of ``step`` steps."""
    return next(stage for stage in stages if step <= stage.stop)
