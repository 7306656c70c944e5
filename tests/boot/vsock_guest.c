/* The only program of an image that vsock is tested with. It serves three ports:
 * 1000 gives back what it gets; 1001 reads one byte and no more; 1002 reads a port (4 bytes, as in memory),
 * connects to it on the host, and carries bytes between the two connections, or says "refused". */
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 16];

static int carry(int from, int to) {
    ssize_t length = read(from, buffer, sizeof buffer);
    for (ssize_t done = 0, piece; done < length; done += piece)
        if ((piece = write(to, buffer + done, (size_t)(length - done))) <= 0)
            return 0;
    return length > 0;
}

static void echo(int caller) {
    while (carry(caller, caller))
        ;
}

static void ignore(int caller) {
    if (read(caller, buffer, 1) == 1)
        for (;;)
            pause();
}

static void dial(int caller) {
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST};
    int other = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (read(caller, &host.svm_port, sizeof host.svm_port) != sizeof host.svm_port)
        return;
    if (connect(other, (struct sockaddr *)&host, sizeof host) < 0) {
        if (write(caller, "refused", 7) != 7)
            perror("write");
        return;
    }
    struct pollfd ends[] = {{.fd = caller, .events = POLLIN}, {.fd = other, .events = POLLIN}};
    while (poll(ends, 2, -1) > 0)
        for (int i = 0; i < 2; i++)
            if (ends[i].revents && !carry(ends[i].fd, ends[1 - i].fd))
                return;
}

static void serve(unsigned port, void (*with)(int)) {
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 300) < 0) {
        perror("listen");
        exit(1);
    }
    if (fork() != 0)
        return;
    for (;;) {
        int caller = accept(listener, NULL, NULL);
        if (caller >= 0 && fork() == 0) {
            close(listener);
            with(caller);
            exit(0);
        }
        close(caller);
    }
}

int main(void) {
    signal(SIGCHLD, SIG_IGN);
    serve(1000, echo);
    serve(1001, ignore);
    serve(1002, dial);
    puts("serving");
    fflush(stdout);
    for (;;)
        pause();
}
