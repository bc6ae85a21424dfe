/*
 * The benchmark's server, behind every peer:  serve PORT
 *
 * The first byte of a connection says what is done with it: 'e' sends back all that comes, that
 * byte too; 'd' takes and forgets; 'g' gives without end.  It says "ready", and runs until it is
 * ended.
 */
#include "load.h"

enum { BACKLOG = 4096 };

static void take_in(int listener, char *modes, int limit)
{
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EMFILE)
                return;
            fail("accept4");
        }
        if (fd >= limit)
            fail("descriptor %d is beyond the limit", fd);
        no_delay(fd);
        modes[fd] = 0;
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Whether the connection goes on. */
static int serve_one(int fd, char *mode)
{
    if (*mode == 'g') {
        ssize_t sent = send(fd, buffer, CHUNK, MSG_NOSIGNAL);
        return sent >= 0 || errno == EAGAIN;
    }
    ssize_t got = recv(fd, buffer, CHUNK, 0);
    if (got < 0)
        return errno == EAGAIN;
    if (got == 0)
        return 0;
    if (*mode == 0) {
        *mode = buffer[0];
        if (*mode == 'g')
            watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
    }
    /* What is sent back is a few bytes, and the kernel takes those whole. */
    return *mode != 'e' || send(fd, buffer, (size_t)got, MSG_NOSIGNAL) == got;
}

static _Noreturn void serve(int port)
{
    struct epoll_event events[EVENTS];
    struct sockaddr_in address = loopback(port);
    int yes = 1, limit = (int)sysconf(_SC_OPEN_MAX);
    char *modes = calloc((size_t)limit, 1);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || modes == NULL)
        fail("no listener");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind to port %d", port);
    if (listen(listener, BACKLOG) < 0)
        fail("listen");
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int count = waited(events, after(now_ns(), 3600));
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                take_in(listener, modes, limit);
            else if (!serve_one(fd, &modes[fd]))
                close(fd);
        }
    }
}

int main(int argc, char **argv)
{
    prepare();
    if (argc != 2)
        fail("usage: serve PORT");
    serve(atoi(argv[1]));
}
