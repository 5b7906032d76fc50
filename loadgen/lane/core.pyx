# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The lane: the plain answer's whole way in compiled code, from its request's bytes to its record.

One epoll descriptor in the event loop stands for all stamped sockets. What is not plain (another
head, another framing, an error, an end of the connection, a timeout) is handed over with all that
came so far, and goes the general way from there: `loadgen.wire` and the dialects decide.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.math cimport NAN, llrint
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from loadgen.lane.system cimport *

import os
from array import array as _array

from contract.jsonl import line_of

cdef enum:
    READ_SIZE = 16384
    MOST = 1024  # sockets read in one turn
    KEPT = 131072  # bytes of an answer on the lane
    MOST_READS = 2000
    FIRST_ROOM = 1024
    LONGEST_PLAIN = 8192  # bytes of a head
    OWN_WORDS = 5  # that make a prompt unique
    WIDTH = 5  # bytes of a word and its space
    LONG_TEXT = 65537
    STRIDE = 25033
    WORDS = 6400

cdef extern from *:
    """
    typedef unsigned __int128 number_t;
    static number_t paired(number_t a, number_t b) { return (a + b) * (a + b + 1) / 2 + b; }
    static const char *blank_line(const char *p, size_t n)
    { return (const char *)memmem(p, n, "\\r\\n\\r\\n", 4); }
    """
    ctypedef unsigned long long number_t
    number_t paired(number_t, number_t) nogil
    const char* blank_line(const char*, size_t) nogil

cdef double PORTION = 0.0003  # seconds in one turn of the event loop, which has timers too

cdef char _room[READ_SIZE]
cdef char _decoded[KEPT]
cdef char _line[KEPT]
cdef int64_t _ends[MOST_READS + 1]
cdef int64_t _counts[MOST_READS + 1]


cdef inline double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef inline int64_t nanoseconds(double seconds) noexcept nogil:
    return llrint(seconds * 1e9)

include "inlet.pxi"
include "flight.pxi"
include "lane.pxi"
include "fold.pxi"


def plain_facts(bytes body, list ends):
    """What a chunked body of events says whose reads ended there: the chunks with content that
    each read completed, tokens of prompt and reply, and the finish reason; None when it is not
    plain."""
    cdef Said said
    cdef int64_t read, size, reads = len(ends)
    if len(body) > KEPT or reads > MOST_READS:
        return None
    for read in range(reads):
        _ends[read] = ends[read]
    size = dechunk(PyBytes_AS_STRING(body), len(body), _decoded, _ends, reads)
    if size < 0 or not read_events(_decoded, size, _ends, reads, _counts, &said):
        return None
    counts = [_counts[read] for read in range(reads)]
    return counts, said.prompt, said.completion, said.finish[:said.finish_size].decode()
