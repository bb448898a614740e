"""OpenMM forces that evaluate an exported model; the only code that knows openmmtorch."""
