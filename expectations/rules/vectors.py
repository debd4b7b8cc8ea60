"""A dimension in, ready-made rules for rows that hold a vector (an array of floats) out.

A row may break several of them: a null vector breaks all, and a vector of zeros is no unit vector either.
"""

from __future__ import annotations

from expectations.rules.rules import Level, Rule


def vector_rules(
    *,
    dimension: int | str | None = None,
    column: str = "vector",
    tolerance: float = 1e-3,
    level: Level = "quarantine",
    unit_level: Level | None = None,
) -> tuple[Rule, ...]:
    """The rules for unit vectors: not null, `dimension` numbers, all of them finite, not all zero, of length 1.

    Args:
        dimension: how many numbers a vector has, or the column that says so; None: this is not checked.
        tolerance: how far a length may be from 1. 32-bit floats in a few hundred dimensions stay within 1e-6, models
            of half precision within 1e-3.
        unit_level: the level of the rule for length 1, if it is not `level`: not every model gives unit vectors.
    """
    of_dimension = [] if dimension is None else [Rule("has_right_dimension", f"size({column}) = {dimension}", level)]
    finite = f"forall({column}, x -> x IS NOT NULL AND NOT isnan(x) AND abs(x) < double('Infinity'))"
    length = f"sqrt(aggregate({column}, 0D, (total, x) -> total + double(x) * double(x)))"
    return (
        Rule("has_vector", f"{column} IS NOT NULL", level),
        *of_dimension,
        Rule("has_finite_numbers", finite, level),
        Rule("is_not_zero", f"exists({column}, x -> x <> 0)", level),
        Rule("is_unit_vector", f"abs({length} - 1) <= {float(tolerance)!r}D", unit_level or level),
    )
