"""What both programs do at their start: read the files, open the log, heed signals."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, Protocol, TypeVar

from OpenSSL import SSL
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.usage import Options, UsageError

from relaygate.admin import AdminError, Answer, Arguments
from relaygate.config import ConfigError, IdentityFiles, LogConfig
from relaygate.identity import Identity, IdentityError, Role, load_identity
from relaygate.keeper import Keeper
from relaygate.logs import FileObserver, open_log
from relaygate.notify import Notifier
from relaygate.turn import shorten

# Descriptors beside two for each session: listeners, channels, pipes, files.
SPARE_DESCRIPTORS = 1024


class NodeOptions(Options):
    """The options of both programs, beside twistd's own."""

    optParameters: ClassVar = [["config", "c", None, "The configuration file (TOML)."]]

    def postOptions(self) -> None:
        """Raises :class:`UsageError` without a configuration."""
        if self["config"] is None:
            raise UsageError("--config FILE is needed")


class IConfig(Protocol):
    """What both configurations have."""

    @property
    def identity(self) -> IdentityFiles:
        """Where the certificate, the key and the authority are."""

    @property
    def log(self) -> LogConfig:
        """Where and how to log."""


N_contra = TypeVar("N_contra", contravariant=True)


class IReloadable(Protocol[N_contra]):
    """What both nodes are, beside being services."""

    running: Any

    def use_identity(self, identity: Identity) -> None:
        """Use *identity* for new connections."""

    def reload(self, config: N_contra) -> list[str]:
        """
        Make the difference to *config*, and read again what else the node has from files.

        The answer has a line for each thing that changed.  Raises :class:`IdentityError` or
        :class:`SSL.Error`, and then nothing has.
        """


C = TypeVar("C", bound=IConfig)


def make_program(
    options: NodeOptions,
    reactor: Any,
    role: Role,
    load: Callable[[Path], C],
    make_node: Callable[[C, Identity, Any], Any],
) -> Program:
    """
    Make the service that twistd runs.

    Wrong files end the program with exit status 2 and one line for each mistake on standard error.
    """
    path = Path(options["config"])
    try:
        config = load(path)
    except ConfigError as error:
        _refuse_to_start(*(str(problem) for problem in error.problems))
    files = config.identity
    read = partial(load_identity, files.certificate, files.key, files.ca, role=role)
    try:
        identity = read(now=datetime.now(UTC))
    except IdentityError as error:
        _refuse_to_start(str(error))
    try:
        node = make_node(config, identity, reactor)
    except IdentityError as error:
        _refuse_to_start(str(error))
    keeper = Keeper(
        "identity",
        identity,
        lambda now: read(now=now),
        node.use_identity,
        (files.certificate, files.key, files.ca),
        reactor,
    )

    notifier = Notifier(os.environ, os.getpid())

    def load_aside() -> Deferred[C]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), load, path)

    reloader = Reloader(load_aside, keeper, node)
    commands = getattr(node, "commands", None)
    if commands is not None:
        commands.register("reload", reloader.answer)

    def reload() -> None:
        notifier.reloading(time.monotonic())
        reloader().addCallback(lambda _: notifier.ready(reactor))

    program = Program(
        reactor,
        reload,
        _open_log(config.log, options.parent),
        max_sessions=getattr(config, "max_sessions", 0),
        notifier=notifier,
        node=node,
    )
    keeper.setServiceParent(program)
    IService(node).setServiceParent(program)
    return program


class IDrained(Protocol):
    """A node at the end of the program."""

    @property
    def drain_s(self) -> float:
        """Seconds that its sessions have to end; 0 is none."""

    def drain(self, limit_s: float) -> Deferred[None]:
        """Take no new sessions; fires when those that run have ended, or the time has."""


class Reloader(Generic[C]):
    """
    Reads everything that is in files again; a file that is wrong leaves the node as it is.

    *load* reads the configuration, in a thread: a hundred thousand networks take half a second, in
    which sessions go on.  Its result is put to work in the reactor, one after the other: whoever
    orders a reload gets what the files held after that.
    """

    log = Logger()

    def __init__(
        self, load: Callable[[], Deferred[C]], keeper: Keeper[Identity], node: IReloadable[C]
    ) -> None:
        self._load = load
        self._keeper = keeper
        self._node = node
        self._turn = DeferredLock()
        # By signal: one that has not begun does for all that come meanwhile.
        self._ordered: Deferred[None] | None = None

    def __call__(self) -> Deferred[None]:
        """Reload, and tell the log; fires when that is done."""
        done: Deferred[None] = Deferred()
        if self._ordered is not None:
            self._ordered.chainDeferred(done)
            return done
        self._ordered = Deferred()
        self._ordered.chainDeferred(done)
        reloading = self._turn.run(self._reload_as_ordered)
        reloading.addErrback(lambda failure: self.log.failure("reloading", failure))
        return done

    async def _as_ordered(self) -> None:
        ordered, self._ordered = self._ordered, None
        assert ordered is not None
        try:
            await self._reload()
        except _Refused:
            # The log has it already.
            pass
        finally:
            ordered.callback(None)

    def _reload_as_ordered(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._as_ordered())

    async def answer(self, arguments: Arguments) -> Answer:
        """Reload for an operator, who is told what the log is told."""
        arguments.finish()
        try:
            changes: list[str] = await self._turn.run(
                lambda: Deferred.fromCoroutine(self._reload())
            )
        except _Refused as refused:
            raise AdminError("; ".join(refused.reasons)[:4096]) from None
        return {"changes": changes}

    async def _reload(self) -> list[str]:
        """Reload; the answer has what changed.  Raises :class:`_Refused`."""
        self._keeper.reload()
        try:
            config = await self._load()
            if not self._node.running:
                # It has stopped meanwhile, and is not to open anything again.
                raise self._refused("the node has stopped")
            changes = self._node.reload(config)
        except ConfigError as error:
            raise self._refused(*(str(problem) for problem in error.problems)) from None
        except (IdentityError, SSL.Error) as error:
            raise self._refused(str(error)) from None
        self.log.info("configuration read again: {changes} changes", changes=len(changes))
        for change in changes:
            self.log.info("configuration: {change}", change=change)
        return changes

    def _refused(self, *reasons: str) -> _Refused:
        for reason in reasons:
            self.log.error("configuration not changed: {reason}", reason=reason)
        return _Refused(reasons)


class _Refused(Exception):
    """The files cannot be used; *reasons* has every mistake."""

    def __init__(self, reasons: tuple[str, ...]) -> None:
        super().__init__()
        self.reasons = reasons


def _refuse_to_start(*lines: str) -> NoReturn:
    for line in lines:
        sys.stderr.write(line + "\n")
    raise SystemExit(2)


def _open_log(config: LogConfig, twistd: Any) -> FileObserver | None:
    """The log; None if twistd was told to log its own way."""
    twistd = twistd or {}
    if twistd.get("logger") or twistd.get("syslog"):
        return None
    file = config.file
    if file is None and twistd.get("logfile") not in (None, "-"):
        file = Path(twistd["logfile"])
    if file is None and twistd and not twistd.get("nodaemon"):
        # A daemon has no standard output; this is the name that twistd itself would use.
        file = Path("twistd.log").absolute()
    try:
        return open_log(file, format=config.format, level=config.level)
    except OSError as error:
        _refuse_to_start(f"log.file: cannot open {str(file)!r}: {error.strerror}")


class Program(MultiService):
    """
    The whole program: the node, the keeper of its identity, its log, and its signals.

    *reload* reads again what is in files, at SIGHUP.
    *max_sessions* is how many sessions the configuration allows, if it says so.
    *notifier* tells systemd, where the program runs under it.
    *node* lets its sessions end before it stops; a second signal cuts that short.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        reload: Callable[[], object],
        observer: FileObserver | None,
        *,
        max_sessions: int = 0,
        notifier: Notifier | None = None,
        node: IDrained | None = None,
    ) -> None:
        super().__init__()
        self._node = node
        self._notifier = notifier or Notifier({}, 0)
        self._max_sessions = max_sessions
        self._reactor = reactor
        self._reload = reload
        self._observer = observer

    def setServiceParent(self, parent: Any) -> None:
        """Also gives the application our log, which twistd then uses instead of its own."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        room = max(0, (hard - SPARE_DESCRIPTORS) // 2)
        few = room < self._max_sessions
        write = self.log.warn if few else self.log.info
        write(
            "descriptors: {limit}, enough for about {sessions} sessions{remedy}",
            limit=hard,
            sessions=room,
            remedy=f" of the {self._max_sessions} that are allowed: raise the limit" if few else "",
        )
        signal.signal(signal.SIGHUP, self._from_signal(self._reload))
        if self._observer is not None:
            signal.signal(signal.SIGUSR1, self._from_signal(self._reopen))
        super().startService()
        # A DMZ node's port is open by now; an internal node is ready without its DMZ nodes, which
        # it dials until they are there.
        self._reactor.callLater(0, self._notifier.ready, self._reactor)
        shorten(self._reactor)
        # What is there by now stays. A full collection that looks at it takes 20 ms, in which
        # every session waits.
        gc.collect()
        gc.freeze()

    def stopService(self) -> Any:
        """See :class:`twisted.application.service.IService`."""
        self.log.info("stopping")
        self._notifier.stopping()
        limit_s = self._node.drain_s if self._node is not None else 0.0
        if self._node is None or not limit_s:
            return super().stopService()
        # While the reactor waits for this, its own handlers would only say that it stops already.
        hurried: Deferred[None] = Deferred()

        def hurry() -> None:
            if not hurried.called:
                self.log.info("told to stop again: sessions that run end now")
                hurried.callback(None)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._from_signal(hurry))
        draining = DeferredList(
            [self._node.drain(limit_s), hurried],
            fireOnOneCallback=True,
            fireOnOneErrback=True,
            consumeErrors=True,
        )
        draining.addErrback(lambda failure: self.log.failure("draining", failure))
        return draining.addCallback(lambda _: super(Program, self).stopService())

    def _reopen(self) -> None:
        assert self._observer is not None
        try:
            self._observer.reopen()
        except OSError as error:
            self.log.error("the log stays where it was: {reason}", reason=str(error))
        else:
            self.log.info("log reopened")

    def _from_signal(self, act: Callable[[], object]) -> Callable[[int, object], None]:
        def handler(_number: int, _frame: object) -> None:
            self._reactor.callFromThread(act)

        return handler
