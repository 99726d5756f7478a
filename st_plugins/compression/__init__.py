"""Fewer bytes for a document: codes of a few bits a coordinate, packed, and searched without unpacking."""

from st_plugins.bit_planes import BitPlanes

__all__ = ["BitPlanes"]
