"""What clients of object storage say (obstore, delta-rs, Lance) in; one line of ours that says what to do, out."""

from __future__ import annotations

import re

from transformations.errors import ConfigurationError, LakeloopError

_ADDRESS = re.compile(r"://(?:[^\s/@]+@)?([^\s?]*)(?:\?\S+)?")
# How errors were wrapped, how long a request took, and which line of a library's code said so.
_NOISE = re.compile(
    r"(?:External error|Wrapped error|LanceError\(\w+\)|Generic [\w/]+ error): "
    r"| in [\d.]+[mµn]?s(?:, after \d+ retries, max_retries: \d+, retry_timeout: \w+)?(?= +-)"
    r"|,? ?/\S+\.rs:\d+:\d+"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
NO_BUCKET = "NoSuchBucket"
# Of a key with an empty part (a//b), or with a part that is . or ..
_UNREADABLE_KEY = ("path segment", "illegal character")
_REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "InvalidBucketName")
# Where no credentials are given, clients ask the machine itself for its role.
_NO_CREDENTIALS = (
    "/latest/api/token",
    "/latest/meta-data",
    "169.254.169.254",
    "403 Forbidden",
    "401 Unauthorized",
    "credential",
)


class StorageError(LakeloopError):
    """Object storage does not answer, or answers with an error."""


def explained(place: str, error: Exception) -> LakeloopError:
    """What a client of object storage says of a place such as s3://bucket/x, as an error of ours.

    Its text is one line. Of a server's answer it has only the code, and of a request's address no query: the rest may
    repeat what was signed, or be a key itself.
    """
    text = _COLOUR.sub("", str(error)).partition("Debug source:")[0]
    text = _ADDRESS.sub(r"://\1", _NOISE.sub("", text))
    code = found[1] if (found := _CODE.search(text)) else ""
    if code == NO_BUCKET:
        bucket = "/".join(place.split("/")[:3])
        return ConfigurationError(f"there is no bucket {bucket}. Make it, or name another in lakeloop.yml")
    if code in _ELSEWHERE:
        return ConfigurationError(
            f"{place} is in another region, or at another endpoint ({code}). Name it: region and endpoint in "
            "storage_options, or AWS_REGION and AWS_ENDPOINT_URL"
        )
    if any(sign in text for sign in _UNREADABLE_KEY):
        said = " ".join(text.split())[:300]
        return ConfigurationError(f"a key below {place} cannot be read: {said}. Rename or remove that object")
    if code in _REFUSALS or any(sign in text for sign in _NO_CREDENTIALS):
        return ConfigurationError(
            f"{place} may not be used ({code or 'no valid credentials were found'}). Credentials come from the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role), or from storage_options"
        )
    said = " ".join(text.partition("<")[0].replace("↳", ":").split())[:300].rstrip(" :-")
    return StorageError(
        f"object storage failed at {place}: {f'{code}, ' if code else ''}{said}. What was committed stays. Run again "
        "when it answers"
    )
