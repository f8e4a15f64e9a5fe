"""Environment variables that say which MongoDB, and the paths that stand in variables."""

from pathlib import Path

from trials.errors import InvalidValueError

URI_VARIABLE = "LARNN_MONGO_URI"
PASSWORD_FILE_VARIABLE = "LARNN_MONGO_PASSWORD_FILE"  # noqa: S105  # the name of a variable


def at_home(text: str | Path, where: str) -> Path:
    """A path whose ``~`` is the user's home folder.

    Raises:
        InvalidValueError: If there is none; names ``where`` the path stands.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidValueError(f"{where}: {text} is in no home folder: write it out") from None
