"""Opens the published folders of NV-Embed v1 and v2 without their code. Other checkpoints are refused by name."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
from tokenizers import Regex, Tokenizer, normalizers, processors
from transformers import MistralConfig, MistralModel, PreTrainedTokenizerFast

from st_plugins.bidirectional_attention import bidirectional
from st_plugins.errors import UnsafeModelError
from st_plugins.nv_embed_weights import empty_nv_embed, load_published, published_file, published_settings

QUERY_TEMPLATE = "Instruct: {task}\nQuery: "


def nv_embed_prompt(task: str) -> str:
    r"""The prompt NV-Embed wants before a query; documents have none.

    Args:
        task: What to do, as one sentence.

    Returns:
        str: For ``model.encode(queries, prompt=...)``.

    Example:
        >>> nv_embed_prompt("Given a question, retrieve passages that answer the question")
        'Instruct: Given a question, retrieve passages that answer the question\nQuery: '
    """
    return QUERY_TEMPLATE.format(task=task)


def from_nv_embed(
    folder: str | Path,
    *,
    task: str = "Given a question, retrieve passages that answer the question",
    device: str | None = None,
) -> SentenceTransformer:
    """NV-Embed v1 or v2 as a model of known modules, from its published weights.

    The published code is remote code for transformers 4.42; none of it is used here. The model is a Mistral body
    without causal mask, :class:`~st_plugins.modules.LatentAttentionPooling` over all tokens but those of the prompt,
    and ``Normalize``. Weights are read tensor by tensor and keep their precision. Save the model once, and
    :func:`st_plugins.load` opens it from then on; ``model[1].fold()`` is its pooling made smaller for inference.

    What NV-Embed does to a text is done by the tokenizer: ``<s>`` before it, ``</s>`` behind it, ``</s>`` as padding on
    the right. Spaces at the very end of a text are dropped, for the prompt's sake: by itself it would end in a token
    for its last space, which before a query belongs to the query's first token, and sentence-transformers would count
    that one to the prompt and leave it out of the mean.

    Args:
        folder: Download of ``nvidia/NV-Embed-v2`` or ``-v1``: ``config.json``, ``tokenizer.json`` and the safetensors.
            Their licence is CC BY-NC 4.0, not for commercial use.
        task: Goes into the prompt of ``encode_query``. For others, see :func:`nv_embed_prompt`.
        device: As for ``SentenceTransformer``. Loading first fills 16 GB of the memory of the CPU.

    Returns:
        SentenceTransformer: With the prompts ``query`` and ``document`` (empty), in evaluation mode.

    Raises:
        UnsupportedModelError: If a file is missing, or the checkpoint has other tensors, shapes or settings than
            NV-Embed; all names are listed.
        UnsafeModelError: If a file is damaged, or lies outside of the folder.

    References:
        Lee et al., *NV-Embed*, https://arxiv.org/abs/2405.17428, and the model card of nvidia/NV-Embed-v2. Differs: a
        text that is cut at ``model.max_seq_length`` keeps its ``</s>``, theirs loses it; spaces at the end of a text
        are dropped; everything runs in the precision of the weights, theirs in CUDA's automatic one.

    Example:
        >>> from_nv_embed("minilm-elastic")
        Traceback (most recent call last):
        st_plugins.errors.UnsupportedModelError: config.json must be NV-Embed's, with 'text_config' and ...
    """
    folder = Path(folder)
    body, latents = published_settings(folder)
    network, pooling = empty_nv_embed(body, latents)
    tokenizer = _tokenizer(published_file(folder, "tokenizer.json"), network.config)
    load_published(folder, network, pooling)
    model = SentenceTransformer(
        modules=[_transformer(network, tokenizer), pooling, Normalize()],
        prompts={"query": nv_embed_prompt(task), "document": ""},
        similarity_fn_name="cosine",
        device=device,
    )
    return bidirectional(model).eval()


def _tokenizer(file: Path, config: Any) -> PreTrainedTokenizerFast:
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no class of its own
        raise UnsafeModelError(f"{file.name} is no tokenizer, or damaged: {error}. Download it again.") from None
    ids = (config.bos_token_id, config.eos_token_id)
    bos, eos = (tokenizer.id_to_token(index) for index in ids)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A", eos], special_tokens=list(zip((bos, eos), ids, strict=True))
    )
    rest = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r" +\z"), ""), *rest])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        padding_side="right",
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
    )


def _transformer(network: MistralModel, tokenizer: PreTrainedTokenizerFast) -> Transformer:
    """The host's module around a network in memory. It opens folders only, so it is given one with a tiny relative."""
    smallest = MistralConfig(
        vocab_size=1,
        hidden_size=2,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=network.config.max_position_embeddings,
    )
    with TemporaryDirectory() as folder:
        MistralModel(smallest).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder)
    transformer.model = network
    return transformer
