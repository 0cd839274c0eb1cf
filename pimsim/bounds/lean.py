"""How long decode attention takes whose tiles lie whole in single channels: tiles of the busiest channel, by hand."""

from __future__ import annotations

from math import ceil


def tiles_of_channels(tiles: int, shares: int, channels: int) -> list[int]:
    """Tiles of each channel: equal shares, the first ones larger by one, dealt to the channels in turn.

    As many shares as channels is LeanAttention (Sanovar et al. 2024, arXiv 2405.10480): the busiest channel has
    ``ceil(tiles / channels)``. As many as heads is one worker per head, a multiple of the heads a fixed split.

    >>> tiles_of_channels(12 * 32, 8, 8), tiles_of_channels(12 * 32, 12, 8)
    ([48, 48, 48, 48, 48, 48, 48, 48], [64, 64, 64, 64, 32, 32, 32, 32])
    """
    smaller, larger = divmod(tiles, shares)
    found = [0] * channels
    for share in range(shares):
        found[share % channels] += smaller + (share < larger)
    return found


def makespan(tiles: int, shares: int, channels: int) -> int:
    """Tiles of the busiest channel."""
    return max(tiles_of_channels(tiles, shares, channels))


def tile_commands(keys: int, d: int, banks: int, lanes: int) -> dict[str, int]:
    """Commands of a channel for a tile: keys in rows against a query, values in columns against weights, one slot each.

    A group of a vector per bank takes a ``MAC_AB`` for each column of its vectors and one ``RD_MAC``; what they meet goes into
    the global buffer column by column.
    """
    columns_of_query, columns_of_weights = ceil(d / lanes), ceil(keys / lanes)
    groups_of_keys, groups_of_values = ceil(keys / banks), ceil(d / banks)
    return {
        "WR_GB": columns_of_query + columns_of_weights,
        "MAC_AB": groups_of_keys * columns_of_query + groups_of_values * columns_of_weights,
        "RD_MAC": groups_of_keys + groups_of_values,
    }


__all__ = ["makespan", "tile_commands", "tiles_of_channels"]
