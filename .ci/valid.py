"""`python .ci/valid.py FILE`: a bill of materials is valid by the schema of CycloneDX 1.6. Run by a Python that has its library."""

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text("utf-8"))
print(f"{sys.argv[1]}: {error or 'valid CycloneDX 1.6'}")
raise SystemExit(error is not None)
