"""
Packed pairs to logits: the protocol that a runtime fulfils, one file per runtime, and where weights come from.

onnxruntime reports its use to its maker, unless `ORT_DISABLE_TELEMETRY` says otherwise when it is first imported. It is
switched off here, before any file of this package can import it. What the user has set is left alone.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
