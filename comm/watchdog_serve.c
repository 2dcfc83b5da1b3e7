/* watchdog_serve: where rank 0's board is, for ranks that can tell each other so. */
#include "comm/watchdog.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

static bool one_host(const struct mt_fabric *f)
{
	return f->local_size == f->size;
}

/* IPv4 addresses of the interfaces that are up, the loopback last (ranks on rank 0's host). */
static void list_addresses(char addresses[4][64])
{
	struct ifaddrs *all = NULL;
	int count = 0;
	if (getifaddrs(&all) == 0) {
		for (const struct ifaddrs *a = all; a && count < 3; a = a->ifa_next) {
			const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)a->ifa_addr;
			if (in && in->sin_family == AF_INET && (a->ifa_flags & IFF_UP) && !(a->ifa_flags & IFF_LOOPBACK))
				inet_ntop(AF_INET, &in->sin_addr, addresses[count++], 64);
		}
		freeifaddrs(all);
	}
	snprintf(addresses[count], 64, "127.0.0.1");
}

enum mt_status mt_watchdog_serve(struct mt_board_server **server, struct mt_watchdog_config *config)
{
	const struct mt_fabric *f = config->fabric;
	if (getrandom(&config->token, sizeof config->token, 0) != (ssize_t)sizeof config->token)
		return mt_fail(MT_FAILED, "the job's board: the system gives no random number");
	MT_TRY(mt_board_serve(server, 0, config->token, one_host(f)));
	config->port = mt_board_port(*server);
	if (one_host(f))
		snprintf(config->addresses[0], sizeof config->addresses[0], "127.0.0.1");
	else
		list_addresses(config->addresses);
	return MT_OK;
}
