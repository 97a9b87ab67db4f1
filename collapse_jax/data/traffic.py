"""Rows in time: autoregressions and network flows of a known law, and flows of files as UGR'16 writes them.

A series is [length, columns]: numbers, those of bounded columns in [0, 1], and codes 0, 1, ... as whole floats.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from collapse_jax.random import normal, uniform
from collapse_jax.refused import Refused
from collapse_jax.types import Array

__all__ = ["PORTS", "Column", "Series", "autoregression", "flows", "read_flows"]

# What stands for numbers: well-known ports, others below 1024, and eight ranges of those above.
PORTS = ("0", "22", "25", "53", "80", "123", "443", "below 1024", *(f"from {1024 + 8064 * i}" for i in range(8)))
_LOW = (0, 22, 25, 53, 80, 123, 443)
_FIRST_HIGH = 8
TCP, UDP, OTHER = range(3)
_LOG_PACKETS, _LOG_BYTES, _LOG_SECONDS, _LOG_DURATION = 12.83, 24.0, math.log(1431), math.log(364)
_LEAST, _MOST = 41, 65536  # bytes of a packet


class Column(NamedTuple):
  """A column of a series.

  Attributes:
    name: what results call it.
    num_codes: 0: numbers; else codes below that.
    bounded: numbers lie in [0, 1].
    log_scale: of sizes, whole numbers of at least 1: exp(log_scale * value); 0: the column holds none.
  """

  name: str
  num_codes: int = 0
  bounded: bool = False
  log_scale: float = 0.0


class Series(NamedTuple):
  """Where rows in time come from.

  Attributes:
    name: what results call it.
    columns: in the order in which rows hold them.
    length: rows of a series.
    draw: (key, num) -> [num, length, columns].
    log_density: (rows [num, length, columns]) -> [num, length], of each row given those before it; None: not known.
    rules: name -> (rows [..., columns]) -> [...] bool, what holds for every real row.
    max_series: how many there are; None: any number.
    coefficients: of lags 1.. of the only or first column; (): unknown.
    coupling: of the second column with the first of the same row; None: unknown.
    noise_ratio: variance of what is added to the second column over that of the first; None: unknown, or rows depend on the past.
  """

  name: str
  columns: tuple[Column, ...]
  length: int
  draw: Callable[[Array, int], Array]
  log_density: Callable[[Array], Array] | None = None
  rules: Mapping[str, Callable[[Array], Array]] = {}
  max_series: int | None = None
  coefficients: tuple[float, ...] = ()
  coupling: float | None = None
  noise_ratio: float | None = None


def autoregression(
  length: int, coefficients=(0.9,), noise_std: float = 0.1, *, coupling: float | None = None, coupled_std: float = 0.1
) -> Series:
  """x_t = sum_k a_k x_{t-k} + e, from an empty past, and where there is a coupling b a column y_t = b x_t + e'.

  The defaults with coupling=0.9 are the simulated set of STAN (2009.12740), a = b = 0.9, noise (1 - a) and (1 - b);
  `theory.simulated_traffic` has its moments.

  Args:
    length: rows, at least 1.
    coefficients: a_1, a_2, ...; (): rows are independent.
    noise_std, coupled_std: standard deviations of e and e', above 0.
    coupling: b; None: one column.
  """
  lags = tuple(float(a) for a in np.atleast_1d(np.asarray(coefficients, float)))
  _check_length(length)
  for name, value in (("noise_std", noise_std), ("coupled_std", coupled_std)):
    if not 0 < value < math.inf:
      raise Refused.must_be(name, "above 0 and finite", value)
  columns = (Column("x"),) if coupling is None else (Column("x"), Column("y"))

  def draw(key, num):
    noise = normal(key, (num, length, len(columns)))

    def step(past, e):
      x = sum(a * past[:, k] for k, a in enumerate(lags)) + noise_std * e
      return jnp.concatenate([x[:, None], past], axis=1)[:, : len(lags)], x

    x = jax.lax.scan(step, jnp.zeros((num, len(lags))), noise[..., 0].T)[1].T
    return jnp.stack([x] if coupling is None else [x, coupling * x + coupled_std * noise[..., 1]], axis=-1)

  def log_density(rows):
    x = rows[..., 0]
    padded = jnp.concatenate([jnp.zeros((len(x), len(lags))), x], axis=1)
    expected = sum(a * padded[:, len(lags) - k : len(lags) - k + length] for k, a in enumerate(lags, 1))
    found = _log_normal(x - expected, noise_std)
    return found if coupling is None else found + _log_normal(rows[..., 1] - coupling * x, coupled_std)

  ratio = None if lags else (coupled_std / noise_std) ** 2
  return Series("autoregression", columns, length, draw, log_density, {}, None, lags, coupling, ratio)


class _Law(NamedTuple):
  """Of applications: arrays [applications]. Sizes are normal in logits, and a mixture of two in packets."""

  share: Any
  protocol: Any
  port: Any
  outward: Any  # P(the host is the client)
  delta: Any
  small: Any  # P(few packets)
  packets: Any  # mean where they are few; many are 2 more
  filled: Any  # how much of the range of sizes a packet takes


# https, http, dns, ntp, ssh, smtp, icmp
_LAW = _Law(
  *map(
    np.array,
    (
      (0.36, 0.16, 0.24, 0.08, 0.05, 0.04, 0.07),
      (TCP, TCP, UDP, UDP, TCP, TCP, OTHER),
      (6, 4, 3, 5, 1, 2, 0),
      (0.5, 0.5, 0.6, 0.5, 0.3, 0.7, 0.4),
      (-1.0, -0.8, -1.6, 0.6, 0.2, 0.0, 0.4),
      (0.5, 0.6, 0.95, 0.97, 0.4, 0.6, 0.9),
      (-1.8, -1.8, -3.2, -3.2, -1.4, -1.6, -3.0),
      (0.6, 0.2, -1.0, -1.4, -0.4, 0.1, -1.2),
    ),
  )
)
_STAY, _MEMORY = 0.6, 0.5  # P(the application stays), and memory of logits from row to row
_HIGH_PORTS = np.array([0.05, 0.05, 0.05, 0.1, 0.15, 0.2, 0.2, 0.2])  # of the client


def flows(length: int) -> Series:
  """Network flows of a host whose law is known exactly: `log_density`, and rules that hold by construction.

  The application of a flow is a Markov chain and shows in protocol and port; packets are a mixture of two sizes with memory, bytes
  lie between 41 and 65,536 a packet, durations go with packets. Columns: delta (since the last flow), protocol, direction, source
  and destination port (`PORTS`), packets, bytes, duration.

  Args:
    length: flows of a host, at least 1.
  """
  _check_length(length)
  law = _LAW
  applications = np.full(len(PORTS), -1)
  applications[law.port] = np.arange(len(law.port))
  change = _STAY * np.eye(len(law.share)) + (1 - _STAY) * law.share[None]

  def draw(key, num):
    """All hosts at once, a row after the other."""
    normal_key, uniform_key = jax.random.split(key)
    noise = normal(normal_key, (num, length, 4)).transpose(1, 0, 2)
    chance = uniform(uniform_key, num * length * 4).reshape(num, length, 4).transpose(1, 0, 2)
    table = jnp.asarray(np.cumsum(np.concatenate([change, law.share[None]]), axis=1), float)
    high_ports = jnp.asarray(np.cumsum(_HIGH_PORTS), float)
    at = lambda values, app: jnp.asarray(values, float)[app]

    def step(before, given):
      app, delta, packets = before
      e, u = given
      app = jnp.minimum(jnp.sum(table[app] < u[:, :1], axis=1), len(law.share) - 1)
      port = jnp.asarray(law.port)[app]
      inward = u[:, 1] >= at(law.outward, app)
      other = _FIRST_HIGH + jnp.minimum(jnp.sum(high_ports[None] < u[:, 2:3], axis=1), len(_HIGH_PORTS) - 1)
      other = jnp.where(port == 0, 0, other)
      many = u[:, 3] >= at(law.small, app)
      delta = at(law.delta, app) + _MEMORY * delta + 0.6 * e[:, 0]
      sizes = at(law.packets, app) + 2.0 * many + _MEMORY * packets + 0.35 * e[:, 1]
      filled = at(law.filled, app) + 0.3 * (sizes + 2) + 0.4 * e[:, 2]
      lasts = -1 + 0.8 * (sizes + 2) + 0.5 * e[:, 3]
      few = jax.nn.sigmoid(sizes)
      row = jnp.stack(
        [
          jax.nn.sigmoid(delta),
          at(law.protocol, app),
          inward.astype(float),
          jnp.where(inward, port, other).astype(float),
          jnp.where(inward, other, port).astype(float),
          few,
          _bytes(few, jax.nn.sigmoid(filled)),
          jax.nn.sigmoid(lasts),
        ],
        axis=-1,
      )
      return (app, delta - at(law.delta, app), sizes - at(law.packets, app) - 1), row

    nothing = jnp.zeros(num)
    start = jnp.full(num, len(law.share)), nothing, nothing
    return jax.lax.scan(step, start, (noise, chance))[1].transpose(1, 0, 2)

  def log_density(rows):
    codes = rows[..., 1:5].astype(jnp.int32)
    inward = codes[..., 1] == 1
    port, other = jnp.where(inward, codes[..., 2], codes[..., 3]), jnp.where(inward, codes[..., 3], codes[..., 2])
    known = jnp.asarray(applications)[port]
    app = jnp.maximum(known, 0)
    at = lambda values: jnp.asarray(values, float)[app]
    logits = lambda column: jnp.log(rows[..., column]) - jnp.log1p(-rows[..., column])
    before = lambda values: jnp.concatenate([jnp.zeros((len(rows), 1)), values[:, :-1]], axis=1)
    changes = jnp.concatenate([at(law.share)[:, :1], jnp.asarray(change, float)[app[:, :-1], app[:, 1:]]], axis=1)
    client = jnp.where(port == 0, other == 0, _padded(_HIGH_PORTS)[other])
    allowed = (known >= 0) & (codes[..., 0] == jnp.asarray(law.protocol)[app])
    discrete = jnp.where(inward, 1 - at(law.outward), at(law.outward)) * changes * client * allowed
    delta, sizes = logits(0), logits(5)
    share = (_LOG_BYTES * rows[..., 6] - _LOG_PACKETS * rows[..., 5] - math.log(_LEAST)) / math.log(_MOST / _LEAST)
    filled = jnp.log(share) - jnp.log1p(-share)
    found = jnp.log(discrete)
    found += _log_normal(delta - at(law.delta) - _MEMORY * before(delta - at(law.delta)), 0.6)
    away = sizes - at(law.packets) - _MEMORY * before(sizes - at(law.packets) - 1)
    found += jnp.logaddexp(
      jnp.log(at(law.small)) + _log_normal(away, 0.35), jnp.log1p(-at(law.small)) + _log_normal(away - 2.0, 0.35)
    )
    found += _log_normal(filled - at(law.filled) - 0.3 * (sizes + 2), 0.4)
    found += _log_normal(logits(7) + 1 - 0.8 * (sizes + 2), 0.5)
    stretch = lambda values: -jnp.log(values) - jnp.log1p(-values)  # from logits to values
    found += stretch(rows[..., 0]) + stretch(rows[..., 5]) + stretch(rows[..., 7]) + stretch(share)
    return found + math.log(_LOG_BYTES / math.log(_MOST / _LEAST))

  return Series("flows", _COLUMNS, length, draw, log_density, _RULES)


def read_flows(path, length: int, *, internal: str, columns: Mapping[str, str] | None = None) -> Series:
  """Flows of a CSV file as UGR'16 has them, a series of consecutive flows of one internal host each.

  Files without a header have the columns of UGR'16: te, td, sa, da, sp, dp, pr, flg, fwd, stos, pkt, byt, label. Others need te
  (when a flow ended), td (seconds), sa, da, sp, dp, pr, pkt and byt by name.

  Args:
    path: of the file.
    length: flows of a series; what is left of a host is not used.
    internal: what addresses of internal hosts begin with, such as "42.219.".
    columns: name of the file for names above.
  Raises:
    Refused: a file that cannot be read, columns that are missing, a row that is no flow, or no host with so many flows.
  """
  import pandas as pd

  from collapse_jax.data import files

  _check_length(length)
  path = files.home(path)
  shown = files.shown(path)
  names = dict(columns or {})
  try:
    first = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].tolist()
    header = {names.get(name, name) for name in _NEEDED} <= set(first)
    table = pd.read_csv(path, header=0 if header else None, names=None if header else _UGR16[: len(first)], dtype=str)
  except (OSError, ValueError) as error:
    raise Refused(f"{shown} cannot be read as CSV: {str(error).splitlines()[0]}", argument="path") from None
  table = table.rename(columns={theirs: ours for ours, theirs in names.items()})
  missing = [name for name in _NEEDED if name not in table]
  if missing:
    raise Refused(f"{shown} has no column {', '.join(missing)}.", argument="path")
  numbers = {name: pd.to_numeric(table[name], errors="coerce").to_numpy(float) for name in _NUMBERS}
  ended = pd.to_datetime(table["te"], errors="coerce")
  least = {"td": 0, "sp": 0, "dp": 0, "pkt": 1, "byt": 1}
  bad = np.array([~(numbers[name] >= low) for name, low in least.items()] + [ended.isna()]).any(axis=0)
  bad |= (numbers["sp"] > 65535) | (numbers["dp"] > 65535)
  if bad.any():
    raise Refused(f"{shown}: row {int(np.argmax(bad)) + 1 + header} is no flow.", argument="path")
  from_host = table["sa"].str.startswith(internal, na=False).to_numpy()
  to_host = table["da"].str.startswith(internal, na=False).to_numpy()
  host = table["sa"].where(from_host, table["da"])
  kept = np.flatnonzero(from_host | to_host)
  seconds = ended.to_numpy("datetime64[s]").astype(np.int64)
  series = []
  for _, rows in pd.Series(kept).groupby(host.to_numpy()[kept]):
    order = rows.to_numpy()[np.argsort(seconds[rows], kind="stable")]
    encoded = _encoded(
      np.diff(seconds[order], prepend=seconds[order[:1]]),
      table["pr"].to_numpy()[order],
      ~from_host[order],
      {name: values[order] for name, values in numbers.items()},
    )
    whole = len(encoded) // length * length
    series += list(encoded[:whole].reshape(-1, length, len(_COLUMNS)))
  if not series:
    raise Refused(f"{shown} has no host {internal}* with {length} flows.", argument="length", value=length)
  known = np.array(series, np.float32)

  def draw(key, num):
    if num > len(known):
      raise Refused.must_be("num_samples", f"at most {len(known)}, the series of {shown} less those held out", num)
    return jnp.asarray(known)[jax.random.permutation(key, len(known))[:num]]

  return Series(shown, _COLUMNS, length, draw, None, _RULES, len(known))


_UGR16 = ["te", "td", "sa", "da", "sp", "dp", "pr", "flg", "fwd", "stos", "pkt", "byt", "label"]
_NUMBERS = ("td", "sp", "dp", "pkt", "byt")
_NEEDED = ("te", "sa", "da", "pr", *_NUMBERS)
_COLUMNS = (
  Column("delta", bounded=True),
  Column("protocol", 3),
  Column("direction", 2),
  Column("source_port", len(PORTS)),
  Column("destination_port", len(PORTS)),
  Column("packets", bounded=True, log_scale=_LOG_PACKETS),
  Column("bytes", bounded=True, log_scale=_LOG_BYTES),
  Column("duration", bounded=True),
)


def _encoded(delta, protocol, inward, numbers) -> np.ndarray:
  """[flows, columns] of what a file says."""
  unit = lambda values, scale: np.clip(values / scale, 0, 1)
  codes = {"TCP": TCP, "UDP": UDP}
  return np.stack(
    [
      unit(np.log1p(np.maximum(delta, 0)), _LOG_SECONDS),
      [codes.get(str(name).upper(), OTHER) for name in protocol],
      inward,
      _port_codes(numbers["sp"]),
      _port_codes(numbers["dp"]),
      unit(np.log(numbers["pkt"]), _LOG_PACKETS),
      unit(np.log(numbers["byt"]), _LOG_BYTES),
      unit(np.log1p(numbers["td"]), _LOG_DURATION),
    ],
    axis=1,
  )


def _port_codes(ports) -> np.ndarray:
  known = np.searchsorted(_LOW, ports)
  is_known = np.isin(ports, _LOW)
  return np.where(ports >= 1024, _FIRST_HIGH + (ports - 1024) // 8064, np.where(is_known, known, _FIRST_HIGH - 1))


def _bytes(packets, filled):
  """The column of bytes, of that of packets and the share of the range of sizes that they fill."""
  return (_LOG_PACKETS * packets + math.log(_LEAST) + math.log(_MOST / _LEAST) * filled) / _LOG_BYTES


def _with_port(rows, *ports):
  return functools.reduce(operator.or_, [rows[..., side] == PORTS.index(port) for side in (3, 4) for port in ports])


def _bytes_fit(rows):
  each = _LOG_BYTES * rows[..., 6] - _LOG_PACKETS * rows[..., 5]
  return (each >= math.log(_LEAST) - 1e-4) & (each <= math.log(_MOST) + 1e-4)


_RULES: Mapping[str, Callable[[Array], Array]] = {
  "web_is_tcp": lambda rows: ~_with_port(rows, "80", "443") | (rows[..., 1] == TCP),
  "dns_is_udp": lambda rows: ~_with_port(rows, "53") | (rows[..., 1] == UDP),
  "ports_of_protocol": lambda rows: (rows[..., 1] == OTHER) == (rows[..., 3] + rows[..., 4] == 0),
  "bytes_of_packets": _bytes_fit,
}


def _padded(high_ports) -> Array:
  """P(code) [ports] of a client's port."""
  return jnp.asarray(np.concatenate([np.zeros(_FIRST_HIGH), high_ports]), float)


def _log_normal(away, std):
  return -0.5 * (away / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))


def _check_length(length) -> None:
  if not isinstance(length, int | np.integer) or length < 1:
    raise Refused.must_be("length", "an integer of at least 1", length)
