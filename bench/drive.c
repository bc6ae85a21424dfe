/*
 * The benchmark's clients, in front of every peer.
 *
 *     drive stream PORT up|down STREAMS WARM SECONDS   bytes one way
 *     drive sessions PORT AT_ONCE WARM SECONDS RATE    connect, one byte there and back, close
 *     drive exchange PORT BYTES WARM SECONDS           request and response in one open session
 *     drive hold PORT SESSIONS                         open and keep them until stdin says a line
 *
 * PORT may be PROXY/socks/PORT or PROXY/connect/PORT: then each connection goes to the proxy's port
 * and asks it for the other one, which is part of its time.
 *
 * It is in C so that it is never what is measured.  It prints "begin" when its warm-up is over, and
 * one line "end name=number ..." at last.  RATE 0 is as fast as it goes.
 */
#include "load.h"

#include <poll.h>

enum { OPENING = 64, GIVE_UP_S = 20 };

enum { NO_PROXY, SOCKS, CONNECT } proxy;
enum { FIRST, ASKING, ASKED, TOLD };
static int target;
/* How far each connection is with its proxy. */
static unsigned char *stages;

/* What is said next to the proxy, for the stage that follows; none once the way is open. */
static int ask(int stage, unsigned char *words, size_t room)
{
    if (proxy == CONNECT && stage == ASKED)
        return snprintf((char *)words, room, "CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n", target);
    unsigned char greeting[] = {5, 1, 0};
    unsigned char request[] = {5, 1, 0, 1, 127, 0, 0, 1, (unsigned char)(target >> 8),
                               (unsigned char)target};
    if (proxy == SOCKS && stage == ASKING) {
        memcpy(words, greeting, sizeof greeting);
        return sizeof greeting;
    }
    memcpy(words, request, sizeof request);
    return sizeof request;
}

/* Whether an answer lets the connection go on. */
static int agrees(int stage, const unsigned char *words, ssize_t count)
{
    if (proxy == CONNECT)
        return count > 12 && !memcmp(words + 8, " 200", 4);
    return count == (stage == ASKING ? 2 : 10) && words[1] == 0;
}

/* One event of a connection with its proxy: 0 while it goes on, 1 when the way is open, -1 failed. */
static int proxy_step(int fd)
{
    unsigned char words[512];
    if (stages[fd] != FIRST) {
        ssize_t count = recv(fd, words, sizeof words, 0);
        if (!agrees(stages[fd], words, count))
            return -1;
        if (stages[fd] == ASKED) {
            stages[fd] = TOLD;
            return 1;
        }
    }
    stages[fd] = stages[fd] == FIRST && proxy == SOCKS ? ASKING : ASKED;
    int length = ask(stages[fd], words, sizeof words);
    return send(fd, words, (size_t)length, MSG_NOSIGNAL) == length ? 0 : -1;
}

/* A connection that is being made; -1 when there is none to be had. */
static int dial(int port, uint32_t events)
{
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    no_delay(fd);
    stages[fd] = proxy == NO_PROXY ? TOLD : FIRST;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    watch(fd, events, EPOLL_CTL_ADD);
    return fd;
}

static void begin(void)
{
    puts("begin");
    fflush(stdout);
}

/* A blocking connection on which the server was told what to do. */
static int opened(int port, char mode)
{
    struct sockaddr_in address = loopback(port);
    struct timeval limit = {.tv_sec = GIVE_UP_S};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    no_delay(fd);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    stages[fd] = proxy == NO_PROXY ? TOLD : FIRST;
    while (stages[fd] != TOLD)
        if (proxy_step(fd) < 0)
            fail("the proxy refuses");
    if (send(fd, &mode, 1, MSG_NOSIGNAL) != 1)
        fail("send");
    return fd;
}

static void stream(int port, int up, int streams, double warm_s, double seconds)
{
    struct epoll_event events[EVENTS];
    uint64_t bytes = 0, begun = 0, start = now_ns(), now = start;
    uint64_t until = after(start, warm_s + seconds);
    for (int i = 0; i < streams; i++) {
        int fd = opened(port, up ? 'd' : 'g');
        if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
            fail("fcntl");
        watch(fd, up ? EPOLLOUT : EPOLLIN, EPOLL_CTL_ADD);
    }
    while (now < until) {
        int count = waited(events, until);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            ssize_t moved = up ? send(fd, buffer, CHUNK, MSG_NOSIGNAL) : recv(fd, buffer, CHUNK, 0);
            if (moved > 0)
                bytes += (uint64_t)moved;
            else if (moved == 0 || errno != EAGAIN)
                fail("a stream was cut");
        }
        now = now_ns();
        if (!begun && now >= after(start, warm_s)) {
            begun = now;
            bytes = 0;
            begin();
        }
    }
    printf("end bytes=%llu seconds=%.6f\n", (unsigned long long)bytes, (double)(now - begun) / 1e9);
    fflush(stdout);
}

static int by_size(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

struct times {
    uint32_t *ns;
    size_t count, room;
};

static void note(struct times *times, uint64_t ns)
{
    if (times->count == times->room) {
        times->room = times->room ? 2 * times->room : 65536;
        times->ns = realloc(times->ns, times->room * sizeof *times->ns);
        if (times->ns == NULL)
            fail("no memory");
    }
    times->ns[times->count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static double percentile_us(const struct times *times, double share)
{
    if (times->count == 0)
        return 0;
    size_t place = (size_t)(share * (double)(times->count - 1) + 0.5);
    return times->ns[place] / 1e3;
}

static void say_times(struct times *times, int failed, uint64_t span_ns)
{
    qsort(times->ns, times->count, sizeof *times->ns, by_size);
    printf("end count=%zu failed=%d seconds=%.6f p50_us=%.1f p99_us=%.1f max_us=%.1f\n",
           times->count, failed, (double)span_ns / 1e9, percentile_us(times, 0.5),
           percentile_us(times, 0.99), percentile_us(times, 1.0));
    fflush(stdout);
}

/* One event of a session: 0 while it goes on, 1 when the byte has come back, -1 when it failed. */
static int one_step(const struct epoll_event *event)
{
    int fd = event->data.fd;
    char byte = 'e';
    if (stages[fd] != TOLD) {
        int result = proxy_step(fd);
        if (result > 0 && send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
            return -1;
        if (result == 0)
            watch(fd, EPOLLIN, EPOLL_CTL_MOD);
        return result < 0 ? -1 : 0;
    }
    if (event->events & EPOLLOUT && !(event->events & (EPOLLERR | EPOLLHUP))) {
        if (send(fd, &byte, 1, MSG_NOSIGNAL) == 1) {
            watch(fd, EPOLLIN, EPOLL_CTL_MOD);
            return 0;
        }
    }
    return recv(fd, &byte, 1, 0) == 1 ? 1 : -1;
}

static void sessions(int port, int at_once, double warm_s, double seconds, double rate)
{
    struct epoll_event events[EVENTS];
    struct times times = {0};
    int open = 0, failed = 0;
    uint64_t *dialled = calloc((size_t)sysconf(_SC_OPEN_MAX), sizeof *dialled);
    uint64_t start = now_ns(), now = start, begun = 0, next = start;
    uint64_t until = after(start, warm_s + seconds), step = rate > 0 ? after(0, 1 / rate) : 0;
    if (dialled == NULL)
        fail("no memory");
    while (now < until) {
        for (; open < at_once && now >= next; next += step, open++) {
            uint64_t dialled_at = now_ns();
            int fd = dial(port, EPOLLOUT);
            if (fd < 0)
                fail("connect");
            dialled[fd] = dialled_at;
        }
        int count = waited(events, step && open < at_once && next < until ? next : until);
        for (int i = 0; i < count; i++) {
            int result = one_step(&events[i]), fd = events[i].data.fd;
            if (result == 0)
                continue;
            if (begun && result > 0)
                note(&times, now_ns() - dialled[fd]);
            failed += result < 0;
            close(fd);
            open--;
        }
        now = now_ns();
        if (!begun && now >= after(start, warm_s)) {
            begun = now;
            begin();
        }
    }
    say_times(&times, failed, now - begun);
    /* What is under way may end in peace, and is not counted. */
    for (uint64_t end = after(now, 1); open > 0 && now < end; now = now_ns()) {
        int count = waited(events, end);
        for (int i = 0; i < count; i++) {
            if (one_step(&events[i]) != 0) {
                close(events[i].data.fd);
                open--;
            }
        }
    }
}

static void exchange(int port, int bytes, double warm_s, double seconds)
{
    struct times times = {0};
    char byte;
    int fd = opened(port, 'e');
    if (recv(fd, &byte, 1, 0) != 1)
        fail("no echo");
    uint64_t start = now_ns(), begun = 0, until = after(start, warm_s + seconds), now = start;
    while (now < until) {
        uint64_t sent = now_ns();
        if (send(fd, buffer, (size_t)bytes, MSG_NOSIGNAL) != bytes)
            fail("send");
        for (int got = 0; got < bytes;) {
            ssize_t more = recv(fd, buffer, (size_t)(bytes - got), 0);
            if (more <= 0)
                fail("no answer");
            got += (int)more;
        }
        now = now_ns();
        if (begun)
            note(&times, now - sent);
        else if (now >= after(start, warm_s)) {
            begun = now;
            begin();
        }
    }
    say_times(&times, 0, now - begun);
    close(fd);
}

static void hold(int port, int wanted)
{
    struct epoll_event events[EVENTS];
    int opening = 0, held = 0, failed = 0;
    uint64_t start = now_ns(), now = start;
    int *fds = calloc((size_t)wanted, sizeof *fds);
    if (fds == NULL)
        fail("no memory");
    while (held + failed < wanted) {
        while (opening < OPENING && held + failed + opening < wanted) {
            if (dial(port, EPOLLOUT) < 0)
                failed++;
            else
                opening++;
        }
        int count = waited(events, after(now, GIVE_UP_S));
        if (count == 0 && opening)
            break;
        for (int i = 0; i < count; i++) {
            int result = one_step(&events[i]), fd = events[i].data.fd;
            if (result == 0)
                continue;
            opening--;
            watch(fd, 0, EPOLL_CTL_DEL);
            if (result > 0) {
                fds[held++] = fd;
            } else {
                close(fd);
                failed++;
            }
        }
        now = now_ns();
    }
    printf("end held=%d failed=%d seconds=%.3f\n", held, wanted - held, (double)(now - start) / 1e9);
    fflush(stdout);
    /* A line, or the end. */
    if (read(0, buffer, 1) < 0)
        fail("read");
    int alive = 0;
    for (int i = 0; i < held; i++)
        send(fds[i], "x", 1, MSG_NOSIGNAL);
    for (uint64_t end = after(now_ns(), GIVE_UP_S), i = 0; i < (uint64_t)held; i++) {
        struct pollfd one = {.fd = fds[i], .events = POLLIN};
        uint64_t left_ns = end > now_ns() ? end - now_ns() : 0;
        poll(&one, 1, (int)(left_ns / 1000000));
        alive += recv(fds[i], buffer, 1, 0) == 1;
        close(fds[i]);
    }
    printf("end alive=%d\n", alive);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[1] : "";
    int port = argc > 2 ? atoi(argv[2]) : 0;
    char *way = argc > 2 ? strchr(argv[2], '/') : NULL;
    prepare();
    stages = calloc((size_t)sysconf(_SC_OPEN_MAX), 1);
    if (stages == NULL)
        fail("no memory");
    if (way != NULL) {
        proxy = way[1] == 's' ? SOCKS : CONNECT;
        target = atoi(strrchr(way, '/') + 1);
    }
    if (!strcmp(what, "stream") && argc == 7)
        stream(port, !strcmp(argv[3], "up"), atoi(argv[4]), atof(argv[5]), atof(argv[6]));
    else if (!strcmp(what, "sessions") && argc == 7)
        sessions(port, atoi(argv[3]), atof(argv[4]), atof(argv[5]), atof(argv[6]));
    else if (!strcmp(what, "exchange") && argc == 6)
        exchange(port, atoi(argv[3]), atof(argv[4]), atof(argv[5]));
    else if (!strcmp(what, "hold") && argc == 4)
        hold(port, atoi(argv[3]));
    else
        fail("usage: see the head of drive.c");
    return 0;
}
