"""Retrieval with models that keep a vector for each token (late interaction, ColBERT): two ways around a search of all.

:class:`MultiVectorSearch` chooses candidates by one vector for each text (MUVERA) and ranks them exactly.
:class:`TokenRetrieval` scores by retrieved tokens alone (XTR) and reads no document.
"""

from st_plugins.multi_vector.ball_carving import carve_balls
from st_plugins.multi_vector.token_retrieval import TokenRetrieval
from st_plugins.multi_vector.two_stage_search import MultiVectorSearch
from st_plugins.multi_vector.vector_index import ExactIndex

__all__ = ["ExactIndex", "MultiVectorSearch", "TokenRetrieval", "carve_balls"]
