"""Records in figures: included by core.pyx."""

cdef class Sum:
    """What records of one kind come to: how many, their tokens, and of each histogram the values
    per bucket and their total."""

    cdef readonly long long count, prompt_tokens, output_tokens
    cdef readonly list buckets, totals

    def __cinit__(self, tuple bounds):
        self.buckets = [[0] * (len(each) + 1) for each in bounds]
        self.totals = [0.0] * len(bounds)


cdef class Fold:
    """Sums of many records, with histograms of these bounds over what `seconds_of` one gives."""

    cdef tuple _bounds
    cdef object _seconds_of

    def __init__(self, bounds, seconds_of):
        self._bounds, self._seconds_of = tuple(map(_array_of, bounds)), seconds_of

    def sums(self, list records):
        """By agents, phase and outcome. Values count where the phase is measured and the outcome
        ok."""
        cdef dict found = {}
        cdef Sum into = None
        cdef Flight flight
        cdef str phase = None
        cdef Lane lane = None
        for record in records:
            if type(record) is not Flight:
                self._general(found, record)
                continue
            flight = <Flight> record
            if flight.lane is not lane or flight.phase is not phase:
                lane, phase = flight.lane, flight.phase
                into = self._of(found, (lane.agents, phase, "ok"))
            into.count += 1
            into.prompt_tokens += flight.prompt_tokens
            into.output_tokens += flight.output_tokens
            if phase == "measured":
                self._take(into, 0, flight.last_token - flight.due)
                self._take(into, 1, flight.first_token - flight.due)
                if flight.output_tokens > 1:
                    self._take(into, 2, (flight.last_token - flight.first_token)
                               / (flight.output_tokens - 1))
                self._take(into, 3, flight.sent - flight.due)
        return found

    cdef Sum _of(self, dict found, tuple key):
        known = found.get(key)
        if known is None:
            known = found[key] = Sum(self._bounds)
        return known

    cdef int _general(self, dict found, record) except -1:
        cdef Sum into = self._of(found, (record.agents, record.phase, record.outcome))
        cdef int place
        into.count += 1
        into.prompt_tokens += record.prompt_tokens or 0
        into.output_tokens += record.output_tokens or 0
        if record.phase == "measured" and record.outcome == "ok":
            for place, seconds in enumerate(self._seconds_of(record)):
                if seconds is not None:
                    self._take(into, place, seconds)
        return 0

    cdef int _take(self, Sum into, int place, double seconds) except -1:
        cdef array.array bounds = <array.array> self._bounds[place]
        cdef Py_ssize_t low = 0, high = len(bounds), middle
        while low < high:
            middle = (low + high) // 2
            if bounds.data.as_doubles[middle] < seconds:
                low = middle + 1
            else:
                high = middle
        (<list> into.buckets[place])[low] += 1
        into.totals[place] += seconds
        return 0


def _array_of(bounds):
    return _array("d", bounds)
