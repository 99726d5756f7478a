"""Fewer bytes for a document: codes of a few bits a coordinate, or of a byte for several, and how to search them."""

from st_plugins.bit_planes import BitPlanes
from st_plugins.compression.codebooks import fit_codebooks
from st_plugins.compression.faiss_indexes import faiss_index

__all__ = ["BitPlanes", "faiss_index", "fit_codebooks"]
