"""Makes the bundled model: data, fine-tuning, calibration, judgement. Build time only; needs torch and transformers."""
