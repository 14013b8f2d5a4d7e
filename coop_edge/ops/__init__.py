"""Operations of the stages on a device's arrays: one contract (``base``) and an implementation for CPU and CUDA."""
