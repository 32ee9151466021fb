"""Seconds of attention, in decode and in prefill.

Decode reads the cache and multiplies it in chunks of positions. Each user has a fixed share of the
cores, even if other users are absent; its cores take chunks in turn and merge their results in a
tree. With few kv heads, the cores together read far below DRAM bandwidth, because they access the
same banks at the same time.

References
----------
.. [1] tt-metal, ttnn, sdpa_decode, ``get_dynamic_Sk_chunk_t`` and its program factory.
.. [2] tt-metal issue 18604: 23 % of the DRAM's bandwidth for one kv head per chip.
"""

from typing import TYPE_CHECKING

from galaxy_mpi.dtypes import TILE, padded
from galaxy_mpi.program.spent import Bound, Spent

if TYPE_CHECKING:
    from galaxy_mpi.timing.costs import Costs

__all__ = ["attention_shares", "decode_attention_s", "prefill_attention_s"]

MOST_CORES_PER_HEAD = 16
"""Maximum cores per user: ``max_cores_per_head_batch``."""


def attention_shares(cores: int, slots: int, kv_heads: int) -> tuple[int, int]:
    """Return the cores per kv head of a user, and how many heads a core works on in turn.

    Examples
    --------
    >>> attention_shares(32, 8, 1), attention_shares(64, 32, 8), attention_shares(64, 1, 4)
    ((4, 1), (1, 4), (16, 1))
    """
    of_user = max(1, min(cores, MOST_CORES_PER_HEAD * slots * kv_heads) // slots)
    # More users than cores: each core serves several.
    turns = -(-slots // cores)
    return max(1, of_user // kv_heads), turns * max(1, -(-kv_heads // of_user))


def decode_attention_s(
    costs: "Costs",
    users: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    position: int,
    tile_bytes: int,
    flops_per_core_s: float,
    *,
    cores: int,
    slots: int,
    most_tiles: int,
    passes: float,
) -> Spent:
    """Seconds of decode attention.

    Parameters
    ----------
    users : int
        Users present.
    heads, kv_heads, head_dim : int
        Of the chip. The scores of all heads of a kv head are one row of tiles, padded to 32 rows.
    position : int
        Position of the new token of the longest user.
    tile_bytes : int
        Bytes of a tile in the cache's format.
    flops_per_core_s : float
    cores : int
    slots : int
        Users that the program was made for.
    most_tiles : int
        Maximum tiles of positions per chunk.
    passes : float
        Vector passes over a tile of scores, in addition to the arithmetic.
    """
    m = costs.machine
    per_head, heads_each = attention_shares(cores, slots, kv_heads)
    tiles = position // TILE + 1
    chunk = min(most_tiles, 1 << (tiles - 1).bit_length())
    n_chunks = -(-tiles // chunk)
    rows, width = padded(-(-heads // kv_heads)), padded(head_dim)
    arithmetic_s = 4 * rows * chunk * TILE * width / flops_per_core_s
    softmax_s = costs.vector_s(rows * chunk * TILE, 1, passes)
    n_bytes = users * kv_heads * n_chunks * chunk * 2 * (width // TILE) * tile_bytes
    chunk_bytes = 2 * chunk * (width // TILE) * tile_bytes
    rate = m.dram_bytes_per_s * min(1.0, m.attention_dram_share * kv_heads**0.5)

    flops = arithmetic_s * heads_each * n_chunks * users * m.lofi_flops_per_core_s

    def spent(sharing: int) -> Spent:
        in_turn = heads_each * -(-n_chunks // sharing)
        # Users of equal lengths are read at the same time, and end at the same time.
        merges_s = (sharing - 1).bit_length() * m.attention_merge_s
        terms = {
            Bound.FLOPS: in_turn * (arithmetic_s + softmax_s),
            Bound.LATENCY: in_turn * chunk_bytes / m.attention_bytes_per_core_s,
            Bound.DRAM: n_bytes / rate,
        }
        # Positions and page table are read from DRAM, one after the other, before the cache is.
        overhead_s = m.launch_s + m.stage_s + m.dram_round_trip_s + merges_s
        return Spent.longest(overhead_s, terms, dram_bytes=n_bytes, flops=flops)

    return min(spent(sharing) for sharing in _sharing(min(per_head, n_chunks)))


def _sharing(most: int) -> list[int]:
    """Return how many cores may share the chunks of a head, so that more cores never hurt."""
    return [*(1 << n for n in range(most.bit_length())), most]


def prefill_attention_s(
    costs: "Costs",
    pairs: float,
    queries: int,
    heads: int,
    head_dim: int,
    flops_per_core_s: float,
    n_bytes: float,
    *,
    chunk: int,
    passes: float,
    tile_bytes: int,
) -> Spent:
    """Seconds of attention of many queries: arithmetic and softmax share the cores.

    A core takes chunks of queries of a head, one after the other, and reads the keys and values
    that a chunk sees for it alone: heads do not share them, and the next chunk reads them again.

    Parameters
    ----------
    pairs : float
        Pairs of a query and a key, causal.
    queries : int
        On this chip.
    heads, head_dim : int
    flops_per_core_s : float
    n_bytes : float
        Read and written once.
    chunk : int
        Queries of a chunk.
    passes : float
        Over a tile of scores, in addition to the arithmetic.
    tile_bytes : int
        Of keys and values.
    """
    m = costs.machine
    chunks = heads * max(1, -(-queries // chunk))
    cores = chunks / -(-chunks // m.prefill_cores)
    arithmetic_s = 4 * pairs * heads * padded(head_dim) / (cores * flops_per_core_s)
    softmax_s = costs.vector_s(pairs * heads, cores, passes)
    again_bytes = pairs / chunk * heads * 2 * padded(head_dim) * tile_bytes / TILE**2
    terms = {
        Bound.FLOPS: arithmetic_s + softmax_s,
        Bound.DRAM: max(n_bytes / m.dram_bytes_per_s, again_bytes / m.chunk_read_bytes_per_s),
    }
    flops = arithmetic_s * cores * m.lofi_flops_per_core_s
    return Spent.longest(m.launch_s, terms, dram_bytes=n_bytes + again_bytes, flops=flops)
