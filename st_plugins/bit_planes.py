"""Multi-bit codes as planes of packed bits, and an exact search over them by counting bits. Numpy alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from st_plugins.best_rows import k_best
from st_plugins.counts import is_count
from st_plugins.errors import InputError, ShapeError, SizeError

MOST_BITS = 8
_ROWS = 65_536  # documents scored at once: some MB of intermediate results
# Half precision moves the largest integer of a 4-bit code, 15, by less than 0.01.
_ROUNDING = 0.2


@dataclass(frozen=True)
class BitPlanes:
    """Vectors whose coordinates are odd integers, one plane of packed bits for each power of two; no vectors beside.

    A code x of ``bits`` bits and m coordinates is what :class:`~st_plugins.modules.ResidualBinarization` writes, up to
    its length. With d_p the signs (+1, -1) in plane p, which hold one bit each, and P = ``bits``::

        x       = sum_p 2^(P - 1 - p) d_p                                             odd, |x| <= 2^P - 1
        x . y   = (2^P - 1)^2 m - 2 sum_{p, r} 2^(2P - 2 - p - r) Hamming(d_p, e_r)   e_r the planes of y
        score   = x . y / sqrt(x . x  y . y)                                          the cosine

    Hamming distances are counted by ``popcount``, so products are exact integers, and the cosine is the dot product of
    the vectors the model gave. Nothing but the planes is stored: a document takes P * ceil(m / 8) bytes.

    Args:
        planes: (N, P, ceil(m / 8)) uint8, as ``numpy.packbits`` writes them; unused bits of the last byte are zero.
        code_dimension: m.

    Raises:
        ShapeError: If the planes are of another shape or type, or unused bits are set.

    References:
        BEBR, https://arxiv.org/abs/2302.08714, section 3.3 (symmetric distance calculation). As integers: ours.

    Example:
        >>> codes = BitPlanes.of(np.array([[1.5, -0.5, 0.5], [-1.5, 1.5, 0.5]]), bits=2)
        >>> codes.planes.tolist(), codes.nbytes
        ([[[160], [192]], [[96], [64]]], 4)
        >>> scores, rows = codes.search(codes, k=1)
        >>> rows.tolist()
        [[0], [1]]
    """

    planes: NDArray[np.uint8]
    code_dimension: int

    def __post_init__(self) -> None:
        planes, width = self.planes, -(-self.code_dimension // 8)
        is_right = planes.dtype == np.uint8 and planes.ndim == 3 and planes.shape[2] == width
        if not is_right or self.code_dimension < 1 or not 1 <= planes.shape[1] <= MOST_BITS:
            raise ShapeError(
                f"Planes of {self.code_dimension} coordinates must be uint8 of shape (N, 1 to {MOST_BITS}, {width}), "
                f"got {planes.dtype} of shape {planes.shape}. Make them with BitPlanes.of(vectors, bits=...)."
            )
        if (planes[:, :, -1] & ((1 << (8 * width - self.code_dimension)) - 1)).any():
            raise ShapeError(
                f"Of BitPlanes of {self.code_dimension} coordinates the last {8 * width - self.code_dimension} bits "
                "must be zero, and some are set. Give the code_dimension they were packed with."
            )

    @classmethod
    def of(cls, vectors: Any, *, bits: int) -> "BitPlanes":
        """Pack what a model with :class:`~st_plugins.modules.ResidualBinarization` gave.

        Args:
            vectors: (N, m), each a positive multiple of a code; the length does not matter, so half precision will do.
            bits: P, as in the module.

        Raises:
            SizeError: If ``bits`` is not an integer from 1 to 8.
            ShapeError: If it is no matrix.
            InputError: If a row is not the multiple of a code, as the float queries of an asymmetric search.

        Example:
            >>> BitPlanes.of(np.array([[0.6, -0.2]]), bits=2).values()
            array([[ 0.948..., -0.316...]], dtype=float32)
        """
        if not is_count(bits) or bits > MOST_BITS:
            raise SizeError(f"bits must be an integer from 1 to {MOST_BITS}, got {bits!r}.")
        rows = np.asarray(vectors, dtype=np.float32)
        if rows.ndim != 2 or not rows.shape[1]:
            raise ShapeError(
                f"BitPlanes.of needs vectors of shape (N, m), got {rows.shape}. Wrap a single one in a list."
            )
        levels = (_odd_integers(rows, 2**bits - 1) + 2**bits - 1) // 2  # (N, m), 0 to 2^P - 1
        planes = np.stack([(levels >> (bits - 1 - plane)) & 1 for plane in range(bits)], axis=1)  # (N, P, m)
        return cls(np.packbits(planes.astype(np.uint8), axis=-1), rows.shape[1])

    @property
    def bits(self) -> int:
        """P, the bits of a coordinate."""
        return self.planes.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all planes together."""
        return self.planes.nbytes

    def __len__(self) -> int:
        return len(self.planes)

    def values(self) -> NDArray[np.float32]:
        """The vectors again, (N, m), of unit length."""
        signs = np.unpackbits(self.planes, axis=-1, count=self.code_dimension).astype(np.int16) * 2 - 1
        weights = 2 ** np.arange(self.bits - 1, -1, -1, dtype=np.int16)
        codes = np.einsum("p,npm->nm", weights, signs).astype(np.float32)
        return codes / np.linalg.norm(codes, axis=1, keepdims=True)

    def scores(self, queries: "BitPlanes") -> NDArray[np.float64]:
        """Cosines (Q, N) of other codes with these.

        Raises:
            ShapeError: If the queries have another number of coordinates or bits.
        """
        self._check_alike(queries)
        products = np.empty((len(queries), len(self)), dtype=np.int64)
        for row, query in enumerate(queries.planes):
            products[row] = _products(query, self.planes, self.code_dimension)
        return products / np.sqrt(_squares(queries)[:, None] * _squares(self))

    def search(self, queries: Any, *, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The k rows nearest to each query by cosine, best first; of equal ones the first.

        Args:
            queries: :class:`BitPlanes` for the symmetric search, by counting bits; or float vectors (Q, m) in the space
                of the codes, from a module with ``float_queries=True``, for the asymmetric one: queries take no
                space, so there is no need to round them.
            k: At least 1; at most N are returned.

        Returns:
            tuple: Cosines (Q, k) and positions (Q, k).

        Raises:
            SizeError: If ``k`` is not a positive integer.
            ShapeError: If the queries do not fit.
            InputError: If float queries hold NaN or infinity.
        """
        if not is_count(k):
            raise SizeError(f"k must be a positive integer, got {k!r}.")
        if not isinstance(queries, BitPlanes):
            queries = np.asarray(queries, dtype=np.float32)
            if queries.ndim != 2 or queries.shape[1] != self.code_dimension:
                raise ShapeError(
                    f"Float queries must have the shape (Q, {self.code_dimension}) of these codes, got "
                    f"{queries.shape}. Encode them with the model that made the codes."
                )
            if not np.isfinite(queries).all():
                raise InputError("Float queries must be finite, and some hold NaN or infinity. Leave those out.")
        best = [(np.zeros(0), np.zeros(0, dtype=np.int64))] * len(queries)
        for start in range(0, len(self), _ROWS):
            part = BitPlanes(self.planes[start : start + _ROWS], self.code_dimension)
            found = part.scores(queries) if isinstance(queries, BitPlanes) else _cosines(queries, part.values())
            for query, row in enumerate(found):
                old_scores, old_rows = best[query]
                best[query] = _top(
                    np.concatenate([old_scores, row]), np.concatenate([old_rows, start + np.arange(len(row))]), k
                )
        shape = (len(queries), min(k, len(self)))
        return np.array([scores for scores, _ in best]).reshape(shape), np.array(
            [rows for _, rows in best], dtype=np.int64
        ).reshape(shape)

    def _check_alike(self, queries: "BitPlanes") -> None:
        if (queries.bits, queries.code_dimension) != (self.bits, self.code_dimension):
            raise ShapeError(
                f"Queries must have {self.bits} bits of {self.code_dimension} coordinates like these codes, got "
                f"{queries.bits} of {queries.code_dimension}. Encode both with the same model."
            )


def _odd_integers(rows: NDArray[np.float32], largest: int) -> NDArray[np.int64]:
    """Each row as the smallest odd integers it is a multiple of, up to ``largest``."""
    smallest = np.abs(rows).min(axis=1, keepdims=True)  # (N, 1)
    found = np.zeros(rows.shape, dtype=np.int64)
    is_open = np.ones(len(rows), dtype=bool)
    for integer in range(1, largest + 1, 2):  # that the smallest coordinate may stand for; nearly always 1
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = rows[is_open] * (integer / smallest[is_open])
            odd = 2 * np.floor(scaled / 2) + 1
            fits = ((np.abs(scaled - odd) < _ROUNDING) & (np.abs(odd) <= largest)).all(axis=1)
        positions = np.flatnonzero(is_open)[fits]
        found[positions] = odd[fits].astype(np.int64)
        is_open[positions] = False
        if not is_open.any():
            return found
    raise InputError(
        f"Every vector must be a code, odd integers up to {largest} times one number, and row "
        f"{int(np.flatnonzero(is_open)[0])} is none. Take the vectors of a model that ends in ResidualBinarization "
        "with these bits; it leaves queries as floats where float_queries=True."
    )


def _products(code: NDArray[np.uint8], planes: NDArray[np.uint8], code_dimension: int) -> NDArray[np.int64]:
    """X . y of one code, (P, bytes), with others, (N, P, bytes), or row by row where both are many: integers."""
    bits = planes.shape[1]
    total = np.full(len(planes), (2**bits - 1) ** 2 * code_dimension, dtype=np.int64)
    for mine in range(bits):
        for theirs in range(bits):
            different = _words(planes[:, theirs] ^ code[..., mine, :])  # (N, words)
            count = np.bitwise_count(different).sum(axis=-1, dtype=np.int64)
            total -= 2 ** (2 * bits - 1 - mine - theirs) * count
    return total


def _words(packed: NDArray[np.uint8]) -> NDArray[Any]:
    """The same bits, eight bytes at a time where they divide."""
    return packed.view(np.uint64) if packed.shape[-1] % 8 == 0 else packed


def _squares(codes: BitPlanes) -> NDArray[np.float64]:
    """X . x of each code."""
    return _products(codes.planes, codes.planes, codes.code_dimension).astype(np.float64)


def _cosines(queries: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    return (queries / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float64) @ values.T


def _top(scores: NDArray[Any], rows: NDArray[np.int64], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The k best and their rows, of equal ones the first, which codes of few bits often are."""
    kept = k_best(scores, k)
    return scores[kept], rows[kept]
