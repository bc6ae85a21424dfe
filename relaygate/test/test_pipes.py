"""The shelf of kernel pipes: a few are enough, none is lent with bytes in it, and none is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import resource

from twisted.trial.unittest import SynchronousTestCase

from relaygate.pipes import BIG_BYTES, KEEP_SMALL, MAX_BIG, SMALL_BYTES, Pipe, PipeShelf
from relaygate.test.farend import open_descriptors
from relaygate.test.properties import given, st


class ShelfCase(SynchronousTestCase):
    """A shelf, and a look at the process's descriptors before and after."""

    def setUp(self) -> None:
        before = open_descriptors()
        self.shelf = PipeShelf()
        self.lent: list[Pipe] = []
        self.addCleanup(lambda: self.assertEqual(open_descriptors(), before))
        self.addCleanup(self._end)

    def _end(self) -> None:
        for pipe in self.lent:
            self.shelf.take_back(pipe, empty=False)
        self.assertEqual(self.shelf.lent, 0)
        self.shelf.close()

    def lend(self, *, big: bool = False) -> Pipe:
        """Borrow a pipe until the test is over, or it is given back."""
        self.lent.append(self.shelf.lend(big=big))
        return self.lent[-1]

    def give_back(self, pipe: Pipe, *, empty: bool = True) -> None:
        """Give a pipe back."""
        self.lent.remove(pipe)
        self.shelf.take_back(pipe, empty=empty)

    def kernel(self, granted: int | None) -> None:
        """Have the kernel make every pipe *granted* bytes big, or (None) refuse to resize any."""
        real = fcntl.fcntl

        def answer(descriptor: int, command: int, argument: int = 0) -> int:
            if command == fcntl.F_SETPIPE_SZ:
                if granted is None:
                    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
                return granted
            return real(descriptor, command, argument)

        self.patch(fcntl, "fcntl", answer)


class LendingTests(ShelfCase):
    """Borrowing and giving back."""

    def test_a_pipe(self) -> None:
        """A pipe carries bytes, blocks nobody, and does not pass to programs that are started."""
        for big, capacity in ((False, SMALL_BYTES), (True, BIG_BYTES)):
            pipe = self.lend(big=big)
            self.assertEqual(pipe.capacity, capacity)
            self.assertEqual(fcntl.fcntl(pipe.reader, fcntl.F_GETPIPE_SZ), capacity)
            with self.assertRaises(BlockingIOError):
                os.read(pipe.reader, 1)
            self.assertEqual(os.write(pipe.writer, bytes(2 * capacity)), capacity)
            self.assertFalse(os.get_inheritable(pipe.reader) or os.get_inheritable(pipe.writer))

    def test_one_pipe_serves_many(self) -> None:
        """A pipe that came back empty is the next one lent, small and big."""
        for big in (False, True):
            first = self.lend(big=big)
            self.give_back(first)
            for _ in range(10):
                pipe = self.lend(big=big)
                self.assertIs(pipe, first)
                self.give_back(pipe)

    def test_bytes_of_another_session(self) -> None:
        """A pipe with bytes in it is lent to nobody: it is closed."""
        for big in (False, True):
            pipe = self.lend(big=big)
            os.write(pipe.writer, b"secret")
            self.give_back(pipe, empty=False)
            with self.assertRaises(OSError):
                os.fstat(pipe.reader)
            with self.assertRaises(OSError):
                os.fstat(pipe.writer)
            with self.assertRaises(BlockingIOError):
                os.read(self.lend(big=big).reader, 1)

    def test_lent(self) -> None:
        """The shelf knows how many are out."""
        for expected in (1, 2, 3):
            self.lend()
            self.assertEqual(self.shelf.lent, expected)
        for expected in (2, 1, 0):
            self.give_back(self.lent[0])
            self.assertEqual(self.shelf.lent, expected)

    def test_few_are_kept(self) -> None:
        """After a rush no more than 64 idle small pipes stay open."""
        before = len(open_descriptors())
        rush = [self.lend() for _ in range(KEEP_SMALL + 10)]
        for pipe in rush:
            self.give_back(pipe)
        self.assertEqual(len(open_descriptors()) - before, 2 * KEEP_SMALL)

    def test_close(self) -> None:
        """A closed shelf can be used again, with its whole budget."""
        for _ in range(2):
            for pipe in [self.lend(big=True) for _ in range(MAX_BIG)]:
                self.assertEqual(pipe.capacity, BIG_BYTES)
                self.give_back(pipe)
            self.shelf.close()


class BudgetTests(ShelfCase):
    """Big pipes are few, since the kernel counts them for each user."""

    def test_budget(self) -> None:
        """After 24 big pipes a flow gets a small one; a big one again when one is back."""
        big = [self.lend(big=True) for _ in range(MAX_BIG)]
        self.assertEqual({pipe.capacity for pipe in big}, {BIG_BYTES})
        self.assertEqual(self.lend(big=True).capacity, SMALL_BYTES)
        self.give_back(big[0])
        self.assertIs(self.lend(big=True), big[0])

    def test_closed_pipes_leave_the_budget(self) -> None:
        """Pipes that came back with bytes are replaced, as often as it happens."""
        for _ in range(3 * MAX_BIG):
            pipe = self.lend(big=True)
            self.assertEqual(pipe.capacity, BIG_BYTES)
            self.give_back(pipe, empty=False)

    def test_kernel_refuses(self) -> None:
        """A kernel that resizes no pipe gives pipes of its own size, and is asked once only."""
        self.kernel(None)
        own = self.lend(big=True)
        self.assertEqual(own.capacity, fcntl.fcntl(own.reader, fcntl.F_GETPIPE_SZ))
        self.give_back(own)
        made = len(open_descriptors())
        for _ in range(10):
            pipe = self.lend(big=True)
            self.assertIs(pipe, own)
            self.give_back(pipe)
        self.assertEqual(len(open_descriptors()), made)

    def test_kernel_grants_little(self) -> None:
        """Once the user's budget is spent the kernel makes tiny pipes: they are used as such."""
        self.kernel(4096)
        for big in (False, True):
            self.assertEqual(self.lend(big=big).capacity, 4096)

    def test_budget_spent_midway(self) -> None:
        """Big pipes from before the refusal stay in use, and small ones do for the rest."""
        first = self.lend(big=True)
        self.kernel(SMALL_BYTES)
        self.assertEqual(self.lend(big=True).capacity, SMALL_BYTES)
        self.give_back(first)
        self.assertIs(self.lend(big=True), first)
        self.assertEqual(self.lend(big=True).capacity, SMALL_BYTES)

    def test_no_descriptors(self) -> None:
        """Where the process may open nothing more, borrowing fails and loses nothing (84)."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = open_descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            for big in (False, True):
                with self.assertRaises(OSError) as caught:
                    self.shelf.lend(big=big)
                self.assertEqual(caught.exception.errno, errno.EMFILE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(open_descriptors(), before)
        self.assertEqual(self.shelf.lent, 0)
        self.assertEqual(self.lend(big=True).capacity, BIG_BYTES)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("lend"), st.booleans()),
        st.tuples(st.just("give back"), st.booleans()),
    ),
    max_size=60,
)


class AnyOrderTests(SynchronousTestCase):
    """Whatever the order of borrowing and giving back is."""

    @given(_STEPS)
    def test_nothing_is_lost(self, steps: list[tuple[str, bool]]) -> None:
        """No pipe is lent twice, none with bytes in it, and all are closed in the end."""
        before = open_descriptors()
        shelf = PipeShelf()
        lent: list[Pipe] = []
        for step, flag in steps:
            if step == "lend":
                pipe = shelf.lend(big=flag)
                self.assertNotIn(pipe, lent)
                with self.assertRaises(BlockingIOError):
                    os.read(pipe.reader, 1)
                lent.append(pipe)
            elif lent:
                pipe = lent.pop(0)
                if flag:
                    os.write(pipe.writer, b"left")
                shelf.take_back(pipe, empty=not flag)
            self.assertEqual(shelf.lent, len(lent))
        for pipe in lent:
            shelf.take_back(pipe, empty=True)
        shelf.close()
        self.assertEqual(open_descriptors(), before)
