"""Makes the bundled model: data, fine-tuning, calibration, judgement. Build time only; needs torch and transformers."""

import rejection_server  # noqa: F401 - before any library that it tells to keep quiet (rejection_server.telemetry)
