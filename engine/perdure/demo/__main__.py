"""``python -m perdure.demo worker``: the processes that the demo starts. For the demo itself:
``perdure demo``.
"""

from __future__ import annotations

import sys

from perdure.demo.children import main

sys.exit(main(sys.argv[1:]))
