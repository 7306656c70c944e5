/* Copies a file to or from whoever connects to a vsock port, as plainly as it can be done: what the
 * agent's streams are compared to.
 *
 *     vsock_copy PORT FILE
 *
 * The first byte of a connection says which way: 'd' sends the file and closes; 'u' takes 8 bytes, the
 * length, most significant first, then so many bytes into the file, and answers with one.
 */
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[128 << 10];

static void check(int fine, const char *what)
{
	if (!fine) {
		perror(what);
		exit(1);
	}
}

static void write_all(int to, ssize_t length)
{
	for (ssize_t done = 0; done < length;) {
		ssize_t n = write(to, buffer + done, length - done);
		check(n > 0, "write");
		done += n;
	}
}

int main(int count, char **arguments)
{
	check(count == 3, "usage");
	struct sockaddr_vm address = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = atoi(arguments[1])
	};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
	check(listener >= 0, "socket");
	check(!bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
	check(!listen(listener, 8), "listen");
	for (;;) {
		int peer = accept(listener, 0, 0);
		char way;
		check(peer >= 0, "accept");
		check(read(peer, &way, 1) == 1, "read");
		if (way == 'd') {
			int file = open(arguments[2], O_RDONLY);
			check(file >= 0, "open");
			for (ssize_t n; (n = read(file, buffer, sizeof buffer)) > 0;)
				write_all(peer, n);
			close(file);
		} else {
			unsigned char digits[8];
			unsigned long left = 0;
			for (int have = 0; have < 8;) {
				ssize_t n = read(peer, digits + have, 8 - have);
				check(n > 0, "read");
				have += n;
			}
			for (int i = 0; i < 8; i++)
				left = left << 8 | digits[i];
			int file = open(arguments[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
			check(file >= 0, "open");
			while (left) {
				ssize_t n = read(peer, buffer, left < sizeof buffer ? left : sizeof buffer);
				check(n > 0, "read");
				write_all(file, n);
				left -= n;
			}
			close(file);
			write_all(peer, 1);
		}
		close(peer);
	}
}
