"""Errors of the queue. Each message states the rule, what was found, and what to do next."""


class TrialsError(Exception):
    """Base of every error the queue raises on purpose; the command line shows it as one line."""


class InvalidValueError(TrialsError, ValueError):
    """A value given by the user breaks a rule of the queue."""


class StudyNotFoundError(TrialsError):
    """No study has this name."""


class TrialNotFoundError(TrialsError):
    """The study has no trial of this number."""


class StudyChangedError(TrialsError):
    """The study is no longer as it was when this change of its state was decided."""


class StudyMismatchError(TrialsError):
    """A study of this name exists, with other settings."""


class LeaseLostError(TrialsError):
    """The claim is no longer this worker's: its lease ran out and the trial went to another."""


class IllegalTransitionError(TrialsError):
    """The trial's or study's state does not allow this step."""


class BrokenDocumentError(TrialsError):
    """What the database holds does not fit; what it belongs to is refused, and nothing else."""


class SchemaVersionError(TrialsError):
    """The database, or a study in it, was written by another version of this project."""


UNREADABLE = (BrokenDocumentError, SchemaVersionError)
"""Why a study that stands beside others is left out."""


class StoreUnavailableError(TrialsError):
    """The database cannot be reached or refuses the login."""


class ServerNotFoundError(TrialsError):
    """No mongod could be found or started on this machine."""


class TrialRefusedError(TrialsError):
    """Raised by an objective that cannot run this study's trials here, for example for other data.

    The trial goes back to the queue, no retry is used up, and this worker leaves the study alone.
    """
