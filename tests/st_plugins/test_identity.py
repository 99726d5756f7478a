import hashlib

from st_plugins.identity import with_precision


def test_float32_is_the_fingerprint_itself_and_nothing_else_is():
    assert with_precision("ab", "fp32") == "ab"
    found = {with_precision(identity, name) for identity in ("ab", "cd") for name in ("fp32", "fp16", "int8")}
    assert len(found) == 6
    assert with_precision("ab", "fp16") == hashlib.sha256(b'["ab", "fp16"]').hexdigest()
