"""Named exceptions: every mistake of a user becomes one clear line.

A message says what arrived, what was wanted and what to do.  The command line
prints it after ``error:`` and exits with code 2.
"""


class MLBenchError(Exception):
    """Base of all errors that a user can mend."""


class DataError(MLBenchError):
    """A data set, label set or split is missing, damaged or does not fit."""


class ModelError(MLBenchError):
    """A network, checkpoint, archive or card is missing, damaged or does not fit."""


class TrainingError(MLBenchError):
    """A training run cannot start, resume or go on."""


class PotentialError(MLBenchError):
    """A potential cannot drive the given topology, cell or constraints."""


class ProtocolError(MLBenchError):
    """A protocol file is not valid; the message names file and line."""


class SimulationError(MLBenchError):
    """A run folder or simulation cannot start, resume or go on."""


class TrajectoryError(MLBenchError):
    """A trajectory or topology is missing, damaged or inconsistent."""


class MetricError(MLBenchError):
    """An observable was asked for with arguments that do not fit."""


class ReportError(MLBenchError):
    """Results cannot be shown."""


class DependencyError(MLBenchError):
    """An optional package is needed and not installed."""


class CampaignError(MLBenchError):
    """A campaign file is not valid, or a campaign cannot start or go on."""
