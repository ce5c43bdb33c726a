"""What authors and the continuous integration use; no notebook imports it."""

import sys

# nbformat imports jsonschema, which imports this checker of internationalized web addresses where it is
# installed; it compiles a grammar for 1.7 s, in every process, and no notebook's schema asks for it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
