"""A node for the test server that puts any value onto a link, as nodes of other packs can."""

import json


class Anything(str):
    """The type of an output that fits every input."""

    def __ne__(self, other):
        return False


class AnyValue:
    CATEGORY = "tests"
    FUNCTION = "give"
    RETURN_TYPES = (Anything("*"),)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"json": ("STRING", {})}}

    def give(self, json):
        return (parsed(json),)


def parsed(text):
    """What JSON says, NaN and Infinity among it."""
    return json.loads(text)


NODE_CLASS_MAPPINGS = {"TestAnyValue": AnyValue}
