"""Read YAML, and refuse a key that is given twice, of which PyYAML silently takes the last one."""

from __future__ import annotations

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def load_yaml(text: str) -> Any:
    """Return the content of a YAML document, read with PyYAML's safe loader.

    Raises:
        yaml.YAMLError: The text is not YAML, or a mapping has a key twice.
    """
    return yaml.load(text, _UniqueKeys)


class _UniqueKeys(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} is given twice")
                seen.add((key.tag, key.value))
        return node
