"""``python3 -m llm180``: sets the environment up where that is needed, then runs the command.

This file and bootstrap.py keep to a syntax that old Pythons read, so that they can say what is wrong.
"""

import sys

from llm180 import bootstrap

if __name__ == "__main__":
    sys.exit(bootstrap.main(sys.argv[1:]))
