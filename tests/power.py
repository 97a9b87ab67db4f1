"""What a disk holds when the power fails: the least that fsync, rename and unlink leave certain."""

import os
import shutil
from pathlib import Path


class Disk:
  """Watches a directory. Content is certain once its file, and a name once its directory, is synced; what is removed is gone at once.

  Use: with monkeypatch.context() as patch: disk = Disk(root, patch); ...; disk.left() or disk.after_failure(elsewhere).

  Args:
    root: a directory that is certain to be there.
    patch: a MonkeyPatch.
    synced: False: fsync does nothing, as if nobody called it.
  Attributes:
    removals: (path, what is certain to be left of the directory after it was removed), in order.
  """

  def __init__(self, root: Path, patch, synced: bool = True):
    self.root, self.removals = root.resolve(), []
    self._content: dict[int, bytes] = {}  # of inodes
    self._names: dict[Path, bytes] = {}  # of files
    self._folders = {self.root}
    plain = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
    remove_tree = shutil.rmtree

    def fsync(descriptor):
      plain["fsync"](descriptor)
      if synced:
        self._sync(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def replace(old, new, **options):
      plain["replace"](old, new, **options)
      old, new = Path(old).resolve(), Path(new).resolve()
      self._names.pop(old, None)
      if new in self._names and new.stat().st_ino not in self._content:  # the name may be there before the content is
        self._names[new] = b""

    def unlink(path, **options):
      plain["unlink"](path, **options)
      if not options.get("dir_fd"):
        self._remove(Path(path).absolute())

    def rmtree(path, *arguments, **options):
      remove_tree(path, *arguments, **options)
      self._remove(Path(path).absolute())

    for name, one in (("fsync", fsync), ("replace", replace), ("unlink", unlink)):
      patch.setattr(os, name, one)
    patch.setattr(shutil, "rmtree", rmtree)

  def _sync(self, path: Path) -> None:
    if not path.is_relative_to(self.root):
      return
    if path.is_file():
      self._content[path.stat().st_ino] = path.read_bytes()
      return
    for one in path.iterdir():
      if one.is_dir():
        self._folders.add(one)
      else:
        self._names[one] = self._content.get(one.stat().st_ino, b"")

  def _remove(self, path: Path) -> None:
    if path.is_relative_to(self.root):
      self._names = {name: content for name, content in self._names.items() if not name.is_relative_to(path)}
      self._folders = {folder for folder in self._folders if not folder.is_relative_to(path)}
      self.removals.append((path.relative_to(self.root), self.left()))

  def left(self) -> dict[str, bytes]:
    """Relative path -> content."""
    return {
      str(file.relative_to(self.root)): content
      for file, content in self._names.items()
      if all(one in self._folders for one in file.parents if one.is_relative_to(self.root))
    }

  def after_failure(self, elsewhere: Path) -> Path:
    """A copy of what is left, to go on from."""
    for name, content in self.left().items():
      (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
      (elsewhere / name).write_bytes(content)
    return elsewhere
