"""Tests of the stores. What they share asserts as they do: pytest tells of it what was compared."""

import pytest

pytest.register_assert_rewrite("tests.stores.holding")
