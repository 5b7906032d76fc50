"""What of Linux the lane calls."""

from posix.time cimport timespec

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned int events
        epoll_data_t data
    int EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event*)
    int epoll_wait(int, epoll_event*, int, int)

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr*)
    unsigned char* CMSG_DATA(cmsghdr*)
    size_t CMSG_LEN(size_t)
    ssize_t recvmsg(int, msghdr*, int)
    ssize_t send(int, const void*, size_t, int)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SOL_SOCKET, SCM_TIMESTAMPNS

cdef extern from "stream.h" nogil:
    ctypedef signed long long int64_t
    ctypedef struct Said:
        int64_t prompt, completion, content
        char* finish
        int finish_size
    int64_t dechunk(const char*, int64_t, char*, int64_t*, int64_t)
    int read_events(const char*, int64_t, const int64_t*, int64_t, int64_t*, Said*)
    char* put_text(char*, const char*, int64_t)
    char* put_count(char*, unsigned long long)
    char* put_seconds(char*, int64_t)
