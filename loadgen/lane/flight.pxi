"""One request and its record: included by core.pyx."""

@cython.freelist(256)
@cython.no_gc
cdef class Flight:
    """One request of the lane, from its bytes to its record; then it reads as a record does."""

    cdef readonly Lane lane
    cdef readonly long long agent, seq, prompt_tokens, output_tokens, chunks, asked
    cdef readonly double due, sent, ended, first_token, last_token, deadline
    cdef public str phase
    cdef readonly object then
    cdef readonly bytes payload
    cdef bytes tail
    cdef Channel channel
    cdef long long words

    @property
    def request(self):
        """What it asks for."""
        return self.lane.stage.source.request(self.lane.stage_number, self.agent, self.seq)

    @property
    def reads(self):
        """How many reads of its answer came so far."""
        return 0 if self.channel is None else self.channel.reads

    @property
    def agents(self):
        return self.lane.agents

    @property
    def outcome(self):
        return "ok"

    @property
    def error(self):
        return None

    @property
    def latency(self):
        return self.last_token - self.due

    @property
    def ttft(self):
        return self.first_token - self.due

    @property
    def send_lag(self):
        return self.sent - self.due

    @property
    def tpot(self):
        if self.output_tokens < 2:
            return None
        return (self.last_token - self.first_token) / (self.output_tokens - 1)

    def give_up(self):
        """Cancel it; it leaves its record all the same."""
        general = self.lane.hand_over(self)
        if general in self.lane.flights:  # what came was not all there is
            general.give_up()

    def line(self):
        """Its record as a line."""
        return PyBytes_FromStringAndSize(_line, self.write(_line) - _line)

    cdef char* write(self, char* out) noexcept:
        cdef bytes phase = self.phase.encode(), run = self.lane.run
        out = put_text(out, b'{"run":"', 8)
        out = put_text(out, PyBytes_AS_STRING(run), len(run))
        out = put_text(out, b'","stage":', 10)
        out = put_count(out, self.lane.stage_number)
        out = put_text(out, b',"agent":', 9)
        out = put_count(out, self.agent)
        out = put_text(out, b',"seq":', 7)
        out = put_count(out, self.seq)
        out = put_text(out, b',"agents":', 10)
        out = put_count(out, self.lane.agents)
        out = put_text(out, b',"phase":"', 10)
        out = put_text(out, PyBytes_AS_STRING(phase), len(phase))
        out = put_text(out, b'","outcome":"ok","due":', 23)
        out = put_seconds(out, nanoseconds(self.due))
        out = put_text(out, b',"ended":', 9)
        out = put_seconds(out, nanoseconds(self.ended))
        return put_text(out, PyBytes_AS_STRING(self.tail), len(self.tail))


cdef char* _dashed(char* out, long long value) noexcept nogil:
    out[0] = b"-"
    return put_count(out + 1, value)


cdef char* _gap(char* out, int64_t microseconds) noexcept nogil:
    if microseconds < 0:  # the wall clock was set back
        out[0] = b"-"
        out += 1
        microseconds = -microseconds
    out = put_count(out, microseconds)
    out[0] = b","
    return out + 1


def lines(list records):
    """Records, flights among them, as lines of JSON."""
    cdef list parts = []
    for record in records:
        parts.append((<Flight> record).line() if type(record) is Flight else line_of(record))
    return b"".join(parts)
