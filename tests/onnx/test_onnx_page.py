"""docs/onnx.md is what the table of operators says."""

from pathlib import Path

from dslc.frontend.onnx.page import page
from dslc.frontend.onnx.table import schema_of, table


def test_page_is_up_to_date():
    """`python -m dslc.frontend.onnx.page > docs/onnx.md` writes it."""
    assert (Path(__file__).parents[2] / "docs" / "onnx.md").read_text() == page()


def test_entries_are_operators_of_the_standard():
    versions = {"": 28, "ai.onnx.ml": 5, "ai.onnx.preview.training": 1}
    for (domain, name), entry in table().items():
        assert entry.name == name
        if domain in versions:
            assert schema_of(name, domain, versions[domain]) or schema_of(name, domain, 9), name
