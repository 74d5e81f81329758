"""The error that bad input raises."""


class NoticeError(ValueError):
    """Bad input. The message names what is wrong and what to do about it."""


class UsedFolderError(NoticeError):
    """The folder for a result holds another one."""
