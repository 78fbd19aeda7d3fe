"""Run by the Python that has kubernetes-validate: documents come as JSON on standard input, complaints go out as JSON.

The rule a reader could break: it knows nothing of this repository, for it runs where nothing of it can be imported.
"""

import json
import sys

import kubernetes_validate

version = sys.argv[1]
complaints = []
for place, document in json.load(sys.stdin):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        complaints.append(f"{place}: {'.'.join(map(str, error.path))}: {error.message[:300]}")
    except kubernetes_validate.SchemaNotFoundError as error:
        complaints.append(f"{place}: unknown kind {error.kind}")
json.dump(complaints, sys.stdout)
