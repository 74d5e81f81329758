"""Which case each student gets: decided by a private seed, the student's name, and nothing else."""

import hashlib
from functools import cache

import numpy as np

from .pool import CHECKPOINTS, TASKS, Pool
from .problems import PROBLEM_SETS, Case, Problem, is_apart

TRIES = 5000


def generator(seed: str, *names: str | int) -> np.random.Generator:
    """A random generator that differs for each seed and each list of names."""
    text = "\n".join(map(str, (seed, *names)))
    return np.random.default_rng(list(hashlib.sha256(text.encode()).digest()))


@cache
def _pool(checkpoint: str, task: str, seed: str) -> Pool:
    """One pool for all students with the same checkpoint and task."""
    return Pool(checkpoint, task, int(generator(seed, checkpoint, task).integers(2**31)))


def pool_of(seed: str, student: str, problem_set: str) -> Pool:
    """The checkpoint and the pairs from which a student's variant of a problem set is drawn."""
    rng = generator(seed, student, problem_set)
    return _pool(str(rng.choice(CHECKPOINTS)), str(rng.choice(TASKS)), seed)


def draw(problem: Problem, pool: Pool, rng: np.random.Generator) -> Case:
    """A case whose answer differs from zero and from all listed wrong answers.

    Raises:
        RuntimeError: there is none among many tries; names the problem and the pool.
    """
    for _ in range(TRIES):
        case = problem.draw(pool, rng)
        if is_apart(problem, pool, case):
            return case
    raise RuntimeError(f"{problem.name}: no case of {pool.checkpoint}, {pool.task} is apart.")


def own_case(seed: str, student: str, problem_set: str, problem: Problem) -> Case:
    """The case that a student is shown."""
    pool = pool_of(seed, student, problem_set)
    return draw(problem, pool, generator(seed, student, problem.name))


def graded_cases(seed: str, student: str, problem_set: str, problem: Problem) -> list[Case]:
    """The cases on which a submission is tested: hidden ones, or the student's own."""
    if not problem.hidden:
        return [own_case(seed, student, problem_set, problem)]
    pool = pool_of(seed, student, problem_set)
    rng = generator(seed, student, problem.name, "hidden")
    return [draw(problem, pool, rng) for _ in range(problem.hidden)]


def variant(seed: str, student: str, problem_set: str) -> dict:
    """What a student is told besides the notebook, as variant.json holds it."""
    pool = pool_of(seed, student, problem_set)
    cases = {
        problem.name: own_case(seed, student, problem_set, problem)
        for problem in PROBLEM_SETS[problem_set]
    }
    return {"student": student, "checkpoint": pool.checkpoint, "task": pool.task, "cases": cases}
