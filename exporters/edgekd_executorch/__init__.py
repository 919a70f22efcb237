"""ExecuTorch: .pte programs for XNNPACK in float32, float16 and INT8, their runtime, and what ran where."""
