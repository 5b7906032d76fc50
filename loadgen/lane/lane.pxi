"""The requests of one stage: included by core.pyx."""

cdef class Template:
    """The bytes of requests that differ in their numbers and prompts alone."""

    cdef bytes head, named, before_seed, before_prompt, after_prompt

    def __init__(self, bytes head, bytes named, bytes before_seed, bytes before_prompt,
                 bytes after_prompt):
        self.head, self.named = head, named
        self.before_seed, self.before_prompt = before_seed, before_prompt
        self.after_prompt = after_prompt


cdef class Lane:
    """The plain requests of one stage. `templates` gives one by the tokens asked for."""

    cdef readonly object stage, pool
    cdef readonly set flights
    cdef readonly bytes run
    cdef readonly long long stage_number, agents
    cdef object _templates, _is_plain, _hand_over, _source
    cdef double _shift, _limit
    cdef bytes _head, _words, _salt, _text
    cdef long long _isl, _osl
    cdef list _idle
    cdef object _loop, _timer

    def __init__(self, stage, pool, *, templates, is_plain, words, salt, text, shift, loop):
        self.stage, self.pool, self.flights = stage, pool, stage.flights
        self.run = stage.run.encode()
        self.stage_number, self.agents = stage.plan.number, stage.plan.key.agents
        self._templates, self._is_plain, self._hand_over = templates, is_plain, stage.hand_over
        self._loop = loop
        self._words, self._salt, self._text = words, salt, text
        self._shift, self._limit = shift, stage.plan.timeout
        source = self._source = stage.source
        self._isl = source.isl.least if source.isl.least == source.isl.most else -1
        self._osl = source.osl.least if source.osl.least == source.osl.most else -1
        self._head = b""
        self._idle = []

    def prepare(self, long long agent, long long seq):
        """One request, its bytes rendered."""
        cdef number_t number = paired(paired(self.stage_number, agent), seq)
        cdef Flight flight = Flight.__new__(Flight)
        cdef long long isl = self._isl, osl = self._osl
        flight.lane, flight.agent, flight.seq = self, agent, seq
        if isl < 0 or osl < 0:
            request = flight.request
            isl, osl = len(request.prompt) // WIDTH + 1, request.output_tokens
        flight.asked, flight.words = osl, isl
        flight.payload = self._payload(<Template> self._templates(osl), flight, number)
        return flight

    cdef bytes _payload(self, Template template, Flight flight, number_t number):
        cdef int64_t prompt = WIDTH * flight.words - 1, room
        cdef char* out
        cdef char* start
        cdef char seed[24]
        cdef Py_ssize_t named = len(template.named), seeded
        cdef char* to = put_count(seed, <unsigned long long> (number % 2147483648))
        seeded = to - seed
        cdef int64_t body = (len(template.before_seed) + seeded + len(template.before_prompt)
                             + prompt + len(template.after_prompt))
        room = len(template.head) + 24 + named + len(self.run) + 70 + body
        start = out = <char*> malloc(room)
        if start == NULL:
            raise MemoryError
        out = put_text(out, PyBytes_AS_STRING(template.head), len(template.head))
        out = put_count(out, body)
        out = put_text(out, b"\r\n", 2)
        if named:
            out = put_text(out, PyBytes_AS_STRING(template.named), named)
            out = put_text(out, PyBytes_AS_STRING(self.run), len(self.run))
            out = _dashed(out, self.stage_number)
            out = _dashed(out, flight.agent)
            out = _dashed(out, flight.seq)
            out = put_text(out, b"\r\n", 2)
        out = put_text(out, b"\r\n", 2)
        out = put_text(out, PyBytes_AS_STRING(template.before_seed), len(template.before_seed))
        out = put_text(out, seed, seeded)
        out = put_text(out, PyBytes_AS_STRING(template.before_prompt), len(template.before_prompt))
        out = self._prompt(out, flight.words, number)
        out = put_text(out, PyBytes_AS_STRING(template.after_prompt), len(template.after_prompt))
        payload = PyBytes_FromStringAndSize(start, out - start)
        free(start)
        return payload

    cdef char* _prompt(self, char* out, int64_t words, number_t number) noexcept:
        """As `loadgen.workload.prompts` makes it."""
        cdef const char* all_words = PyBytes_AS_STRING(self._words)
        cdef const char* text = PyBytes_AS_STRING(self._text)
        cdef number_t rest = number
        cdef char own[WIDTH * OWN_WORDS]
        cdef int64_t place, left = words - OWN_WORDS, some
        for place in range(3):
            memcpy(own + WIDTH * place, all_words + WIDTH * <int64_t> (rest % WORDS), WIDTH)
            rest = rest / WORDS
        memcpy(own + 3 * WIDTH, PyBytes_AS_STRING(self._salt), 2 * WIDTH)
        if left <= 0:
            return put_text(out, own, WIDTH * words - 1)
        out = put_text(out, own, WIDTH * OWN_WORDS)
        place = <int64_t> ((number % LONG_TEXT) * STRIDE % LONG_TEXT)
        while left > 0:
            some = min(left, LONG_TEXT - place)
            out = put_text(out, text + WIDTH * place, WIDTH * some)
            left -= some
            place = 0
        return out - 1

    def send(self, Flight flight, double due, then):
        """Let it fly; `then` is called when it has landed and was recorded."""
        cdef Channel channel
        cdef ssize_t written
        flight.due, flight.then = due, then
        self.flights.add(flight)
        channel = self._channel()
        if channel is None:
            self._hand_over(flight, None, [], _array("d"))
            return
        flight.channel = channel
        channel.fly(flight)
        channel.shift = self._shift
        flight.deadline = monotonic()
        flight.sent = max(due, flight.deadline + self._shift)
        flight.deadline += self._limit
        written = send(channel.connection.descriptor, PyBytes_AS_STRING(flight.payload),
                       len(flight.payload), MSG_DONTWAIT | MSG_NOSIGNAL)
        if written < <ssize_t> len(flight.payload):
            channel.connection.write_rest(flight.payload, max(0, written))
        if self._timer is None:
            self._timer = self._loop.call_at(self._loop.time() + self._limit, self._expire)

    def _expire(self):
        """Those whose time is over go the general way, which ends them."""
        cdef double now = monotonic(), first = now + self._limit
        self._timer = None
        for flight in tuple(self.flights):
            if type(flight) is not Flight:
                continue
            if (<Flight> flight).deadline <= now:
                self.hand_over(<Flight> flight)
            else:
                first = min(first, (<Flight> flight).deadline)
        if self.flights:
            self._timer = self._loop.call_at(self._loop.time() + first - now, self._expire)

    cdef Channel _channel(self):
        """One that is idle and stamped, None where there is none."""
        cdef Channel channel
        while self._idle:
            channel = <Channel> self._idle.pop()
            if channel.connection.open:
                return channel
        connection = self.pool.take()
        if connection is None or connection.stamper != "kernel":
            if connection is not None:
                self.pool.put_back(connection)
            return None
        return connection.channel

    cdef bint is_plain(self, const char* head, int64_t size) except -1:
        """Whether it is the head of a stream of events in chunks, on a connection that stays."""
        if size == len(self._head) and not memcmp(head, PyBytes_AS_STRING(self._head), size):
            return True
        found = PyBytes_FromStringAndSize(head, size)
        if not self._is_plain(found):
            return False
        self._head = found
        return True

    cdef int land(self, Channel channel) except -1:
        """Its answer is complete: read it, and record it if it is plain."""
        cdef Flight flight = channel.flight
        cdef int64_t read, size = channel.size - channel.body
        cdef Said said
        for read in range(channel.reads):
            _ends[read] = max(0, channel.ends[read] - channel.body)
        size = dechunk(channel.taken + channel.body, size, _decoded, _ends, channel.reads)
        if size < 0 or not read_events(_decoded, size, _ends, channel.reads, _counts, &said) or (
                2 * said.prompt <= WIDTH * flight.words and 10 * said.prompt < 9 * flight.words):
            self.hand_over(flight)
            return 0
        flight.prompt_tokens, flight.output_tokens = said.prompt, said.completion
        self._time(flight, channel, &said)
        stats = self.pool.stats
        stats.kernel += channel.reads
        stats.firsts += 1
        channel.flight = flight.channel = None
        flight.payload = b""  # what waits to be counted should be small
        if channel.landings < 2:
            channel.landings += 1
            self.pool.give(channel.connection)
        else:
            self._idle.append(channel)
        self.flights.discard(flight)
        # To the nanosecond, as the clock of the run.
        flight.ended = nanoseconds(monotonic() + self._shift) / 1e9
        self.stage.flown(flight)
        return 0

    cdef int _time(self, Flight flight, Channel channel, Said* said) except -1:
        """Its instants, and the line from `sent` on."""
        cdef int64_t read, more, chunks = 0
        cdef double last = 0
        cdef char* out = _decoded  # which was read
        cdef char* gaps
        for read in range(channel.reads):
            if _counts[read]:
                if not chunks:
                    flight.first_token = channel.instants[read]
                chunks += _counts[read]
                flight.last_token = channel.instants[read]
        flight.chunks = chunks
        out = put_text(out, b',"sent":', 8)
        out = put_seconds(out, nanoseconds(flight.sent))
        out = put_text(out, b',"first_token":', 15)
        out = put_seconds(out, nanoseconds(flight.first_token))
        out = put_text(out, b',"last_token":', 14)
        out = put_seconds(out, nanoseconds(flight.last_token))
        out = put_text(out, b',"prompt_tokens":', 17)
        out = put_count(out, said.prompt)
        out = put_text(out, b',"prompt_source":"server","output_tokens":', 42)
        out = put_count(out, said.completion)
        out = put_text(out, b',"output_source":"server","chunks":', 35)
        out = put_count(out, chunks)
        out = put_text(out, b',"gaps_us":[', 12)
        gaps = out
        for read in range(channel.reads):
            if not _counts[read]:
                continue
            if last != 0:
                out = _gap(out, llrint((channel.instants[read] - last) * 1e6))
            for more in range(1, _counts[read]):
                out = put_text(out, b"0,", 2)
            last = channel.instants[read]
        if out > gaps:
            out -= 1
        out = put_text(out, b'],"finish_reason":"', 19)
        out = put_text(out, said.finish, said.finish_size)
        out = put_text(out, b'","status":200,"error":null,"server":null,"retries":0,"connect":null,'
                            b'"stamps":"kernel","counted_chunks":null,"asked_tokens":', 124)
        out = put_count(out, flight.asked)
        out = put_text(out, b',"first_answer":null,"address":null}\n', 37)
        flight.tail = PyBytes_FromStringAndSize(_decoded, out - _decoded)
        return 0

    cpdef hand_over(self, Flight flight):
        """Let it go the general way, with all that came; returns what it is there."""
        cdef Channel channel = flight.channel
        cdef int64_t read, start = 0
        cdef list reads = []
        marks = _array("d")
        for read in range(channel.reads):
            reads.append(channel.taken[start:channel.ends[read]])
            marks.append(channel.instants[read])
            start = channel.ends[read]
        channel.flight = flight.channel = None
        try:
            return self._hand_over(flight, channel.connection, reads, marks)
        except BaseException as error:  # raised again where the stage is driven
            self.flights.discard(flight)
            self.stage.fail(error)

    def close(self):
        """The connections go back."""
        for channel in self._idle:
            self.pool.give((<Channel> channel).connection)
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
