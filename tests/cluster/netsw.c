/* netsw: a switch in user space over TAP devices in network namespaces, for kernels without netem.
 *
 *   netsw RATE_MBIT DELAY_US RACKS UPLINK_MBIT UPLINK_DELAY_US QUEUE_KB NAMESPACE_PATH...
 *
 * Makes "eth0" in each namespace, prints "ready", switches frames until SIGTERM, then says what it moved.
 *
 * A link is a time until which it is busy. A frame of `len` bytes that enters at t leaves at max(t, busy) + len/rate, and
 * is dropped when more than QUEUE_KB wait before it. A frame passes the sender's link, DELAY_US, between racks also the
 * uplink of one rack and the downlink of the other and UPLINK_DELAY_US, and the receiver's link, which is pipelined with
 * the sender's: it adds time only when several senders meet. Rate 0: no limit. Host i is in rack i*racks/hosts.
 * The devices take segments of up to 64 KiB (vnet header, offload), so a few frames carry a lot. Runs as a real-time
 * process where it may: it is the wire, and a wire is never late. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define MOST_HOSTS     64
#define VNET_BYTES     10 /* struct virtio_net_hdr before each frame */
#define ETHERNET_BYTES 14
#define MOST_FRAME     70000
#define FRAMES_AT_ONCE 16 /* of one host, so that nobody starves */

struct frame {
	struct frame *next;
	double due_s;
	int to, bytes;
	unsigned char data[];
};

struct port {
	int fd;
	unsigned char mac[6];
	double sending_s, receiving_s; /* busy until */
	double up_s, down_s;           /* of the rack with this index */
};

struct netsw {
	int hosts, racks;
	double rate, uplink_rate; /* bytes/s, 0: no limit */
	double delay_s, uplink_delay_s;
	double queue_bytes;
	struct port ports[MOST_HOSTS];
	struct frame *first, *last; /* sorted by due_s */
	unsigned long frames, bytes, drops;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

static double now_s(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int rack_of(const struct netsw *sw, int host)
{
	return host * sw->racks / sw->hosts;
}

/* When `bytes` that enter a link at `at_s` have left it; negative when its queue is full. */
static double pass_link(const struct netsw *sw, double *busy_s, double at_s, int bytes, double rate)
{
	if (rate <= 0)
		return at_s;
	if (*busy_s < at_s)
		*busy_s = at_s;
	if ((*busy_s - at_s) * rate > sw->queue_bytes)
		return -1;
	*busy_s += bytes / rate;
	return *busy_s;
}

/* When a frame from one host reaches another; negative: dropped on the way. */
static double route(struct netsw *sw, int from, int to, int bytes, double at_s)
{
	int rack_from = rack_of(sw, from), rack_to = rack_of(sw, to);
	double t = pass_link(sw, &sw->ports[from].sending_s, at_s, bytes, sw->rate);
	if (t < 0)
		return -1;
	t += sw->delay_s;
	if (rack_from != rack_to) {
		t = pass_link(sw, &sw->ports[rack_from].up_s, t, bytes, sw->uplink_rate);
		if (t < 0)
			return -1;
		t = pass_link(sw, &sw->ports[rack_to].down_s, t, bytes, sw->uplink_rate);
		if (t < 0)
			return -1;
		t += sw->uplink_delay_s;
	}
	if (sw->rate <= 0)
		return t;
	return pass_link(sw, &sw->ports[to].receiving_s, t - bytes / sw->rate, bytes, sw->rate);
}

/* Nearly every frame is due after all others, so the end of the list is tried first. */
static void insert(struct netsw *sw, struct frame *frame)
{
	struct frame **at = &sw->first;
	if (sw->last && sw->last->due_s <= frame->due_s)
		at = &sw->last->next;
	while (*at && (*at)->due_s <= frame->due_s)
		at = &(*at)->next;
	frame->next = *at;
	*at = frame;
	if (!frame->next)
		sw->last = frame;
}

static void send_frame(struct netsw *sw, int from, int to, const unsigned char *data, int bytes, double at_s)
{
	double due_s = route(sw, from, to, bytes, at_s);
	struct frame *frame = due_s < 0 ? NULL : malloc(sizeof *frame + (size_t)bytes);
	if (!frame) {
		sw->drops++;
		return;
	}
	frame->due_s = due_s;
	frame->to = to;
	frame->bytes = bytes;
	memcpy(frame->data, data, (size_t)bytes);
	insert(sw, frame);
}

/* Reads what a host has to send: to the host of that address, or to all (broadcast and multicast). */
static void receive(struct netsw *sw, int from)
{
	static unsigned char data[MOST_FRAME];
	const unsigned char *ethernet = data + VNET_BYTES;
	for (int i = 0; i < FRAMES_AT_ONCE; i++) {
		int bytes = (int)read(sw->ports[from].fd, data, sizeof data);
		if (bytes <= VNET_BYTES + ETHERNET_BYTES)
			return;
		double at_s = now_s();
		bool to_all = ethernet[0] & 1;
		sw->frames++;
		sw->bytes += (unsigned long)bytes;
		for (int to = 0; to < sw->hosts; to++)
			if (to != from && (to_all || memcmp(ethernet, sw->ports[to].mac, 6) == 0))
				send_frame(sw, from, to, data, bytes, at_s);
	}
}

static void deliver(struct netsw *sw)
{
	double t = now_s();
	while (sw->first && sw->first->due_s <= t) {
		struct frame *frame = sw->first;
		sw->first = frame->next;
		if (!sw->first)
			sw->last = NULL;
		if (write(sw->ports[frame->to].fd, frame->data, (size_t)frame->bytes) < 0)
			sw->drops++;
		free(frame);
	}
}

/* How long to wait for frames: until the next one is due, at most a second. */
static struct timespec patience(const struct netsw *sw)
{
	double wait_s = sw->first ? sw->first->due_s - now_s() : 1;
	if (wait_s >= 1)
		return (struct timespec){1, 0};
	return (struct timespec){0, wait_s > 0 ? (long)(wait_s * 1e9) : 0};
}

static void run(struct netsw *sw)
{
	struct pollfd polled[MOST_HOSTS];
	for (int i = 0; i < sw->hosts; i++)
		polled[i] = (struct pollfd){sw->ports[i].fd, POLLIN, 0};
	while (!stopped) {
		struct timespec wait = patience(sw);
		if (ppoll(polled, (nfds_t)sw->hosts, &wait, NULL) > 0)
			for (int i = 0; i < sw->hosts; i++)
				if (polled[i].revents & POLLIN)
					receive(sw, i);
		deliver(sw);
	}
}

/* Makes eth0 in the namespace, which this process enters. 0, or -1 with the reason on stderr. */
static int open_port(struct port *port, const char *path)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	struct ifreq address = {0};
	int ns = open(path, O_RDONLY | O_CLOEXEC), sock;
	if (ns < 0 || setns(ns, CLONE_NEWNET) != 0) {
		perror(path);
		return -1;
	}
	close(ns);
	strcpy(request.ifr_name, "eth0");
	strcpy(address.ifr_name, "eth0");
	port->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port->fd < 0 || ioctl(port->fd, TUNSETIFF, &request) != 0) {
		perror("/dev/net/tun");
		return -1;
	}
	ioctl(port->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6);
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || ioctl(sock, SIOCGIFHWADDR, &address) != 0) {
		perror("eth0");
		return -1;
	}
	memcpy(port->mac, address.ifr_hwaddr.sa_data, sizeof port->mac);
	close(sock);
	return 0;
}

static void become_real_time(void)
{
	struct sched_param priority = {.sched_priority = 50};
	if (sched_setscheduler(0, SCHED_FIFO, &priority) != 0)
		perror("no real-time priority");
	prctl(PR_SET_TIMERSLACK, 1);
	mlockall(MCL_CURRENT | MCL_FUTURE);
}

int main(int argc, char **argv)
{
	static struct netsw sw;
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (argc < 8 || argc - 7 > MOST_HOSTS) {
		fprintf(stderr,
			"usage: netsw RATE_MBIT DELAY_US RACKS UPLINK_MBIT UPLINK_DELAY_US QUEUE_KB NAMESPACE_PATH... (at most "
			"%d)\n",
			MOST_HOSTS);
		return 2;
	}
	sw.rate = strtod(argv[1], NULL) * 1e6 / 8;
	sw.delay_s = strtod(argv[2], NULL) * 1e-6;
	sw.racks = (int)strtol(argv[3], NULL, 10);
	sw.uplink_rate = strtod(argv[4], NULL) * 1e6 / 8;
	sw.uplink_delay_s = strtod(argv[5], NULL) * 1e-6;
	sw.queue_bytes = strtod(argv[6], NULL) * 1024;
	sw.hosts = argc - 7;
	for (int i = 0; i < sw.hosts; i++)
		if (open_port(&sw.ports[i], argv[7 + i]) != 0)
			return 1;
	if (setns(home, CLONE_NEWNET) != 0)
		perror("back to the first namespace");
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	become_real_time();
	puts("ready");
	fflush(stdout);
	run(&sw);
	fprintf(stderr, "frames %lu bytes %lu drops %lu\n", sw.frames, sw.bytes, sw.drops);
	return 0;
}
