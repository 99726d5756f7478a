"""What an export says about itself is what the model says."""

import st_plugins
from st_plugins_export import OnnxEncoder
from st_plugins_export.exported_facts import ExportedFacts
from st_plugins_export.layout import read_manifest


def test_facts_are_those_of_the_model(elastic, exported):
    facts = ExportedFacts(read_manifest(exported), None, "fp32")
    assert facts.sizes == OnnxEncoder(exported).sizes == ((3, 32), (2, 16))
    assert (facts.exits, facts.exit_fingerprints) == ((), {})
    assert (facts.prompts, facts.max_seq_length) == (elastic.prompts, elastic.max_seq_length)
    assert facts.get_embedding_dimension() == elastic.get_embedding_dimension()
    assert facts.fingerprint == st_plugins.fingerprint(elastic)


def test_prompts_are_a_copy(exported):
    facts = ExportedFacts(read_manifest(exported), None, "fp32")
    facts.prompts["query"] = "other "
    assert facts.prompts["query"] == "find: "
