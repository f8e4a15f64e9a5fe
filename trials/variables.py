"""Environment variables that say which MongoDB."""

URI_VARIABLE = "LARNN_MONGO_URI"
PASSWORD_FILE_VARIABLE = "LARNN_MONGO_PASSWORD_FILE"  # noqa: S105  # the name of a variable
