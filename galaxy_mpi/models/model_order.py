"""From the order of values on the chips to the model's own, for values of any mesh and layout."""

import numpy as np

from galaxy_mpi.arrays import Array, Ints
from galaxy_mpi.mesh import Axis
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.program import Cut

__all__ = ["ModelOrder"]


class ModelOrder:
    """The model's parts in the order in which the chips of a mesh have them.

    Parameters
    ----------
    layout : Layout

    Examples
    --------
    >>> from galaxy_mpi.mesh import Mesh
    >>> from galaxy_mpi.models.presets import PRESETS
    >>> order = ModelOrder(Layout(PRESETS["llama3-70b"], Mesh(3, 4)))
    >>> len(order.places("kv_heads")), int(order.places("kv_heads").max())
    (8, 7)
    """

    def __init__(self, layout: Layout) -> None:
        c, rows, cols = layout.config, range(layout.mesh.rows), range(layout.mesh.cols)
        of_rows = [layout.head_numbers(row) for row in rows]
        if layout.is_scattered:
            stream = np.arange(layout.stream * layout.mesh.rows)
            stream[c.dim :] = -1
        else:
            stream = np.concatenate([layout.dim_at(col) for col in cols])
        vocabulary = np.arange(layout.vocab * layout.mesh.rows)
        vocabulary[c.vocab_size :] = -1
        self._head_dim = c.head_dim
        self._numbers: dict[str, Ints] = {
            "dim": stream,
            "hidden": np.concatenate([layout.hidden_at(row) for row in rows]),
            "heads": np.concatenate([heads for heads, _ in of_rows]),
            "kv_heads": np.concatenate([heads for _, heads in of_rows]),
            "vocabulary": vocabulary,
        }

    def places(self, part: str) -> Ints:
        """Return where the chips, joined, have each number of a part; of copies, the first."""
        numbers = self._numbers[part]
        found, places = np.unique(numbers, return_index=True)
        return places[found >= 0]

    def of(self, whole: Array, cut: Cut, part: str | None) -> tuple[Array, dict[int, Ints]]:
        """Return a tensor in the model's order, without padding and copies.

        Parameters
        ----------
        whole : ndarray
            Joined from the chips (`galaxy_mpi.engine.capture.join_parts`).
        cut : Cut
        part : str, optional
            What is cut into shards: dim, hidden, heads, kv_heads or vocabulary. If unknown, or if
            the tensor has another size, it is left alone.

        Returns
        -------
        whole : ndarray
        places : dict of int to ndarray
            For a dim whose order has changed: where the chips, joined, had each of its values.
        """
        dim = _dim_of_part(cut)
        if part is None or not whole.ndim:
            return whole, {}
        places, n = self.places(part), len(self._numbers[part])
        if whole.shape[dim] == n * self._head_dim and "heads" in part:
            within = np.arange(self._head_dim)
            places, n = (places[:, None] * self._head_dim + within).reshape(-1), whole.shape[dim]
        if whole.shape[dim] != n or np.array_equal(places, np.arange(n)):
            return whole, {}
        return whole.take(places, axis=dim), {dim: places}


def _dim_of_part(cut: Cut) -> int:
    """Return the dim that the model's part numbers: the last that rows shard, or the last."""
    cut_by_rows = [dim for dim, axes in enumerate(cut) if Axis.COLUMN in axes]
    return cut_by_rows[-1] if cut_by_rows else len(cut) - 1
