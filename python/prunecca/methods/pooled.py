"""The names in pools, which must be lists of names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def pooled_names(pools: Mapping[str, Sequence[str]]) -> list[str]:
    """The names in all pools.

    Raises:
        TypeError: the pools are no lists of names, by the name of the pool.
    """
    if not isinstance(pools, Mapping):
        raise TypeError(
            f"pools are a {type(pools).__name__}; expected lists of names by pool, as {{'all': ['0.weight']}}"
        )
    for pool, names in pools.items():
        if isinstance(names, str) or not isinstance(names, Collection) or not all(isinstance(n, str) for n in names):
            raise TypeError(
                f"pool '{pool}' is {names!r}; expected a list of names of parameters, as {{'{pool}': ['0.weight']}}"
            )
    return [name for names in pools.values() for name in names]
