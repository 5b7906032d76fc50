"""Reading sockets: included by core.pyx."""

cdef class Channel:
    """Where the reads of one connection go: to an exchange, or to a flight of the lane."""

    cdef readonly object connection
    cdef public Py_ssize_t left
    cdef public double shift
    cdef list _reads
    cdef array.array _marks
    cdef Flight flight
    cdef int landings
    cdef char* taken  # what came for the flight
    cdef double* instants  # of its reads
    cdef int64_t* ends  # of its reads, in what came
    cdef int64_t size, room, reads, places, body

    def __init__(self, connection):
        self.connection = connection

    def __dealloc__(self):
        free(self.taken)
        free(self.instants)
        free(self.ends)

    def expect(self, list reads, array.array marks, double shift):
        """From now on they go there."""
        self._reads = reads
        self._marks = marks
        self.shift = shift
        self.left = 0

    def rest(self):
        """Nothing is expected: whatever comes is looked at."""
        self._reads = None
        self.left = 0

    cpdef bint took(self, bytes data, double instant):
        """Keep what was read at an instant (monotonic); whether it has to be looked at."""
        cdef Py_ssize_t size = len(data), count
        if self._reads is None:
            return True
        count = len(self._marks)
        array.resize_smart(self._marks, count + 1)
        self._marks.data.as_doubles[count] = instant + self.shift
        self._reads.append(data)
        self.left -= size
        return self.left <= 0 or size < 4 or not memcmp(
            PyBytes_AS_STRING(data) + size - 4, b"\r\n\r\n", 4)

    def hand_over(self):
        """Whoever flies goes the general way from here."""
        if self.flight is not None:
            self.flight.lane.hand_over(self.flight)

    cdef int fly(self, Flight flight) except -1:
        """What comes is the flight's."""
        self.flight = flight
        self.size = self.reads = self.body = 0
        return 0

    cdef int keep(self, const char* data, int64_t size, double instant) except -1:
        """Keep what was read for the flight."""
        cdef int64_t room = self.room or FIRST_ROOM
        while room < self.size + size:
            room *= 2
        if room != self.room:
            self.taken = <char*> _grown(self.taken, room)
            self.room = room
        if self.reads == self.places:
            self.places = 2 * self.places or 4
            self.ends = <int64_t*> _grown(self.ends, self.places * sizeof(int64_t))
            self.instants = <double*> _grown(self.instants, self.places * sizeof(double))
        memcpy(self.taken + self.size, data, size)
        self.size += size
        self.ends[self.reads] = self.size
        self.instants[self.reads] = instant + self.shift
        self.reads += 1
        return 0

    cdef int look(self) except -2:
        """1: the answer ends here, 0: it goes on, -1: it is not plain."""
        cdef const char* end
        if not self.body:
            end = blank_line(self.taken, self.size)
            if end == NULL:
                return -1 if self.size > LONGEST_PLAIN else 0
            if not self.flight.lane.is_plain(self.taken, end + 4 - self.taken):
                return -1
            self.body = end + 4 - self.taken
        if self.size - self.body > KEPT or self.reads > MOST_READS:
            return -1
        if self.size - self.body < 4 or memcmp(self.taken + self.size - 4, b"\r\n\r\n", 4):
            return 0
        # The end of a body, or of something that is not plain: trailers, a size written otherwise.
        end = self.taken + self.size - 7
        return 1 if self.size - self.body >= 7 and not memcmp(end, b"\r\n0", 3) else -1


cdef void* _grown(void* there, size_t size) except NULL:
    cdef void* more = realloc(there, size)
    if more == NULL:
        raise MemoryError
    return more


cdef class Inlet:
    """Reads every stamped socket of a pool, each once in a turn, with the kernel's stamp."""

    cdef int _epoll
    cdef dict _channels
    cdef object _clocks, _stats, _loop
    cdef double _base, _offset
    cdef list _ended
    cdef bint _going_on

    def __init__(self, loop, clocks, stats):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise _os_error()
        self._channels = {}
        self._ended = []
        self._loop, self._clocks, self._stats = loop, clocks, stats
        loop.add_reader(self._epoll, self._readable)

    def watch(self, own, Channel channel):
        """Read a socket from now on; OSError."""
        cdef epoll_event event
        cdef int fd = own.fileno()
        memset(&event, 0, sizeof(event))
        event.events = EPOLLIN
        event.data.fd = fd
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise _os_error()
        self._channels[fd] = channel

    def forget(self, own):
        """Read it no more."""
        cdef epoll_event event
        cdef int fd = own.fileno()
        if self._channels.pop(fd, None) is not None:
            epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, &event)

    def close(self):
        """Let go of the event loop."""
        if self._epoll >= 0:
            self._loop.remove_reader(self._epoll)
            os.close(self._epoll)
            self._epoll = -1

    def _readable(self):
        """Read what is there, then deal with the ends of answers.

        To look again costs less than a turn of the event loop, where there is much.
        """
        cdef double until = monotonic() + PORTION
        cdef int count = self._read()
        while count > 1 or self._ended:
            if self._ended:
                self._land(until)
            if monotonic() > until:
                break
            count = self._read()
        if self._ended and not self._going_on:
            self._going_on = True
            self._loop.call_soon(self._go_on)

    def _go_on(self):
        self._going_on = False
        if self._epoll >= 0:
            self._readable()

    cdef int _land(self, double until) except -1:
        """At least one, and as many as there is time for."""
        cdef list ended = self._ended
        cdef Py_ssize_t done = 0, count = len(ended)
        cdef Channel channel
        try:
            while done < count:
                channel = <Channel> ended[done]
                done += 1
                if channel.flight is not None:
                    channel.flight.lane.land(channel)
                if monotonic() > until:
                    break
        finally:
            del ended[:done]
        return 0

    cdef int _read(self) except -1:
        """Each socket that is ready once; how many were."""
        cdef epoll_event ready[MOST]
        cdef int count, number
        if self._epoll < 0:
            return 0
        count = epoll_wait(self._epoll, ready, MOST, 0)
        self._base = self._clocks.base
        self._offset = self._clocks.offset
        for number in range(count):
            channel = self._channels.get(ready[number].data.fd)
            if channel is not None:
                self._receive(ready[number].data.fd, <Channel> channel)
        return count

    cdef int _receive(self, int fd, Channel channel) except -1:
        cdef double instant
        cdef int found
        cdef ssize_t size = _received(fd, self._base, &instant)
        if size <= 0:
            if size < 0 and (errno == EAGAIN or errno == EINTR):
                return 0
            channel.connection.connection_lost(_os_error() if size < 0 else None)
            return 0
        if instant != instant:
            self._stats.missing += 1
            instant = monotonic()
        else:
            instant += self._offset
        if channel.flight is None:
            if channel.took(PyBytes_FromStringAndSize(_room, size), instant):
                channel.connection.look_at(instant)
            return 0
        channel.keep(_room, size, instant)
        found = channel.look()
        if found or channel.reads == 1:
            self._stats.skip -= 1
            if self._stats.skip <= 0:
                self._stats.sample(monotonic() - instant)
        if found > 0:
            self._ended.append(channel)
        elif found < 0:
            channel.hand_over()
        return 0


cdef ssize_t _received(int fd, double base, double* instant) noexcept nogil:
    """Bytes now in the room, and the kernel's stamp of them less `base`, NaN where there is none."""
    cdef msghdr message
    cdef iovec room
    cdef cmsghdr* ancillary
    cdef timespec stamp
    cdef char control[64]
    cdef ssize_t size
    memset(&message, 0, sizeof(message))
    room.iov_base = _room
    room.iov_len = READ_SIZE
    message.msg_iov = &room
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    size = recvmsg(fd, &message, MSG_DONTWAIT)
    instant[0] = NAN
    if size <= 0:
        return size
    ancillary = CMSG_FIRSTHDR(&message)
    if (ancillary != NULL and ancillary.cmsg_level == SOL_SOCKET
            and ancillary.cmsg_type == SCM_TIMESTAMPNS
            and ancillary.cmsg_len == CMSG_LEN(sizeof(timespec))):
        memcpy(&stamp, CMSG_DATA(ancillary), sizeof(timespec))
        instant[0] = stamp.tv_sec - base + stamp.tv_nsec * 1e-9
    return size


def _os_error():
    return OSError(errno, os.strerror(errno))
