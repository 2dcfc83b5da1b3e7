/* host_devices: GPUs by the NVIDIA driver's list or by PCI class, and network interfaces with speed and state. */
#include "probes/parts.h"

#include <dirent.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int count_entries(const char *root, const char *path)
{
	char full[512];
	snprintf(full, sizeof full, "%s%s", root, path);
	DIR *directory = opendir(full);
	if (!directory)
		return 0;
	int count = 0;
	for (struct dirent *entry; (entry = readdir(directory));)
		count += entry->d_name[0] != '.';
	closedir(directory);
	return count;
}

/* PCI class 0x0300 (VGA) or 0x0302 (3D controller) of vendor 0x10de: present even without a driver. */
int mt_probe_count_gpus(const char *root)
{
	int count = count_entries(root, "/proc/driver/nvidia/gpus");
	char full[512], path[600];
	if (count > 0)
		return count;
	snprintf(full, sizeof full, "%s/sys/bus/pci/devices", root);
	DIR *directory = opendir(full);
	if (!directory)
		return 0;
	for (struct dirent *entry; (entry = readdir(directory));) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/sys/bus/pci/devices/%.200s/class", entry->d_name);
		int64_t class = mt_probe_read_int(root, path, 0) >> 8;
		snprintf(path, sizeof path, "/sys/bus/pci/devices/%.200s/vendor", entry->d_name);
		count += (class == 0x0300 || class == 0x0302) && mt_probe_read_int(root, path, 0) == 0x10de;
	}
	closedir(directory);
	return count;
}

/* Mbit/s by the driver's answer in this network namespace, else by /sys; 0 when neither knows. */
static int64_t nic_speed(int sock, const char *name)
{
	struct ethtool_cmd command = {.cmd = ETHTOOL_GSET};
	struct ifreq request = {.ifr_data = (void *)&command};
	char path[128];
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if (ioctl(sock, SIOCETHTOOL, &request) == 0) {
		uint32_t speed = (uint32_t)command.speed_hi << 16 | command.speed;
		if (speed > 0 && speed != (uint32_t)SPEED_UNKNOWN && speed != 0xffff)
			return speed;
	}
	snprintf(path, sizeof path, "/sys/class/net/%s/speed", name);
	int64_t speed = mt_probe_read_int("", path, 0);
	return speed > 0 ? speed : 0;
}

static void append(char *text, size_t size, const char *name, int64_t mbit, const char *state)
{
	char item[96], speed[32] = "speed unknown";
	if (mbit > 0)
		snprintf(speed, sizeof speed, mbit % 1000 ? "%.1f Gbit/s" : "%.0f Gbit/s", (double)mbit / 1000);
	snprintf(item, sizeof item, "%s%s %s %s", text[0] ? "; " : "", name, speed, state);
	if (strlen(text) + strlen(item) < size)
		strcat(text, item);
}

/* The namespace's own interfaces (/sys shows those of the namespace that mounted it), loopback left out. An interface with a
 * device behind it counts as a NIC; where there is none, as in a container, one that is up does. */
static void read_interfaces(struct mt_machine_host *host, bool physical)
{
	int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct if_nameindex *list = sock >= 0 ? if_nameindex() : NULL;
	for (struct if_nameindex *at = list; at && at->if_name; at++) {
		struct ifreq request = {0};
		char path[128];
		snprintf(request.ifr_name, sizeof request.ifr_name, "%s", at->if_name);
		if (ioctl(sock, SIOCGIFFLAGS, &request) != 0 || (request.ifr_flags & IFF_LOOPBACK))
			continue;
		bool up = (request.ifr_flags & IFF_UP) && (request.ifr_flags & IFF_RUNNING);
		struct stat info;
		snprintf(path, sizeof path, "/sys/class/net/%s/device", at->if_name);
		if (physical ? stat(path, &info) != 0 : !up)
			continue;
		host->nics += up;
		append(host->nic_text, sizeof host->nic_text, at->if_name, nic_speed(sock, at->if_name), up ? "up" : "down");
	}
	if (list)
		if_freenameindex(list);
	if (sock >= 0)
		close(sock);
}

/* "4: ACTIVE", "100 Gb/sec (4X EDR)" */
static void read_infiniband(struct mt_machine_host *host)
{
	DIR *directory = opendir("/sys/class/infiniband");
	if (!directory)
		return;
	for (struct dirent *entry; (entry = readdir(directory));) {
		char path[400], rate[64], state[64] = "";
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/sys/class/infiniband/%.200s/ports/1/rate", entry->d_name);
		int64_t gbit = mt_probe_read_line("", path, rate, sizeof rate) ? mt_probe_read_int("", path, 0) : 0;
		snprintf(path, sizeof path, "/sys/class/infiniband/%.200s/ports/1/state", entry->d_name);
		mt_probe_read_line("", path, state, sizeof state);
		bool up = strstr(state, "ACTIVE") != NULL;
		char name[32];
		snprintf(name, sizeof name, "%.31s", entry->d_name);
		host->nics += up;
		append(host->nic_text, sizeof host->nic_text, name, gbit * 1000, up ? "up" : "down");
	}
	closedir(directory);
}

void mt_probe_read_nics(struct mt_machine_host *host)
{
	host->nics = 0;
	host->nic_text[0] = 0;
	read_interfaces(host, true);
	read_infiniband(host);
	if (!host->nic_text[0])
		read_interfaces(host, false);
}
