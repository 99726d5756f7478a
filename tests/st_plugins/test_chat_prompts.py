import pytest

import chat_cases
from st_plugins.chat_prompts import TEXT, chat_frame, framed_ids
from st_plugins.errors import InputError, UnsupportedModelError

TURNS = [
    {"role": "system", "content": "slow is fast"},
    {"role": "user", "content": f'Passage: "{TEXT}". One word!'},
    {"role": "assistant", "content": 'The word is: "'},
]
LONG = "the red dog was under the blue tree and the cat was in it " * 20


@pytest.fixture(scope="module")
def tokenizer():
    return chat_cases.tokenizer()


def test_the_frame_is_what_the_template_writes(tokenizer):
    before, behind = chat_frame(tokenizer, TURNS)
    assert before == '<s>system\nslow is fast</s>\n<s>user\nPassage: "'
    assert behind == '". One word!</s>\n<s>assistant\nThe word is: "'
    turns = [dict(turn, content=turn["content"].replace(TEXT, "a dog")) for turn in TURNS]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    assert before + "a dog" + behind == rendered


def test_a_text_that_fits_has_the_tokens_of_its_chat(tokenizer):
    before, behind = chat_frame(tokenizer, TURNS)
    texts = ["a dog ran", "", "über 東京 🌍", ' spaces "and quotes" ']
    for text, ids in zip(texts, framed_ids(tokenizer, texts, (before, behind), 1000), strict=True):
        assert ids == tokenizer(before + text + behind, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == before + text + behind


@pytest.mark.parametrize("text", [LONG, "🌍東京" * 100, "x" * 999])
@pytest.mark.parametrize("longest", [70, 71, 72, 90])
def test_a_long_text_loses_its_end_and_the_frame_is_whole(tokenizer, text, longest):
    frame = chat_frame(tokenizer, TURNS)
    around = framed_ids(tokenizer, [""], frame, 1000)[0]
    [ids] = framed_ids(tokenizer, [text], frame, longest)
    assert len(ids) == longest
    whole = framed_ids(tokenizer, [text], frame, 10_000)[0]
    tail = len(tokenizer(frame[1][2:], add_special_tokens=False)["input_ids"])  # behind the quote and the full stop
    assert ids[-tail:] == around[-tail:] == whole[-tail:]
    kept = 0
    while ids[kept] == whole[kept]:
        kept += 1
    assert kept + tail >= longest - 2, "all before is the beginning of the whole"
    assert tokenizer.decode(ids).startswith(frame[0] + text[:1])


def test_no_room_for_the_frame_is_said(tokenizer):
    frame = chat_frame(tokenizer, TURNS)
    with pytest.raises(InputError, match="The chat around a text takes .* tokens, and max_seq_length is 20. Raise"):
        framed_ids(tokenizer, [LONG], frame, 20)


@pytest.mark.parametrize(("template", "message"), [
    (None, "must have a chat template that takes the turns system, user, assistant"),
    ("{% if messages[0].content %}{{ raise_exception('No system turn.') }}{% endif %}",
     "it says: No system turn. Take a chat model; where its template"),
    ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "must write every turn once and end with"),
    ("{{ messages[-1].content }}", "must write every turn once and end with the last one, got"),
])  # fmt: skip
def test_templates_that_cannot_be_used_are_refused(template, message):
    with pytest.raises(UnsupportedModelError, match=message):
        chat_frame(chat_cases.tokenizer(template), TURNS)


def test_a_package_that_is_missing_is_no_template(tokenizer, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("apply_chat_template requires jinja2")

    monkeypatch.setattr(tokenizer, "apply_chat_template", missing)
    with pytest.raises(ImportError, match="requires jinja2"):
        chat_frame(tokenizer, TURNS)
