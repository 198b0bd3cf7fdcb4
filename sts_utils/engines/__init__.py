"""Who runs a forward pass, a training, a list of steps: vLLM, accelerate, Ray."""
