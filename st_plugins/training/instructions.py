"""Puts an instruction before a text so that the tokens which pooling leaves out are exactly those of the instruction.

It changes neither tokenizer nor pooling.
"""

from collections.abc import Sequence

from sentence_transformers import SentenceTransformer

from st_plugins.errors import InputError, UnsupportedModelError
from st_plugins.nv_embed import QUERY_TEMPLATE


def instruction_prompt(
    model: SentenceTransformer,
    task: str,
    texts: Sequence[str],
    *,
    template: str = QUERY_TEMPLATE,
) -> str:
    r"""The prompt of a task, for ``prompts`` of the training arguments and ``prompt`` of ``model.encode``.

    A pooling without ``include_prompt`` leaves out as many tokens as the prompt has alone. With many tokenizers this is
    one too many where the prompt ends in a space: alone it is a token, before a text it is the beginning of the text's
    first word, and that word is lost. So the template is tried as it is, then without the space at its end, then with a
    new line in its place, and the first is taken with which every text keeps all its tokens.

    Args:
        model: Its tokenizer, special tokens and ``max_seq_length`` decide.
        task: What to do, as one sentence.
        texts: Some texts that will follow the instruction, the more different the better. How a tokenizer joins the end
            of the prompt with a word depends on the word, so nothing is promised for other beginnings.
        template: With ``{task}``; the default is that of NV-Embed's model card.

    Returns:
        str: The same at training and serving; ``model.prompts["query"] = ...`` stores it with the model.

    Raises:
        InputError: If the instruction fills ``model.max_seq_length`` alone, the template has no ``{task}``, or there is
            no text.
        UnsupportedModelError: If the tokenizer joins the end of the prompt with a text in every form.

    References:
        Template: model card of nvidia/NV-Embed-v2.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> instruction_prompt(model, "Find duplicates", ["how to sort", "(un)sorted lists", "3 ways"])
        'Instruct: Find duplicates\nQuery: '
    """
    if "{task}" not in template:
        raise InputError(f"The template must say where the task goes, with {{task}}, got {template!r}.")
    prompt = template.replace("{task}", task)
    bare = prompt.rstrip(" ")
    forms = list(dict.fromkeys([prompt, bare, bare + "\n"]))
    for form in forms:
        if joined_text(model, form, texts) is None:
            return form
    raise UnsupportedModelError(
        f"The tokenizer must keep prompt and text apart, it joins {joined_text(model, prompt, texts)!r} with the "
        f"prompt, and other texts with {forms[1:]}. Give a template that ends in a mark it never joins."
    )


def joined_text(model: SentenceTransformer, prompt: str, texts: Sequence[str]) -> str | None:
    """The first text whose tokens a pooling without the prompt would not take exactly.

    Args:
        model: See :func:`instruction_prompt`.
        prompt: What stands before each text.
        texts: Those without a word are passed over.

    Returns:
        str | None: None if with every text the first tokens are those of the prompt alone, and others follow.

    Raises:
        InputError: If the prompt fills ``model.max_seq_length`` alone, or there is no text.
        UnsupportedModelError: If the model does not count the tokens of a prompt.

    Example:
        >>> model = SentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> joined_text(model, "Query: ", ["lists", "ed lists"]) is None
        True
        >>> joined_text(model, "Query: sort", ["lists", "ed lists"])
        'ed lists'
    """
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError("There must be texts that follow the prompt, got none with a word. Pass a few queries.")
    alone = _ids(model, prompt)
    if model.max_seq_length is not None and len(alone) >= model.max_seq_length:
        raise InputError(
            f"An instruction must leave room for the text, this one fills all of max_seq_length={model.max_seq_length} "
            f"tokens: {prompt[:60]!r}... Shorten it, or raise model.max_seq_length."
        )
    for text in texts:
        features = model.preprocess([text], prompt=prompt)
        if "prompt_length" not in features:
            raise UnsupportedModelError(
                f"The first module must count the tokens of a prompt, {type(model[0]).__name__} does not. Take a model "
                "that starts with sentence-transformers' Transformer."
            )
        length = int(features["prompt_length"])
        whole = features["input_ids"].flatten().tolist()
        if whole[:length] != alone[:length] or len(whole) <= len(alone):
            return text
    return None


def _ids(model: SentenceTransformer, text: str) -> list[int]:
    return model.preprocess([text])["input_ids"].flatten().tolist()
