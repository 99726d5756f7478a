import hashlib

from st_plugins.identity import changed, with_precision


def test_float32_is_the_fingerprint_itself_and_nothing_else_is():
    assert with_precision("ab", "fp32") == "ab"
    found = {with_precision(identity, name) for identity in ("ab", "cd") for name in ("fp32", "fp16", "int8")}
    assert len(found) == 6
    assert with_precision("ab", "fp16") == hashlib.sha256(b'["ab", "fp16"]').hexdigest()


def test_every_change_has_an_identity_of_its_own_whatever_their_order():
    assert changed("ab", {}) == "ab"
    found = [
        changed("ab", changes) for changes in ({"dim": 8}, {"dim": 16}, {"prompts": {}}, {"dim": 8, "prompts": {}})
    ]
    assert len({"ab", *found}) == 5
    assert changed("ab", {"dim": 8, "prompts": {}}) == changed("ab", {"prompts": {}, "dim": 8})
    assert changed("ab", {"dim": 8}) == hashlib.sha256(b'["ab", {"dim": 8}]').hexdigest()
