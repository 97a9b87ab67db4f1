"""JSON over HTTP: tried again where a server is busy, in so many threads at once."""

import concurrent.futures
import functools
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Rejected", "answers", "post_all"]

_BUSY = (408, 409, 425, 429)  # and all from 500
_LONGEST = 60.0  # seconds between two tries


class Rejected(RuntimeError):
  """A server does not take a request as it is."""


def post_all(
  url: str,
  bodies: Sequence[Mapping[str, Any]],
  *,
  key: str | None,
  concurrency: int,
  retries: int,
  backoff: float,
  timeout: float,
) -> list[dict[str, Any]]:
  """Responses to requests, in their order.

  Args:
    url: of the endpoint.
    bodies: of the requests.
    key: sent as a bearer token.
    concurrency: requests at once.
    retries: of each request, where the server is busy or cannot be reached.
    backoff: seconds before the first of them; doubled each time, unless the server says how long.
    timeout: seconds for each request.
  Raises:
    Rejected: a server does not take a request.
    RuntimeError: one failed once more than `retries`.
  """
  with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
    pending = [pool.submit(_post, url, body, key, retries, backoff, timeout) for body in bodies]
    try:
      return [one.result() for one in pending]
    finally:
      pool.shutdown(wait=True, cancel_futures=True)  # where one failed, the others are not begun


def answers(url: str) -> bool:
  """Whether a server answers there, whatever it says but that it is not ready."""
  try:
    with _opener(url).open(url, timeout=10):
      return True
  except urllib.error.HTTPError as error:
    error.close()
    return error.code < 500
  except (OSError, http.client.HTTPException):
    return False


def _post(url: str, body: Mapping[str, Any], key: str | None, retries: int, backoff: float, timeout: float) -> Any:
  headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
  request = urllib.request.Request(url, json.dumps(body).encode(), headers)
  for attempt in range(retries + 1):
    wait = min(_LONGEST, backoff * 2**attempt) * random.uniform(1, 1.5)  # not all at once again
    try:
      with _opener(url).open(request, timeout=timeout) as response:
        return json.loads(response.read())
    except urllib.error.HTTPError as error:
      with error:
        said = error.read().decode(errors="replace").strip()[:300]
      failure = f"{url} answered {error.code}: {said}"
      if error.code not in _BUSY and error.code < 500:
        raise Rejected(failure) from None
      wait = _asked(error.headers.get("Retry-After"), wait)
    except ValueError as error:  # not JSON
      failure = f"{url} answered no JSON: {error}"
    except (OSError, http.client.HTTPException) as error:
      failure = f"{url} cannot be reached: {getattr(error, 'reason', None) or error or type(error).__name__}"
    if attempt < retries:
      time.sleep(wait)
  raise RuntimeError(f"{failure} ({retries + 1} tries)")


def _asked(header: str | None, wait: float) -> float:
  """Seconds that a server asks for, or as it would have been."""
  try:
    return min(_LONGEST, max(0.0, float(header or "")))
  except ValueError:
    return wait


def _opener(url: str) -> urllib.request.OpenerDirector:
  """Without a proxy for what runs on this machine."""
  host = urllib.parse.urlsplit(url).hostname or ""
  return _opener_of(host == "localhost" or host.startswith("127.") or host == "::1")


@functools.cache
def _opener_of(local: bool) -> urllib.request.OpenerDirector:
  """Reads the certificates that it trusts, which takes longer than a request."""
  return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if local else []))
