"""Documents of a searched index, and what of a search is compared: ids, texts."""

from langchain_core.documents import Document


def documents(count):
    return [Document(f"text {i}", id=str(i), metadata={"n": i, "even": i % 2 == 0}) for i in range(count)]


def ids(found):
    """Of documents with their scores."""
    return [document.id for document, _ in found]


def contents(found):
    return [document.page_content for document in found]
