"""Compares the policies of docs/use/policies.md with the schema of policy rules in the API's description.

    policy-schema.py docs/use/policies.md docs/openapi.json

Ends with 1 if an example does not match, or if an example that is spoilt still does.
"""

import copy
import json
import re
import sys

import jsonschema


def main(page, description):
    with open(description) as file:
        document = json.load(file)
    schema = {"$ref": "#/components/schemas/PolicyRules", "components": document["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    with open(page) as file:
        examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", file.read(), re.S)]
    if len(examples) < 3:
        sys.exit(f"{page} has {len(examples)} examples")
    for example in examples:
        for error in validator.iter_errors(example):
            sys.exit(f"{page}: {error.message}, at {list(error.path)} of {json.dumps(example)}")
        for spoil in SPOILERS:
            spoilt = copy.deepcopy(example)
            spoil(spoilt)
            if validator.is_valid(spoilt):
                sys.exit(f"{description} allows {json.dumps(spoilt)}")
    print(f"{len(examples)} policies match the description of the API")


SPOILERS = [
    lambda rules: rules.update(kind="free"),
    lambda rules: rules.update(colour="red"),
    lambda rules: rules.pop("time_zone"),
    lambda rules: rules.update(snapshot_retention_days=31),
    lambda rules: rules.update(schedule={"daily": {"times": ["24:00"]}}),
    lambda rules: rules.update(schedule={"daily": {"times": ["02:30"]}, "weekly": {}}),
    lambda rules: rules["retention"].update(daily={"days": 6}),
    lambda rules: rules["retention"].update(weekly={"weekdays": ["sonntag"], "weeks": 1}),
    lambda rules: rules["retention"].update(monthly={"on": {"day": {"days": [32]}}, "months": 1}),
]

main(*sys.argv[1:])
